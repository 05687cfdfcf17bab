"""PyTorch AOTInductor on CPUs and NVIDIA GPUs. The artifact is ``model.pt2`` and ``io.json``.

The graph is compiled to machine code for the CPU level or GPU that compiles it (`inductor_compile`), so the
artifact's `io.json` says what it needs, and loading refuses anything less.

Run from two threads at once, two teams of OpenMP threads would fight for the same cores (measured: the
throughput collapses). So at most `num_streams` inferences run at once, each with a team of
`num_threads / num_streams` threads.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from xinfer._extras import require
from xinfer.backends.artifact_io import ArtifactIO
from xinfer.backends.base import (
    LayerProfile,
    RuntimeSettings,
    last_line,
    summarise_layers,
    summarise_precisions,
)
from xinfer.backends.inductor_compile import MODEL_FILE, compile_exported
from xinfer.backends.registry import check_settings
from xinfer.errors import BackendError, EngineClosedError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

__all__ = ["BACKEND", "MODEL_FILE", "InductorBackend", "InductorModel", "compile_exported"]

_LOADED: dict[tuple[str, int], Any] = {}
"""Digest of a package and number of runners -> its model. A package's library stays mapped as long as the
process lives, whoever lets go of it (torch 2.13), so loading it again would take its memory again."""
_LOADED_LOCK = threading.Lock()
_PROFILE_WARMUP = 3
_KINDS = (
    ("convolution", "Convolution"),
    ("linear", "Linear"),
    ("addmm", "MatMul"),
    ("bmm", "MatMul"),
    ("mm", "MatMul"),
    ("attention", "Attention"),
)
"""Part of a compute kernel's name -> type of layer; the first that fits."""


class InductorModel:
    """A loaded package with a bound on the inferences at once."""

    def __init__(self, compiled: Any, io: ArtifactIO, settings: RuntimeSettings) -> None:
        self.inputs = tuple(port.spec for port in io.inputs)
        self.outputs = tuple(port.spec for port in io.outputs)
        self._torch = require("torch", "inductor")
        self._compiled = compiled
        self._io = io
        self._device = settings.device
        self._num_threads = max(1, settings.num_threads // settings.num_streams)
        self._slots = threading.BoundedSemaphore(settings.num_streams)

    def infer(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self._compiled is None:
            raise EngineClosedError
        self._io.check(feeds)
        with self._slots:
            compiled = self._compiled
            if compiled is None:
                raise EngineClosedError
            return self._run(compiled, feeds)

    def _run(self, compiled: Any, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        torch = self._torch
        # The number of threads belongs to the calling thread, which may be anyone's.
        before = torch.get_num_threads()
        if before != self._num_threads:
            torch.set_num_threads(self._num_threads)
        try:
            # Compiled code knows nothing of autograd, but what surrounds it does.
            with torch.inference_mode():
                tensors = [
                    torch.from_numpy(_writeable(feeds[port.name])).to(self._device)
                    for port in self._io.inputs
                ]
                found = compiled.loader.boxed_run(tensors)
                return {
                    port.name: tensor.to(dtype=getattr(torch, port.spec.dtype), device="cpu").numpy()
                    for port, tensor in zip(self._io.outputs, found, strict=True)
                }
        except RuntimeError as error:
            raise BackendError(f"AOTInductor: {last_line(error)}") from error
        finally:
            if before != self._num_threads:
                torch.set_num_threads(before)

    def executed_precision(self) -> str:
        if self._compiled is None:
            raise EngineClosedError
        return summarise_precisions(self._io.layers)

    def profile(self, feeds: Mapping[str, np.ndarray], *, repeats: int = 20) -> tuple[LayerProfile, ...]:
        if self._compiled is None:
            raise EngineClosedError
        profiler = require("torch.profiler", "inductor")
        for _ in range(_PROFILE_WARMUP):
            self.infer(feeds)
        activity = profiler.ProfilerActivity
        activities = [activity.CPU] if self._device == "cpu" else [activity.CPU, activity.CUDA]
        with profiler.profile(activities=activities, acc_events=True) as trace:
            for _ in range(repeats):
                self.infer(feeds)
        events = sorted(trace.events(), key=lambda event: event.time_range.start)
        named = [(name, event) for event in events if (name := self._layer(event)) is not None]
        # Every inference makes the same calls in the same order.
        num_calls = {name: num // repeats for name, num in Counter(name for name, _ in named).items()}
        seen: Counter[str] = Counter()
        times_ms: dict[tuple[str, int], list[float]] = defaultdict(list)
        for name, event in named:
            if num_calls[name]:
                times_ms[name, seen[name] % num_calls[name]].append(event.time_range.elapsed_us() / 1e3)
                seen[name] += 1
        compute = [key for key in times_ms if _kind(key[0]) != "Fused"]
        # Layers run in the graph's order; where some were merged, only the common precision is known.
        known = self._io.layers if len(compute) == len(self._io.layers) else ()
        overall = summarise_precisions(self._io.layers)
        precisions = dict(zip(compute, known, strict=False))
        return summarise_layers(
            (
                name if index == 0 else f"{name}.{index}",
                _kind(name),
                precisions.get((name, index), overall),
                times,
            )
            for (name, index), times in times_ms.items()
        )

    def _layer(self, event: Any) -> str | None:
        """The layer that an event of the profiler stands for, if it does."""
        if self._device != "cpu":
            return event.name if str(event.device_type).endswith("CUDA") else None
        own = event.cpu_parent is None and re.match(r"(graph_\d+_)?cpp_|aoti_torch_", event.name)
        return re.sub(r"^graph_\d+_|^aoti_torch_(cpu_)?(mkldnn__)?_?", "", event.name) if own else None

    def close(self) -> None:
        self._compiled = None


class InductorBackend:
    name = "inductor"
    distribution = "torch"

    def load(
        self,
        artifact_dir: Path,
        settings: RuntimeSettings,
        *,
        cache_dir: Path | None = None,  # noqa: ARG002  (the artifact is compiled code)
    ) -> InductorModel:
        check_settings(self.name, device=settings.device, precision=settings.float_precision)
        io = ArtifactIO.load(artifact_dir)
        require("torch", "inductor")
        _check_target(io, settings)
        try:
            compiled = _compiled(artifact_dir / MODEL_FILE, settings.num_streams)
        except (RuntimeError, OSError, ValueError, KeyError) as error:
            raise BackendError(
                f"AOTInductor cannot load the model: {last_line(error)}", value=MODEL_FILE
            ) from error
        return InductorModel(compiled, io, settings)


def _compiled(path: Path, num_runners: int) -> Any:
    """The package's model; the same one for the same content."""
    with path.open("rb") as file:
        key = (hashlib.file_digest(file, "sha256").hexdigest(), num_runners)
    with _LOADED_LOCK:
        if key not in _LOADED:
            package = require("torch._inductor.package", "inductor")
            _LOADED[key] = package.load_package(str(path), num_runners=num_runners)
        return _LOADED[key]


def _check_target(io: ArtifactIO, settings: RuntimeSettings) -> None:
    """Machine code for another machine does not fail: it kills the process."""
    from xinfer.targets import HardwareTarget

    if io.device != settings.device:
        raise BackendError(
            f"the artifact is compiled for {io.device}, asked for is {settings.device}",
            code="backend.unsupported",
            value=settings.device,
        )
    here = HardwareTarget.detect()
    has = (*here.isa, *(gpu.arch for gpu in here.gpus))
    missing = [flag for flag in io.target if flag not in has]
    if missing:
        raise BackendError(
            f"the artifact is compiled for {', '.join(io.target)}, this machine lacks {', '.join(missing)}",
            code="backend.unsupported",
            value=missing,
            hint="build the engine on this machine",
        )


def _kind(name: str) -> str:
    if name.startswith(("cpp_", "triton_")):
        return "Fused"
    return next((kind for part, kind in _KINDS if part in name), "Other")


def _writeable(array: np.ndarray) -> np.ndarray:
    """torch.from_numpy warns of arrays that it must not write to; compiled code does not write to inputs."""
    return array if array.flags.writeable and array.flags.c_contiguous else array.copy()


BACKEND = InductorBackend()
