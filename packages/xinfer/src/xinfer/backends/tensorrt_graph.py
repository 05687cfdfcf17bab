"""What TensorRT needs of an ONNX graph: explicit types and explicit, symmetric quantisation.

TensorRT 11 executes what the graph says (strong typing), and 10.x does when asked to; neither chooses a
lower precision by itself. So half precision is written into the graph here, and a graph whose quantisation
TensorRT cannot execute is refused before it is parsed, by the name of the node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from xinfer._extras import require
from xinfer.backends.base import last_line
from xinfer.errors import BackendError

if TYPE_CHECKING:
    from pathlib import Path

_FOREIGN = {
    "QLinearConv", "QLinearMatMul", "QLinearAdd", "QGemm", "ConvInteger", "MatMulInteger",
    "DynamicQuantizeLinear", "DynamicQuantizeMatMul",
}  # fmt: skip
"""Quantised operators of other runtimes."""
_BF16_OPSET = 22
"""From which on ONNX's convolutions may be in bf16."""
_COMPUTE = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_FOLLOWING = {
    "Relu", "LeakyRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Gelu", "Add", "Mul",
    "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "Reshape", "Flatten", "Transpose", "Squeeze",
    "Unsqueeze", "Identity",
}  # fmt: skip
"""Safe in half precision, and cheaper there than the casts around them: they follow what comes in."""
_FLOAT_INPUTS = {"Clip": 3, "Reshape": 1, "Squeeze": 1, "Unsqueeze": 1}
"""How many of an operator's inputs, from the first, are of its own type; all where not named."""


def check_quantisation(model: Any) -> None:
    """Refuses quantisation that TensorRT cannot execute.

    Args:
        model: An `onnx.ModelProto`.

    Raises:
        BackendError: The first node that is not symmetric INT8 (or FP8) Quantize/DequantizeLinear, named.
    """
    onnx = require("onnx", "build")
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        name = node.name or (node.output[0] if node.output else node.op_type)
        if node.op_type in _FOREIGN:
            raise _refused(name, f"{node.op_type} is another runtime's operator")
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.input) < 3:
            continue
        zero = constants.get(node.input[2])
        if zero is None:
            raise _refused(name, "its zero point is not a constant")
        if zero.data_type in (onnx.TensorProto.UINT8, onnx.TensorProto.UINT16, onnx.TensorProto.INT16):
            raise _refused(name, f"it is {onnx.TensorProto.DataType.Name(zero.data_type)}, not INT8")
        if onnx.numpy_helper.to_array(zero).astype("float32").any():
            raise _refused(name, "its zero point is not 0")


def _refused(name: str, why: str) -> BackendError:
    return BackendError(
        f"TensorRT cannot execute node {name!r}: {why}",
        code="backend.unsupported",
        value=name,
        hint="quantise with symmetric INT8 Quantize/DequantizeLinear pairs, zero point 0",
    )


def with_half_precision(model: Any, precision: Literal["fp16", "bf16"]) -> Any:
    """A copy of a graph that computes convolutions and matrix products in half precision.

    Inputs and outputs keep their types; what is not safe in half precision (softmax, norms, powers,
    reductions) stays in fp32; casts stand at the borders. Quantised layers stay as they are.

    Args:
        model: An `onnx.ModelProto` in fp32.
        precision: Which.

    Returns:
        The new `onnx.ModelProto`.

    Raises:
        BackendError: The graph's types cannot be inferred.
    """
    onnx = require("onnx", "build")
    require("onnx.version_converter", "build")
    half = onnx.TensorProto.FLOAT16 if precision == "fp16" else onnx.TensorProto.BFLOAT16
    try:
        if precision == "bf16" and _opset(model) < _BF16_OPSET:
            model = onnx.version_converter.convert_version(model, _BF16_OPSET)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    except RuntimeError as error:
        # Both of onnx's own errors are RuntimeErrors.
        raise BackendError(
            f"the graph's types cannot be inferred: {last_line(error)}", value="onnx"
        ) from error
    graph = model.graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    constants = {tensor.name for tensor in graph.initializer}
    dequantised = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    outputs = {value.name for value in graph.output}

    def floats(node: Any) -> list[int]:
        own = range(min(len(node.input), _FLOAT_INPUTS.get(node.op_type, len(node.input))))
        return [i for i in own if types.get(node.input[i]) == onnx.TensorProto.FLOAT]

    halves: set[str] = set()
    nodes = []
    casts: dict[tuple[str, int], str] = {}

    def cast(name: str, to: int) -> str:
        if (name, to) not in casts:
            casts[name, to] = f"{name}/as_{precision if to == half else 'fp32'}"
            nodes.append(onnx.helper.make_node("Cast", [name], [casts[name, to]], casts[name, to], to=to))
        return casts[name, to]

    for node in graph.node:
        places = floats(node)
        data = [node.input[i] for i in places if node.input[i] not in constants]
        quantised = any(name in dequantised for name in data)
        follows = node.op_type in _FOLLOWING and data and all(name in halves for name in data)
        if places and not quantised and (node.op_type in _COMPUTE or follows):
            for i in places:
                if node.input[i] not in halves:
                    node.input[i] = cast(node.input[i], half)
            nodes.append(node)
            for i, name in enumerate(node.output):
                if name in outputs:
                    node.output[i] = f"{name}/{precision}"
                    nodes.append(onnx.helper.make_node("Cast", [node.output[i]], [name], f"{name}/out", to=1))
                    casts[name, half] = node.output[i]
                else:
                    halves.add(name)
            continue
        for i, name in enumerate(node.input):
            if name in halves:
                node.input[i] = cast(name, onnx.TensorProto.FLOAT)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    # What was inferred is no longer so.
    del graph.value_info[:]
    return model


def _opset(model: Any) -> int:
    return next(int(item.version) for item in model.opset_import if item.domain in ("", "ai.onnx"))


def convert_file(source: Path, target: Path, precision: Literal["fp16", "bf16"]) -> None:
    """`with_half_precision` from file to file. Raises BackendError."""
    onnx = require("onnx", "build")
    onnx.save(with_half_precision(onnx.load(str(source)), precision), str(target))
