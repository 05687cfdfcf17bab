"""From an ONNX file to a TensorRT engine, with the Python API of TensorRT 10 and 11."""

from __future__ import annotations

import json
import os
import re
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xinfer._extras import require
from xinfer.backends.artifact_io import ArtifactIO, Dim, Port
from xinfer.errors import BackendError
from xinfer.manifest import DATATYPES, Datatype

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MODEL_FILE = "model.engine"
MIN_VERSION = (10, 0)
MEMORY_LIMIT_BYTES = 4 << 30

_COMPUTE = re.compile(r"conv|gemm|matmul|matrixmultiply|mha|attention|cask|fully", re.IGNORECASE)
_PRECISIONS = (
    ("fp8", r"FP8|E4M3"),
    ("int8", r"Int8"),
    ("bf16", r"BF16|BFloat16"),
    ("fp16", r"FP16|Half"),
    ("fp32", r"FP32|Float"),
    ("int64", r"Int64"),
    ("int32", r"Int32"),
)
"""Precision -> how the engine inspector writes it; the first that fits."""


@dataclass(frozen=True, kw_only=True)
class ShapeProfile:
    """The sizes of one input: every size from `min` to `max` runs, `opt` is what the engine is tuned for."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.min) == len(self.opt) == len(self.max):
            raise ValueError("min, opt and max must have the same number of dimensions")
        if not all(
            0 < low <= best <= high for low, best, high in zip(self.min, self.opt, self.max, strict=True)
        ):
            raise ValueError(f"0 < min <= opt <= max must hold: {self.min}, {self.opt}, {self.max}")


def check_version(trt: Any) -> tuple[int, ...]:
    """The release of TensorRT. Raises BackendError where it is older than 10.0 (``backend.unavailable``)."""
    version = tuple(int(part) for part in re.findall(r"\d+", trt.__version__)[:3])
    if version < MIN_VERSION:
        raise BackendError(
            f"TensorRT {trt.__version__} is too old",
            code="backend.unavailable",
            value=trt.__version__,
            hint="install tensorrt>=10",
        )
    return version


def network_flags(trt: Any) -> int:
    """Strong typing: a flag in 10.x, the only way since 11."""
    if check_version(trt)[0] >= 11:
        return 0
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def complete_profiles(
    shapes: Mapping[str, Sequence[int]], profiles: Mapping[str, ShapeProfile]
) -> dict[str, ShapeProfile]:
    """A profile for each input.

    Args:
        shapes: Each input's shape with -1 where it is free.
        profiles: For inputs with free sizes, at least.

    Returns:
        Input -> its profile; of a fixed shape, that shape.

    Raises:
        BackendError: A profile is missing, of an unknown input, or contradicts the shape.
    """
    unknown = sorted(profiles.keys() - shapes.keys())
    if unknown:
        raise BackendError(
            f"there is no input {unknown[0]!r}", value=unknown[0], hint=f"known: {sorted(shapes)}"
        )
    complete = {}
    for name, shape in shapes.items():
        if name not in profiles:
            if -1 in shape:
                raise BackendError(
                    f"input {name!r} has free sizes {list(shape)} and no profile",
                    value=name,
                    hint="give its smallest, most common and largest shape",
                )
            complete[name] = ShapeProfile(min=tuple(shape), opt=tuple(shape), max=tuple(shape))
            continue
        profile = profiles[name]
        fits = len(profile.min) == len(shape) and all(
            size in (-1, low) and size in (-1, high)
            for size, low, high in zip(shape, profile.min, profile.max, strict=True)
        )
        if not fits:
            raise BackendError(
                f"the profile {profile.min}..{profile.max} does not fit input {name!r} {list(shape)}",
                value=name,
            )
        complete[name] = profile
    return complete


class Messages:
    """What TensorRT logged: its calls return None, and why stands in the log."""

    def __init__(self, trt: Any) -> None:
        messages: list[str] = []

        class Logger(trt.ILogger):
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                    messages.append(message)

        self.logger, self._messages = Logger(), messages

    def error(self, what: str, value: Any = None) -> BackendError:
        reason = self._messages[-1] if self._messages else "no reason was given"
        self._messages.clear()
        hint = None
        if re.search(r"out of memory|OutOfMemory|insufficient memory", reason, re.IGNORECASE):
            hint = "free GPU memory, lower the largest shape, or raise memory_limit_bytes"
        return BackendError(f"TensorRT cannot {what}: {reason}", value=value, hint=hint)


@cache
def messages_of(trt: Any) -> Messages:
    """The one logger of this process: TensorRT keeps the first that it is given and ignores others."""
    return Messages(trt)


def build(
    onnx_path: Path,
    artifact_dir: Path,
    *,
    profiles: Mapping[str, ShapeProfile] | None = None,
    timing_cache: Path | None = None,
    memory_limit_bytes: int = MEMORY_LIMIT_BYTES,
    optimization_level: int = 3,
) -> None:
    """Builds an engine for the GPU of this machine and writes the backend's artifact.

    The precision is the graph's (`tensorrt_graph.with_half_precision`, explicit QDQ).

    Args:
        onnx_path: The model; external data beside it.
        artifact_dir: Where the files go; exists.
        profiles: Sizes of inputs with free dimensions.
        timing_cache: File of measured kernels; read if it is there, then replaced by what is known after
            the build. Of the same GPU and release only: TensorRT ignores any other.
        memory_limit_bytes: The most scratch memory that a kernel may use.
        optimization_level: From 0 (quick) to 5 (every kernel is tried).

    Raises:
        BackendError: TensorRT refuses the model; parser errors name the node.
        MissingExtraError: TensorRT is not installed.
    """
    trt = require("tensorrt", "tensorrt")
    version = check_version(trt)
    messages = messages_of(trt)
    builder = trt.Builder(messages.logger)
    network = builder.create_network(network_flags(trt))
    parser = trt.OnnxParser(network, messages.logger)
    if not parser.parse_from_file(str(onnx_path)):
        raise parser_error(parser)
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    shapes = {tensor.name: tuple(tensor.shape) for tensor in inputs}
    complete = complete_profiles(shapes, profiles or {})
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, memory_limit_bytes)
    config.builder_optimization_level = optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # TF32 would execute fp32 with ten bits of mantissa.
    config.clear_flag(trt.BuilderFlag.TF32)
    if any(-1 in shape for shape in shapes.values()):
        profile = builder.create_optimization_profile()
        for name, sizes in complete.items():
            profile.set_shape(name, sizes.min, sizes.opt, sizes.max)
        config.add_optimization_profile(profile)
    known = timing_cache.read_bytes() if timing_cache is not None and timing_cache.exists() else b""
    cache = config.create_timing_cache(known)
    config.set_timing_cache(cache, ignore_mismatch=False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise messages.error("build the engine", onnx_path.name)
    if timing_cache is not None:
        _write_whole(timing_cache, bytes(cache.serialize()))
    data = bytes(plan)
    engine = trt.Runtime(messages.logger).deserialize_cuda_engine(data)
    if engine is None:
        raise messages.error("read back the engine", onnx_path.name)
    (artifact_dir / MODEL_FILE).write_bytes(data)
    ports = [_port(trt, engine, engine.get_tensor_name(i), complete) for i in range(engine.num_io_tensors)]
    is_input = [engine.get_tensor_mode(port.name) == trt.TensorIOMode.INPUT for port in ports]
    ArtifactIO(
        inputs=tuple(port for port, given in zip(ports, is_input, strict=True) if given),
        outputs=tuple(port for port, given in zip(ports, is_input, strict=True) if not given),
        device="cuda",
        target=(current_sm(),),
        layers=tuple(precision for _, kind, precision in inspect(trt, engine) if _COMPUTE.search(kind)),
        runtime=".".join(map(str, version)),
    ).save(artifact_dir)


def parser_error(parser: Any) -> BackendError:
    """What the ONNX parser refused, with the node's name."""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    if not errors:
        return BackendError("TensorRT cannot parse the model: no reason was given")
    first = errors[0]
    node = first.node_name() if hasattr(first, "node_name") else f"#{first.node()}"
    operator = f" ({first.node_operator()})" if hasattr(first, "node_operator") else ""
    return BackendError(
        f"TensorRT cannot parse node {node!r}{operator}: {first.desc()}",
        code="backend.unsupported",
        value=node,
        hint=f"{len(errors) - 1} more errors" if len(errors) > 1 else None,
    )


def inspect(trt: Any, engine: Any) -> list[tuple[str, str, str]]:
    """Name, type and precision of each layer of an engine built with detailed verbosity."""
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return parse_layers(text)


def parse_layers(text: str) -> list[tuple[str, str, str]]:
    """Reads the engine inspector's JSON: of 10.x (``Format/Datatype``) and of 11 (the two apart)."""
    layers = []
    for layer in json.loads(text).get("Layers", []):
        if isinstance(layer, str):  # an engine built without detail
            layers.append((layer, "unknown", "unknown"))
            continue
        tensors = [*layer.get("Inputs", []), *layer.get("Outputs", [])]
        words = [
            str(tensor.get(key, ""))
            for tensor in tensors[:1]
            for key in ("DataType", "Datatype", "Format/Datatype", "Format")
        ]
        layers.append((layer["Name"], layer.get("LayerType", "unknown"), _precision(" ".join(words))))
    return layers


def _precision(text: str) -> str:
    return next((name for name, pattern in _PRECISIONS if re.search(pattern, text, re.IGNORECASE)), "unknown")


def current_sm() -> str:
    """The GPU that builds. Raises BackendError."""
    from xinfer.backends.cuda_memory import call

    cudart = require("cuda.bindings.runtime", "tensorrt")
    properties = call(cudart.cudaGetDeviceProperties(call(cudart.cudaGetDevice())))
    return f"sm_{properties.major}{properties.minor}"


def datatype(trt: Any, dtype: Any) -> Datatype:
    """TensorRT's type as in manifests. Raises BackendError for those that NumPy has not."""
    names = {
        trt.DataType.FLOAT: "FP32", trt.DataType.HALF: "FP16", trt.DataType.INT8: "INT8",
        trt.DataType.INT32: "INT32", trt.DataType.INT64: "INT64", trt.DataType.BOOL: "BOOL",
        trt.DataType.UINT8: "UINT8",
    }  # fmt: skip
    found = names.get(dtype)
    for known in DATATYPES:
        if known == found:
            return known  # type: ignore[return-value]
    raise BackendError(f"no engine takes or gives {dtype}", value=str(dtype), hint="cast it in the graph")


def _port(trt: Any, engine: Any, name: str, profiles: Mapping[str, ShapeProfile]) -> Port:
    kind = datatype(trt, engine.get_tensor_dtype(name))
    if name in profiles:
        sizes = profiles[name]
        dims = [Dim(min=low, max=high) for low, high in zip(sizes.min, sizes.max, strict=True)]
    else:
        shape = engine.get_tensor_shape(name)
        dims = [Dim(min=max(size, 0), max=size if size >= 0 else 2**31 - 1) for size in shape]
    return Port(name=name, datatype=kind, dims=tuple(dims))


def _write_whole(path: Path, data: bytes) -> None:
    """Another build that reads meanwhile sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    Path(name).replace(path)
