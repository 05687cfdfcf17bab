"""`io.json` beside compiled artifacts, whose form keeps no names, and the check of inputs against it.

Compiled code reads its inputs unchecked: a wrong shape is a read beyond the buffer, not an exception. So
every input is checked here before it gets there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from xinfer import schema
from xinfer.errors import BackendError, DocumentError
from xinfer.manifest import Datatype, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

IO_FILE = "io.json"


@dataclass(frozen=True, kw_only=True)
class Dim:
    """A dimension: from `min` to `max`; equal for all dimensions with the same `symbol`."""

    min: int
    max: int
    symbol: str | None = None

    @property
    def size(self) -> int:
        """As in a TensorSpec: -1 where it is free."""
        return self.min if self.min == self.max else -1


@dataclass(frozen=True, kw_only=True)
class Port:
    """One input or output."""

    name: str
    datatype: Datatype
    dims: tuple[Dim, ...]

    @property
    def spec(self) -> TensorSpec:
        """As in manifests."""
        return TensorSpec(name=self.name, datatype=self.datatype, shape=tuple(dim.size for dim in self.dims))


@dataclass(frozen=True, kw_only=True)
class ArtifactIO:
    """What a compiled artifact takes and gives, and what it was compiled for.

    Attributes:
        inputs, outputs: In the order of the compiled function.
        device: What it runs on.
        target: CPU instruction sets (``avx512f``) and SM (``sm_90``) that its code uses.
        layers: Precision of each compute layer of the compiled graph, in order.
        runtime: Version of the compiler.
    """

    schema_version: Literal[1] = 1
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    device: str
    target: tuple[str, ...]
    layers: tuple[str, ...]
    runtime: str

    @classmethod
    def load(cls, folder: Path) -> ArtifactIO:
        """Reads `io.json`. Raises BackendError."""
        try:
            data: Any = schema.loads((folder / IO_FILE).read_bytes(), where=IO_FILE)
            return schema.read(cls, data, where=IO_FILE)
        except (OSError, DocumentError) as error:
            raise BackendError(f"the artifact's {IO_FILE} cannot be used: {error}", value=IO_FILE) from error

    def save(self, folder: Path) -> None:
        """Writes `io.json`."""
        (folder / IO_FILE).write_bytes(schema.dumps(self))

    def check(self, feeds: Mapping[str, np.ndarray]) -> None:
        """Refuses inputs that the compiled code would misread. Raises BackendError."""
        if feeds.keys() != {port.name for port in self.inputs}:
            raise BackendError(
                f"the model takes {sorted(port.name for port in self.inputs)}, given were {sorted(feeds)}",
                value=sorted(feeds),
            )
        sizes: dict[str, int] = {}
        for port in self.inputs:
            array = feeds[port.name]
            fits = array.dtype == port.spec.dtype and array.ndim == len(port.dims)
            for dim, size in zip(port.dims, array.shape, strict=False):
                fits = fits and dim.min <= size <= dim.max
                if dim.symbol is not None:
                    fits = fits and sizes.setdefault(dim.symbol, size) == size
            if not fits:
                want = [
                    str(dim.min) if dim.min == dim.max else f"{dim.symbol or '?'}={dim.min}..{dim.max}"
                    for dim in port.dims
                ]
                raise BackendError(
                    f"input {port.name!r} is {port.spec.dtype} [{', '.join(want)}], "
                    f"given was {array.dtype} {list(array.shape)}",
                    value=list(array.shape),
                )
