"""OpenVINO on CPUs and on Intel GPUs and NPUs. The artifact is IR: ``model.xml`` and ``model.bin``."""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xinfer._extras import require
from xinfer.backends.base import (
    LayerProfile,
    RuntimeSettings,
    last_line,
    summarise_layers,
    summarise_precisions,
)
from xinfer.backends.registry import check_settings
from xinfer.errors import BackendError, EngineClosedError
from xinfer.manifest import Datatype, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MODEL_FILE = "model.xml"

_DATATYPES: dict[str, Datatype] = {
    "boolean": "BOOL", "u8": "UINT8", "u16": "UINT16", "u32": "UINT32", "u64": "UINT64",
    "i8": "INT8", "i16": "INT16", "i32": "INT32", "i64": "INT64", "f16": "FP16", "f32": "FP32", "f64": "FP64",
}  # fmt: skip
_PRIME_LOCK = threading.Lock()
_COMPUTE_LAYERS = {"Convolution", "GroupConvolution", "Deconvolution", "FullyConnected", "MatMul"}
_EXECUTED = {
    "u8": "int8", "i8": "int8", "f32": "fp32", "bf16": "bf16", "f16": "fp16", "i64": "int64", "i32": "int32",
}  # fmt: skip
_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_DEVICES = {"cpu": "CPU", "gpu": "GPU", "npu": "NPU"}
_PROFILE_WARMUP = 3


class OpenVINOModel:
    """A compiled model with one infer request per stream."""

    def __init__(self, compiled: Any, recompile: Callable[[dict[str, Any]], Any]) -> None:
        self._recompile = recompile
        self.inputs = tuple(_tensor(port) for port in compiled.inputs)
        self.outputs = tuple(_tensor(port) for port in compiled.outputs)
        self._dtypes = {spec.name: np.dtype(spec.dtype) for spec in self.inputs}
        self._tensor = require("openvino", "openvino").Tensor
        self._compiled = compiled
        # Last in, first out: the request that ran last has the warmest caches.
        self._requests: queue.LifoQueue[Any] = queue.LifoQueue()
        self._lock = threading.Lock()
        self._num_requests: int = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        for _ in range(self._num_requests):
            self._requests.put(compiled.create_infer_request())

    def infer(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self._check(feeds)
        request = self._requests.get()
        try:
            if self._compiled is None:
                raise EngineClosedError
            # Tensors by index instead of a dict through OpenVINO's dispatcher: some 20 us less per inference.
            for index, name in enumerate(self._dtypes):
                array = feeds[name] if feeds[name].flags.c_contiguous else np.ascontiguousarray(feeds[name])
                # OpenVINO shares only memory that it could write to.
                request.set_input_tensor(index, self._tensor(array, shared_memory=array.flags.writeable))
            request.infer(share_outputs=True)
            # Copied: the request's next inference writes into the same memory.
            return {
                spec.name: request.get_output_tensor(index).data.copy()
                for index, spec in enumerate(self.outputs)
            }
        except RuntimeError as error:
            raise BackendError(f"OpenVINO: {last_line(error)}") from error
        finally:
            self._requests.put(request)

    def _check(self, feeds: Mapping[str, np.ndarray]) -> None:
        # OpenVINO runs a missing input with what its memory holds, and casts another type.
        if feeds.keys() != self._dtypes.keys():
            raise BackendError(
                f"the model takes {sorted(self._dtypes)}, given were {sorted(feeds)}", value=sorted(feeds)
            )
        for name, dtype in self._dtypes.items():
            if feeds[name].dtype != dtype:
                raise BackendError(
                    f"input {name!r} is {dtype}, given was {feeds[name].dtype}", value=str(feeds[name].dtype)
                )

    def executed_precision(self) -> str:
        if self._compiled is None:
            raise EngineClosedError
        layers = _layers(self._compiled).values()
        precisions = [precision for kind, precision in layers if kind in _COMPUTE_LAYERS]
        if not precisions:
            hint = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
            return _EXECUTED.get(hint, hint)
        return summarise_precisions(precisions)

    def profile(self, feeds: Mapping[str, np.ndarray], *, repeats: int = 20) -> tuple[LayerProfile, ...]:
        if self._compiled is None:
            raise EngineClosedError
        self._check(feeds)
        compiled = self._recompile({"PERF_COUNT": True})
        layers = _layers(compiled)
        request = compiled.create_infer_request()
        times_ms: dict[str, list[float]] = {}
        kinds: dict[str, str] = {}
        try:
            for repeat in range(_PROFILE_WARMUP + repeats):
                request.infer(dict(feeds), share_inputs=True)
                if repeat < _PROFILE_WARMUP:
                    continue
                for info in request.get_profiling_info():
                    if info.status == info.Status.EXECUTED:
                        kinds[info.node_name] = info.node_type
                        times_ms.setdefault(info.node_name, []).append(info.real_time.total_seconds() * 1e3)
        except RuntimeError as error:
            raise BackendError(f"OpenVINO: {last_line(error)}") from error
        return summarise_layers(
            (name, *layers.get(name, (kinds[name], "unknown")), times) for name, times in times_ms.items()
        )

    def close(self) -> None:
        with self._lock:
            compiled, self._compiled = self._compiled, None
        if compiled is None:
            return
        # Inferences under way end first. The token that takes the requests' place wakes whoever waits.
        for _ in range(self._num_requests):
            self._requests.get()
        self._requests.put(None)


class OpenVINOBackend:
    name = "openvino"
    distribution = "openvino"

    def load(
        self, artifact_dir: Path, settings: RuntimeSettings, *, cache_dir: Path | None = None
    ) -> OpenVINOModel:
        check_settings(self.name, device=settings.device, precision=settings.float_precision)
        openvino = require("openvino", "openvino")
        _prime(openvino)
        device = _DEVICES[settings.device]
        core = openvino.Core()
        if not any(name.split(".")[0] == device for name in core.available_devices):
            raise BackendError(
                f"OpenVINO sees no {device} here",
                code="backend.unavailable",
                value=device,
                hint=f"it sees {', '.join(core.available_devices)}; is the device's driver installed?",
            )
        properties: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY" if settings.num_streams == 1 else "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": _HINTS[settings.float_precision],
        }
        if device == "CPU":
            properties |= {"INFERENCE_NUM_THREADS": settings.num_threads}
        if device != "NPU":
            properties |= {"NUM_STREAMS": settings.num_streams}
        if cache_dir is not None:
            properties["CACHE_DIR"] = str(cache_dir)
            if device in ("CPU", "GPU"):
                # Blobs without weights, which are the artifact's, checked at every load: as fast, and small.
                properties["CACHE_MODE"] = "OPTIMIZE_SIZE"

        def compile_model(more: dict[str, Any]) -> Any:
            path = str(artifact_dir / MODEL_FILE)
            try:
                return core.compile_model(path, device, properties | more)
            except RuntimeError as error:
                raise BackendError(
                    f"OpenVINO cannot load the model: {last_line(error)}", value=MODEL_FILE
                ) from error

        return OpenVINOModel(compile_model({}), compile_model)


def _prime(openvino: Any) -> None:
    """Fills OpenVINO's tables between NumPy's and its own types, in one thread.

    They are filled at the first use, behind a C++ lock and with Python's GIL in hand: two threads whose
    first inferences meet there wait for each other for ever (seen with 2026.4.1).
    """
    with _PRIME_LOCK:
        for array in (np.zeros(1, np.uint8), np.zeros(1, np.float32)):
            for tensor in (openvino.Tensor(array, shared_memory=True), openvino.Tensor(array)):
                assert tensor.element_type.to_dtype() == tensor.data.dtype == array.dtype


def _layers(compiled: Any) -> dict[str, tuple[str, str]]:
    """Executed layer -> its type and the precision of its kernel."""
    layers = {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        if "layerType" in info:
            precision = str(info["runtimePrecision"].astype(str))
            layers[node.get_friendly_name()] = (
                str(info["layerType"].astype(str)),
                _EXECUTED.get(precision, precision),
            )
    return layers


def _tensor(port: Any) -> TensorSpec:
    shape = tuple(
        dimension.get_length() if dimension.is_static else -1 for dimension in port.get_partial_shape()
    )
    datatype = _DATATYPES[port.get_element_type().get_type_name()]
    return TensorSpec(name=port.get_any_name(), datatype=datatype, shape=shape)


BACKEND = OpenVINOBackend()
