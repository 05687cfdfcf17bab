"""Tuning a text encoder: so many steps as a plan says, by `xtorch.trainer`.

Shapes: N texts, S tokens.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xtorch.callbacks import Callback, TrainState
from xtorch.checkpoint import Checkpointing
from xtorch.errors import SettingsError
from xtorch.models.bert import SentenceEncoder
from xtorch.optim import Cosine
from xtorch.trainer import Trainer, TrainerConfig

_WARM_UP = 0.1
"""Share of the steps in which the rate rises."""
_TIMED_STEPS = 5
_CHECKPOINT_EVERY_S = 20.0

StepReport = Callable[[int, int, float], None]
"""Told (steps done, steps planned, loss) after each step."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How an encoder is tuned.

    Attributes:
        steps: Batches.
        batch_size: Texts of a batch.
        learning_rate: Of the last layer, at its highest.
        layer_decay: Factor on the rate from each layer to the one below it.
            Source: Howard and Ruder, "Universal Language Model Fine-tuning" (ACL 2018), section 3.2.
        token_dropout: Share of tokens hidden in training.
        weight_decay: Of AdamW.
        least_steps: Where time is short.
    """

    steps: int
    batch_size: int = 32
    learning_rate: float = 5e-5
    layer_decay: float = 1.0
    token_dropout: float = 0.1
    weight_decay: float = 0.01
    least_steps: int = 10

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 2:
            raise SettingsError("steps must be at least 1 and batch_size at least 2.", value=self.steps)

    def shortened(self, share: float) -> Plan:
        """A share of the steps, 0..1, but not fewer than the least."""
        return replace(self, steps=min(self.steps, max(self.least_steps, round(share * self.steps))))


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """A model that is to be tuned, in place.

    Attributes:
        model: What is trained: of its parameters those of `groups`.
        draw: Endless batches, the same for generators in the same state.
        loss: Of the model on a batch.
        groups: Parameters for AdamW, with their own highest rate under ``lr``.
        plan: How.
    """

    model: nn.Module
    draw: Callable[[torch.Generator], Iterator[Any]]
    loss: Callable[[nn.Module, Any], Tensor]
    groups: list[dict[str, Any]]
    plan: Plan

    def step_s(self) -> float:
        """Seconds that a step takes here: the mean of a few, which leave the model as it is."""
        self.model.train()
        batches = self.draw(torch.Generator().manual_seed(0))
        start = 0.0
        for number, batch in enumerate(itertools.islice(batches, _TIMED_STEPS + 1)):
            if number == 1:  # the first one fills caches
                start = time.monotonic()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = self.loss(self.model, batch)
            loss.backward()
        self.model.zero_grad(set_to_none=True)
        self.model.eval()
        return (time.monotonic() - start) / _TIMED_STEPS

    def run(self, *, seed: int, checkpoints: Path | None = None, report: StepReport | None = None) -> None:
        """Make all steps of the plan; the model ends in evaluation mode.

        Args:
            seed: Decides batches and hidden tokens.
            checkpoints: A folder to save to now and then, and to go on from if it holds anything.
            report: Told of each step.

        Raises:
            TrainingError: The loss is not finite.
            CheckpointError: A checkpoint cannot be written, or there are some and none can be read.
        """
        callbacks: list[Callback] = [] if report is None else [_Told(report)]
        if checkpoints is not None:
            callbacks.append(Checkpointing(checkpoints, every_s=_CHECKPOINT_EVERY_S, keep=1))
        config = TrainerConfig(
            max_epochs=1,
            steps_per_epoch=self.plan.steps,
            learning_rate=self.plan.learning_rate,
            schedule=Cosine(warmup_epochs=_WARM_UP),
            seed=seed,
            precision="bf16",
        )
        Trainer(config, callbacks).fit(
            self.model,
            lambda generator: itertools.islice(self.draw(generator), self.plan.steps),
            loss=self.loss,
            optimiser=lambda _: torch.optim.AdamW(self.groups, weight_decay=self.plan.weight_decay),
            resume=checkpoints,
        )


class _Told(Callback):
    def __init__(self, report: StepReport) -> None:
        self.report = report

    def on_batch_end(self, state: TrainState) -> None:
        self.report(state.step, state.steps_per_epoch or state.step, state.loss)


def layer_groups(encoder: SentenceEncoder, plan: Plan) -> list[dict[str, Any]]:
    """Parameters of an encoder's layers with the highest rate of each.

    The token embeddings stay as they are: few texts touch few of them, and they are half of all parameters.
    """
    encoder.bert.embeddings.requires_grad_(False)
    layers = list(encoder.bert.encoder.layer)
    return [
        {
            "params": list(layer.parameters()),
            "lr": plan.learning_rate * plan.layer_decay ** (len(layers) - 1 - depth),
        }
        for depth, layer in enumerate(layers)
    ]


def numpy_generator(generator: torch.Generator) -> np.random.Generator:
    """A NumPy generator that is seeded by torch's."""
    return np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))
