"""TensorRT on NVIDIA GPUs. The artifact is ``model.engine`` and ``io.json`` (`tensorrt_build.build`).

An engine runs on the GPU architecture and with the release of TensorRT that built it, and nowhere else:
loading says so instead of letting the deserialiser fail.
"""

from __future__ import annotations

import queue
import threading
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from xinfer._extras import require
from xinfer.backends.artifact_io import ArtifactIO
from xinfer.backends.base import LayerProfile, RuntimeSettings, summarise_layers, summarise_precisions
from xinfer.backends.cuda_memory import Buffer, call, runtime
from xinfer.backends.registry import check_settings
from xinfer.backends.tensorrt_build import (
    MODEL_FILE,
    Messages,
    check_version,
    current_sm,
    inspect,
    messages_of,
)
from xinfer.errors import BackendError, EngineClosedError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_PROFILE_WARMUP = 3


class _Slot:
    """What one inference at a time needs: a context, a stream, memory for each tensor."""

    def __init__(self, engine: Any, io: ArtifactIO, messages: Messages) -> None:
        self._cudart = runtime()
        self._io = io
        self._messages = messages
        self.context = engine.create_execution_context()
        if self.context is None:
            raise messages.error("make an execution context")
        self.stream = call(self._cudart.cudaStreamCreate())
        self._buffers = {port.name: Buffer() for port in (*io.inputs, *io.outputs)}

    def infer(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        context, stream = self.context, self.stream
        for port in self._io.inputs:
            array = feeds[port.name]
            if not context.set_input_shape(port.name, tuple(array.shape)):
                raise self._messages.error(f"take input {port.name!r}", list(array.shape))
            self._buffers[port.name].upload(np.ascontiguousarray(array), stream)
            context.set_tensor_address(port.name, self._buffers[port.name].device)
        sizes = {}
        for port in self._io.outputs:
            shape = tuple(context.get_tensor_shape(port.name))
            if any(size < 0 for size in shape):
                raise BackendError(
                    f"the size of output {port.name!r} depends on the data",
                    code="backend.unsupported",
                    value=list(shape),
                    hint="give the graph's last operator a fixed size (for NMS: a fixed number of boxes)",
                )
            size_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(port.spec.dtype).itemsize
            self._buffers[port.name].reserve(size_bytes)
            context.set_tensor_address(port.name, self._buffers[port.name].device)
            sizes[port.name] = (shape, size_bytes)
        if not context.execute_async_v3(stream_handle=int(stream)):
            raise self._messages.error("run the engine")
        for name, (_, size_bytes) in sizes.items():
            self._buffers[name].download(size_bytes, stream)
        call(self._cudart.cudaStreamSynchronize(stream))
        return {
            port.name: self._buffers[port.name].host(sizes[port.name][0], port.spec.dtype).copy()
            for port in self._io.outputs
        }

    def free(self) -> None:
        self.context = None
        for buffer in self._buffers.values():
            buffer.free()
        call(self._cudart.cudaStreamDestroy(self.stream))


class TensorRTModel:
    """A deserialised engine with one context and stream per inference at once."""

    def __init__(self, trt: Any, engine: Any, io: ArtifactIO, messages: Messages, num_streams: int) -> None:
        self.inputs = tuple(port.spec for port in io.inputs)
        self.outputs = tuple(port.spec for port in io.outputs)
        self._trt, self._engine, self._io, self._messages = trt, engine, io, messages
        self._num_slots = num_streams
        self._slots: queue.LifoQueue[_Slot | None] = queue.LifoQueue()
        self._lock = threading.Lock()
        for _ in range(num_streams):
            self._slots.put(_Slot(engine, io, messages))

    def infer(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self._io.check(feeds)
        slot = self._slots.get()
        try:
            if slot is None:
                raise EngineClosedError
            return slot.infer(feeds)
        finally:
            self._slots.put(slot)

    def executed_precision(self) -> str:
        if self._engine is None:
            raise EngineClosedError
        return summarise_precisions(self._io.layers)

    def profile(self, feeds: Mapping[str, np.ndarray], *, repeats: int = 20) -> tuple[LayerProfile, ...]:
        engine = self._engine
        if engine is None:
            raise EngineClosedError
        self._io.check(feeds)
        times_ms: dict[str, list[float]] = defaultdict(list)
        slot = _Slot(engine, self._io, self._messages)
        try:
            slot.context.profiler = _profiler(self._trt, times_ms)
            for _ in range(_PROFILE_WARMUP + repeats):
                slot.infer(feeds)
        finally:
            slot.free()
        kinds = {name: (kind, precision) for name, kind, precision in inspect(self._trt, engine)}
        return summarise_layers(
            (name, *kinds.get(name, ("unknown", "unknown")), times[_PROFILE_WARMUP:])
            for name, times in times_ms.items()
        )

    def close(self) -> None:
        with self._lock:
            engine, self._engine = self._engine, None
        if engine is None:
            return
        # Inferences under way end first. The token that takes the slots' place wakes whoever waits.
        for _ in range(self._num_slots):
            slot = self._slots.get()
            assert slot is not None
            slot.free()
        self._slots.put(None)


class TensorRTBackend:
    name = "tensorrt"
    distribution = "tensorrt"

    def load(
        self,
        artifact_dir: Path,
        settings: RuntimeSettings,
        *,
        cache_dir: Path | None = None,  # noqa: ARG002  (the artifact is compiled code)
    ) -> TensorRTModel:
        check_settings(self.name, device=settings.device, precision=settings.float_precision)
        trt = require("tensorrt", "tensorrt")
        io = ArtifactIO.load(artifact_dir)
        version = ".".join(map(str, check_version(trt)))
        if io.runtime != version:
            raise BackendError(
                f"the engine is built with TensorRT {io.runtime}, installed is {version}",
                code="backend.unsupported",
                value=version,
                hint="install that release or build the engine again",
            )
        here = current_sm()
        if here not in io.target:
            raise BackendError(
                f"the engine is built for {', '.join(io.target)}, this GPU is {here}",
                code="backend.unsupported",
                value=here,
                hint="build the engine on a GPU of this architecture",
            )
        messages = messages_of(trt)
        try:
            data = (artifact_dir / MODEL_FILE).read_bytes()
        except OSError as error:
            raise BackendError(f"TensorRT cannot load the engine: {error}", value=MODEL_FILE) from error
        engine = trt.Runtime(messages.logger).deserialize_cuda_engine(data)
        if engine is None:
            raise messages.error("load the engine", MODEL_FILE)
        return TensorRTModel(trt, engine, io, messages, settings.num_streams)


def _profiler(trt: Any, times_ms: dict[str, list[float]]) -> Any:
    class Profiler(trt.IProfiler):
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            times_ms[layer_name].append(ms)

    return Profiler()


BACKEND = TensorRTBackend()
