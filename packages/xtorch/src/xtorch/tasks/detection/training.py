"""Fine-tuning YOLOX within a time budget.

Shapes: N images, H and W rows and columns of the network's input, A locations, C = 4 + 1 + K.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from xtorch import autoconfig
from xtorch.callbacks import EMA, Callback, KeepBest, Monitor, TimeLimit, TrainState
from xtorch.checkpoint import Checkpointing
from xtorch.execution import Execution
from xtorch.models.detector import Detector, unfold_batch_norm
from xtorch.models.yolox import Yolox
from xtorch.models.yolox_loss import Objects, yolox_loss
from xtorch.optim import Cosine, parameter_groups
from xtorch.tasks.detection.samples import Augmentation, Scene, TrainingImages
from xtorch.tasks.planning import TrainingPlan
from xtorch.trainer import FitResult, Trainer, TrainerConfig

MIN_EPOCHS, MAX_EPOCHS = 3, 200
_GENTLE_SHARE = 0.2
"""Share of the last epochs without mosaic and with the L1 loss, as in the YOLOX paper (15 of 300)."""
_STATISTICS_IMAGES = 32
_TIMED_STEPS = 3
_SAFETY = 0.85
"""Of the time that is left is planned for: the machine may get slower."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How to train; the defaults were chosen on validation parts (docs/how-to/detection.md)."""

    batch_size: int = 8
    learning_rate: float = 1e-3
    """The highest, for what is new; published layers get `published_factor` of it."""
    published_factor: float = 0.5
    weight_decay: float = 0.01
    ema_decay: float = 0.998
    validate_every: int = 2
    augmentation: Augmentation = field(default_factory=Augmentation)


class Batch(NamedTuple):
    """Images float32 [N,3,H,W] in 0..255, and the objects of each."""

    images: Tensor
    boxes: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]
    with_offsets: bool


class Scenes:
    """Augmented batches, different in each epoch, the same for the same seed.

    Args:
        images: to draw from.
        options: batch size and augmentation.
        seed: decides the order and every scene.
        epochs: of the whole training: the last ones are gentle.
    """

    def __init__(self, images: TrainingImages, options: TrainingOptions, *, seed: int, epochs: int) -> None:
        self.images, self.options, self.seed, self.epochs = images, options, seed, epochs
        self._epoch = 0

    def __len__(self) -> int:
        return math.ceil(len(self.images) / self.options.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Which epoch comes next, from 0."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        gentle = self._epoch >= self.epochs * (1 - _GENTLE_SHARE)
        augmentation = self.options.augmentation.gentle() if gentle else self.options.augmentation
        order = np.random.default_rng([self.seed, self._epoch]).permutation(len(self.images))
        seed = (self.seed, self._epoch)
        for scenes in self.images.batches(order.tolist(), self.options.batch_size, augmentation, seed=seed):
            yield collate(scenes, with_offsets=gentle)


def collate(scenes: Sequence[Scene], *, with_offsets: bool = False) -> Batch:
    """Scenes as one batch."""
    images_NHW3 = torch.from_numpy(np.stack([scene.image for scene in scenes]))
    return Batch(
        images=images_NHW3.permute(0, 3, 1, 2).float(),
        boxes=tuple(torch.from_numpy(scene.boxes) for scene in scenes),
        labels=tuple(torch.from_numpy(scene.labels) for scene in scenes),
        with_offsets=with_offsets,
    )


class RawYolox(nn.Module):
    """A YOLOX whose forward pass gives logits: what is trained."""

    def __init__(self, network: Yolox) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """[N,A,C] of float32 [N,3,H,W]."""
        return self.network.logits(x_NCHW)


def batch_loss(model: nn.Module, batch: Batch) -> Tensor:
    """YOLOX's loss of a batch."""
    logits_NAC = model(batch.images)
    truth = [
        Objects(boxes=boxes, labels=labels) for boxes, labels in zip(batch.boxes, batch.labels, strict=True)
    ]
    height, width = batch.images.shape[2:]
    with torch.autocast(batch.images.device.type, enabled=False):
        return yolox_loss(logits_NAC, (height, width), truth, with_offsets=batch.with_offsets).total


def prepare(detector: Detector, images: TrainingImages) -> None:
    """Gives a network with folded batch norm the statistics of this data; what it computes stays the same."""
    picks = np.linspace(0, len(images) - 1, min(_STATISTICS_IMAGES, len(images))).round().astype(int)

    def batches() -> Iterator[Tensor]:
        for start in range(0, len(picks), 8):
            yield collate([images.plain(int(index)) for index in picks[start : start + 8]]).images

    unfold_batch_norm(detector.network, batches())


def plan(
    detector: Detector,
    images: TrainingImages,
    options: TrainingOptions,
    *,
    epochs: int | None,
    until_s: float,
    validate_s: Callable[[], float],
    seed: int,
) -> TrainingPlan:
    """Measures steps in float32 and bfloat16 and fits as many epochs into the time that is left as it holds.

    Args:
        epochs: instead; then time does not matter.
        until_s: when training has to be over, by `time.monotonic`.
        validate_s: measures how long a validation takes.
    """
    if epochs is not None:
        return TrainingPlan(epochs=epochs, execution=Execution(), step_s=None)
    scenes = Scenes(images, options, seed=seed, epochs=MAX_EPOCHS)
    model = RawYolox(detector.network)
    # SimOTA decides anew in each precision, so losses differ by more than rounding.
    choice = autoconfig.choose(
        model, scenes, batch_loss, rounds=_TIMED_STEPS, learning_steps=1, tolerance=0.1, seed=seed
    )
    step_s = _step_s(model, scenes, choice.execution)
    epoch_s = step_s * len(scenes) + validate_s() / options.validate_every
    fitting = int((until_s - time.monotonic()) * _SAFETY / epoch_s)
    return TrainingPlan(
        epochs=min(max(fitting, MIN_EPOCHS), MAX_EPOCHS), execution=choice.execution, step_s=step_s
    )


def _step_s(model: nn.Module, scenes: Scenes, execution: Execution) -> float:
    """Seconds of a step with all that belongs to it, the median of a few."""
    device = torch.device("cpu")
    execution.place(model, device).train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    times: list[float] = []
    start = time.perf_counter()
    for batch in scenes:
        with execution.autocast(device):
            batch_loss(model, execution.move(batch, device)).backward()
        times.append(time.perf_counter() - start)
        if len(times) > _TIMED_STEPS:
            break
        start = time.perf_counter()
    model.zero_grad(set_to_none=True)
    model.load_state_dict(state)
    # The first one fills caches.
    return statistics.median(times[1:] or times)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What training did."""

    plan: TrainingPlan
    fit: FitResult
    best_epoch: int | None


def train(
    detector: Detector,
    images: TrainingImages,
    options: TrainingOptions,
    *,
    plan: TrainingPlan,
    limit_s: float | None,
    validate: Callable[[Yolox], Mapping[str, float]],
    is_published: bool,
    seed: int,
    checkpoints: Path | None = None,
    callbacks: Sequence[Callback] = (),
) -> Trained:
    """Trains in place; the detector ends with the averaged weights of the best validated epoch.

    Args:
        limit_s: a hard end, for machines that get slower; None: none.
        validate: ``map50`` of the network.
        is_published: whether weights are published ones, which change more slowly than the new layers.
        checkpoints: folder to go on from, if it holds anything, and to save to after every epoch.
    """
    model = RawYolox(detector.network)
    scenes = Scenes(images, options, seed=seed, epochs=plan.epochs)
    watch = _Watch()

    def sometimes(trained: nn.Module) -> Mapping[str, float]:
        assert isinstance(trained, RawYolox)
        epoch = watch.state.epoch + 1
        is_last = epoch == plan.epochs or watch.state.stop_reason is not None
        if epoch % options.validate_every and not is_last:
            return {"map50": math.nan}
        return validate(trained.network)

    def optimiser(trained: nn.Module) -> torch.optim.Optimizer:
        assert isinstance(trained, RawYolox)
        new = trained.network.head.get_submodule("cls_preds")
        rest = nn.ModuleList(
            [trained.network.backbone]
            + [child for name, child in trained.network.head.named_children() if name != "cls_preds"]
        )
        factor = options.published_factor if is_published else 1.0
        groups = [
            group | {"lr": options.learning_rate * share}
            for part, share in ((new, 1.0), (rest, factor))
            for group in parameter_groups(part, weight_decay=options.weight_decay)
        ]
        return torch.optim.AdamW(groups, lr=options.learning_rate)

    keep = KeepBest(Monitor(metric="map50", maximise=True))
    chain: list[Callback] = [watch, EMA(options.ema_decay), keep, *callbacks]
    if limit_s is not None:
        chain.insert(0, TimeLimit(limit_s))
    resume = None
    if checkpoints is not None:
        chain.append(Checkpointing(checkpoints))
        resume = checkpoints
    config = TrainerConfig(
        max_epochs=plan.epochs,
        learning_rate=options.learning_rate,
        schedule=Cosine(warmup_epochs=min(1.0, plan.epochs / 10), floor=0.02),
        clip_norm=10.0,
        seed=seed,
        precision=plan.execution.precision,
        channels_last=plan.execution.channels_last,
    )
    fit = Trainer(config, chain).fit(
        model, scenes, loss=batch_loss, validate=sometimes, optimiser=optimiser, resume=resume
    )
    for parameter in detector.parameters():
        parameter.data = parameter.data.contiguous()
    detector.eval().requires_grad_(False)
    return Trained(plan=plan, fit=fit, best_epoch=keep.best_epoch)


class _Watch(Callback):
    """Lets validation see where training is."""

    state: TrainState

    def on_train_begin(self, state: TrainState) -> None:
        self.state = state
