"""What the builder needs to know about a source model's graph."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xinfer._extras import require
from xinfer.errors import SourceModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_ONNX_BYTES = 2 << 30
_HEAVY = {"Conv", "ConvTranspose", "Gemm"}
"""Operators that mark the network proper; what only leads to them is preprocessing."""


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


def load_onnx(path: Path) -> Any:
    """Reads and checks a source model.

    Raises:
        SourceModelError: Not ONNX, too large, or with weights outside the file.
    """
    onnx = require("onnx", "build")
    try:
        if path.stat().st_size > MAX_ONNX_BYTES:
            raise SourceModelError("the model is larger than 2 GiB", value=path.stat().st_size)
        model = onnx.load(str(path), load_external_data=False)
        if any(tensor.external_data for tensor in model.graph.initializer):
            raise SourceModelError(
                "the model keeps weights outside its file",
                value=path.name,
                hint="export with the weights inside (external_data=False)",
            )
        onnx.checker.check_model(model)
    except OSError as error:
        raise SourceModelError(f"cannot read {path.name}: {error.strerror}", value=str(path)) from error
    except SourceModelError:
        raise
    except Exception as error:
        # protobuf's DecodeError and onnx's ValidationError share no base class.
        raise SourceModelError(f"{path.name} is not a valid ONNX model: {error}", value=str(path)) from error
    return model


def inspect_graph(model: Any) -> SourceGraph:
    """Finds preprocessing and tail by reachability from the heavy layers.

    Args:
        model: An `onnx.ModelProto`, nodes in topological order.

    Returns:
        The facts.
    """
    heavy = {node.name for node in model.graph.node if node.op_type in _HEAVY}
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
        opset=next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0),
        # Shape arithmetic that the tail needs is no preprocessing, but quantising it is never wanted either.
        preprocessing=frozenset(names - after - heavy) if heavy else frozenset(),
        tail=frozenset(names - before - heavy) & frozenset(after),
        products=frozenset(node.name for node in model.graph.node if node.op_type == "MatMul"),
        nodes=frozenset(names),
    )
