"""From a torch.export program to AOTInductor's package."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from xinfer._extras import require
from xinfer.backends.artifact_io import ArtifactIO, Dim, Port
from xinfer.backends.base import last_line
from xinfer.backends.registry import check_settings
from xinfer.errors import BackendError
from xinfer.targets import HardwareTarget

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xinfer.manifest import Datatype

MODEL_FILE = "model.pt2"

MAX_SIZE = 2**31 - 1
_DATATYPES: dict[str, Datatype] = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "float16": "FP16", "float32": "FP32", "float64": "FP64",
}  # fmt: skip
_PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "float64": "fp64", "int8": "int8"}
_COMPUTE = re.compile(
    r"aten\.(_?convolution|conv\w*|linear|addmm|mm|bmm|baddbmm|matmul|scaled_dot_product\w*)\."
)
_LEVELS = (("avx512f", "x86-64-v4", 512), ("avx2", "x86-64-v3", 256))
"""CPU level -> the compiler's name of it and the width of its vectors in bits."""


def compile_exported(
    program: Any,
    artifact_dir: Path,
    *,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    device: Literal["cpu", "cuda"] = "cpu",
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> None:
    """Compiles an exported program for this machine and writes the backend's artifact.

    Args:
        program: A `torch.export.ExportedProgram` of a module in evaluation mode, or a file of one
            (`torch.export.save`). All inputs and outputs are tensors.
        artifact_dir: Where the files go; exists.
        precision: What executes convolutions, matrix products and what follows them. For bf16 and fp16
            the casts that autocast would make become part of the graph.
        device: For which device.
        input_names: Names of the inputs in the program's order; default: the program's.
        output_names: Likewise; default: the keys of the dict that it returns, or the names of its nodes.

    Raises:
        BackendError: There is no C++ compiler (``backend.no_compiler``), or the program cannot be compiled.
        MissingExtraError: torch is not installed.
    """
    check_settings("inductor", device=device, precision=precision)
    torch = require("torch", "inductor")
    inductor = require("torch._inductor", "inductor")
    caches = require("torch._inductor.utils", "inductor")
    compiler = _compiler()
    if isinstance(program, (str, os.PathLike)):
        program = torch.export.load(program)
    configs: dict[str, Any] = {
        "freezing": True,
        "cpp.dynamic_threads": True,
        # They pay from the second model on, cost 15 s and stay behind.
        "aot_inductor.precompile_headers": False,
    }
    # The code that calls a GPU's kernels is the CPU's.
    level, target = _cpu_level()
    configs |= level
    with warnings.catch_warnings(), torch.no_grad():
        # torch's own deprecations, seen in copies of its own trees.
        warnings.simplefilter("ignore")
        if device != "cpu":
            program = require("torch.export.passes", "inductor").move_to_device_pass(program, device)
            target = ("sm_{}{}".format(*torch.cuda.get_device_capability()), *target)
        else:
            configs["cpp.enable_kernel_profile"] = True
        inputs, outputs = _ports(program, input_names, output_names)
        try:
            if precision != "fp32":
                # Decomposing nothing retraces the graph, and autocast's casts with it.
                with torch.autocast(
                    device, getattr(torch, {"bf16": "bfloat16", "fp16": "float16"}[precision])
                ):
                    program = program.run_decompositions({})
            layers = _compute_precisions(program)
            with caches.fresh_cache():
                inductor.aoti_compile_and_package(
                    program, package_path=str(artifact_dir / MODEL_FILE), inductor_configs=configs
                )
        except Exception as error:
            # Inductor raises whatever its passes, sympy or the compiler raise.
            raise BackendError(
                f"AOTInductor cannot compile the model: {last_line(error)}", value=compiler
            ) from error
    ArtifactIO(
        inputs=inputs,
        outputs=outputs,
        device=device,
        target=target,
        layers=layers,
        runtime=str(torch.__version__),
    ).save(artifact_dir)


def _compiler() -> str:
    names = [os.environ.get("CXX", ""), "g++", "clang++", "cl"]
    compiler = next((path for name in names if name and (path := shutil.which(name))), None)
    if compiler is None:
        raise BackendError(
            "AOTInductor needs a C++ compiler and found none",
            code="backend.no_compiler",
            hint="install g++ (Debian: apt-get install g++) or set CXX",
        )
    return compiler


def _cpu_level() -> tuple[dict[str, Any], tuple[str, ...]]:
    """Inductor's options for this CPU's level (within XINFER_MAX_ISA), and the flags that its code needs."""
    isa = HardwareTarget.detect().isa
    for flag, march, width in _LEVELS:
        if flag in isa:
            # Without a level, "native" would use whatever this very CPU has, unknown to the manifest.
            used = tuple(name for name in ("avx2", flag, *_vector_flags(width)) if name in isa)
            return {"cpp.march": march, "cpp.simdlen": width}, tuple(dict.fromkeys(used))
    return ({"cpp.march": "x86-64-v2", "cpp.simdlen": 1} if _is_x86() else {}), isa


def _is_x86() -> bool:
    return HardwareTarget.detect().architecture == "x86_64"


def _vector_flags(width: int) -> list[str]:
    """What inductor compiles vectors of this width with, under the kernel's names."""
    isa = require("torch._inductor.cpu_vec_isa", "inductor")
    with require("torch._inductor.config", "inductor").patch({"cpp.simdlen": width}):
        flags = re.findall(r"-m(\S+)", str(isa.pick_vec_isa().build_arch_flags()))
    known = HardwareTarget.detect().isa
    plain = {re.sub(r"[-_]", "", name): name for name in known}
    return [plain[key] for flag in flags if (key := re.sub(r"[-_]", "", flag)) in plain]


def _ports(
    program: Any, input_names: Sequence[str] | None, output_names: Sequence[str] | None
) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    signature = program.graph_signature
    nodes = {node.name: node for node in program.graph.nodes}
    found_inputs, found_outputs = list(signature.user_inputs), list(signature.user_outputs)
    for name in (*found_inputs, *found_outputs):
        if not isinstance(name, str) or not hasattr(nodes[name].meta.get("val"), "dtype"):
            raise BackendError(
                "AOTInductor's artifacts take and give tensors only",
                value=str(name),
                hint="bind other arguments before the export",
            )
    keys = program.call_spec.out_spec.context if program.call_spec.out_spec.type is dict else None
    names_in = list(input_names or found_inputs)
    names_out = list(output_names or (keys if keys and len(keys) == len(found_outputs) else found_outputs))
    if len(names_in) != len(found_inputs) or len(names_out) != len(found_outputs):
        raise BackendError(
            f"the program has {len(found_inputs)} inputs and {len(found_outputs)} outputs, "
            f"named were {len(names_in)} and {len(names_out)}",
            value=[*names_in, *names_out],
        )
    ranges = {
        str(symbol): (int(limits.lower), int(min(limits.upper, MAX_SIZE)))
        for symbol, limits in program.range_constraints.items()
    }
    inputs = [_port(name, nodes[key], ranges) for name, key in zip(names_in, found_inputs, strict=True)]
    for port in inputs:
        # A size such as 2*s0 could not be checked, and compiled code does not check it.
        if any(dim.symbol is None and dim.size < 0 for dim in port.dims):
            raise BackendError(
                f"input {port.name!r} has a size that depends on another one",
                value=port.name,
                hint="export with independent or fixed sizes",
            )
    outputs = [_port(name, nodes[key], ranges) for name, key in zip(names_out, found_outputs, strict=True)]
    return tuple(inputs), tuple(outputs)


def _port(name: str, node: Any, ranges: dict[str, tuple[int, int]]) -> Port:
    value = node.meta["val"]
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype not in _DATATYPES:
        raise BackendError(f"{name!r} is {dtype}, which no engine takes or gives", value=dtype)
    dims = []
    for size in value.shape:
        if isinstance(size, int):
            dims.append(Dim(min=size, max=size))
        else:
            symbol = str(size)
            low, high = ranges.get(symbol, (0, MAX_SIZE))
            dims.append(Dim(min=low, max=high, symbol=symbol if symbol in ranges else None))
    return Port(name=name, datatype=_DATATYPES[dtype], dims=tuple(dims))


def _compute_precisions(program: Any) -> tuple[str, ...]:
    """What the graph computes each convolution and matrix product in."""
    precisions = []
    for node in program.graph.nodes:
        if node.op == "call_function" and _COMPUTE.match(str(node.target) + "."):
            dtype = str(node.args[1].meta["val"].dtype).removeprefix("torch.")
            precisions.append(_PRECISIONS.get(dtype, dtype))
    return tuple(precisions)
