"""Losses that torch lacks. For cross-entropy with label smoothing: `torch.nn.functional.cross_entropy`.

Shapes: N samples, K classes, D features, Q quantiles; `...` any further axes. All return a scalar, the mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from xtorch.errors import SettingsError


def focal(logits: Tensor, targets: Tensor, *, gamma: float = 2.0, alpha: float | None = 0.25) -> Tensor:
    """Binary cross-entropy in which well classified samples count less: for many easy negatives.

    Args:
        logits: of any shape.
        targets: 0..1, of that shape.
        gamma: how much less; 0 gives cross-entropy.
        alpha: weight of positives, ``1 - alpha`` of negatives; None: the same weight 1.

    Source: Lin et al., "Focal Loss for Dense Object Detection" (ICCV 2017), equation 5.
    """
    targets = targets.to(logits.dtype)
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    probability = logits.sigmoid()
    miss = probability * (1 - targets) + (1 - probability) * targets
    loss = miss**gamma * entropy
    if alpha is not None:
        loss = (alpha * targets + (1 - alpha) * (1 - targets)) * loss
    return loss.mean()


def dice(
    logits_NK: Tensor, targets_N: Tensor, *, smooth: float = 1.0, ignore_index: int | None = None
) -> Tensor:
    """One minus the Dice coefficient of softmax probabilities, averaged over classes.

    Sums run over the batch, so that a class that is missing in an image does not count as missed.

    Args:
        logits_NK: [N,K,...].
        targets_N: integer classes [N,...].
        smooth: added to both sides of the fraction; classes that are not there give a loss near 0.
        ignore_index: a class number whose pixels do not count.

    Source: Milletari et al., "V-Net" (3DV 2016), section 3, with unsquared sums as in Sudre et al.,
    "Generalised Dice overlap" (DLMIA 2017), equation 1, unweighted.
    """
    num_classes = logits_NK.shape[1]
    probabilities = logits_NK.float().softmax(dim=1)
    known = torch.ones_like(targets_N, dtype=torch.bool)
    if ignore_index is not None:
        known = targets_N != ignore_index
    one_hot = F.one_hot(targets_N.where(known, 0), num_classes).movedim(-1, 1) * known.unsqueeze(1)
    probabilities = probabilities * known.unsqueeze(1)
    axes = [axis for axis in range(logits_NK.ndim) if axis != 1]
    overlap_K = (probabilities * one_hot).sum(axes)
    total_K = probabilities.sum(axes) + one_hot.sum(axes)
    return (1 - (2 * overlap_K + smooth) / (total_K + smooth)).mean()


def pinball(predictions_Q: Tensor, targets: Tensor, quantiles: Sequence[float]) -> Tensor:
    """Quantile loss; its minimum is at the quantiles of the targets.

    Args:
        predictions_Q: [...,Q].
        targets: [...].
        quantiles: Q numbers in 0..1, exclusive.

    Raises:
        SettingsError: a quantile is out of range, or their number is not Q.

    Source: Koenker and Bassett, "Regression Quantiles" (Econometrica 1978), equation 1.
    """
    if len(quantiles) != predictions_Q.shape[-1] or not all(0 < q < 1 for q in quantiles):
        raise SettingsError(
            "There must be one quantile between 0 and 1 for each prediction.", value=tuple(quantiles)
        )
    levels_Q = predictions_Q.new_tensor(list(quantiles))
    error_Q = targets.unsqueeze(-1) - predictions_Q
    return torch.maximum(levels_Q * error_Q, (levels_Q - 1) * error_Q).mean()


def supervised_contrastive(features_ND: Tensor, labels_N: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Pulls features of one class together and pushes those of others apart.

    Args:
        features_ND: scaled to unit length here; several views of a sample are several rows.
        labels_N: integer classes. A sample that is alone in its class is only pushed.
        temperature: smaller looks more at the nearest.

    Returns:
        0 where no class has two samples.

    Source: Khosla et al., "Supervised Contrastive Learning" (NeurIPS 2020), equation 2.
    """
    features_ND = F.normalize(features_ND.float(), dim=1)
    similarity_NN = features_ND @ features_ND.T / temperature
    self_NN = torch.eye(len(labels_N), dtype=torch.bool, device=features_ND.device)
    log_probability_NN = similarity_NN - similarity_NN.masked_fill(self_NN, -torch.inf).logsumexp(
        1, keepdim=True
    )
    positive_NN = (labels_N[:, None] == labels_N[None, :]) & ~self_NN
    count_N = positive_NN.sum(1)
    anchors = count_N > 0
    if not anchors.any():
        return features_ND.sum() * 0
    per_anchor_N = -(log_probability_NN * positive_NN).sum(1)[anchors] / count_N[anchors]
    return per_anchor_N.mean()


def box_iou(first_N4: Tensor, second_N4: Tensor, *, generalised: bool = False) -> Tensor:
    """Intersection over union of pairs of boxes, [N]; not a mean.

    Args:
        first_N4, second_N4: (left, top, right, bottom).
        generalised: subtract the empty share of the smallest box around both, so that boxes apart have a
            gradient: -1..1.

    Source: Rezatofighi et al., "Generalized Intersection over Union" (CVPR 2019), algorithm 1.
    """
    low_N2 = torch.maximum(first_N4[:, :2], second_N4[:, :2])
    high_N2 = torch.minimum(first_N4[:, 2:], second_N4[:, 2:])
    overlap_N = (high_N2 - low_N2).clamp_min(0).prod(1)
    union_N = _area(first_N4) + _area(second_N4) - overlap_N
    tiny = torch.finfo(union_N.dtype).tiny
    iou_N = overlap_N / union_N.clamp_min(tiny)
    if not generalised:
        return iou_N
    around_N2 = torch.maximum(first_N4[:, 2:], second_N4[:, 2:]) - torch.minimum(
        first_N4[:, :2], second_N4[:, :2]
    )
    around_N = around_N2.clamp_min(0).prod(1)
    return iou_N - (around_N - union_N) / around_N.clamp_min(tiny)


def iou_loss(predicted_N4: Tensor, target_N4: Tensor, *, generalised: bool = True) -> Tensor:
    """Mean of one minus the (generalised) intersection over union of pairs of boxes; 0 for no boxes."""
    if len(predicted_N4) == 0:
        return predicted_N4.sum()
    return (1 - box_iou(predicted_N4, target_N4, generalised=generalised)).mean()


def _area(boxes_N4: Tensor) -> Tensor:
    return (boxes_N4[:, 2:] - boxes_N4[:, :2]).clamp_min(0).prod(1)
