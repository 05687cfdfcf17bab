"""The kinds of hardware that engines are built for, as data (`catalogue.json`)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

from xinfer import schema
from xinfer.errors import XInferError


@dataclass(frozen=True, kw_only=True)
class CpuKind:
    """A level of CPU instruction sets.

    Attributes:
        name: The target's name.
        title: For people.
        architecture: As the kernel names it.
        isa: All instruction sets of `ISA_FLAGS` that it has.
        precisions: What it executes natively; INT8 runs on the others too, slower.
        backends: Which can build for it.
        examples: Products.
    """

    name: str
    title: str
    architecture: str
    isa: tuple[str, ...]
    precisions: tuple[str, ...]
    backends: tuple[str, ...]
    examples: tuple[str, ...]

    @property
    def device(self) -> str:
        """As in RuntimeSettings."""
        return "cpu"


@dataclass(frozen=True, kw_only=True)
class AcceleratorKind:
    """A generation of GPUs or NPUs; `arch` is what compiled code is made for. Else as `CpuKind`."""

    name: str
    title: str
    device: Literal["cuda", "rocm", "gpu", "npu", "coreml"]
    arch: str
    precisions: tuple[str, ...]
    backends: tuple[str, ...]
    examples: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Document:
    cpu: tuple[CpuKind, ...]
    accelerator: tuple[AcceleratorKind, ...]


@cache
def catalogue() -> dict[str, CpuKind | AcceleratorKind]:
    """All known kinds of hardware by name; of one architecture's CPU levels, the better one is later."""
    text = resources.files("xinfer.targets").joinpath("catalogue.json").read_bytes()
    document = schema.read(_Document, schema.loads(text, where="catalogue"), where="catalogue")
    kinds: list[CpuKind | AcceleratorKind] = [*document.cpu, *document.accelerator]
    return {kind.name: kind for kind in kinds}


def find_kind(name: str) -> CpuKind | AcceleratorKind:
    """The kind of this name. Raises XInferError (``target.unknown``)."""
    kinds = catalogue()
    if name not in kinds:
        family = [known for known in kinds if known.split("-")[0] == name.split("-")[0]]
        raise XInferError(
            f"there is no target {name!r}",
            code="target.unknown",
            value=name,
            hint=f"known: {', '.join(family or kinds)}",
        )
    return kinds[name]
