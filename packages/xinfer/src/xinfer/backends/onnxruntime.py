"""ONNX Runtime on CPUs, NVIDIA and AMD GPUs and Apple's chips. The artifact is ``model.onnx``."""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xinfer._extras import require
from xinfer.backends.base import LayerProfile, RuntimeSettings, summarise_layers, summarise_precisions
from xinfer.backends.registry import check_settings
from xinfer.errors import BackendError, EngineClosedError
from xinfer.manifest import Datatype, TensorSpec
from xinfer.targets import HardwareTarget, installed_version

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
_PROVIDERS = {
    "cuda": ("CUDAExecutionProvider",),
    "rocm": ("MIGraphXExecutionProvider", "ROCMExecutionProvider"),
    "coreml": ("CoreMLExecutionProvider",),
}
_BUILDS = {
    "cuda": "pip install onnxruntime-gpu instead of onnxruntime",
    "rocm": "install AMD's onnxruntime-migraphx instead of onnxruntime",
    "coreml": "CoreML is in the builds for macOS only",
}
_COMPILING_DEVICES = ("rocm", "coreml")
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
            try:
                _session(self._model_path, options, self._settings)
            except BackendError:
                # A provider that compiles subgraphs (MIGraphX, CoreML) cannot show what it executes.
                if self._settings.device in _COMPILING_DEVICES:
                    return "unknown"
                raise
            graph = onnx.load(str(optimised)).graph
        halves = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16}
        return summarise_precisions(
            "fp16" if halves.intersection(node.input) else _EXECUTED[node.op_type]
            for node in graph.node
            if node.op_type in _EXECUTED
        )

    def profile(self, feeds: Mapping[str, np.ndarray], *, repeats: int = 20) -> tuple[LayerProfile, ...]:
        if self._session is None:
            raise EngineClosedError
        with tempfile.TemporaryDirectory(prefix="xinfer-ort-") as folder:
            options = _session_options(self._settings)
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = _session(self._model_path, options, self._settings)
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
        self, artifact_dir: Path, settings: RuntimeSettings, *, cache_dir: Path | None = None
    ) -> OnnxRuntimeModel:
        check_settings(self.name, device=settings.device, precision=settings.float_precision)
        path = artifact_dir / MODEL_FILE
        if cache_dir is None or settings.device in _COMPILING_DEVICES:
            return OnnxRuntimeModel(_session(path, _session_options(settings), settings), path, settings)
        return OnnxRuntimeModel(_cached_session(path, settings, cache_dir), path, settings)


def _cached_session(path: Path, settings: RuntimeSettings, cache_dir: Path) -> Any:
    """A session of the optimised graph that an earlier load kept, or that this one keeps."""
    onnxruntime = require("onnxruntime", "onnxruntime")
    cached = cache_dir / f"onnxruntime-{_cache_key(path, settings)}.onnx"
    options = _session_options(settings)
    if cached.exists():
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            return _session(cached, options, settings)
        except BackendError:
            cached.unlink(missing_ok=True)
            options = _session_options(settings)
    cache_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=cache_dir) as folder:
        fresh = Path(folder) / MODEL_FILE
        options.optimized_model_filepath = str(fresh)
        try:
            session = _session(path, options, settings)
        except BackendError:
            # Graphs over protobuf's 2 GB cannot be kept in one file.
            return _session(path, _session_options(settings), settings)
        fresh.replace(cached)
    return session


def _cache_key(path: Path, settings: RuntimeSettings) -> str:
    """What the optimised graph depends on: the files, the release, the settings, the CPU's instructions.

    Files count by place, size and time: reading 100 MB to name them took what the kept graph saves.
    """
    try:
        # Weights may lie in files beside the graph.
        files = [(file.name, file.stat()) for file in sorted(path.parent.iterdir())]
    except OSError as error:
        raise BackendError(f"ONNX Runtime cannot load the model: {error}", value=path.name) from error
    here = HardwareTarget.detect()
    parts = (
        str(path.resolve()),
        [(name, stat.st_size, stat.st_mtime_ns) for name, stat in files],
        installed_version("onnxruntime"),
        settings,
        here.cpu,
        here.isa,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _session_options(settings: RuntimeSettings) -> Any:
    onnxruntime = require("onnxruntime", "onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = max(1, settings.num_threads // settings.num_streams)
    options.inter_op_num_threads = 1
    # Errors only: that an optimised graph fits this machine alone is no news.
    options.log_severity_level = 3
    # Threads spin while an inference runs, but not beyond it: that time belongs to others.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def providers(settings: RuntimeSettings, available: Sequence[str]) -> list[Any]:
    """The execution providers for a device, best first, the CPU last for what they leave over.

    Args:
        settings: The device and the precision.
        available: Those in the installed build of ONNX Runtime.

    Raises:
        BackendError: The installed build has none for this device (``backend.unavailable``).
    """
    if settings.device == "cpu":
        return ["CPUExecutionProvider"]
    wanted = _PROVIDERS[settings.device]
    found = [name for name in wanted if name in available]
    if not found:
        raise BackendError(
            f"the installed ONNX Runtime has no {' or '.join(wanted)}",
            code="backend.unavailable",
            value=settings.device,
            hint=_BUILDS[settings.device],
        )
    options = {
        # TF32 would execute fp32 with ten bits of mantissa.
        "CUDAExecutionProvider": {"use_tf32": "0"},
        "MIGraphXExecutionProvider": {
            "migraphx_fp16_enable": "1" if settings.float_precision == "fp16" else "0"
        },
        # The Neural Engine computes in fp16 whatever the graph says.
        "CoreMLExecutionProvider": {
            "ModelFormat": "MLProgram",
            "MLComputeUnits": "ALL" if settings.float_precision == "fp16" else "CPUAndGPU",
        },
    }
    return [(found[0], options.get(found[0], {})), "CPUExecutionProvider"]


def _session(path: Path, options: Any, settings: RuntimeSettings) -> Any:
    onnxruntime = require("onnxruntime", "onnxruntime")
    chosen = providers(settings, onnxruntime.get_available_providers())
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=chosen)
    except Exception as error:
        raise BackendError(f"ONNX Runtime cannot load the model: {error}", value=path.name) from error
    want = chosen[0] if isinstance(chosen[0], str) else chosen[0][0]
    if want not in session.get_providers():
        # Where a provider's libraries are missing, ONNX Runtime says so on stderr and takes the CPU.
        raise BackendError(
            f"ONNX Runtime could not start {want} and fell back to {session.get_providers()[0]}",
            code="backend.unavailable",
            value=want,
            hint="are the driver and the device's libraries installed in the versions that it needs?",
        )
    return session


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
