"""What every backend offers."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, Protocol

from xinfer import schema

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np

    from xinfer.manifest import TensorSpec

Device = Literal["cpu", "cuda", "rocm", "coreml", "gpu", "npu"]
"""What executes: ``cuda`` is NVIDIA, ``rocm`` AMD, ``coreml`` Apple, ``gpu`` and ``npu`` Intel (OpenVINO)."""
FloatPrecision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class RuntimeSettings:
    """How a compiled model uses the machine.

    Attributes:
        num_threads: Threads in all.
        num_streams: Inferences at once; each has `num_threads / num_streams` threads.
        float_precision: What executes the layers that are not quantised. Always set: OpenVINO would
            silently run them in bf16 where the CPU has it.
        device: What executes.
    """

    num_threads: int
    num_streams: int
    float_precision: FloatPrecision = "fp32"
    device: Device = "cpu"

    def __post_init__(self) -> None:
        if self.num_threads < 1 or self.num_streams < 1:
            raise ValueError("num_threads and num_streams must be positive")

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RuntimeSettings:
        """Reads what `to_json` wrote. Raises DocumentError."""
        return schema.read(cls, data, where="settings")

    def to_json(self) -> dict[str, Any]:
        """As recorded in receipts."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class LayerProfile:
    """One executed layer.

    Attributes:
        name: The runtime's name of it, after fusion.
        type: What kind of layer.
        precision: What its kernel executes: ``fp32``, ``bf16``, ``fp16``, ``int8``, ``int64``, ...
        time_ms: Median time of one inference.
        share: Of all layers' time, from 0 to 1; the shares of a profile sum to 1.
    """

    name: str
    type: str
    precision: str
    time_ms: float
    share: float


class CompiledModel(Protocol):
    """A model ready to run. All methods may be called from several threads."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def infer(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs one inference.

        Args:
            feeds: One array per input, of its datatype and shape.

        Returns:
            One array per output; the caller owns them.

        Raises:
            BackendError: The runtime refused.
        """

    def executed_precision(self) -> str:
        """What the runtime really executes, read back from it: ``fp32``, ``bf16``, ``int8+fp32``, ..."""

    def profile(self, feeds: Mapping[str, np.ndarray], *, repeats: int = 20) -> tuple[LayerProfile, ...]:
        """Measures every layer on a second, instrumented instance of the model.

        Args:
            feeds: One array per input, of its datatype and shape.
            repeats: Inferences to take each layer's median over.

        Returns:
            The executed layers in order of execution. Instrumentation costs time: compare layers of one
            profile with each other, not their sum with a latency.

        Raises:
            BackendError: The runtime refused.
            EngineClosedError: The model was closed.
        """

    def close(self) -> None:
        """Frees the model. Further calls of `infer` fail."""


class Backend(Protocol):
    """A runtime."""

    name: str
    distribution: str
    """The package whose version an engine depends on."""

    def load(
        self, artifact_dir: Path, settings: RuntimeSettings, *, cache_dir: Path | None = None
    ) -> CompiledModel:
        """Compiles the artifact for this machine.

        Args:
            artifact_dir: The engine's ``artifact/`` folder.
            settings: How to use the machine.
            cache_dir: Where compiled blobs may be kept, if anywhere.

        Raises:
            BackendError: The runtime cannot load it.
            MissingExtraError: The runtime is not installed.
        """


def last_line(error: Exception) -> str:
    """Runtimes' messages start with the source line that threw; what a person needs is the last line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def summarise_precisions(precisions: Iterable[str]) -> str:
    """Joins the precisions of the compute layers, most frequent first: ``int8+fp32``."""
    counts = Counter(precisions)
    return "+".join(sorted(counts, key=lambda name: (-counts[name], name))) or "fp32"


def summarise_layers(layers: Iterable[tuple[str, str, str, Sequence[float]]]) -> tuple[LayerProfile, ...]:
    """Profiles from each layer's name, type, precision and times in milliseconds, one per inference."""
    timed = [(name, kind, precision, median(times)) for name, kind, precision, times in layers if times]
    total_ms = sum(time_ms for *_, time_ms in timed)
    return tuple(
        LayerProfile(
            name=name,
            type=kind,
            precision=precision,
            time_ms=time_ms,
            # Clocks of microseconds can read 0 for every layer of a tiny model.
            share=time_ms / total_ms if total_ms else 1 / len(timed),
        )
        for name, kind, precision, time_ms in timed
    )
