"""What a build needs to know about a source model, as data."""

from __future__ import annotations

import fnmatch
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xinfer.sources.patterns import attention_blocks, normalisation_blocks
from xinfer.sources.walk import DEFAULT_DOMAINS, all_graphs, operator

if TYPE_CHECKING:
    from collections.abc import Sequence

HEAVY = frozenset({"Conv", "ConvTranspose", "Gemm"})
"""Operators that mark the network proper; what only leads to them is preprocessing."""

_HEAVY_LAYERS = HEAVY | {"MatMul", "MatMulInteger", "ConvInteger", "Einsum", "LSTM", "GRU", "RNN"}


@dataclass(frozen=True, kw_only=True)
class SourceGraph:
    """Facts about a source model.

    Attributes:
        opset: Version of the default operator set.
        preprocessing: Nodes that stand before the network: decode-side scaling and normalisation.
        tail: Nodes that follow the last convolution or fully connected layer.
        products: Matrix products.
        nodes: All named nodes.
    """

    opset: int
    preprocessing: frozenset[str]
    tail: frozenset[str]
    products: frozenset[str]
    nodes: frozenset[str]

    def matching(self, patterns: Sequence[str]) -> frozenset[str]:
        """The nodes whose names match one of the shell-style patterns."""
        return frozenset(
            node for node in self.nodes if any(fnmatch.fnmatchcase(node, pattern) for pattern in patterns)
        )


@dataclass(frozen=True, kw_only=True)
class ValueFacts:
    """One input or output of a source model.

    Attributes:
        name: Its name.
        dtype: NumPy's name of the element type; ``string``, ``bfloat16`` and others that NumPy lacks
            under ONNX's name; empty where the model does not say.
        shape: A dimension of -1 is free. None: not even the number of dimensions is known.
        axes: The model's names of the free dimensions, empty where they have none.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] | None
    axes: tuple[str, ...]

    @property
    def free_axes(self) -> tuple[int, ...]:
        """Indices of the dimensions that are not fixed."""
        return tuple(index for index, size in enumerate(self.shape or ()) if size < 0)


@dataclass(frozen=True, kw_only=True)
class OnnxFacts:
    """Facts about a source model, as its reading process found them.

    Attributes:
        ir_version, opset: Versions of the format and of the default operator set.
        domains: Versions of the other operator sets.
        producer: What wrote the file.
        inputs, outputs: In the graph's order; weights that old files list as inputs are left out.
        op_counts: Operators and how often each stands in the model, subgraphs included.
        num_nodes, num_parameters, weight_bytes: Sizes.
        external: Whether the weights stand in ``model.onnx.data`` beside the model.
        heavy: Convolutions, matrix products with weights and recurrent layers.
        attention_blocks, normalisation_blocks: Fused or made of single operators.
        preprocessing, tail, products, nodes: As in `SourceGraph`.
    """

    ir_version: int
    opset: int
    domains: dict[str, int]
    producer: str
    inputs: tuple[ValueFacts, ...]
    outputs: tuple[ValueFacts, ...]
    op_counts: dict[str, int]
    num_nodes: int
    num_parameters: int
    weight_bytes: int
    external: bool
    heavy: tuple[str, ...]
    attention_blocks: int
    normalisation_blocks: int
    preprocessing: tuple[str, ...]
    tail: tuple[str, ...]
    products: tuple[str, ...]
    nodes: tuple[str, ...]

    @property
    def is_transformer(self) -> bool:
        """Whether it has attention and layer normalisation, what SmoothQuant is for."""
        return self.attention_blocks > 0 and self.normalisation_blocks > 0

    @property
    def graph(self) -> SourceGraph:
        """The part that the search works with."""
        return SourceGraph(
            opset=self.opset,
            preprocessing=frozenset(self.preprocessing),
            tail=frozenset(self.tail),
            products=frozenset(self.products),
            nodes=frozenset(self.nodes),
        )


def inspect_graph(model: Any) -> SourceGraph:
    """Finds preprocessing and tail by reachability from the heavy layers.

    Args:
        model: An `onnx.ModelProto`, nodes in topological order.

    Returns:
        The facts.
    """
    heavy = {node.name for node in model.graph.node if node.op_type in HEAVY}
    producers = {output: node for node in model.graph.node for output in node.output}
    after: set[str] = set()
    for node in model.graph.node:
        inputs = [producers[name] for name in node.input if name in producers]
        if any(parent.name in after or parent.name in heavy for parent in inputs):
            after.add(node.name)
    before: set[str] = set()
    for node in reversed(model.graph.node):
        if node.name in before or node.name in heavy:
            before |= {producers[name].name for name in node.input if name in producers}
    names = {node.name for node in model.graph.node if node.name}
    return SourceGraph(
        opset=next((entry.version for entry in model.opset_import if entry.domain in DEFAULT_DOMAINS), 0),
        # Shape arithmetic that the tail needs is no preprocessing, but quantising it is never wanted either.
        preprocessing=frozenset(names - after - heavy) if heavy else frozenset(),
        tail=frozenset(names - before - heavy) & frozenset(after),
        products=frozenset(node.name for node in model.graph.node if node.op_type == "MatMul"),
        nodes=frozenset(names),
    )


def collect_facts(model: Any, *, num_parameters: int, weight_bytes: int, external: bool) -> OnnxFacts:
    """Gathers the facts of a checked model.

    Args:
        model: An `onnx.ModelProto` with named nodes in topological order.
        num_parameters: Elements of its weights.
        weight_bytes: Their size.
        external: Whether they stand outside the file.

    Returns:
        The facts.
    """
    graph, inspected = model.graph, inspect_graph(model)
    weights = {tensor.name for tensor in graph.initializer}
    weights |= {sparse.values.name for sparse in graph.sparse_initializer}
    counts = Counter(operator(node) for inner in all_graphs(graph) for node in inner.node)
    return OnnxFacts(
        ir_version=model.ir_version,
        opset=inspected.opset,
        domains={e.domain: e.version for e in model.opset_import if e.domain not in DEFAULT_DOMAINS},
        producer=f"{model.producer_name} {model.producer_version}".strip()[:200],
        inputs=tuple(value_facts(value) for value in graph.input if value.name not in weights),
        outputs=tuple(value_facts(value) for value in graph.output),
        op_counts=dict(sorted(counts.items())),
        num_nodes=counts.total(),
        num_parameters=num_parameters,
        weight_bytes=weight_bytes,
        external=external,
        heavy=tuple(
            node.name
            for node in graph.node
            if node.op_type in HEAVY
            or (node.op_type in _HEAVY_LAYERS and any(name in weights for name in node.input))
        ),
        attention_blocks=attention_blocks(graph),
        normalisation_blocks=normalisation_blocks(graph),
        preprocessing=tuple(sorted(inspected.preprocessing)),
        tail=tuple(sorted(inspected.tail)),
        products=tuple(sorted(inspected.products)),
        nodes=tuple(sorted(inspected.nodes)),
    )


def value_facts(value: Any) -> ValueFacts:
    """Describes an `onnx.ValueInfoProto`."""
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        return ValueFacts(name=value.name, dtype="", shape=None, axes=())
    if not kind.HasField("shape"):
        return ValueFacts(name=value.name, dtype=_dtype(kind.elem_type), shape=None, axes=())
    fixed = [
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else -1 for dim in kind.shape.dim
    ]
    names = [dim.dim_param for size, dim in zip(fixed, kind.shape.dim, strict=True) if size < 0]
    return ValueFacts(name=value.name, dtype=_dtype(kind.elem_type), shape=tuple(fixed), axes=tuple(names))


def _dtype(elem_type: int) -> str:
    """NumPy's name of an ONNX element type, ONNX's own in small letters where NumPy has none."""
    import onnx

    name = onnx.TensorProto.DataType.Name(elem_type).lower()
    return {"float": "float32", "double": "float64", "undefined": ""}.get(name, name)
