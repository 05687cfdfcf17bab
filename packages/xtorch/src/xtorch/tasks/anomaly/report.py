"""The training report (ARCHITECTURE.md, 10.6): numbers, curves, and pictures of the worst mistakes.

Shapes: N images, S side of a map, H and W rows and columns of a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from xinfer.preproc import decode_image
from xtorch.data.check import UsableImage
from xtorch.data.layout import LABELS
from xtorch.metrics import auroc_interval, confusion, f1_interval, roc, wilson

_WORST = 12
_PICTURE_PX = 256
_BINS = 30
_MAX_CURVE_POINTS = 400


def metrics_with_intervals(
    labels_N: np.ndarray, scores_N: np.ndarray, threshold: float, *, seed: int
) -> dict[str, dict[str, float]]:
    """`report.metrics`: fractions with 95 % intervals (bootstrap for AUROC and F1, else Wilson)."""
    tn, fp, fn, tp = confusion(labels_N, scores_N, threshold)
    return {
        "image_auroc": auroc_interval(labels_N, scores_N, seed=seed).to_dict(),
        "f1": f1_interval(labels_N, scores_N, threshold, seed=seed).to_dict(),
        "precision": wilson(tp, tp + fp).to_dict(),
        "recall": wilson(tp, tp + fn).to_dict(),
        "false_alarm_rate": wilson(fp, fp + tn).to_dict(),
        "miss_rate": wilson(fn, fn + tp).to_dict(),
    }


def histogram(labels_N: np.ndarray, scores_N: np.ndarray) -> dict[str, list[float]]:
    """Counts of scores by class over common bins."""
    edges = np.histogram_bin_edges(scores_N, bins=_BINS)
    return {
        "edges": edges.astype(float).tolist(),
        "ok": np.histogram(scores_N[labels_N == 0], bins=edges)[0].tolist(),
        "defective": np.histogram(scores_N[labels_N == 1], bins=edges)[0].tolist(),
    }


def roc_points(labels_N: np.ndarray, scores_N: np.ndarray) -> dict[str, list[float]]:
    """ROC corner points, thinned for drawing; the first and last are kept."""
    curve = roc(labels_N, scores_N)
    total = len(curve["fpr"])
    picks = np.unique(np.linspace(0, total - 1, min(total, _MAX_CURVE_POINTS)).round().astype(int))
    return {name: [values[int(i)] for i in picks] for name, values in curve.items()}


def heatmap_overlay(image_HW3: np.ndarray, map_SS: np.ndarray, *, low: float, high: float) -> Image.Image:
    """A picture with its map laid over it: transparent below `low`, red at `high` and above."""
    picture = Image.fromarray(image_HW3)
    level = np.clip((map_SS - low) / max(high - low, 1e-6), 0.0, 1.0)
    mask = Image.fromarray((level * 255).astype(np.uint8)).resize(picture.size, Image.Resampling.BICUBIC)
    level_HW = np.asarray(mask, dtype=np.float32)[..., None] / 255
    # Yellow turns into red as the level rises.
    colour_HW3 = np.concatenate(
        [np.full_like(level_HW, 255), 220 * (1 - level_HW), np.zeros_like(level_HW)], axis=2
    )
    blend_HW3 = image_HW3 * (1 - 0.65 * level_HW) + colour_HW3 * (0.65 * level_HW)
    return Image.fromarray(blend_HW3.round().astype(np.uint8))


def worst_mistakes(
    root: Path,
    folder: Path,
    images: Sequence[UsableImage],
    scores_N: np.ndarray,
    maps_NSS: np.ndarray,
    *,
    threshold: float,
    map_range: tuple[float, float],
) -> list[dict[str, Any]]:
    """`report.worst`: the images on the wrong side of the threshold, the furthest first, with pictures.

    Where there are few mistakes, the narrowest right decisions follow, so that there is always something
    to look at.

    Args:
        root: the dataset's folder.
        folder: output folder; pictures go into its ``report/``.
        images: test images, N.
        scores_N: their scores.
        maps_NSS: their maps.
        threshold: of the decision.
        map_range: map values that are drawn as nothing and as red.
    """
    labels_N = np.array([image.label for image in images])
    wrongness_N = np.where(labels_N == 1, threshold - scores_N, scores_N - threshold)
    order = np.argsort(-wrongness_N, kind="stable")[:_WORST]
    (folder / "report").mkdir(parents=True, exist_ok=True)
    worst = []
    for rank, index in enumerate(int(i) for i in order):
        image = images[index]
        pixels = decode_image((root / image.path).read_bytes(), min_side=_PICTURE_PX)
        picture = Image.fromarray(pixels)
        picture.thumbnail((_PICTURE_PX, _PICTURE_PX), Image.Resampling.BICUBIC)
        overlay = heatmap_overlay(np.asarray(picture), maps_NSS[index], low=map_range[0], high=map_range[1])
        names = (f"worst_{rank:02d}.jpg", f"worst_{rank:02d}_map.jpg")
        picture.save(folder / "report" / names[0], quality=88)
        overlay.save(folder / "report" / names[1], quality=88)
        worst.append(
            {
                "path": image.path,
                "label": image.label,
                "score": float(scores_N[index]),
                "verdict": LABELS[int(scores_N[index] >= threshold)],
                "image": names[0],
                "heatmap": names[1],
            }
        )
    return worst


def held_out(images: Sequence[UsableImage], scores_N: np.ndarray) -> list[dict[str, Any]]:
    """`report.held_out`: every test image with its score."""
    return [
        {"path": image.path, "label": image.label, "score": float(score)}
        for image, score in zip(images, scores_N, strict=True)
    ]


def evaluation(labels_N: np.ndarray, scores_N: np.ndarray, threshold: float, *, seed: int) -> dict[str, Any]:
    """The parts of the report that follow from the test scores alone."""
    tn, fp, fn, tp = confusion(labels_N, scores_N, threshold)
    return {
        "metrics": metrics_with_intervals(labels_N, scores_N, threshold, seed=seed),
        "roc": roc_points(labels_N, scores_N),
        "histogram": histogram(labels_N, scores_N),
        "confusion": {"labels": list(LABELS), "matrix": [[tn, fp], [fn, tp]]},
    }
