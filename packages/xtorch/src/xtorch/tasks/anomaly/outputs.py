"""What a run leaves behind beside the model: task spec, splits, report and pictures (ARCHITECTURE.md, 10.3).

Shapes: N images, S side of a map.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xtorch.data.check import UsableImage
from xtorch.data.layout import LABELS
from xtorch.data.masks import masks_at
from xtorch.data.splits import Split
from xtorch.metrics import auroc
from xtorch.models.anomaly import AnomalyModel
from xtorch.models.resize import resize
from xtorch.tasks.anomaly import pixels
from xtorch.tasks.anomaly.baseline import colour_scores, mean_colours
from xtorch.tasks.anomaly.candidates import Candidate
from xtorch.tasks.anomaly.files import task_spec
from xtorch.tasks.anomaly.gallery import worst_mistakes
from xtorch.tasks.anomaly.operating_point import OperatingPoint
from xtorch.tasks.anomaly.report import (
    confusion_matrix,
    cost_on_test,
    has_both,
    held_out,
    histogram_chart,
    kinds_table,
    metrics_with_intervals,
    roc_chart,
)
from xtorch.tasks.anomaly.selection import Selection
from xtorch.tasks.images import labelled_splits
from xtorch.tasks.recipe import write_json
from xtorch.tasks.report import Chart, LeaderboardRow, Picture

MAP_QUANTILE = 0.995
"""Of the maps of good validation images: what lies above is drawn as strange."""
_RESIZED_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run decided and measured.

    Attributes:
        labels: Part of the split -> 0 or 1 of its images, int64 [N].
        candidates: With `values` of ``validation`` and ``test``.
        choose_point: From labels and scores of the validation part to the operating point, as was asked for.
        point: The winner's.
        model: The winner's.
    """

    dataset_dir: Path
    parts: Split
    labels: Mapping[str, np.ndarray]
    candidates: Sequence[Candidate]
    selection: Selection
    choose_point: Callable[[np.ndarray, np.ndarray], OperatingPoint]
    point: OperatingPoint
    model: AnomalyModel
    seed: int

    @property
    def winner(self) -> Candidate:
        return self.selection.winner

    @property
    def metric(self) -> str:
        """What the test part can decide by."""
        return "image_auroc" if has_both(self.labels["test"]) else "false_alarm_rate"

    def maps(self, part: str) -> np.ndarray:
        """Anomaly maps float32 [N,S,S]."""
        with torch.inference_mode():
            maps_NSS: np.ndarray = self.model.tail(self.winner.values[part])[1].numpy()
        return maps_NSS


def write_spec(outcome: Outcome, folder: Path) -> None:
    """``task.json``, ``labels.json`` and ``splits.json``."""
    good_NSS = outcome.maps("validation")[outcome.labels["validation"] == 0]
    known_N = np.append(outcome.winner.scores("validation"), outcome.point.threshold)
    low, high = float(known_N.min()), float(known_N.max())
    spec = task_spec(
        outcome.model.config,
        threshold=outcome.point.threshold,
        map_threshold=float(np.quantile(good_NSS, MAP_QUANTILE)),
        score_range=(low, high + max(0.1 * (high - low), 1e-3)),
    )
    write_json(folder / "task.json", spec)
    write_json(folder / "labels.json", list(LABELS))
    write_json(folder / "splits.json", labelled_splits(outcome.parts.parts))


def figures(outcome: Outcome, folder: Path) -> dict[str, Any]:
    """The fields of `Report` that follow from the test part; writes the gallery's pictures."""
    test, labels_N = outcome.parts.test, outcome.labels["test"]
    scores_N, threshold = outcome.winner.scores("test"), outcome.point.threshold
    maps_NSS = outcome.maps("test")
    kinds = kinds_table(test, scores_N, threshold)
    charts: list[Chart] = [histogram_chart(labels_N, scores_N, threshold)]
    if has_both(labels_N):
        charts.insert(0, roc_chart(labels_N, scores_N, threshold))
    return {
        "counts": outcome.parts.counts(),
        "metric": outcome.metric,
        "lower_is_better": outcome.metric == "false_alarm_rate",
        "metrics": {
            **metrics_with_intervals(labels_N, scores_N, threshold, seed=outcome.seed),
            **pixel_figures(outcome.dataset_dir, test, maps_NSS, seed=outcome.seed),
        },
        "leaderboard": [
            *(_row(outcome, candidate) for candidate in outcome.candidates),
            _baseline_row(outcome),
        ],
        "operating_point": outcome.point.to_dict() | cost_on_test(labels_N, scores_N, threshold),
        "confusion": confusion_matrix(labels_N, scores_N, threshold),
        "charts": charts,
        "tables": [] if kinds is None else [kinds],
        "gallery": _gallery(outcome, folder, scores_N, maps_NSS),
        "held_out": held_out(test, scores_N),
    }


def pixel_figures(
    root: Path, images: Sequence[UsableImage], maps_NSS: np.ndarray, *, seed: int
) -> dict[str, dict[str, float]]:
    """Pixel AUROC and AUPRO where masks tell; defective images without a mask are left out.

    Args:
        root: The dataset's folder.
        images: Test images, N.
        maps_NSS: Their maps.
        seed: Of the intervals' bootstrap.
    """
    known = [index for index, image in enumerate(images) if image.label == 0 or image.mask is not None]
    masks = masks_at(root, [images[index].mask for index in known], pixels.SIDE_PX)
    if not any(mask is not None and mask.any() for mask in masks):
        return {}
    scaled = [
        resize(chunk[:, None], pixels.SIDE_PX, pixels.SIDE_PX)[:, 0].numpy()
        for chunk in torch.from_numpy(maps_NSS[known]).split(_RESIZED_AT_ONCE)
    ]
    counts = pixels.count_pixels(np.concatenate(scaled), masks)
    return {name: value.to_dict() for name, value in pixels.pixel_metrics(counts, seed=seed).items()}


def _test_value(outcome: Outcome, validation_scores_N: np.ndarray, test_scores_N: np.ndarray) -> float:
    """`Outcome.metric` of scores, with a threshold of their own where it needs one."""
    if outcome.metric == "image_auroc":
        return auroc(outcome.labels["test"], test_scores_N)
    point = outcome.choose_point(outcome.labels["validation"], validation_scores_N)
    return float((test_scores_N >= point.threshold).mean())


def _row(outcome: Outcome, candidate: Candidate) -> LeaderboardRow:
    decided_by = outcome.selection.metric
    notes = [candidate.note] if candidate.note else []
    if decided_by is None:
        notes.append("There was nothing to choose by: the first candidate is kept.")
    elif decided_by == "synthetic_auroc":
        notes.append("Chosen by damage drawn into held-back good images.")
    value = _test_value(outcome, candidate.scores("validation"), candidate.scores("test"))
    return LeaderboardRow(
        name=candidate.name,
        title=candidate.title,
        kind="model",
        kept=candidate is outcome.winner,
        validation={decided_by or "image_auroc": candidate.validation_auroc},
        test={outcome.metric: value},
        fit_s=round(candidate.fit_s, 3),
        settings=candidate.settings,
        note=" ".join(notes),
    )


def _baseline_row(outcome: Outcome) -> LeaderboardRow:
    start = time.monotonic()
    root, parts, labels = outcome.dataset_dir, outcome.parts, outcome.labels
    good = mean_colours(root, [image for image in parts.train if image.label == 0])
    validation_N, test_N = (
        colour_scores(good, mean_colours(root, part)) for part in (parts.validation, parts.test)
    )
    decided_by = outcome.selection.metric or "image_auroc"
    measured = decided_by == "image_auroc" and has_both(labels["validation"])
    return LeaderboardRow(
        name="mean_colour",
        title="Distance to the mean colour of good images",
        kind="baseline",
        kept=False,
        validation={decided_by: auroc(labels["validation"], validation_N) if measured else None},
        test={outcome.metric: _test_value(outcome, validation_N, test_N)},
        fit_s=round(time.monotonic() - start, 3),
    )


def _gallery(outcome: Outcome, folder: Path, scores_N: np.ndarray, maps_NSS: np.ndarray) -> list[Picture]:
    good_NSS = outcome.maps("validation")[outcome.labels["validation"] == 0]
    return worst_mistakes(
        outcome.dataset_dir,
        folder,
        outcome.parts.test,
        scores_N,
        maps_NSS,
        threshold=outcome.point.threshold,
        map_range=(float(np.median(good_NSS)), float(np.quantile(maps_NSS, 0.999))),
    )
