"""Torch models to ONNX, with preprocessing in the graph, and a check that both give the same answers.

Shapes: N images, H and W rows and columns.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from xtorch.errors import ExportError, ParityError

OPSET = 18


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter's own chatter; what we do ourselves is not affected."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def export_image_model(
    model: nn.Module, path: Path, *, output_names: Sequence[str], example_size: tuple[int, int] = (96, 80)
) -> None:
    """Write a model of uint8 images as ONNX, opset 18.

    The input is ``image`` uint8 [N,H,W,3] with N, H and W free. Nodes are named after the module that they
    came from (``preprocess/...``), parameters as in the state dict.

    Args:
        model: in evaluation mode; forward takes the image and returns one tensor per output name.
        path: where to write.
        output_names: names of the outputs, in order.
        example_size: (H, W) of the image that the exporter traces.

    Raises:
        ExportError: the exporter or ONNX's checker refuses.
    """
    height, width = example_size
    image_NHWC = torch.zeros((2, height, width, 3), dtype=torch.uint8)
    export_tensor_model(
        model, [image_NHWC], path, input_names=["image"], output_names=output_names, free_axes=range(3)
    )


def export_tensor_model(
    model: nn.Module,
    example: Sequence[torch.Tensor],
    path: Path,
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    free_axes: Sequence[int] = (),
    axis_names: str = "NHW",
) -> None:
    """Write a model of ready tensors as ONNX, opset 18.

    Args:
        model: in evaluation mode; forward takes the inputs and returns one tensor per output name.
        example: inputs that the exporter traces; fixes every axis that is not free.
        path: where to write.
        input_names: names of the inputs, in order.
        output_names: names of the outputs, in order.
        free_axes: axes of every input whose size is left open.
        axis_names: one letter per axis of the first input; names the free ones.

    Raises:
        ExportError: the exporter or ONNX's checker refuses.
    """
    free = dict.fromkeys(free_axes, torch.export.Dim.DYNAMIC)
    try:
        with _quiet():
            program = torch.onnx.export(
                model,
                tuple(example),
                input_names=list(input_names),
                output_names=list(output_names),
                dynamic_shapes=tuple(free for _ in example) if free else None,
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
        assert program is not None
        proto = program.model_proto
        _tidy(proto, model, letters=axis_names)
        onnx.checker.check_model(proto, full_check=True)
    except Exception as error:
        raise ExportError(
            f"The model could not be exported to ONNX: {error}", value=type(model).__name__
        ) from error
    onnx.save(proto, path)


def _tidy(proto: onnx.ModelProto, model: nn.Module, *, letters: str = "NHW") -> None:
    """Name nodes after their modules, name the free dimensions, drop the exporter's notes."""
    graph = proto.graph
    names: dict[str, int] = {}
    known = {name for name, _ in model.named_modules() if name}
    for node in graph.node:
        scopes = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "[]")
        # Dotted paths of the modules around the operation, which comes last; outermost is "".
        modules = [entry for entry in re.findall(r"'([^']*)'", scopes)[:-1] if entry in known]
        scope = modules[-1].replace(".", "/") if modules else "graph"
        base = f"{scope}/{node.op_type}"
        names[base] = names.get(base, -1) + 1
        node.name = base if names[base] == 0 else f"{base}_{names[base]}"
        del node.metadata_props[:]
    symbols: dict[str, str] = {}
    for dimension, letter in zip(graph.input[0].type.tensor_type.shape.dim, letters, strict=False):
        if dimension.dim_param:
            symbols[dimension.dim_param] = letter
    for info in (*graph.input, *graph.output):
        for dimension in info.type.tensor_type.shape.dim:
            if dimension.dim_param in symbols:
                dimension.dim_param = symbols[dimension.dim_param]
        del info.metadata_props[:]
    del graph.value_info[:]
    for tensor in graph.initializer:
        del tensor.metadata_props[:]
    del graph.metadata_props[:]
    del proto.metadata_props[:]
    proto.producer_name, proto.producer_version = "ignition-xtorch", ""


class OnnxModel:
    """Runs an exported model with ONNX Runtime on the CPU, as the reference reading of the file."""

    def __init__(self, path: Path) -> None:
        # From 1.29 on it reports to its maker otherwise.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, image_NHWC: np.ndarray) -> list[np.ndarray]:
        """Outputs, in order, of uint8 [N,H,W,3]."""
        outputs: list[Any] = self._session.run(None, {"image": image_NHWC})
        return outputs


def score_parity(
    model: nn.Module, path: Path, images: Sequence[np.ndarray], *, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Compare an exported model's first output with its source's.

    Args:
        model: the source, in evaluation mode; it gives a tensor, or several of which the first is compared.
        path: the ONNX file.
        images: uint8 [H,W,3], of any sizes; at least one.
        tolerance: largest accepted difference, as a share of the largest value (of 1 where that is less):
            float32 sums in another order differ by about 1e-5 of it.

    Returns:
        The output of source and export, float32 [N,...] each.

    Raises:
        ParityError: a value differs by more than that, or is not finite.
    """
    exported = OnnxModel(path)
    sources, onnxes = [], []
    for image_HW3 in images:
        batch_1HW3 = np.ascontiguousarray(image_HW3[None])
        with torch.inference_mode():
            given = model(torch.from_numpy(batch_1HW3))
        sources.append((given if isinstance(given, torch.Tensor) else given[0]).numpy())
        onnxes.append(exported(batch_1HW3)[0])
    source, onnx = np.concatenate(sources), np.concatenate(onnxes)
    worst, limit = float(np.abs(source - onnx).max()), tolerance * max(1.0, float(np.abs(source).max()))
    if not np.isfinite(onnx).all() or not worst <= limit:
        raise ParityError(
            f"The exported model's scores differ from the source's by up to {worst:.2g}, "
            f"more than {limit:.2g}.",
            value=worst,
            hint="this is a defect of the export: report it with the versions of torch and onnxscript",
        )
    return source, onnx
