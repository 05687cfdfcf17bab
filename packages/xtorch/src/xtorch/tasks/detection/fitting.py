"""The training of one run: how long it may take, what judges it, where it goes on after a kill."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from xinfer.preproc import Geometry
from xtorch.data.check_detection import UsableImage
from xtorch.data.splits_detection import DetectionSplit
from xtorch.detection_metrics import ImageBoxes, coco_metrics
from xtorch.models.detector import Decode, Detector, DetectorConfig
from xtorch.models.yolox import Yolox
from xtorch.tasks.detection.files import METRIC, detection_task
from xtorch.tasks.detection.items import samples, truth_of_image
from xtorch.tasks.detection.judge import detections
from xtorch.tasks.detection.samples import Augmentation, TrainingImages
from xtorch.tasks.detection.settings import DetectionSettings
from xtorch.tasks.detection.training import (
    Trained,
    TrainingOptions,
    collate,
    plan,
    prepare,
    train,
)
from xtorch.tasks.detection.weights import Published, start_from
from xtorch.tasks.planning import Told, TrainingPlan, keep_plan, kept_plan
from xtorch.tasks.recipe import Run

PREPARE, TRAIN = "Preparing", "Training"
"""Stages of the run that are reported here."""
_VERSION = 3
"""Raised when the same data, settings and seed would be trained otherwise."""
_RESERVED_SHARE, _MIN_RESERVED_S = 0.2, 20.0
"""Of the budget, for evaluation, export and report."""
_BATCH = 8
"""Images that validation answers at a time."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A trained detector, in evaluation mode, and how it came about."""

    detector: Detector
    trained: Trained
    duration_s: float


def training_s(budget_s: float) -> float:
    """Seconds of a run's budget after which training has to be over."""
    return budget_s - max(budget_s * _RESERVED_SHARE, _MIN_RESERVED_S)


def fit(
    run: Run[DetectionSettings],
    split: DetectionSplit,
    config: DetectorConfig,
    labels: Sequence[str],
    given: Published | None,
    *,
    checkpoints: Path | None,
) -> Fitted:
    """Fine-tunes a detector on the training part; the validation part decides which epoch is kept.

    Args:
        run: budget, settings and seed.
        given: what it starts from; None: random weights.
        checkpoints: from `checkpoint_folder`; None: nothing is kept.
    """
    start_s = time.monotonic()
    settings = run.settings
    images = TrainingImages(run.dataset_dir, samples(split.train), config.size)
    validation = Validation(run.dataset_dir, split.validation, config, labels)
    options = TrainingOptions(
        batch_size=min(settings.batch_size, len(images)),
        learning_rate=settings.learning_rate,
        augmentation=Augmentation(
            mosaic=settings.mosaic, flip_vertical=0.5 if settings.any_direction else 0.0
        ),
    )
    detector = start_from(config, tuple(labels), given, seed=run.seed)
    if given is not None:
        prepare(detector, images)
    until_s = run.started_s + training_s(run.budget_s)
    made = None if checkpoints is None else kept_plan(checkpoints, TrainingPlan)
    if made is None:
        made = plan(
            detector,
            images,
            options,
            epochs=settings.epochs,
            until_s=until_s,
            validate_s=lambda: validation.seconds(detector.network),
            seed=run.seed,
        )
        if checkpoints is not None:
            keep_plan(checkpoints, made)
    run.stages.report(PREPARE, 1.0, message=f"{made.epochs} epochs in {made.execution}")
    trained = train(
        detector,
        images,
        options,
        plan=made,
        limit_s=max(until_s - time.monotonic(), 1.0) if settings.epochs is None else None,
        validate=validation,
        is_published=given is not None,
        seed=run.seed,
        checkpoints=None if checkpoints is None else checkpoints / "steps",
        callbacks=[Told(run.stages, TRAIN, "epoch")],
    )
    return Fitted(detector=detector, trained=trained, duration_s=time.monotonic() - start_s)


def checkpoint_folder(
    run: Run[DetectionSettings],
    split: DetectionSplit,
    config: DetectorConfig,
    labels: Sequence[str],
    given: Published | None,
) -> Path | None:
    """Where a run of this data, these settings and this seed keeps what a kill must not take."""
    if run.cache_dir is None:
        return None
    # With a number of epochs given, time decides nothing.
    budget_s = run.budget_s if run.settings.epochs is None else None
    identity = [_VERSION, asdict(run.settings), run.seed, budget_s, config.to_dict(), list(labels)]
    digest = hashlib.sha256(json.dumps(identity).encode())
    for part in (split.train, split.validation):
        digest.update(len(part).to_bytes(8, "big"))
        for image in part:
            digest.update(image.digest.encode())
            digest.update(image.boxes.tobytes() + image.labels.tobytes() + image.ignored.tobytes())
    if given is not None:
        for tensor in given.network.state_dict().values():
            digest.update(tensor.numpy().tobytes())
    return run.cache_dir / "detection" / digest.hexdigest()[:24]


class Validation:
    """mAP50 of a network in training on images that it does not learn from.

    They are scaled once, by the kernel of the engine, and rounded to 8 bits.

    Args:
        root: the dataset's folder.
        images: N.
    """

    def __init__(
        self, root: Path, images: Sequence[UsableImage], config: DetectorConfig, labels: Sequence[str]
    ) -> None:
        self._images = TrainingImages(root, samples(images), config.size)
        self._truth = [truth_of_image(image) for image in images]
        self._geometries = [_into_input(image, config) for image in images]
        self._task = detection_task(config, labels)
        self._decode = Decode(config.size)

    def __call__(self, network: Yolox) -> dict[str, float]:
        found: list[ImageBoxes] = []
        for start in range(0, len(self._images), _BATCH):
            geometries = self._geometries[start : start + _BATCH]
            batch = collate([self._images.plain(start + row) for row in range(len(geometries))])
            boxes, scores = (each.numpy() for each in self._decode(network(batch.images), torch.ones(1)))
            for row, geometry in enumerate(geometries):
                outputs = {"boxes": boxes[row : row + 1], "scores": scores[row : row + 1]}
                found.append(detections(self._task, outputs, geometry))
        return {METRIC: coco_metrics(found, self._truth, len(self._task.labels)).map50}

    def seconds(self, network: Yolox) -> float:
        """How long it takes once images are scaled."""
        for index in range(len(self._images)):
            self._images.image(index)
        start_s = time.monotonic()
        with torch.inference_mode():
            self(network.eval())
        return time.monotonic() - start_s


def _into_input(image: UsableImage, config: DetectorConfig) -> Geometry:
    """The letterbox, which starts in the top left corner."""
    scale = min(config.height / image.height, config.width / image.width)
    return Geometry(
        original_height=image.height,
        original_width=image.width,
        height=config.height,
        width=config.width,
        scale_x=scale,
        scale_y=scale,
        offset_x=0.0,
        offset_y=0.0,
    )
