"""Torch modules and exported programs as source models."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xinfer._extras import require
from xinfer.errors import SourceModelError
from xinfer.sources.onnx_source import OnnxSource, read_onnx
from xinfer.sources.walk import fault
from xinfer.sources.weights import EXTERNAL_FILE

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence

    from xinfer.sources.limits import Limits

PROGRAM_FILE = "model.pt2"
PARITY_ATOL = 1e-3
"""Largest accepted difference, as a share of the output's span: other kernels, same float32 arithmetic."""


def from_torch(
    model: Any,
    example_inputs: Sequence[Any],
    *,
    folder: str | os.PathLike[str],
    dynamic_axes: Mapping[str, Mapping[int, str]] | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    opset: int = 18,
    limits: Limits | None = None,
    timeout_s: float = 120.0,
) -> OnnxSource:
    """Exports a torch model to ONNX, and checks that both give the same answers.

    Args:
        model: A `torch.nn.Module` (exported in evaluation mode; its mode is put back) or a
            `torch.export.ExportedProgram`, whose free axes are its own.
        example_inputs: One tensor per input, on the CPU; a free axis needs a size of at least 2.
        folder: Where ``model.onnx`` and ``model.pt2`` go.
        dynamic_axes: Input -> axis -> name of the axis, for a module.
        input_names: Names of the inputs; default: the names of forward's arguments.
        output_names: Names of the outputs.
        opset: Version of the operator set.
        limits: Bounds on the result.
        timeout_s: For reading the result.

    Returns:
        The source; its `exported_program` is the `torch.export` archive.

    Raises:
        SourceModelError: ``build.source_model.export`` (torch cannot export it), ``.parity`` (the exported
            model answers something else), and those of `read_onnx`.
        MissingExtraError: torch, onnx, onnxscript or onnxruntime is not installed.
    """
    torch = require("torch", "torch")
    require("onnxscript", "torch")
    destination = Path(folder)
    destination.mkdir(parents=True, exist_ok=True)
    inputs = tuple(example_inputs)
    is_program = isinstance(model, torch.export.ExportedProgram)
    if is_program and dynamic_axes:
        raise fault("export", "an exported program has its own free axes", hint="leave dynamic_axes out")
    if not is_program and not isinstance(model, torch.nn.Module):
        raise fault(
            "export", f"{type(model).__name__} is neither a torch module nor an exported program",
            value=type(model).__name__,
        )  # fmt: skip
    scratch = Path(tempfile.mkdtemp(dir=destination, prefix=".export-"))
    was_training = not is_program and model.training
    try:
        if was_training:
            model.eval()
        with _quiet():
            program = model if is_program else _trace(torch, model, inputs, dynamic_axes, input_names)
            expected = _run_torch(torch, program.module(), inputs)
            exported = _to_onnx(torch, program, input_names, output_names, opset)
            # External always: one path for models on either side of protobuf's 2 GiB.
            exported.save(scratch / "exported.onnx", external_data=True)
            torch.export.save(program, scratch / PROGRAM_FILE)
        source = read_onnx(scratch / "exported.onnx", folder=destination, limits=limits, timeout_s=timeout_s)
        try:
            _check_parity(source, inputs, expected)
        except BaseException:
            for path in (source.path, source.path.with_name(EXTERNAL_FILE)):
                path.unlink(missing_ok=True)
            raise
        (scratch / PROGRAM_FILE).replace(destination / PROGRAM_FILE)
    finally:
        if was_training:
            model.train()
        shutil.rmtree(scratch, ignore_errors=True)
    return replace(source, exported_program=destination / PROGRAM_FILE)


def _trace(
    torch: Any,
    module: Any,
    inputs: tuple[Any, ...],
    dynamic_axes: Mapping[str, Mapping[int, str]] | None,
    input_names: Sequence[str] | None,
) -> Any:
    """The exported program of a module."""
    import inspect

    names = list(input_names or list(inspect.signature(module.forward).parameters)[: len(inputs)])
    axes = dict(dynamic_axes or {})
    unknown = sorted(axes.keys() - set(names))
    if unknown or len(names) != len(inputs):
        raise fault(
            "export",
            f"dynamic_axes names {unknown}, the inputs are {names}, {len(inputs)} were given",
            value=unknown,
        )
    dims: dict[str, Any] = {}
    shapes = tuple(
        {axis: dims.setdefault(label, torch.export.Dim(label)) for axis, label in axes.get(name, {}).items()}
        or None
        for name in names
    )
    try:
        return torch.export.export(
            module, inputs, dynamic_shapes=shapes if dynamic_axes else None, strict=False
        )
    except Exception as error:
        raise _export_fault(module, error) from error


def _to_onnx(
    torch: Any,
    program: Any,
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
    opset: int,
) -> Any:
    try:
        exported = torch.onnx.export(
            program,
            input_names=list(input_names) if input_names else None,
            output_names=list(output_names) if output_names else None,
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
        assert exported is not None
    except Exception as error:
        raise _export_fault(program, error) from error
    return exported


def _export_fault(model: Any, error: Exception) -> SourceModelError:
    lines = str(error).strip().splitlines() or ["no message"]
    return fault(
        "export",
        f"torch cannot export the model: {type(error).__name__}: {' '.join(lines[:3])[:400]}",
        value=type(model).__name__,
        hint="torch.export needs control flow that does not depend on values; export that part on its own",
    )


def _run_torch(torch: Any, module: Any, inputs: tuple[Any, ...]) -> list[np.ndarray]:
    with torch.inference_mode():
        outputs = module(*inputs)
    leaves, _ = torch.utils._pytree.tree_flatten(outputs)
    return [leaf.detach().cpu().numpy() for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _check_parity(source: OnnxSource, inputs: tuple[Any, ...], expected: list[np.ndarray]) -> None:
    """Compares ONNX Runtime's answers on the example inputs with torch's. Raises SourceModelError."""
    runtime = require("onnxruntime", "build")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    arrays = [item.detach().cpu().numpy() for item in inputs if hasattr(item, "detach")]
    names = [value.name for value in source.facts.inputs]
    if len(names) != len(arrays):
        raise fault(
            "export", f"the exported model takes {names}, given were {len(arrays)} tensors", value=names
        )
    try:
        session = runtime.InferenceSession(str(source.path), options, providers=["CPUExecutionProvider"])
        outputs = session.run(None, dict(zip(names, arrays, strict=True)))
    except Exception as error:
        raise fault(
            "parity", f"the exported model does not run: {' '.join(str(error).split())[:400]}"
        ) from error
    if len(outputs) != len(expected):
        raise fault("parity", f"torch gives {len(expected)} outputs, the exported model {len(outputs)}")
    for value, found, wanted in zip(source.facts.outputs, outputs, expected, strict=True):
        if found.shape != wanted.shape:
            raise fault(
                "parity",
                f"output {value.name!r} is {list(found.shape)}, torch's {list(wanted.shape)}",
                value=value.name,
            )
        if not wanted.size:
            continue
        a, b = found.astype(np.float64), wanted.astype(np.float64)
        finite = b[np.isfinite(b)]
        # A single number has no span of its own: then its size is the scale.
        span = max(float(np.ptp(finite)), float(np.abs(finite).max()), 1e-2) if finite.size else 1e-2
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        with np.errstate(invalid="ignore"):
            difference = float(np.max(np.where(same, 0.0, np.abs(a - b)))) / span
        if not difference <= PARITY_ATOL:
            raise fault(
                "parity",
                f"output {value.name!r} differs from torch's by {difference:.2%} of its span",
                value=difference,
                hint="does the model draw random numbers, or depend on state? else try another opset",
            )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporters' own chatter."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
