"""Walking ONNX graphs: tensors, subgraphs, names, and how a node is called in a message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xinfer.errors import SourceModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "build.source_model"
"""All codes of `SourceModelError` that reading a model gives start so."""

DEFAULT_DOMAINS = ("", "ai.onnx")


def fault(kind: str, message: str, *, value: Any = None, hint: str | None = None) -> SourceModelError:
    """A `SourceModelError` with the code ``build.source_model.<kind>``."""
    return SourceModelError(message, code=f"{PREFIX}.{kind}", value=value, hint=hint)


def operator(node: Any) -> str:
    """``Conv``, or ``com.example::Thing`` outside the default domain."""
    return node.op_type if node.domain in DEFAULT_DOMAINS else f"{node.domain}::{node.op_type}"


def title(node: Any) -> str:
    """What a message calls a node: its name and operator, or what it computes where it has no name."""
    what = f"{operator(node)[:100]}"
    if node.name:
        return f"node {_short(node.name)} ({what})"
    output = next((name for name in node.output if name), "")
    return f"the unnamed {what} node that computes {_short(output)}"


def subgraphs(node: Any) -> Iterator[Any]:
    """The graphs in a node's attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def all_graphs(graph: Any) -> Iterator[Any]:
    """A graph and all graphs in it."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from all_graphs(inner)


def node_tensors(node: Any) -> Iterator[Any]:
    """The tensors in a node's own attributes."""
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("sparse_tensor"):
            yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
        for sparse in attribute.sparse_tensors:
            yield from (sparse.values, sparse.indices)


def graph_tensors(graph: Any) -> Iterator[tuple[str, Any]]:
    """All tensors of a graph and the graphs in it, each with what a message calls it."""
    for inner in all_graphs(graph):
        for tensor in inner.initializer:
            yield f"weight {_short(tensor.name)}", tensor
        for sparse in inner.sparse_initializer:
            yield f"sparse weight {_short(sparse.values.name)}", sparse.values
            yield f"sparse weight {_short(sparse.values.name)}", sparse.indices
        for node in inner.node:
            for tensor in node_tensors(node):
                yield f"the constant of {title(node)}", tensor


def model_tensors(model: Any) -> Iterator[tuple[str, Any]]:
    """All tensors of a model, those in its functions' bodies included."""
    yield from graph_tensors(model.graph)
    for function in model.functions:
        for node in function.node:
            for tensor in node_tensors(node):
                yield f"the constant of {title(node)}", tensor
            for inner in subgraphs(node):
                yield from graph_tensors(inner)


def _short(name: str) -> str:
    return repr(name if len(name) <= 100 else name[:97] + "...")
