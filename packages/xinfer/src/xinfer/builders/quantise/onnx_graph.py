"""What the recipes need to read and change ONNX graphs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xinfer._extras import require
from xinfer.errors import SourceModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np

    Feeds = dict[str, np.ndarray]

QUANTISED_OPSET = 13
"""The first in which QuantizeLinear and DequantizeLinear have an axis."""


class Graph:
    """An ONNX model with its constants and edges at hand; edits keep the indices right.

    Args:
        path: The model. Functions are inlined; ``Constant`` nodes become initialisers, so that there is one
            kind of constant; nodes without a name, or with another's, get one.
    """

    def __init__(self, path: Path) -> None:
        onnx = require("onnx", "build")
        inliner = require("onnx.inliner", "build")
        model = onnx.load(str(path))
        self.model = inliner.inline_local_functions(model) if model.functions else model
        self.graph = self.model.graph
        self._onnx = onnx
        self._constants_to_initialisers()
        self._name_nodes()
        self.sequence = list(self.graph.node)
        """The nodes in order: insert here. The model gets them when it is saved, and only then, because a
        message's own list copies what is put into it."""
        self.initialisers = {tensor.name: tensor for tensor in self.graph.initializer}
        self.nodes = {node.name: node for node in self.sequence}
        self.producers = {name: node for node in self.sequence for name in node.output if name}
        self.outputs = {value.name for value in self.graph.output}
        self._taken = {name for node in self.graph.node for name in (*node.input, *node.output)}
        self._taken |= {value.name for value in (*self.graph.input, *self.graph.output)}

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        return next((item.version for item in self.model.opset_import if item.domain in ("", "ai.onnx")), 0)

    def consumers(self) -> dict[str, list[Any]]:
        """The nodes that read each tensor; a node that reads it twice stands twice."""
        found: dict[str, list[Any]] = {}
        for node in self.sequence:
            for name in node.input:
                found.setdefault(name, []).append(node)
        return found

    def constant(self, name: str) -> np.ndarray | None:
        """An initialiser's value, None if `name` is not one."""
        tensor = self.initialisers.get(name)
        return None if tensor is None else self._onnx.numpy_helper.to_array(tensor)

    def fresh(self, name: str) -> str:
        """`name`, with a number behind it if a tensor or node is called so already."""
        candidate, number = name, 1
        while candidate in self._taken or candidate in self.initialisers or candidate in self.nodes:
            number += 1
            candidate = f"{name}_{number}"
        self._taken.add(candidate)
        return candidate

    def add_constant(self, name: str, value: Any) -> str:
        """Adds an initialiser, from an array or a TensorProto; its name may get a number behind it."""
        tensor = value if hasattr(value, "raw_data") else self._onnx.numpy_helper.from_array(value)
        tensor.name = self.fresh(name)
        self.initialisers[tensor.name] = tensor
        self.graph.initializer.append(tensor)
        return str(tensor.name)

    def finish(self) -> Any:
        """The model with all edits, without initialisers that nobody reads and what was known of tensors that
        no longer exist. Nodes at hand are copies from here on."""
        _replace(self.graph.node, self.sequence)
        used = {name for node in self.graph.node for name in node.input} | self.outputs
        _replace(self.graph.initializer, [item for item in self.graph.initializer if item.name in used])
        made = {name for node in self.graph.node for name in node.output}
        _replace(self.graph.value_info, [item for item in self.graph.value_info if item.name in made])
        return self.model

    def save(self, path: Path) -> None:
        """Writes the model with all edits."""
        self._onnx.save(self.finish(), str(path))

    def refuse_control_flow(self) -> None:
        """Raises SourceModelError for nodes with graphs inside, whose tensors these edits do not follow."""
        for node in self.sequence:
            if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
                raise SourceModelError(
                    f"{node.op_type} has a graph inside, which this recipe does not follow",
                    value=node.name,
                    hint="export the model without control flow",
                )

    def _constants_to_initialisers(self) -> None:
        nodes = []
        for node in self.graph.node:
            tensor = _constant_value(node, self._onnx)
            if tensor is None:
                nodes.append(node)
                continue
            tensor.name = node.output[0]
            self.graph.initializer.append(tensor)
        if len(nodes) < len(self.graph.node):
            _replace(self.graph.node, nodes)

    def _name_nodes(self) -> None:
        count = Counter(node.name for node in self.graph.node)
        taken = set(count)
        for node in self.graph.node:
            if node.name and count[node.name] == 1:
                continue
            # After its output, which is unique and survives most tools.
            name, number = f"{node.op_type}:{next(filter(None, node.output), '')}", 1
            while name in taken:
                number += 1
                name = f"{name}_{number}"
            node.name = name
            taken.add(name)


def load_for_quantisation(path: Path) -> Any:
    """Reads a model; older ones are raised to the operator set that has one scale per channel.

    Raises:
        SourceModelError: An older model cannot be converted.
    """
    onnx = require("onnx", "build")
    model = onnx.load(str(path))
    version = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)
    if version >= QUANTISED_OPSET:
        return model
    try:
        return require("onnx.version_converter", "build").convert_version(model, QUANTISED_OPSET)
    except Exception as error:
        # The converter's C++ exceptions share no class of their own.
        raise SourceModelError(
            f"the model is of opset {version} and cannot be converted: {str(error).splitlines()[0]}",
            value=path.name,
            hint=f"export with opset {QUANTISED_OPSET} or later",
        ) from error


def _replace(field: Any, items: Iterable[Any]) -> None:
    kept = list(items)
    del field[:]
    field.extend(kept)


def _constant_value(node: Any, onnx: Any) -> Any:
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    numpy_helper, np = onnx.numpy_helper, require("numpy", "build")
    attribute = node.attribute[0]
    value = onnx.helper.get_attribute_value(attribute)
    match attribute.name:
        case "value":
            tensor = onnx.TensorProto()
            tensor.CopyFrom(value)
            return tensor
        case "value_float" | "value_floats":
            return numpy_helper.from_array(np.asarray(value, np.float32))
        case "value_int" | "value_ints":
            return numpy_helper.from_array(np.asarray(value, np.int64))
    return None


def run_and_keep(
    graph: Graph, tensors: Sequence[str], samples: Iterable[Feeds]
) -> Iterator[dict[str, np.ndarray]]:
    """Runs the float model in ONNX Runtime and gives the values of inner tensors.

    Args:
        graph: Not changed.
        tensors: Names of tensors, inputs and outputs of the model included.
        samples: Inputs, one run each.

    Yields:
        The tensors' values, per sample.
    """
    onnx, ort = require("onnx", "build"), require("onnxruntime", "onnxruntime")
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    inputs = {value.name for value in model.graph.input}
    wanted = [name for name in tensors if name not in inputs]
    for name in wanted:
        if name not in graph.outputs:
            model.graph.output.append(onnx.ValueInfoProto(name=name))
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for feeds in samples:
        values = dict(zip(wanted, session.run(wanted, feeds), strict=True)) if wanted else {}
        yield {name: feeds[name] if name in inputs else values[name] for name in tensors}
