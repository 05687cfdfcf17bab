"""Typed ONNX in half precision: what strongly typed runtimes (TensorRT 11, CUDA providers) want."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xinfer._extras import require
from xinfer.builders.quantise.onnx_graph import Graph
from xinfer.errors import SourceModelError

if TYPE_CHECKING:
    from collections.abc import Collection

_RISKY = frozenset(
    {"ReduceL2", "ReduceSumSquare", "ReduceLogSumExp", "ReduceProd", "CumSum", "LpNormalization"}
)
"""Operators whose sums of squares or exponentials leave fp16's range of 65,504."""
_DTYPE_ATTRIBUTES = {"Cast": "to", "EyeLike": "dtype", "RandomNormal": "dtype", "RandomUniform": "dtype"}


@dataclass(kw_only=True)
class _Conversion:
    """The graph under work, and what each float tensor is now called in which type."""

    graph: Graph
    onnx: Any
    target: int
    """TensorProto's number of the half type."""
    names: dict[tuple[str, int], str] = field(default_factory=dict)
    nodes: list[Any] = field(default_factory=list)

    @property
    def float32(self) -> int:
        return int(self.onnx.TensorProto.FLOAT)

    def as_type(self, name: str, wanted: int) -> str:
        """The name of a float tensor in a type; adds a conversion where there is none yet."""
        if (name, wanted) not in self.names:
            value = self.graph.constant(name)
            if value is not None:
                tensor = _tensor(self.onnx, value, wanted)
                self.names[name, wanted] = self.graph.add_constant(f"{name}.half", tensor)
            else:
                output = self.graph.fresh(f"{name}.{'float' if wanted == self.float32 else 'half'}")
                self.cast(name, output, wanted)
                self.names[name, wanted] = output
        return self.names[name, wanted]

    def cast(self, name: str, output: str, wanted: int) -> None:
        node = self.onnx.helper.make_node(
            "Cast", [name], [output], self.graph.fresh(f"{output}.cast"), to=wanted
        )
        self.nodes.append(node)


def to_fp16(source: Path, destination: Path, keep_float: Collection[str] = ()) -> None:
    """Weights and computation in fp16; inputs and outputs keep their types.

    Operators that ONNX does not define for fp16, foreign ones and those that sum squares stay in float32
    between casts. Constants beyond fp16's range become its largest number; tiny ones do not become zero, so
    that an epsilon keeps preventing divisions by zero.

    Args:
        source: The float model.
        destination: The file to write.
        keep_float: Names of further nodes that stay in float32.

    Raises:
        SourceModelError: Control flow, or a tensor whose type cannot be inferred.

    Source: Micikevicius et al., "Mixed Precision Training" (ICLR 2018), sections 2 and 3.3.
    """
    _convert(source, destination, keep_float, "FLOAT16", _RISKY)


def to_bf16(source: Path, destination: Path, keep_float: Collection[str] = ()) -> None:
    """As `to_fp16` in bfloat16: float32's range, eight bits of precision.

    ONNX defines bfloat16 for matrix products since opset 13 and for convolutions since opset 22; in older
    models these stay in float32.
    """
    _convert(source, destination, keep_float, "BFLOAT16", frozenset())


def _convert(
    source: Path, destination: Path, keep_float: Collection[str], name: str, risky: frozenset[str]
) -> None:
    onnx = require("onnx", "build")
    graph = Graph(source)
    graph.refuse_control_flow()
    work = _Conversion(graph=graph, onnx=onnx, target=int(onnx.TensorProto.DataType.Value(name)))
    types = _float_tensors(graph, onnx)
    for value in graph.graph.input:
        work.names[value.name, work.float32] = value.name
    for tensor in list(graph.graph.initializer):
        work.names[tensor.name, work.float32] = tensor.name
    kept = frozenset(keep_float)
    for node in graph.sequence:
        stays = node.name in kept or node.op_type in risky
        _convert_node(work, node, types, stays=stays)
    graph.sequence = work.nodes
    # Types of inner tensors changed; runtimes infer them anew.
    del graph.graph.value_info[:]
    graph.save(destination)


def _convert_node(work: _Conversion, node: Any, floats: Collection[str], *, stays: bool) -> None:
    """Adds a node with its inputs and outputs in the types that it takes, and the casts that it needs."""
    schema = _schema(work, node)
    half_name = "tensor(float16)" if work.target == work.onnx.TensorProto.FLOAT16 else "tensor(bfloat16)"

    def wanted(formal: Any) -> int:
        can = not stays and formal is not None and half_name in formal.types
        return work.target if can else work.float32

    inputs, outputs = _formals(schema, node.input, "inputs"), _formals(schema, node.output, "outputs")
    for index, name in enumerate(node.input):
        if name in floats:
            node.input[index] = work.as_type(name, wanted(inputs[index]))
    produced = [name for name in node.output if name in floats]
    to_half = [
        name
        for name, formal in zip(node.output, outputs, strict=True)
        if name in floats and wanted(formal) == work.target
    ]
    if to_half:
        _retype_attributes(work, node)
    work.nodes.append(node)
    for index, name in enumerate(node.output):
        if name not in produced:
            continue
        kind = work.target if name in to_half else work.float32
        if name in work.graph.outputs and kind == work.target:
            inner = work.graph.fresh(f"{name}.half")
            node.output[index] = inner
            work.names[name, kind] = inner
            work.cast(inner, name, work.float32)
            work.names[name, work.float32] = name
        else:
            work.names[name, kind] = name


def _schema(work: _Conversion, node: Any) -> Any:
    if node.domain not in ("", "ai.onnx"):
        return None
    return work.onnx.defs.get_schema(node.op_type, work.graph.opset, "")


def _formals(schema: Any, names: Any, side: str) -> list[Any]:
    """The formal parameter of each input or output; the last may stand for any number of them."""
    declared = getattr(schema, side) if schema is not None else []
    return [declared[min(index, len(declared) - 1)] if declared else None for index in range(len(names))]


def _retype_attributes(work: _Conversion, node: Any) -> None:
    for attribute in node.attribute:
        if attribute.name == _DTYPE_ATTRIBUTES.get(node.op_type) and attribute.i == work.float32:
            attribute.i = work.target
        if node.op_type == "ConstantOfShape" and attribute.name == "value":
            value = work.onnx.numpy_helper.to_array(attribute.t)
            attribute.t.CopyFrom(_tensor(work.onnx, value, work.target))
    if node.op_type == "ConstantOfShape" and not node.attribute:
        zero = _tensor(work.onnx, np.zeros(1, np.float32), work.target)
        node.attribute.append(work.onnx.helper.make_attribute("value", zero))


def _tensor(onnx: Any, value: np.ndarray, target: int) -> Any:
    """A constant in the half type: finite values stay finite, those that are not zero stay so."""
    if target == onnx.TensorProto.FLOAT16:
        limits = np.finfo(np.float16)
        finite = np.isfinite(value)
        safe = np.where(finite, np.clip(value, limits.min, limits.max), value)
        tiny = (value != 0) & (np.abs(value) < float(limits.smallest_subnormal))
        safe = np.where(tiny, np.copysign(float(limits.smallest_subnormal), value), safe)
        return onnx.numpy_helper.from_array(safe.astype(np.float16))
    half = value.astype(onnx.helper.tensor_dtype_to_np_dtype(target))
    return onnx.helper.make_tensor("half", target, value.shape, half.tobytes(), raw=True)


def _float_tensors(graph: Graph, onnx: Any) -> frozenset[str]:
    """The tensors that are float32.

    Raises:
        SourceModelError: The type of one is not known.
    """
    inferred = onnx.shape_inference.infer_shapes(graph.model)
    types = {tensor.name: tensor.data_type for tensor in graph.graph.initializer}
    for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    for node in graph.sequence:
        for name in node.output:
            if name and not types.get(name):
                raise SourceModelError(f"the type of what {node.op_type} makes is not known", value=node.name)
    return frozenset(name for name, kind in types.items() if kind == onnx.TensorProto.FLOAT)
