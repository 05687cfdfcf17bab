"""What is done to an ONNX file with QuantizeLinear and DequantizeLinear after it was exported."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from xtorch.errors import ParityError


def store_integers(path: Path) -> None:
    """Replace each float constant that a QuantizeLinear reads by its integers: a quarter of the size.

    Source: ONNX operators, QuantizeLinear: ``saturate(round_half_even(x / scale) + zero_point)``.
    """
    proto = onnx.load(path)
    graph = proto.graph
    constants = _constants(graph)
    replaced: dict[str, str] = {}
    for node in list(graph.node):
        if node.op_type != "QuantizeLinear" or node.input[0] not in constants:
            continue
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        x, scale, zero_point = (constants[name] for name in node.input)
        shape = [-1 if dimension == axis else 1 for dimension in range(x.ndim)] if scale.ndim else []
        limits = np.iinfo(zero_point.dtype)
        integers = np.rint(x / scale.reshape(shape)) + zero_point.reshape(shape)
        name = f"{node.input[0]}_integers"
        stored = integers.clip(limits.min, limits.max).astype(zero_point.dtype)
        graph.initializer.append(numpy_helper.from_array(stored, name))
        replaced[node.output[0]] = name
        graph.node.remove(node)
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = replaced.get(name, name)
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for tensor in list(graph.initializer):
        if tensor.name not in used:
            graph.initializer.remove(tensor)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def _constants(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """All values that are known without an input: initialisers, constants, and these cast or renamed."""
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            known[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        elif node.op_type in ("Cast", "Identity") and node.input[0] in known:
            value = known[node.input[0]]
            if node.op_type == "Cast":
                value = value.astype(onnx.helper.tensor_dtype_to_np_dtype(node.attribute[0].i))
            known[node.output[0]] = value
    return known


def check_parity(model: nn.Module, example: Sequence[Tensor], path: Path, *, tolerance: float) -> None:
    """Compare the file, executed node by node, with the model.

    Raises:
        ParityError: an answer differs by more than `tolerance` times the largest of that output.
    """
    # From 1.29 on it reports to its maker otherwise.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feeds = {entry.name: tensor.numpy() for entry, tensor in zip(session.get_inputs(), example, strict=True)}
    with torch.inference_mode():
        answer = model(*example)
    expected = [answer] if isinstance(answer, Tensor) else list(answer)
    for want, got in zip(expected, session.run(None, feeds), strict=True):
        largest = float(want.abs().max())
        worst = float(np.abs(want.numpy() - got).max())
        if not worst <= tolerance * max(largest, 1e-12):
            raise ParityError(
                f"The exported model's answers differ from the model's by up to {worst:.2g} "
                f"(the largest is {largest:.2g}).",
                value=worst,
                hint="this is a defect of the export: report it with the versions of torch and onnxscript",
            )
