"""Chooses precision, memory layout and compilation by timing steps of the real model on this machine."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from xtorch.determinism import random_state, set_random_state
from xtorch.errors import TrainingError
from xtorch.execution import Execution

if TYPE_CHECKING:
    from xtorch.loop import Batch, Batches, Loss

_log = logging.getLogger(__name__)

MIN_GAIN = 1.03
"""What is not at least so many times faster than float32 as it is, is not worth a difference."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What became of one candidate."""

    execution: Execution
    speedup: float
    """Of a step, forward and backward, against the reference; the median over rounds. NaN: not timed."""
    loss_difference: float
    """Largest difference from the reference's losses, as a share of the largest of them."""
    refused: str | None
    """Why it may not be chosen."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen, and from what."""

    execution: Execution
    measured: Sequence[Measured]
    """The reference, float32 in the usual layout, comes first."""

    def explain(self) -> str:
        """What was chosen and why, in lines for people."""
        lines = [f"Chosen: {self.execution}. Speed of a training step against plain fp32:"]
        for row in self.measured:
            speed = "not timed" if math.isnan(row.speedup) else f"{row.speedup:.2f}x"
            lines.append(
                f"  {row.execution!s:<32} {speed:>9}  losses differ by {row.loss_difference:.2%}"
                + (f"  refused: {row.refused}" if row.refused else "")
            )
        return "\n".join(lines)


def candidates(model: nn.Module, device: torch.device, *, compile: bool = False) -> list[Execution]:
    """The ways to execute a model's steps that are worth timing; plain float32 comes first.

    Args:
        model: channels-last is tried where it has two-dimensional convolutions.
        device: fp16 is tried on CUDA devices that lack fast bfloat16.
        compile: also try each compiled.
    """
    reduced = "bf16"
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        reduced = "fp16"
    convolves = any(isinstance(module, nn.Conv2d | nn.ConvTranspose2d) for module in model.modules())
    layouts = (False, True) if convolves else (False,)
    return [
        Execution(precision=precision, channels_last=layout, compile=compiled)  # type: ignore[arg-type]
        for compiled in ((False, True) if compile else (False,))
        for precision in ("fp32", reduced)
        for layout in layouts
    ]


def choose(
    model: nn.Module,
    batches: Batches,
    loss: Loss,
    *,
    device: torch.device | None = None,
    among: Sequence[Execution] | None = None,
    compile: bool = False,
    rounds: int = 5,
    learning_steps: int = 4,
    tolerance: float = 0.02,
    seed: int = 0,
) -> Choice:
    """Time training steps of every candidate on the first batch, in turns, and keep the fastest honest one.

    Each candidate trains a copy of the model for a few steps from the same seed; one whose losses leave the
    reference's is refused. Then all are timed in turns, so that a slow moment of the machine hits all.
    Model, batches and random generators are left as they were.

    Args:
        model: as it is when training starts.
        batches: as for `Trainer.fit`; the first batch is used.
        loss: as for `Trainer.fit`.
        device: where to train; default: where the model is.
        among: candidates; the first is the reference. Default: `candidates`.
        compile: also try each compiled: a minute per candidate.
        rounds: timed steps per candidate.
        learning_steps: steps of Adam (1e-3) in which losses are compared.
        tolerance: largest difference of losses, as a share of the reference's largest loss.
        seed: of the compared steps.

    Raises:
        TrainingError: there are no batches, or the reference's loss is not finite.
    """
    device = device or next(model.parameters()).device
    among = list(among or candidates(model, device, compile=compile))
    with _random_state_kept():
        batch = _first(batches, seed)
        steps = [_Stepper(model, batch, loss, execution, device) for execution in among]
        losses = [_losses(step, seed, learning_steps) for step in steps]
        if not all(math.isfinite(value) for value in losses[0]):
            raise TrainingError(
                f"The loss is {losses[0][-1]} in float32 already.",
                value=losses[0],
                hint="look for broken values in the data",
            )
        largest = max(abs(value) for value in losses[0]) or 1.0
        differences = [
            max(abs(a - b) for a, b in zip(row, losses[0], strict=True)) / largest for row in losses
        ]
        refused = [None if share <= tolerance else "losses differ" for share in differences]
        accepted = [step for step, reason in zip(steps, refused, strict=True) if reason is None]
        ratios = _ratios(accepted, rounds)
    speeds = iter(ratios)
    measured = [
        Measured(
            execution=execution,
            speedup=math.nan if reason else next(speeds),
            loss_difference=share,
            refused=reason,
        )
        for execution, share, reason in zip(among, differences, refused, strict=True)
    ]
    best = max((row for row in measured if row.refused is None), key=lambda row: row.speedup)
    chosen = best.execution if best.speedup >= MIN_GAIN else among[0]
    choice = Choice(execution=chosen, measured=measured)
    _log.info("%s", choice.explain())
    return choice


class _Stepper:
    """Forward and backward of a copy of the model, executed in one way."""

    def __init__(
        self, model: nn.Module, batch: Batch, loss: Loss, execution: Execution, device: torch.device
    ) -> None:
        self.model = execution.place(copy.deepcopy(model), device).train()
        self.forward: Any = torch.compile(self.model) if execution.compile else self.model
        self.batch, self.loss, self.execution, self.device = batch, loss, execution, device
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]

    def __call__(self) -> float:
        for parameter in self.parameters:
            parameter.grad = None
        with self.execution.autocast(self.device):
            output = self.loss(self.forward, self.execution.move(self.batch, self.device))
        value = output if isinstance(output, Tensor) else output.loss
        value.backward()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return float(value.detach())


def _losses(step: _Stepper, seed: int, count: int) -> list[float]:
    """Losses of some optimiser steps from a seed; fp16 needs no scaling for so few."""
    torch.manual_seed(seed)
    optimiser = torch.optim.Adam(step.parameters, lr=1e-3)
    values = []
    for _ in range(count):
        values.append(step())
        optimiser.step()
    return values


def _ratios(steps: Sequence[_Stepper], rounds: int) -> list[float]:
    """How many times faster than the first each is: medians of the ratios within a round."""
    for step in steps:
        step()
    times_s = []
    for number in range(rounds):
        row = [0.0] * len(steps)
        # Each round starts with another one.
        for index in (*range(number % len(steps), len(steps)), *range(number % len(steps))):
            start_s = time.perf_counter()
            steps[index]()
            row[index] = time.perf_counter() - start_s
        times_s.append(row)
    return [
        statistics.median(row[0] / max(row[index], 1e-9) for row in times_s) for index in range(len(steps))
    ]


def _first(batches: Batches, seed: int) -> Batch:
    """The first batch, with the source's position kept."""
    position = batches.state_dict() if hasattr(batches, "state_dict") else None
    generator = torch.Generator().manual_seed(seed)
    source: Iterable[Batch] = batches if hasattr(batches, "__iter__") else batches(generator)
    try:
        for batch in source:
            return batch
    finally:
        if position is not None:
            batches.load_state_dict(position)  # type: ignore[union-attr]
    raise TrainingError("There are no training batches.")


@contextlib.contextmanager
def _random_state_kept() -> Iterator[None]:
    before = random_state()
    try:
        yield
    finally:
        set_random_state(before)
