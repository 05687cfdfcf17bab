"""Rows of the leaderboard: what is trivial, and what was trained."""

from __future__ import annotations

import time
from collections.abc import Sequence

from xtorch.data.check_detection import UsableImage
from xtorch.data.splits_detection import DetectionSplit
from xtorch.detection_metrics import CocoMetrics, coco_metrics
from xtorch.models.detector import DetectorConfig
from xtorch.tasks.detection.baselines import UsualPlaces, untrained
from xtorch.tasks.detection.fitting import Fitted
from xtorch.tasks.detection.judge import HeldOutImages, torch_outputs
from xtorch.tasks.detection.settings import DetectionSettings
from xtorch.tasks.detection.weights import Published
from xtorch.tasks.report import LeaderboardRow


def figures(coco: CocoMetrics) -> dict[str, float | None]:
    """What the leaderboard shows."""
    return {name: coco.overall[name] for name in ("map50", "map", "map75")}


def usual_places(
    split: DetectionSplit, num_classes: int, *, validation: HeldOutImages, test: HeldOutImages, seed: int
) -> LeaderboardRow:
    """The same boxes for every image."""
    start_s = time.monotonic()
    usual = UsualPlaces(split.train, num_classes, seed=seed)

    def scored(images: HeldOutImages, part: Sequence[UsableImage]) -> dict[str, float | None]:
        by_path = {image.path: image for image in part}
        found = usual([by_path[item["path"]] for item in images.items])
        return figures(coco_metrics(found, images.truth, num_classes))

    return LeaderboardRow(
        name="usual_places",
        title="Where objects usually are",
        kind="baseline",
        kept=False,
        validation=scored(validation, split.validation),
        test=scored(test, split.test),
        fit_s=round(time.monotonic() - start_s, 3),
        note="The same boxes for every image.",
    )


def published_as_it_is(
    config: DetectorConfig,
    labels: Sequence[str],
    given: Published | None,
    *,
    validation: HeldOutImages,
    test: HeldOutImages,
) -> list[LeaderboardRow]:
    """The published network without training; no row where it knows none of the classes."""
    start_s = time.monotonic()
    detector = untrained(config, labels, given) if given is not None else None
    if detector is None:
        return []

    def scored(images: HeldOutImages) -> dict[str, float | None]:
        outputs = [torch_outputs(detector, images.task, feeds) for feeds in images.feeds]
        return figures(coco_metrics(images.found(outputs), images.truth, len(labels)))

    return [
        LeaderboardRow(
            name="coco",
            title="Published weights, not trained on these images",
            kind="baseline",
            kept=False,
            validation=scored(validation),
            test=scored(test),
            fit_s=round(time.monotonic() - start_s, 3),
            note="Finds classes whose names are among COCO's.",
        )
    ]


def fine_tuned(
    fitted: Fitted,
    given: Published | None,
    settings: DetectionSettings,
    *,
    validation: CocoMetrics,
    test: CocoMetrics,
    iou_threshold: float,
    seed: int,
) -> LeaderboardRow:
    """What training left."""
    config, trained = fitted.detector.config, fitted.trained
    start = "fine-tuned" if given is not None else "trained from nothing"
    return LeaderboardRow(
        name=f"yolox_{config.architecture}",
        title=f"YOLOX-{config.architecture}, {start}",
        kind="model",
        kept=True,
        validation=figures(validation),
        test=figures(test),
        fit_s=round(fitted.duration_s, 3),
        settings={
            "epochs": trained.fit.epochs,
            "kept_epoch": trained.best_epoch,
            "execution": str(trained.plan.execution),
            "learning_rate": settings.learning_rate,
            "batch_size": settings.batch_size,
            "input": [config.height, config.width],
            "weights": given.source if given is not None else f"random, seed {seed}",
            "iou_threshold": iou_threshold,
        },
        note=_note(fitted, given, settings),
    )


def _note(fitted: Fitted, given: Published | None, settings: DetectionSettings) -> str:
    trained = fitted.trained
    notes = [f"Stopped because {trained.fit.stop_reason}."]
    if given is None and settings.weights != "none":
        notes.append(
            "Warning: the published weights could not be had, so training began from random ones, which is "
            "much worse. Put the catalogue's file into the folder that XINFER_WEIGHTS names, and train again."
        )
    elif given is None:
        notes.append("Warning: training began from random weights, as asked for.")
    if trained.fit.epochs < trained.plan.epochs:
        notes.append("Training ended before its plan: a larger budget would help.")
    return " ".join(notes)
