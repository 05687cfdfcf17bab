"""How good detections are: COCO's average precision, intervals, thresholds, and which mistakes were made.

`coco_metrics` is faster-coco-eval's. Matching is written out once more here, because intervals, thresholds
and kinds of mistakes need each match and not their sum; a test holds the two together.

Source: T.-Y. Lin et al., "Microsoft COCO" (ECCV 2014), and its evaluation code `cocoeval.py`.

Shapes: I images, D detections, M true objects, T overlap thresholds, K classes, R recall levels; boxes are
left, top, right, bottom in pixels.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xtorch.metrics import Interval

OVERLAPS = np.linspace(0.5, 0.95, 10)
"""Of mAP50-95."""
MAX_DETECTIONS = 100
"""Of an image, for each class, the strongest."""
AREAS = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""Square pixels of the original image, as in COCO."""
_RECALLS = np.linspace(0, 1, 101)
_LOW_OVERLAP = 0.1
ERROR_KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")


@dataclass(frozen=True, kw_only=True)
class ImageBoxes:
    """Objects of one image: true ones, or detections with scores.

    Attributes:
        boxes: float [M,4].
        labels: int64 [M].
        scores: float [M]; None for true objects.
        ignored: bool [M], true objects that are neither wanted nor wrong (COCO's crowds); None: none is.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None
    ignored: np.ndarray | None = None

    @property
    def crowd(self) -> np.ndarray:
        """`ignored`, always an array."""
        return np.zeros(len(self.labels), bool) if self.ignored is None else self.ignored


Truth = Sequence[ImageBoxes]
Found = Sequence[ImageBoxes]


# ------------------------------------------------------------------------------------------ COCO's numbers


@dataclass(frozen=True, kw_only=True)
class CocoMetrics:
    """Average precision; None where no true object counts.

    Attributes:
        overall: ``map`` (overlaps 0.5 to 0.95), ``map50``, ``map75``, ``map_small``, ``map_medium``,
            ``map_large``.
        by_class: class -> ``ap``, ``ap50``.
    """

    overall: dict[str, float | None]
    by_class: dict[int, dict[str, float | None]]

    @property
    def map50(self) -> float:
        """0 where there is nothing to find."""
        return self.overall["map50"] or 0.0


def coco_metrics(found: Found, truth: Truth, num_classes: int) -> CocoMetrics:
    """COCO's evaluation by faster-coco-eval.

    Args:
        found: detections with scores, one entry for each image; weak ones belong in too.
        truth: true objects, in the same order.
        num_classes: K.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    annotations: list[dict[str, Any]] = [
        {
            "id": 0,
            "image_id": image,
            "category_id": int(label),
            "bbox": [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])],
            "area": float((box[2] - box[0]) * (box[3] - box[1])),
            "iscrowd": int(crowd),
        }
        for image, objects in enumerate(truth)
        for box, label, crowd in zip(objects.boxes, objects.labels, objects.crowd, strict=True)
    ]
    for index, annotation in enumerate(annotations, start=1):
        annotation["id"] = index  # 0 means "no match" inside the evaluation
    results = [
        {
            "image_id": image,
            "category_id": int(label),
            "bbox": [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])],
            "score": float(score),
        }
        for image, objects in enumerate(found)
        for box, label, score in zip(objects.boxes, objects.labels, _scores(objects), strict=True)
    ]
    nothing: dict[str, float | None] = dict.fromkeys(
        ("map", "map50", "map75", *(f"map_{size}" for size in AREAS))
    )
    has_truth = {int(a["category_id"]) for a in annotations if not a["iscrowd"]}
    if not has_truth:
        return CocoMetrics(overall=nothing, by_class={})
    if not results:
        empty = {name: 0.0 if name in ("map", "map50", "map75") else None for name in nothing}
        return CocoMetrics(
            overall=nothing | empty, by_class={label: {"ap": 0.0, "ap50": 0.0} for label in sorted(has_truth)}
        )
    dataset = {
        "info": {},
        "images": [{"id": image, "width": 1, "height": 1} for image in range(len(truth))],
        "categories": [{"id": label, "name": str(label)} for label in range(num_classes)],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(dataset)
        evaluation = COCOeval_faster(reference, reference.loadRes(results), iouType="bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision_TRKA = np.asarray(evaluation.eval["precision"])[..., -1]

    def mean(values: np.ndarray) -> float | None:
        known = values[values > -1]
        return float(known.mean()) if len(known) else None

    sizes = {f"map_{size}": mean(precision_TRKA[..., 1 + index]) for index, size in enumerate(AREAS)}
    return CocoMetrics(
        overall={
            "map": mean(precision_TRKA[..., 0]),
            "map50": mean(precision_TRKA[0, ..., 0]),
            "map75": mean(precision_TRKA[5, ..., 0]),
            **sizes,
        },
        by_class={
            label: {
                "ap": mean(precision_TRKA[:, :, label, 0]),
                "ap50": mean(precision_TRKA[0, :, label, 0]),
            }
            for label in sorted(has_truth)
        },
    )


# ------------------------------------------------------------------------------------------------ matches


@dataclass(frozen=True, kw_only=True)
class Matches:
    """What became of all detections of one class, the strongest first.

    Attributes:
        scores: float64 [D].
        images: int64 [D], where each was found.
        hits: bool [T,D], whether it is the one that finds a true object.
        left_out: bool [T,D], whether it counts neither way.
        num_true: int64 [I], objects to be found in each image.
    """

    scores: np.ndarray
    images: np.ndarray
    hits: np.ndarray
    left_out: np.ndarray
    num_true: np.ndarray


def match(
    found: Found,
    truth: Truth,
    label: int,
    *,
    overlaps: Sequence[float] | np.ndarray = OVERLAPS,
    area: tuple[float, float] | None = None,
) -> Matches:
    """Matches the detections of a class with its true objects: greedily by falling score, as COCO does.

    Args:
        found: detections with scores, one entry for each image.
        truth: true objects, in the same order.
        label: the class.
        overlaps: T least overlaps of a hit.
        area: only objects of this area count; None: all.
    """
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
    num_true = np.zeros(len(truth), np.int64)
    for image, (detections, objects) in enumerate(zip(found, truth, strict=True)):
        wanted = objects.labels == label
        true_M4, ignored_M = objects.boxes[wanted].astype(float), objects.crowd[wanted]
        crowd_M = ignored_M
        if area is not None:
            areas_M = (true_M4[:, 2:] - true_M4[:, :2]).prod(axis=1)
            ignored_M = ignored_M | (areas_M < area[0]) | (areas_M > area[1])
        order = np.argsort(ignored_M, kind="stable")
        true_M4, ignored_M, crowd_M = true_M4[order], ignored_M[order], crowd_M[order]
        num_true[image] = int((~ignored_M).sum())
        chosen = np.flatnonzero(detections.labels == label)
        chosen = chosen[np.argsort(-_scores(detections)[chosen], kind="stable")][:MAX_DETECTIONS]
        boxes_D4 = detections.boxes[chosen].astype(float)
        hits, left_out = _match_image(boxes_D4, true_M4, ignored_M, crowd_M, np.asarray(overlaps))
        if area is not None and len(chosen):
            areas_D = (boxes_D4[:, 2:] - boxes_D4[:, :2]).prod(axis=1)
            left_out |= ~hits & ((areas_D < area[0]) | (areas_D > area[1]))
        parts.append((_scores(detections)[chosen], np.full(len(chosen), image), hits, left_out))
    scores = np.concatenate([part[0] for part in parts]) if parts else np.zeros(0)
    order = np.argsort(-scores, kind="stable")
    return Matches(
        scores=scores[order].astype(float),
        images=np.concatenate([part[1] for part in parts])[order] if parts else np.zeros(0, np.int64),
        hits=np.concatenate([part[2] for part in parts], axis=1)[:, order],
        left_out=np.concatenate([part[3] for part in parts], axis=1)[:, order],
        num_true=num_true,
    )


def _match_image(
    boxes_D4: np.ndarray,
    true_M4: np.ndarray,
    ignored_M: np.ndarray,
    crowd_M: np.ndarray,
    overlaps_T: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """`hits` and `left_out` [T,D] of one image and class; ignored objects come last."""
    shape = (len(overlaps_T), len(boxes_D4))
    hits, left_out = np.zeros(shape, bool), np.zeros(shape, bool)
    if not len(boxes_D4) or not len(true_M4):
        return hits, left_out
    overlap_DM = overlap_matrix(boxes_D4, true_M4, of_first=crowd_M)
    for t, least in enumerate(overlaps_T):
        taken_M = np.zeros(len(true_M4), bool)
        for d, row_M in enumerate(overlap_DM):
            free_M = (~taken_M | crowd_M) & (row_M >= min(least, 1 - 1e-10))
            # An object that counts comes before one that does not; of equal overlaps the last one wins.
            for candidates in (np.flatnonzero(free_M & ~ignored_M), np.flatnonzero(free_M & ignored_M)):
                if len(candidates):
                    values = row_M[candidates]
                    best = int(candidates[len(values) - 1 - int(values[::-1].argmax())])
                    taken_M[best] = True
                    hits[t, d], left_out[t, d] = not ignored_M[best], bool(ignored_M[best])
                    break
    return hits, left_out


def overlap_matrix(a_D4: np.ndarray, b_M4: np.ndarray, *, of_first: np.ndarray | None = None) -> np.ndarray:
    """Intersection over union float64 [D,M]; where `of_first` [M] is true, over the first box's area."""
    low = np.maximum(a_D4[:, None, :2], b_M4[None, :, :2])
    size = (np.minimum(a_D4[:, None, 2:], b_M4[None, :, 2:]) - low).clip(0)
    both = size.prod(axis=2)
    area_D = (a_D4[:, 2:] - a_D4[:, :2]).clip(0).prod(axis=1)
    area_M = (b_M4[:, 2:] - b_M4[:, :2]).clip(0).prod(axis=1)
    either = area_D[:, None] + area_M[None] - both
    if of_first is not None:
        either = np.where(of_first[None], area_D[:, None], either)
    return np.divide(both, either, out=np.zeros_like(both), where=either > 0)


def average_precision(matches: Matches, weights_I: np.ndarray | None = None) -> np.ndarray:
    """Average precision float64 [T], read at 101 recall levels; NaN where there is nothing to find.

    Args:
        weights_I: how often each image counts; None: once.
    """
    weights = np.ones(len(matches.num_true)) if weights_I is None else weights_I
    total = float((matches.num_true * weights).sum())
    num_levels = len(matches.hits)
    if total == 0:
        return np.full(num_levels, np.nan)
    weight_D = weights[matches.images]
    hits = np.cumsum(matches.hits * weight_D, axis=1)
    wrong = np.cumsum((~matches.hits & ~matches.left_out) * weight_D, axis=1)
    result = np.zeros(num_levels)
    for t in range(num_levels):
        precision = hits[t] / np.maximum(hits[t] + wrong[t], np.finfo(float).eps)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        places = np.searchsorted(hits[t] / total, _RECALLS, side="left")
        result[t] = np.append(precision, 0.0)[places].mean()
    return result


def intervals(
    found: Found, truth: Truth, num_classes: int, *, seed: int = 0, resamples: int = 200
) -> dict[str, Interval]:
    """``map``, ``map50``, ``map_small``, ... with 95 % percentile bootstrap intervals over images.

    Metrics of which no object counts are left out.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), section 13.3.
    """
    classes = sorted({int(label) for objects in truth for label in objects.labels if label < num_classes})
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(truth), np.full(len(truth), 1 / len(truth)), size=resamples).astype(float)

    def one(area: tuple[float, float] | None) -> dict[str, Interval]:
        matches = [match(found, truth, label, area=area) for label in classes]
        ones = np.ones(len(truth))
        values_TB = np.stack([_mean_ap(matches, weights) for weights in (ones, *drawn)], axis=1)
        result = {}
        for name, rows in (("map", values_TB.mean(axis=0)), ("map50", values_TB[0])):
            if not math.isnan(rows[0]):
                low, high = np.nanquantile(rows[1:], [0.025, 0.975])
                result[name] = Interval(float(rows[0]), float(low), float(high))
        return result

    result = one(None)
    for size, area in AREAS.items():
        if "map" in (of_size := one(area)):
            result[f"map_{size}"] = of_size["map"]
    return result


def _mean_ap(matches: Sequence[Matches], weights_I: np.ndarray) -> np.ndarray:
    """Mean over classes that have something to find, float64 [T]."""
    values_KT = np.array([average_precision(each, weights_I) for each in matches])
    known = ~np.isnan(values_KT[:, 0]) if len(values_KT) else np.zeros(0, bool)
    return values_KT[known].mean(axis=0) if known.any() else np.full(len(OVERLAPS), np.nan)


# -------------------------------------------------------------------------- thresholds and what they mean


def precision_recall(matches: Matches) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, precision and recall [D] at the first overlap, as the threshold falls."""
    counts_D = ~matches.left_out[0]
    hits, seen = np.cumsum(matches.hits[0][counts_D]), np.arange(1, counts_D.sum() + 1)
    total = max(int(matches.num_true.sum()), 1)
    return matches.scores[counts_D], hits / np.maximum(seen, 1), hits / total


def best_threshold(matches: Matches, *, min_precision: float | None = None) -> float | None:
    """The score from which on a class's detections are shown.

    Args:
        matches: of validation images.
        min_precision: the lowest threshold whose precision is at least this; None, or where there is none:
            the threshold of the highest F1.

    Returns:
        Half-way to the next weaker detection; None where nothing was found.
    """
    scores, precision, recall = precision_recall(matches)
    if not len(scores) or not recall[-1] > 0:
        return None
    # Only where the score changes can a threshold lie.
    ends = np.flatnonzero(np.append(scores[1:] < scores[:-1], True))
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    index = int(ends[f1[ends].argmax()])
    if min_precision is not None:
        good = ends[precision[ends] >= min_precision]
        index = int(good[-1]) if len(good) else index
    below = scores[index + 1] if index + 1 < len(scores) else 0.0
    return float((scores[index] + below) / 2)


def above(found: Found, thresholds_K: Sequence[float]) -> list[ImageBoxes]:
    """The detections that reach their class's threshold."""
    limits = np.asarray(thresholds_K, float)
    kept = []
    for each in found:
        shown = _scores(each) >= limits[each.labels]
        kept.append(
            ImageBoxes(boxes=each.boxes[shown], labels=each.labels[shown], scores=_scores(each)[shown])
        )
    return kept


def confusion_matrix(shown: Found, truth: Truth, num_classes: int, *, overlap: float = 0.5) -> np.ndarray:
    """int64 [K+1,K+1]: rows are the truth, columns the answers, the last of each is "background".

    Detections and objects of any class are matched by falling score; one that stays alone is a false alarm
    or a miss.
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    for detections, objects in zip(shown, truth, strict=True):
        taken_M = np.zeros(len(objects.labels), bool)
        overlap_DM = overlap_matrix(detections.boxes.astype(float), objects.boxes.astype(float))
        for d in np.argsort(-_scores(detections), kind="stable"):
            row = np.where(taken_M, -1.0, overlap_DM[d])
            # Of objects that overlap enough one of the same class is preferred.
            row = row + 2.0 * ((objects.labels == detections.labels[d]) & (row >= overlap))
            best = int(row.argmax()) if len(row) else -1
            label = int(detections.labels[d])
            if best >= 0 and row[best] >= overlap:
                taken_M[best] = True
                if not objects.crowd[best]:
                    matrix[int(objects.labels[best]), label] += 1
            else:
                matrix[num_classes, label] += 1
        for label in objects.labels[~taken_M & ~objects.crowd]:
            matrix[int(label), num_classes] += 1
    return matrix


def error_kinds(shown: Found, truth: Truth, *, overlap: float = 0.5) -> dict[str, int]:
    """How many mistakes of each kind there are among the detections that are shown.

    ``classification``: in place, wrong class; ``localisation``: right class, overlap between 0.1 and
    `overlap`; ``both``; ``duplicate``: the object was found already; ``background``: nothing is there;
    ``missed``: an object that nothing of the above speaks of.

    Source: Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors" (ECCV 2020),
    section 2.2; counted, not weighed by what mending them would give.
    """
    counts = dict.fromkeys(ERROR_KINDS, 0)
    for detections, objects in zip(shown, truth, strict=True):
        overlap_DM = overlap_matrix(detections.boxes.astype(float), objects.boxes.astype(float))
        found_M, spoken_of_M = np.zeros(len(objects.labels), bool), np.zeros(len(objects.labels), bool)
        wrong = []
        for d in np.argsort(-_scores(detections), kind="stable"):
            same_M = (objects.labels == detections.labels[d]) & (overlap_DM[d] >= overlap)
            free_M = same_M & (~found_M | objects.crowd)
            if free_M.any():
                found_M[int(np.where(free_M, overlap_DM[d], -1).argmax())] = True
            else:
                wrong.append(int(d))
        for d in wrong:
            same_M = objects.labels == detections.labels[d]
            here, there = (np.where(each, overlap_DM[d], 0.0) for each in (same_M, ~same_M))
            best_here, best_there = here.max(initial=0.0), there.max(initial=0.0)
            if best_here >= overlap:
                counts["duplicate"] += 1
            elif best_there >= overlap:
                counts["classification"] += 1
                spoken_of_M[int(there.argmax())] = True
            elif best_here > _LOW_OVERLAP:
                counts["localisation"] += 1
                spoken_of_M[int(here.argmax())] = True
            elif best_there > _LOW_OVERLAP:
                counts["both"] += 1
            else:
                counts["background"] += 1
        counts["missed"] += int((~found_M & ~spoken_of_M & ~objects.crowd).sum())
    return counts


def _scores(objects: ImageBoxes) -> np.ndarray:
    assert objects.scores is not None, "detections have scores"
    return objects.scores
