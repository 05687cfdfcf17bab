"""Optimiser steps on a text encoder within a limit of time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xtorch.errors import SettingsError, TrainingError
from xtorch.models.bert import SentenceEncoder

_MEASURED_STEPS = 3
"""After these the time of a step is known."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How an encoder is tuned.

    Attributes:
        steps: Batches, unless there is no time for so many.
        batch_size: Texts of a batch.
        learning_rate: Of the last layer; rises over a tenth of the steps, then falls linearly to 0.
        layer_decay: Factor on the rate from each layer to the one below it.
            Source: Howard and Ruder, "Universal Language Model Fine-tuning" (ACL 2018), section 3.2.
        token_dropout: Share of tokens hidden in training.
        weight_decay: Of AdamW.
        limit_s: The steps are made fewer so that they end within it, but never fewer than `min_steps`.
    """

    steps: int
    batch_size: int = 32
    learning_rate: float = 5e-5
    layer_decay: float = 1.0
    token_dropout: float = 0.1
    weight_decay: float = 0.01
    limit_s: float = math.inf
    min_steps: int = 10

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 2:
            raise SettingsError("steps must be at least 1 and batch_size at least 2.", value=self.steps)
        if not self.learning_rate > 0:
            raise SettingsError("learning_rate must be positive.", value=self.learning_rate)


def layer_groups(encoder: SentenceEncoder, plan: Plan) -> list[dict[str, Any]]:
    """Parameters of an encoder's layers with the share of the rate that each takes.

    The token embeddings stay as they are: few texts touch few of them, and they are half of all parameters.
    """
    encoder.bert.embeddings.requires_grad_(False)
    layers = list(encoder.bert.encoder.layer)
    return [
        {"params": list(layer.parameters()), "share": plan.layer_decay ** (len(layers) - 1 - depth)}
        for depth, layer in enumerate(layers)
    ]


def train(
    groups: list[dict[str, Any]],
    next_loss: Callable[[], Tensor],
    plan: Plan,
    *,
    report: Callable[[int, int, float], None] | None = None,
) -> int:
    """Make the planned steps with AdamW.

    Args:
        groups: Parameters, and under ``share`` what part of the learning rate they take.
        next_loss: Loss of the next batch.
        report: Called with (steps done, steps planned, loss).

    Returns:
        The steps that were made.

    Raises:
        TrainingError: The loss is not finite.
    """
    optimiser = torch.optim.AdamW(groups, lr=plan.learning_rate, weight_decay=plan.weight_decay)
    parameters = [parameter for group in groups for parameter in group["params"]]
    steps, done, started = plan.steps, 0, time.monotonic()
    while done < steps:
        warm_up = max(1, steps // 10)
        scale = min((done + 1) / warm_up, (steps - done) / max(1, steps - warm_up))
        for group in optimiser.param_groups:
            group["lr"] = plan.learning_rate * group["share"] * scale
        loss = next_loss()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"The loss is {value} after {done} steps.", value=value, hint="lower the learning rate"
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        done += 1
        if done >= _MEASURED_STEPS and math.isfinite(plan.limit_s):
            spent_s = time.monotonic() - started
            affordable = done + int(max(0.0, plan.limit_s - spent_s) / (spent_s / done))
            steps = min(steps, max(affordable, plan.min_steps, done))
        if report is not None:
            report(done, steps, value)
    return done
