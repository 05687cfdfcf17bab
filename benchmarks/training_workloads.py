"""The four trainings of `training.py`: data, model, loss, and how users of plain PyTorch load the data.

Each workload gives the same model and loss to everyone. Its `plain_dataset` is written as one would without
xTorch (Pillow, full decode, float images), `tuned_dataset` as one would by hand for speed (reduced decode,
uint8), `xtorch_dataset` with xTorch's parts.

Shapes: N samples, C channels, H rows, W columns, S tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

Loss = Callable[[nn.Module, Any], Tensor]


class Workload(ABC):
    """One training: the same for everyone but in how it is executed and loaded."""

    name: str
    unit = "images"
    batch_size: int
    collate: Callable[[Sequence[Any]], Any] | None = None
    """Of the plain and the tuned loop; None: torch's default."""

    @abstractmethod
    def model(self) -> nn.Module:
        """The model at the start, always the same."""

    @abstractmethod
    def optimiser(self, model: nn.Module) -> torch.optim.Optimizer:
        """Of what `loss` gives gradients to."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Of a batch as any of the three datasets makes it."""

    @abstractmethod
    def plain_dataset(self) -> Dataset[Any]: ...

    @abstractmethod
    def tuned_dataset(self) -> Dataset[Any]: ...

    @abstractmethod
    def xtorch_dataset(self) -> Any: ...

    xtorch_collate: Callable[[Sequence[Any]], Any]

    def count(self, batch: Any) -> int:
        """Images, or tokens."""
        return len(batch[0])
