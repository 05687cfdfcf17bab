"""The training of one run: how long it may take, what judges it, where it goes on after a kill."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from xtorch.data.check_segmentation import SegmentationData, UsableImage
from xtorch.data.splits_segmentation import SegmentationSplit
from xtorch.errors import WeightsError
from xtorch.models import efficientnet
from xtorch.models.segmenter import (
    MULTIPLE,
    EfficientUNet,
    Segmenter,
    SegmenterConfig,
    scaled_logits,
)
from xtorch.picks import evenly
from xtorch.segmentation_metrics import confusion_counts, mean_iou
from xtorch.tasks.planning import Told, keep_plan, kept_plan
from xtorch.tasks.recipe import Run
from xtorch.tasks.segmentation.files import METRIC
from xtorch.tasks.segmentation.samples import (
    Masks,
    Scenes,
    TrainingImages,
    augmentation,
    collate,
    frequencies,
)
from xtorch.tasks.segmentation.settings import SegmentationSettings
from xtorch.tasks.segmentation.training import (
    FromPixels,
    RoundsPlan,
    TrainingResult,
    plan,
    train,
)

PREPARE, TRAIN = "Preparing", "Training"
"""Stages of the run that are reported here."""
_VERSION = 1
"""Raised when the same data, settings and seed would be trained otherwise."""
_RESERVED_SHARE, _MIN_RESERVED_S = 0.2, 15.0
"""Of the budget, for evaluation, export and report."""
_BATCH = 8
_JUDGED_IMAGES = 150
"""Of the validation part, after each round; all of it decides the threshold."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A trained segmenter, in evaluation mode, and how it came about."""

    segmenter: Segmenter
    training: TrainingResult
    is_pretrained: bool
    duration_s: float


def training_s(budget_s: float) -> float:
    """Seconds of a run's budget after which training has to be over."""
    return budget_s - max(budget_s * _RESERVED_SHARE, _MIN_RESERVED_S)


def input_size(images: Sequence[UsableImage], longer_side: int) -> tuple[int, int]:
    """Height and width of the network's input: of the images' median shape.

    Args:
        images: Training images.
        longer_side: A multiple of 32.
    """
    ratio = float(np.median([image.height / image.width for image in images]))
    shorter = max(MULTIPLE, round(longer_side * min(ratio, 1 / ratio) / MULTIPLE) * MULTIPLE)
    return (shorter, longer_side) if ratio <= 1 else (longer_side, shorter)


def new_segmenter(
    num_classes: int, size: tuple[int, int], *, backbone: str, seed: int
) -> tuple[Segmenter, bool]:
    """A segmenter before training, and whether its encoder is pretrained.

    Args:
        backbone: As in the settings.
        seed: Of random weights.

    Raises:
        WeightsError: The pretrained weights were asked for by name and are not installed.
    """
    pretrained: nn.Module | None = None
    if backbone != "unet":
        try:
            pretrained = efficientnet.efficientnet_lite0(num_classes=None)
        except WeightsError as error:
            if backbone != "auto":
                raise
            _log.warning("A U-Net of random weights is trained: %s (%s)", error, error.hint)
    chosen = "unet" if pretrained is None else "efficientnet_lite0"
    config = SegmenterConfig(num_classes=num_classes, height=size[0], width=size[1], backbone=chosen)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        segmenter = Segmenter(config)
    if pretrained is not None:
        assert isinstance(segmenter.network, EfficientUNet)
        segmenter.network.encoder.load_state_dict(pretrained.state_dict())
    return segmenter, pretrained is not None


def fit(
    run: Run[SegmentationSettings], data: SegmentationData, split: SegmentationSplit, checkpoints: Path | None
) -> Fitted:
    """Trains a segmenter on the training part; the validation part decides which round is kept.

    Args:
        run: Budget, settings and seed.
        checkpoints: From `checkpoint_folder`; None: nothing is kept.
    """
    start_s = time.monotonic()
    settings, num_classes = run.settings, len(data.labels)
    size = input_size(split.train, settings.input_size)
    masks = Masks(run.dataset_dir, data.legend, data.background)
    images = TrainingImages(run.dataset_dir, masks, split.train, size)
    validation = Validation(
        TrainingImages(run.dataset_dir, masks, evenly(split.validation, _JUDGED_IMAGES), size), num_classes
    )
    segmenter, is_pretrained = new_segmenter(num_classes, size, backbone=settings.backbone, seed=run.seed)
    weights_N = frequencies(split.train, num_classes)
    transform = augmentation(size, any_direction=settings.any_direction)

    def scenes(steps: int) -> Scenes:
        return Scenes(
            images, weights_N, transform, batch_size=settings.batch_size, steps=steps, seed=run.seed
        )

    until_s = run.started_s + training_s(run.budget_s)
    report = run.stages.counter(PREPARE, "images")
    for index in range(len(images)):
        images.sample(index)
        if index % 25 == 24:
            report(index + 1, len(images))
    made = None if checkpoints is None else kept_plan(checkpoints, RoundsPlan)
    if made is None:
        made = plan(
            segmenter,
            scenes,
            float(weights_N.sum()),
            batch_size=settings.batch_size,
            epochs=settings.epochs,
            until_s=until_s,
            validate_s=lambda: validation.seconds(FromPixels(segmenter)),
        )
        if checkpoints is not None:
            keep_plan(checkpoints, made)
    run.stages.report(
        PREPARE, 1.0, message=f"{made.epochs} rounds of {made.steps} batches in {made.execution}"
    )
    training = train(
        segmenter,
        scenes(made.steps),
        plan=made,
        learning_rate=settings.learning_rate,
        limit_s=max(until_s - time.monotonic(), 1.0) if settings.epochs is None else None,
        validate=validation,
        seed=run.seed,
        checkpoints=None if checkpoints is None else checkpoints / "steps",
        callbacks=[Told(run.stages, TRAIN, "round")],
    )
    return Fitted(
        segmenter=segmenter,
        training=training,
        is_pretrained=is_pretrained,
        duration_s=time.monotonic() - start_s,
    )


def checkpoint_folder(
    run: Run[SegmentationSettings], data: SegmentationData, split: SegmentationSplit
) -> Path | None:
    """Where a run of this data, these settings and this seed keeps what a kill must not take."""
    if run.cache_dir is None:
        return None
    # With a number of rounds given, time decides nothing.
    budget_s = run.budget_s if run.settings.epochs is None else None
    identity = [
        *(_VERSION, asdict(run.settings), run.seed, budget_s, list(data.labels), data.legend.to_dict()),
        *([image.digest, image.pixels.tolist()] for image in (*split.train, *split.validation)),
        len(split.train),
    ]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    return run.cache_dir / "segmentation" / digest[:24]


class Validation:
    """Mean IoU of a network in training on images that it does not learn from, at its input's resolution.

    Args:
        images: Of the validation part.
        num_classes: K.
    """

    def __init__(self, images: TrainingImages, num_classes: int) -> None:
        self._images, self._num_classes = images, num_classes

    def __call__(self, model: nn.Module) -> dict[str, float]:
        counts_KK = np.zeros((self._num_classes, self._num_classes), np.int64)
        with torch.inference_mode():
            for start in range(0, len(self._images), _BATCH):
                stop = min(start + _BATCH, len(self._images))
                batch = collate([self._images.sample(index) for index in range(start, stop)])
                answers = scaled_logits(model(batch.images), self._images.size).argmax(dim=1)
                counts_KK += confusion_counts(
                    batch.masks.reshape(-1, 1).numpy(), answers.reshape(-1, 1).numpy(), self._num_classes
                )
        return {METRIC: mean_iou(counts_KK)}

    def seconds(self, model: nn.Module) -> float:
        """How long it takes once images are scaled."""
        for index in range(len(self._images)):
            self._images.sample(index)
        start_s = time.monotonic()
        self(model.eval())
        return time.monotonic() - start_s
