"""Learning rates over time, and which parameters decay. Optimisers are torch's."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from xtorch.errors import SettingsError


class Schedule(Protocol):
    """What the learning rate is multiplied by, as a function of time alone: it has no state to save."""

    def factor(self, epoch: float, step: float, max_epochs: float) -> float:
        """The factor for the step that begins now.

        Args:
            epoch: epochs done, with the fraction of the current one.
            step: epochs from one change of the rate to the next: 1 where it changes with each epoch.
            max_epochs: epochs that training lasts.
        """


def _warm_up(epoch: float, step: float, warmup_epochs: float) -> float | None:
    """Rises linearly and never starts at 0; None when it is over."""
    return (epoch + step) / (warmup_epochs + step) if epoch < warmup_epochs else None


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The same rate throughout, after a linear warm-up."""

    warmup_epochs: float = 0

    def factor(self, epoch: float, step: float, max_epochs: float) -> float:  # noqa: ARG002
        warm = _warm_up(epoch, step, self.warmup_epochs)
        return 1.0 if warm is None else warm


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Linear warm-up, then half a cosine from 1 to `floor`.

    Source: Loshchilov and Hutter, "SGDR" (ICLR 2017), equation 5, without restarts; warm-up: Goyal et al.,
    "Accurate, Large Minibatch SGD" (2017), section 2.2.
    """

    warmup_epochs: float = 1
    floor: float = 0.0

    def factor(self, epoch: float, step: float, max_epochs: float) -> float:
        warm = _warm_up(epoch, step, self.warmup_epochs)
        if warm is not None:
            return warm
        length = max_epochs - self.warmup_epochs
        done = min((epoch - self.warmup_epochs) / length, 1.0) if length > 0 else 1.0
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True, kw_only=True)
class OneCycle:
    """Half a cosine from ``1 / start_divisor`` up to 1, then one down to ``1 / end_divisor``.

    Args:
        peak: share of training at which the rate is highest, 0..1.
        start_divisor, end_divisor: how much lower than the peak the rate starts and ends.

    Source: Smith and Topin, "Super-Convergence" (2018), with the cosine form of fastai and
    `torch.optim.lr_scheduler.OneCycleLR`.
    """

    peak: float = 0.3
    start_divisor: float = 25.0
    end_divisor: float = 1e4

    def __post_init__(self) -> None:
        if not 0 < self.peak < 1:
            raise SettingsError("peak must lie between 0 and 1.", value=self.peak)

    def factor(self, epoch: float, step: float, max_epochs: float) -> float:  # noqa: ARG002
        done = min(epoch / max_epochs, 1.0)
        if done < self.peak:
            low, way = 1 / self.start_divisor, 1 - done / self.peak
        else:
            low, way = 1 / self.end_divisor, (done - self.peak) / (1 - self.peak)
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * way))


@dataclass(frozen=True, kw_only=True)
class Step:
    """Multiplies by `gamma` every `every_epochs` epochs, after a linear warm-up."""

    every_epochs: float
    gamma: float = 0.1
    warmup_epochs: float = 0

    def __post_init__(self) -> None:
        if not self.every_epochs > 0:
            raise SettingsError("every_epochs must be positive.", value=self.every_epochs)

    def factor(self, epoch: float, step: float, max_epochs: float) -> float:  # noqa: ARG002
        warm = _warm_up(epoch, step, self.warmup_epochs)
        # A step's share of an epoch is not exact: 3 x (1 / 3) must count as 1.
        return self.gamma ** math.floor(epoch / self.every_epochs + 1e-9) if warm is None else warm


def parameter_groups(model: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups for a torch optimiser: biases and parameters of normalisation layers do not decay.

    These are the parameters with fewer than two axes; frozen ones are left out.

    Source: He et al., "Bag of Tricks for Image Classification with CNNs" (CVPR 2019), section 3.1.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def remember_rates(groups: Iterable[dict[str, Any]]) -> None:
    """Note every group's own learning rate, which schedules multiply."""
    for group in groups:
        group.setdefault("initial_lr", group["lr"])
