"""ONNX Runtime on CPUs. The artifact is ``model.onnx``."""

from __future__ import annotations

import json
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xinfer._extras import require
from xinfer.backends.base import LayerProfile, RuntimeSettings, summarise_layers, summarise_precisions
from xinfer.errors import BackendError, EngineClosedError
from xinfer.manifest import Datatype, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

MODEL_FILE = "model.onnx"

_DATATYPES: dict[str, Datatype] = {
    "tensor(bool)": "BOOL", "tensor(uint8)": "UINT8", "tensor(uint16)": "UINT16", "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64", "tensor(int8)": "INT8", "tensor(int16)": "INT16", "tensor(int32)": "INT32",
    "tensor(int64)": "INT64", "tensor(float16)": "FP16", "tensor(float)": "FP32", "tensor(double)": "FP64",
}  # fmt: skip
_EXECUTED = {
    "Conv": "fp32", "FusedConv": "fp32", "ConvTranspose": "fp32", "Gemm": "fp32", "FusedGemm": "fp32",
    "MatMul": "fp32", "FusedMatMul": "fp32", "QLinearConv": "int8", "QLinearMatMul": "int8", "QGemm": "int8",
    "ConvInteger": "int8", "MatMulInteger": "int8", "MatMulIntegerToFloat": "int8",
    "DynamicQuantizeMatMul": "int8",
}  # fmt: skip
"""Compute operators of the optimised graph -> the precision that their CPU kernels execute."""
_TYPES = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "uint8": "int8", "double": "fp64"}
_PROFILE_WARMUP = 3


class OnnxRuntimeModel:
    """An inference session with a bound on the inferences at once."""

    def __init__(self, session: Any, model_path: Path, settings: RuntimeSettings) -> None:
        self.inputs = tuple(_tensor(node) for node in session.get_inputs())
        self.outputs = tuple(_tensor(node) for node in session.get_outputs())
        self._names = [spec.name for spec in self.outputs]
        self._session = session
        self._model_path = model_path
        self._settings = settings
        self._slots = threading.BoundedSemaphore(settings.num_streams)

    def infer(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        session = self._session
        if session is None:
            raise EngineClosedError
        with self._slots:
            try:
                return dict(zip(self._names, session.run(self._names, dict(feeds)), strict=True))
            except Exception as error:
                # ONNX Runtime's exceptions share no base class but Exception.
                raise BackendError(f"ONNX Runtime: {error}") from error

    def executed_precision(self) -> str:
        if self._session is None:
            raise EngineClosedError
        onnx = require("onnx", "build")
        with tempfile.TemporaryDirectory(prefix="xinfer-ort-") as folder:
            optimised = Path(folder) / MODEL_FILE
            options = _session_options(self._settings)
            options.optimized_model_filepath = str(optimised)
            _session(self._model_path, options)
            graph = onnx.load(str(optimised)).graph
        return summarise_precisions(
            _EXECUTED[node.op_type] for node in graph.node if node.op_type in _EXECUTED
        )

    def profile(self, feeds: Mapping[str, np.ndarray], *, repeats: int = 20) -> tuple[LayerProfile, ...]:
        if self._session is None:
            raise EngineClosedError
        with tempfile.TemporaryDirectory(prefix="xinfer-ort-") as folder:
            options = _session_options(self._settings)
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = _session(self._model_path, options)
            try:
                for _ in range(_PROFILE_WARMUP + repeats):
                    session.run(self._names, dict(feeds))
            except Exception as error:
                session.end_profiling()
                raise BackendError(f"ONNX Runtime: {error}") from error
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        layers: dict[str, tuple[str, str, list[float]]] = {}
        for event in events:
            name = event["name"].removesuffix("_kernel_time")
            if event.get("cat") == "Node" and name != event["name"]:
                kind = event["args"]["op_name"]
                layer = layers.setdefault(name, (kind, _precision(kind, event["args"]), []))
                layer[2].append(event["dur"] / 1e3)
        return summarise_layers(
            (name, kind, precision, times_ms[_PROFILE_WARMUP:])
            for name, (kind, precision, times_ms) in layers.items()
        )

    def close(self) -> None:
        self._session = None


class OnnxRuntimeBackend:
    name = "onnxruntime"
    distribution = "onnxruntime"

    def load(
        self,
        artifact_dir: Path,
        settings: RuntimeSettings,
        *,
        cache_dir: Path | None = None,  # noqa: ARG002  (sessions have no compiled form worth keeping)
    ) -> OnnxRuntimeModel:
        if settings.float_precision != "fp32":
            raise BackendError(
                "ONNX Runtime has no bf16 kernels for CPUs",
                value=settings.float_precision,
                hint="use float_precision='fp32', or OpenVINO",
            )
        path = artifact_dir / MODEL_FILE
        return OnnxRuntimeModel(_session(path, _session_options(settings)), path, settings)


def _session_options(settings: RuntimeSettings) -> Any:
    onnxruntime = require("onnxruntime", "onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = max(1, settings.num_threads // settings.num_streams)
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads spin while an inference runs, but not beyond it: that time belongs to others.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _session(path: Path, options: Any) -> Any:
    onnxruntime = require("onnxruntime", "onnxruntime")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BackendError(f"ONNX Runtime cannot load the model: {error}", value=path.name) from error


def _precision(kind: str, event: dict[str, Any]) -> str:
    """A compute layer's kernel says it; any other layer works in the type it puts out."""
    if kind in _EXECUTED:
        return _EXECUTED[kind]
    types = [name for output in event.get("output_type_shape", []) for name in output]
    return _TYPES.get(types[0], types[0]) if types else "unknown"


def _tensor(node: Any) -> TensorSpec:
    shape = tuple(dimension if isinstance(dimension, int) else -1 for dimension in node.shape)
    return TensorSpec(name=node.name, datatype=_DATATYPES[node.type], shape=shape)


BACKEND = OnnxRuntimeBackend()
