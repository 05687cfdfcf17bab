"""Training a segmenter within a time budget.

Shapes: N images, S and T rows and columns of the network's input, L logits of a pixel, K classes.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xtorch import autoconfig, losses
from xtorch.callbacks import EMA, Callback, EarlyStopping, KeepBest, Monitor, TimeLimit
from xtorch.checkpoint import Checkpointing
from xtorch.data.label_masks import IGNORED
from xtorch.execution import Execution
from xtorch.models.segmenter import EfficientUNet, Segmenter, normalised, scaled_logits
from xtorch.optim import Cosine, parameter_groups
from xtorch.tasks.planning import TrainingPlan
from xtorch.tasks.segmentation.files import METRIC
from xtorch.tasks.segmentation.samples import Batch, Scenes
from xtorch.trainer import FitResult, Trainer, TrainerConfig

WISHED_EPOCHS = 10
"""Rounds are made shorter than the training part, so that as many fit: each ends with a validation."""
MIN_EPOCHS, MAX_EPOCHS = 2, 100
MIN_STEPS = 8
"""Of a round, where images are few."""
_PATIENCE = 15
_PRETRAINED_FACTOR = 0.25
"""Of the learning rate, for layers that begin with published weights."""
_WEIGHT_DECAY = 0.01
_EMA_DECAY = 0.99
_SMOOTH_SHARE = 1e-3
"""Of the batch's pixels: what Dice adds to both sides, so that a class that is not there costs little."""
_TIMED_STEPS = 3
_SAFETY = 0.9
"""Of the time that is left is planned for: the machine may get slower."""


@dataclass(frozen=True, kw_only=True)
class RoundsPlan(TrainingPlan):
    """An epoch is a round of so many batches, not a pass over the training part."""

    steps: int


class FromPixels(nn.Module):
    """The network alone, from pixels 0..255: float32 [N,3,S,T] -> logits [N,L,h,w]."""

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.network = segmenter.network

    def forward(self, x_NCST: Tensor) -> Tensor:
        logits_NLhw: Tensor = self.network(normalised(x_NCST))
        return logits_NLhw


def batch_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Cross entropy of pixels plus one minus Dice of classes, at the network's input's resolution.

    Source: the sum of both: Isensee et al., "nnU-Net" (Nature Methods 2021), methods.
    """
    logits = model(batch.images)
    with torch.autocast(batch.images.device.type, enabled=False):
        height, width = batch.masks.shape[1:]
        logits_NKST = scaled_logits(logits, (height, width))
        entropy = F.cross_entropy(logits_NKST, batch.masks, ignore_index=IGNORED)
        overlap = losses.dice(
            logits_NKST, batch.masks, smooth=_SMOOTH_SHARE * batch.masks.numel(), ignore_index=IGNORED
        )
        return entropy + overlap


def plan(
    segmenter: Segmenter,
    scenes: Callable[[int], Scenes],
    num_draws: float,
    *,
    batch_size: int,
    epochs: int | None,
    until_s: float,
    validate_s: Callable[[], float],
) -> RoundsPlan:
    """Measures steps in float32 and bfloat16 and fits rounds into the time that is left.

    Args:
        scenes: From a number of steps to the batches of a round.
        num_draws: Images of a whole round.
        epochs: Instead; then time does not matter.
        until_s: When training has to be over, by `time.monotonic`.
        validate_s: Measures how long a validation takes.
    """
    whole = max(MIN_STEPS, math.ceil(num_draws / batch_size))
    if epochs is not None:
        return RoundsPlan(epochs=epochs, steps=whole, execution=Execution(), step_s=None)
    model = FromPixels(segmenter)
    batches = scenes(_TIMED_STEPS + 1)
    among = [Execution(), Execution(precision="bf16", channels_last=True)]
    choice = autoconfig.choose(
        model, batches, batch_loss, among=among, rounds=2, learning_steps=1, tolerance=0.05, seed=batches.seed
    )
    step_s = _step_s(model, batches, choice.execution)
    judged_s = validate_s()
    total_s = max(0.0, (until_s - time.monotonic()) * _SAFETY)
    steps = int((total_s / WISHED_EPOCHS - judged_s) / step_s)
    steps = max(MIN_STEPS, min(whole, steps))
    fitting = int(total_s / (steps * step_s + judged_s))
    return RoundsPlan(
        epochs=min(max(fitting, MIN_EPOCHS), MAX_EPOCHS),
        steps=steps,
        execution=choice.execution,
        step_s=step_s,
    )


def _step_s(model: nn.Module, scenes: Scenes, execution: Execution) -> float:
    """Seconds of a step with all that belongs to it, the median of a few; weights stay as they are."""
    device = torch.device("cpu")
    execution.place(model, device).train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    times: list[float] = []
    start_s = time.perf_counter()
    for batch in islice(scenes, _TIMED_STEPS + 1):
        with execution.autocast(device):
            batch_loss(model, execution.move(batch, device)).backward()
        times.append(time.perf_counter() - start_s)
        start_s = time.perf_counter()
    model.zero_grad(set_to_none=True)
    model.load_state_dict(state)
    # The first one fills caches.
    return statistics.median(times[1:] or times)


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What training did."""

    plan: RoundsPlan
    fit: FitResult
    best_epoch: int | None


def train(
    segmenter: Segmenter,
    scenes: Scenes,
    *,
    plan: RoundsPlan,
    learning_rate: float,
    limit_s: float | None,
    validate: Callable[[nn.Module], Mapping[str, float]],
    seed: int,
    checkpoints: Path | None = None,
    callbacks: Sequence[Callback] = (),
) -> TrainingResult:
    """Trains in place; the segmenter ends with the averaged weights of the best validated round.

    Args:
        limit_s: A hard end, for machines that get slower; None: none.
        validate: Mean IoU of a `FromPixels`.
        checkpoints: Folder to go on from, if it holds anything, and to save to after every round.
    """
    model = FromPixels(segmenter)

    def optimiser(_: nn.Module) -> torch.optim.Optimizer:
        groups = [
            group | {"lr": learning_rate * factor}
            for part, factor in _parts(segmenter)
            for group in parameter_groups(part, weight_decay=_WEIGHT_DECAY)
        ]
        return torch.optim.AdamW(groups, lr=learning_rate)

    best = Monitor(metric=METRIC, maximise=True)
    keep = KeepBest(best)
    chain: list[Callback] = [EMA(_EMA_DECAY), keep, EarlyStopping(best, patience=_PATIENCE), *callbacks]
    if limit_s is not None:
        chain.insert(0, TimeLimit(limit_s))
    if checkpoints is not None:
        chain.append(Checkpointing(checkpoints))
    config = TrainerConfig(
        max_epochs=plan.epochs,
        learning_rate=learning_rate,
        schedule=Cosine(warmup_epochs=min(1.0, plan.epochs / 10), floor=0.01),
        clip_norm=5.0,
        seed=seed,
        precision=plan.execution.precision,
        channels_last=plan.execution.channels_last,
    )
    fit = Trainer(config, chain).fit(
        model, scenes, loss=batch_loss, validate=validate, optimiser=optimiser, resume=checkpoints
    )
    for parameter in segmenter.parameters():
        parameter.data = parameter.data.contiguous()
    segmenter.eval().requires_grad_(False)
    return TrainingResult(plan=plan, fit=fit, best_epoch=keep.best_epoch)


def _parts(segmenter: Segmenter) -> Iterator[tuple[nn.Module, float]]:
    """Modules, and what their learning rate is of the highest."""
    network = segmenter.network
    if isinstance(network, EfficientUNet):
        yield network.encoder, _PRETRAINED_FACTOR
        yield nn.ModuleList([network.decoder, network.head]), 1.0
    else:
        yield network, 1.0
