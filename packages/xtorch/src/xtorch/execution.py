"""How a training step is executed: on which device, in which precision and memory layout, compiled or not."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from xtorch.errors import SettingsError

Precision = Literal["fp32", "bf16", "fp16"]

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Execution:
    """One way to execute a step; the mathematics are the same in all of them."""

    precision: Precision = "fp32"
    channels_last: bool = False
    compile: bool = False

    def __str__(self) -> str:
        layout = ", channels-last" if self.channels_last else ""
        return f"{self.precision}{layout}{', compiled' if self.compile else ''}"

    def autocast(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        """Where the forward pass and the loss run: matrix products and convolutions in the lower precision.

        Source: Micikevicius et al., "Mixed Precision Training" (ICLR 2018).
        """
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=_DTYPES[self.precision])

    def scaler(self, device: torch.device) -> torch.amp.GradScaler:
        """Scales the loss in fp16, whose gradients would vanish otherwise; in other precisions does nothing.

        Source: Micikevicius et al., section 3.2.
        """
        return torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")

    def place(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The model, in place, on its device and in its layout."""
        if self.channels_last:
            return model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model.to(device=device)

    def move(self, batch: Any, device: torch.device) -> Any:
        """A batch on the device: tensors in tuples, lists and mappings, and whatever else has a `to`.

        Tensors of four axes take the layout.
        """
        if isinstance(batch, Tensor):
            if self.channels_last and batch.ndim == 4:
                return batch.to(device, non_blocking=True, memory_format=torch.channels_last)
            return batch.to(device, non_blocking=True)
        if isinstance(batch, Mapping):
            return {key: self.move(item, device) for key, item in batch.items()}
        if isinstance(batch, tuple) and hasattr(batch, "_fields"):
            return type(batch)(*(self.move(item, device) for item in batch))
        if isinstance(batch, tuple | list):
            return type(batch)(self.move(item, device) for item in batch)
        return batch.to(device) if hasattr(batch, "to") else batch


def pick_device(name: str | None, model: nn.Module) -> torch.device:
    """A device by name.

    Args:
        name: None: where the model is; "auto": CUDA, else Apple's, else the CPU; or a device's name.
        model: has parameters.

    Raises:
        SettingsError: there is no such device here.
    """
    if name is None:
        return next(model.parameters()).device
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SettingsError(
            f"The device {name!r} is not here.", value=name, hint='use "auto", or one that torch finds'
        ) from error
    return device
