"""Attention and layer normalisation in ONNX graphs, as one operator or made of single ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

FUSED_ATTENTION = frozenset(
    {
        "Attention", "MultiHeadAttention", "GroupQueryAttention", "DecoderMaskedMultiHeadAttention",
        "PackedAttention", "PackedMultiHeadAttention", "QAttention", "LongformerAttention",
        "DecoderAttention", "PagedAttention",
    }
)  # fmt: skip
FUSED_NORMALISATION = frozenset(
    {
        "LayerNormalization", "SkipLayerNormalization", "EmbedLayerNormalization", "RMSNormalization",
        "SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization",
    }
)  # fmt: skip

_PRODUCTS = frozenset({"MatMul", "Einsum", "Gemm", "FusedMatMul"})
_BEFORE_SOFTMAX = frozenset(
    {
        "Add", "Sub", "Mul", "Div", "Where", "Cast", "Reshape", "Transpose", "Identity", "Unsqueeze",
        "Squeeze", "Max", "Min", "Clip", "Tanh", "Concat", "Slice", "QuantizeLinear", "DequantizeLinear",
    }
)  # fmt: skip
"""Scaling, masks and changes of type or shape between the scores and their softmax."""
_AFTER_SOFTMAX = frozenset(
    {
        "Cast", "Reshape", "Transpose", "Identity", "Dropout", "Where", "Mul", "Unsqueeze", "Squeeze",
        "IsNaN", "Slice", "Expand", "QuantizeLinear", "DequantizeLinear",
    }
)  # fmt: skip
_STEPS = 8
"""How far apart the parts of one pattern may stand."""


class _Links:
    def __init__(self, graph: Any) -> None:
        self.producer = {name: node for node in graph.node for name in node.output if name}
        self.users: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)

    def parents(self, node: Any) -> list[Any]:
        return [self.producer[name] for name in node.input if name in self.producer]

    def children(self, node: Any) -> list[Any]:
        return [user for name in node.output for user in self.users.get(name, ())]


def attention_blocks(graph: Any) -> int:
    """How many attentions a graph computes: product, softmax, product, or a fused operator.

    Args:
        graph: An `onnx.GraphProto`.

    Returns:
        The number.

    Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.2.1.
    """
    links = _Links(graph)
    fused = sum(node.op_type in FUSED_ATTENTION for node in graph.node)
    return fused + sum(
        node.op_type == "Softmax"
        and _reaches(node, links.parents, _BEFORE_SOFTMAX)
        and _reaches(node, links.children, _AFTER_SOFTMAX)
        for node in graph.node
    )


def normalisation_blocks(graph: Any) -> int:
    """How many layer normalisations (or root-mean-square ones) a graph computes.

    Args:
        graph: An `onnx.GraphProto`.

    Returns:
        The number: fused operators, and chains mean of squares, plus epsilon, root, quotient.

    Source: Ba et al., "Layer Normalization", arXiv 1607.06450, 2016, equation 3; Zhang and Sennrich, "Root
    Mean Square Layer Normalization", NeurIPS 2019, equation 4.
    """
    links = _Links(graph)
    fused = sum(node.op_type in FUSED_NORMALISATION for node in graph.node)
    return fused + sum(
        node.op_type == "Sqrt"
        and any(
            plus.op_type == "Add" and any(mean.op_type == "ReduceMean" for mean in links.parents(plus))
            for plus in links.parents(node)
        )
        and any(user.op_type in ("Div", "Reciprocal") for user in links.children(node))
        for node in graph.node
    )


def _reaches(start: Any, step: Callable[[Any], list[Any]], through: frozenset[str]) -> bool:
    """Whether a product is reached from `start` through operators of one kind."""
    frontier, seen = [start], {id(start)}
    for _ in range(_STEPS):
        following = []
        for node in frontier:
            for other in step(node):
                if other.op_type in _PRODUCTS:
                    return True
                if other.op_type in through and id(other) not in seen:
                    seen.add(id(other))
                    following.append(other)
        frontier = following
    return False
