"""What YOLOX learns from: SimOTA decides which locations answer for which object, four losses compare them.

Source: Ge et al., "YOLOX: Exceeding YOLO Series in 2021" (arXiv:2107.08430), section 2.1 ("SimOTA") and its
code (`yolo_head.py`, version 0.3.0); SimOTA simplifies Ge et al., "OTA" (CVPR 2021), section 3.

Shapes: N images, A locations, K classes, M objects of one image, P locations that may answer for one of them,
C = 4 + 1 + K; boxes are left, top, right, bottom in pixels of the network's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from xtorch.models.yolox import decode_boxes, locations

CENTRE_RADIUS = 1.5
"""Strides around an object's centre in which a location may answer for it."""
CANDIDATES = 10
"""So many best overlaps say how many locations answer for an object."""
BOX_WEIGHT = 5.0
OVERLAP_COST = 3.0
_NEVER = 1e6


@dataclass(frozen=True, kw_only=True)
class Objects:
    """True objects of one image: boxes float32 [M,4] and labels int64 [M]."""

    boxes: Tensor
    labels: Tensor


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """Which locations answer for an object.

    Attributes:
        locations: int64 [P], rising.
        objects: int64 [P], for which one.
        overlaps: float32 [P], of the location's box with that object's.
    """

    locations: Tensor
    objects: Tensor
    overlaps: Tensor


@dataclass(frozen=True, kw_only=True)
class Losses:
    """The parts, each divided by the number of answering locations; `total` is what is minimised."""

    total: Tensor
    box: Tensor
    objectness: Tensor
    classes: Tensor
    offsets: Tensor


def pairwise_overlap(a_M4: Tensor, b_P4: Tensor) -> Tensor:
    """Intersection over union of every box with every box, float [M,P]; 0 where both are empty."""
    low = torch.maximum(a_M4[:, None, :2], b_P4[None, :, :2])
    high = torch.minimum(a_M4[:, None, 2:], b_P4[None, :, 2:])
    both_MP = (high - low).clamp(min=0).prod(dim=2)
    areas_M = (a_M4[:, 2:] - a_M4[:, :2]).prod(dim=1)
    areas_P = (b_P4[:, 2:] - b_P4[:, :2]).prod(dim=1)
    return both_MP / (areas_M[:, None] + areas_P[None, :] - both_MP).clamp(min=1e-9)


def overlap(a_P4: Tensor, b_P4: Tensor) -> Tensor:
    """Intersection over union of boxes with their partners, float [P]."""
    low = torch.maximum(a_P4[:, :2], b_P4[:, :2])
    high = torch.minimum(a_P4[:, 2:], b_P4[:, 2:])
    both_P = (high - low).clamp(min=0).prod(dim=1)
    either_P = (a_P4[:, 2:] - a_P4[:, :2]).prod(dim=1) + (b_P4[:, 2:] - b_P4[:, :2]).prod(dim=1) - both_P
    return both_P / either_P.clamp(min=1e-9)


@torch.no_grad()
def assign(
    boxes_A4: Tensor, logits_AC: Tensor, objects: Objects, cells_A2: Tensor, strides_A1: Tensor
) -> Assignment:
    """SimOTA: each object takes the locations that answer best for it, as many as its overlaps suggest.

    Args:
        boxes_A4: what the locations predict now.
        logits_AC: objectness and class logits stand in columns 4 and 5 and after.
        objects: true objects of the image.
        cells_A2, strides_A1: of `locations`.

    Returns:
        Every object that has a location near its centre is answered for at least once, unless others
        want the same locations more; a location answers for one object at most.

    Source: the YOLOX paper, section 2.1: cost = classification + 3 * (-log overlap); k of an object is the
    sum of its ten best overlaps, rounded down, at least 1.
    """
    centres_A2 = (cells_A2 + 0.5) * strides_A1
    middle_M2 = (objects.boxes[:, :2] + objects.boxes[:, 2:]) / 2
    away_MA = (centres_A2[None] - middle_M2[:, None]).abs().amax(dim=2) / strides_A1[:, 0]
    near_MA = away_MA < CENTRE_RADIUS
    chosen_P = near_MA.any(dim=0).nonzero()[:, 0]
    if not len(chosen_P):
        return Assignment(locations=chosen_P, objects=chosen_P, overlaps=boxes_A4.new_zeros(0))
    overlap_MP = pairwise_overlap(objects.boxes, boxes_A4[chosen_P])
    logits_PC = logits_AC[chosen_P]
    joint_PK = (logits_PC[:, 5:].sigmoid() * logits_PC[:, 4:5].sigmoid()).sqrt().clamp(1e-7, 1 - 1e-7)
    # Binary cross entropy with a one-hot target, for all objects at once.
    absent_P = -torch.log1p(-joint_PK).sum(dim=1)
    true_PM = joint_PK[:, objects.labels]
    class_MP = (absent_P[:, None] + torch.log1p(-true_PM) - true_PM.log()).T
    cost_MP = class_MP - OVERLAP_COST * torch.log(overlap_MP + 1e-8) + _NEVER * ~near_MA[:, chosen_P]

    best = overlap_MP.topk(min(CANDIDATES, overlap_MP.shape[1]), dim=1).values
    wanted_M = best.sum(dim=1).int().clamp(min=1)
    taken_MP = torch.zeros_like(cost_MP, dtype=torch.bool)
    for row, wanted in enumerate(wanted_M.tolist()):
        taken_MP[row, cost_MP[row].topk(wanted, largest=False).indices] = True
    contested_P = (taken_MP.sum(dim=0) > 1).nonzero()[:, 0]
    if len(contested_P):
        cheapest = cost_MP[:, contested_P].argmin(dim=0)
        taken_MP[:, contested_P] = False
        taken_MP[cheapest, contested_P] = True
    answering = taken_MP.any(dim=0).nonzero()[:, 0]
    objects_P = taken_MP[:, answering].int().argmax(dim=0)
    return Assignment(
        locations=chosen_P[answering], objects=objects_P, overlaps=overlap_MP[objects_P, answering]
    )


def yolox_loss(
    logits_NAC: Tensor, size: tuple[int, int], truth: Sequence[Objects], *, with_offsets: bool = False
) -> Losses:
    """
    Args:
        logits_NAC: of `Yolox.logits`; computed with in float32.
        size: (H, W) of the input.
        truth: true objects of each image.
        with_offsets: whether the L1 loss of the raw offsets is added, as in the last epochs.

    Source: the YOLOX paper, sections 2.1 and 3, and its code: 5 * (1 - overlap^2) + objectness + classes
    (with the overlap as the target's value), each summed and divided by the number of answering locations.
    """
    logits_NAC = logits_NAC.float()
    cells_A2, strides_A1 = (x.to(logits_NAC) for x in locations(size))
    decoded_NAC = decode_boxes(logits_NAC, size)
    half = decoded_NAC[..., 2:4] / 2
    boxes_NA4 = torch.cat([decoded_NAC[..., :2] - half, decoded_NAC[..., :2] + half], dim=2)
    wanted_NA = logits_NAC.new_zeros(logits_NAC.shape[:2])
    num = 0
    box, classes, offsets = (logits_NAC.new_zeros(()) for _ in range(3))
    for image, objects in enumerate(truth):
        if not len(objects.labels):
            continue
        found = assign(boxes_NA4[image].detach(), logits_NAC[image].detach(), objects, cells_A2, strides_A1)
        rows = found.locations
        num += len(rows)
        wanted_NA[image, rows] = 1.0
        true_P4 = objects.boxes[found.objects]
        box = box + (1 - overlap(boxes_NA4[image, rows], true_P4) ** 2).sum()
        true_PK = F.one_hot(objects.labels[found.objects], logits_NAC.shape[2] - 5) * found.overlaps[:, None]
        classes = classes + F.binary_cross_entropy_with_logits(
            logits_NAC[image, rows, 5:], true_PK, reduction="sum"
        )
        if with_offsets:
            middle_P2 = (true_P4[:, :2] + true_P4[:, 2:]) / 2 / strides_A1[rows] - cells_A2[rows]
            sizes_P2 = ((true_P4[:, 2:] - true_P4[:, :2]) / strides_A1[rows] + 1e-8).log()
            true_offsets = torch.cat([middle_P2, sizes_P2], dim=1)
            offsets = offsets + (logits_NAC[image, rows, :4] - true_offsets).abs().sum()
    objectness = F.binary_cross_entropy_with_logits(logits_NAC[..., 4], wanted_NA, reduction="sum")
    box, objectness, classes, offsets = (
        part / max(num, 1) for part in (BOX_WEIGHT * box, objectness, classes, offsets)
    )
    return Losses(
        total=box + objectness + classes + offsets,
        box=box.detach(),
        objectness=objectness.detach(),
        classes=classes.detach(),
        offsets=offsets.detach(),
    )
