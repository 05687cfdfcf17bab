"""Structure checks of an ONNX model, before any runtime sees it: every fault names its node."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from xinfer.sources.walk import fault, node_tensors, subgraphs, title

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from xinfer.sources.limits import Limits

_GRAPH, _LENGTH_DELIMITED = 7, 2
FORBIDDEN = frozenset({"EPContext"})
"""Operators that name files for the runtime to open."""


def check_wire(data: bytes) -> None:
    """Finds a cut file by the lengths of its outermost fields, which protobuf's own error does not tell.

    Raises:
        SourceModelError: ``.truncated`` or ``.malformed``.

    Source: Protocol Buffers, "Encoding": a message is a sequence of tag, payload; wire types 0, 1, 2 and 5.
    """
    if not data:
        raise fault("truncated", "the model file is empty", value=0)
    position, has_graph = 0, False
    while position < len(data):
        tag, position = _varint(data, position)
        match tag & 7:
            case 0:
                _, position = _varint(data, position)
            case 1:
                position += 8
            case 2:
                length, position = _varint(data, position)
                position += length
            case 5:
                position += 4
            case kind:
                raise fault("malformed", f"this is no ONNX file: wire type {kind} does not exist", value=kind)
        if tag >> 3 == 0:
            raise fault("malformed", "this is no ONNX file: a field has the number 0", value=0)
        if position > len(data):
            raise fault(
                "truncated",
                f"the model file ends {position - len(data)} bytes too early",
                value=len(data),
                hint="copy or download it again",
            )
        has_graph |= tag >> 3 == _GRAPH and tag & 7 == _LENGTH_DELIMITED
    if not has_graph:
        raise fault("malformed", "this is no ONNX model: it holds no graph")


def check_limits(model: Any, limits: Limits) -> None:
    """Bounds depth, numbers and names.

    Raises:
        SourceModelError: ``.too_large``, ``.cyclic`` (functions that call each other) or ``.unsupported_op``.
    """
    counts = {"nodes": 0, "tensors": 0}
    calls = _count(model.graph, limits, counts)
    bodies: dict[tuple[str, str], tuple[int, list[tuple[str, str]]]] = {}
    for function in model.functions:
        inner = {"nodes": 0, "tensors": 0}
        called = _count(function, limits, inner)
        bodies[(_domain(function.domain), function.name)] = (inner["nodes"], called)
    _check_functions(calls, bodies, counts["nodes"], limits)


def sort_model(model: Any) -> None:
    """Checks names and order of all graphs and puts nodes that stand in the wrong order into the right one.

    Raises:
        SourceModelError: ``.cyclic``, ``.dangling_input`` or ``.duplicate_name``.
    """
    for function in model.functions:
        _sort(function, set(function.input), frozenset())
    _sort_graph(model.graph, "the model", frozenset())


def name_nodes(model: Any) -> None:
    """Gives every node of the outer graph a name of its own, and drops notes of the exporter."""
    taken: set[str] = set()
    for node in model.graph.node:
        node.ClearField("doc_string")
        del node.metadata_props[:]
        if node.name and node.name not in taken:
            taken.add(node.name)
    seen: set[str] = set()
    numbers: Counter[str] = Counter()
    for node in model.graph.node:
        if node.name and node.name not in seen:
            seen.add(node.name)
            continue
        base = node.name or node.op_type
        while f"{base}_{numbers[base]}" in taken:
            numbers[base] += 1
        node.name = f"{base}_{numbers[base]}"
        taken.add(node.name)
        seen.add(node.name)


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for index in range(10):
        if position + index >= len(data):
            raise fault("truncated", "the model file ends within a number", value=len(data))
        byte = data[position + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise fault("malformed", "this is no ONNX file: a number has more than ten bytes", value=position)


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _count(graph: Any, limits: Limits, counts: dict[str, int], depth: int = 1) -> list[tuple[str, str]]:
    """Adds a graph's nodes and tensors to `counts`; returns which operators it calls, with repeats."""
    if depth > limits.max_depth:
        raise fault("too_large", f"graphs are nested more than {limits.max_depth} deep", value=depth)
    calls = []
    for node in graph.node:
        counts["nodes"] += 1
        if counts["nodes"] > limits.max_nodes:
            raise fault(
                "too_large", f"the model has more than {limits.max_nodes} nodes", value=counts["nodes"]
            )
        for text in (node.name, node.op_type, node.domain, *node.input, *node.output):
            _check_name(text, node, limits)
        if node.op_type in FORBIDDEN:
            raise fault(
                "unsupported_op", f"{title(node)} may not stand in a source model", value=node.op_type
            )
        calls.append((_domain(node.domain), node.op_type))
        counts["tensors"] += sum(1 for _ in node_tensors(node))
        for attribute in node.attribute:
            _check_name(attribute.name, node, limits)
        for inner in subgraphs(node):
            calls += _count(inner, limits, counts, depth + 1)
    values = list(graph.initializer) if hasattr(graph, "initializer") else []
    counts["tensors"] += len(values)
    if counts["tensors"] > limits.max_tensors:
        raise fault(
            "too_large", f"the model has more than {limits.max_tensors} weights", value=counts["tensors"]
        )
    for tensor in values:
        _check_name(tensor.name, None, limits)
    return calls


def _check_name(text: str, node: Any, limits: Limits) -> None:
    if len(text) > limits.max_name_chars:
        where = f"{title(node)} uses" if node is not None else "the model has"
        raise fault("too_large", f"{where} a name of {len(text)} characters", value=text[:100])
    if "\0" in text:
        where = f"{title(node)} uses" if node is not None else "the model has"
        raise fault("malformed", f"{where} a name with a zero byte", value=text[:100])


def _check_functions(
    calls: Iterable[tuple[str, str]],
    bodies: dict[tuple[str, str], tuple[int, list[tuple[str, str]]]],
    num_nodes: int,
    limits: Limits,
) -> None:
    """Bounds what inlining the functions gives: small files can call their way to any size."""
    sizes: dict[tuple[str, str], int] = {}
    under_way: list[tuple[str, str]] = []

    def size(key: tuple[str, str]) -> int:
        if key in under_way:
            raise fault("cyclic", f"function {key[1]!r} calls itself", value=key[1])
        if len(under_way) > limits.max_depth:
            raise fault("too_large", f"functions call each other more than {limits.max_depth} deep")
        if key not in sizes:
            under_way.append(key)
            own, called = bodies[key]
            sizes[key] = own + sum(size(other) for other in called if other in bodies)
            under_way.pop()
        return sizes[key]

    for key in bodies:
        size(key)
    total = num_nodes + sum(sizes[key] for key in calls if key in bodies)
    if total > limits.max_nodes:
        raise fault(
            "too_large", f"with its functions the model has more than {limits.max_nodes} nodes", value=total
        )


def _sort_graph(graph: Any, where: str, outer: frozenset[str]) -> None:
    defined: set[str] = set()
    for value in graph.input:
        if value.name in defined:
            raise fault("duplicate_name", f"{where} has two inputs {value.name!r}", value=value.name)
        defined.add(value.name)
    weights: set[str] = set()
    names = [tensor.name for tensor in graph.initializer]
    names += [sparse.values.name for sparse in graph.sparse_initializer]
    for name in names:
        if name in weights:
            raise fault("duplicate_name", f"{where} has two weights {name!r}", value=name)
        weights.add(name)
    _sort(graph, defined | weights, outer)
    produced = {name for node in graph.node for name in node.output} | defined | weights
    for value in graph.output:
        if value.name not in produced and value.name not in outer:
            raise fault(
                "dangling_input", f"nothing computes output {value.name!r} of {where}", value=value.name
            )


def _sort(graph: Any, defined: set[str], outer: frozenset[str]) -> None:
    """Checks and orders the nodes of one graph, then those of the graphs in it."""
    producer: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        for name in node.output:
            if not name:
                continue
            if name in producer or name in defined:
                first = (
                    f"by {title(graph.node[producer[name]])}" if name in producer else "as an input or weight"
                )
                raise fault(
                    "duplicate_name",
                    f"{title(node)} computes {name!r}, which is defined {first} already",
                    value=node.name or name,
                )
            producer[name] = index
    visible = outer | defined | producer.keys()
    needs: list[list[int]] = []
    for node in graph.node:
        wanted = [name for name in node.input if name]
        for name in wanted:
            if name not in visible:
                raise fault(
                    "dangling_input",
                    f"{title(node)} needs {name!r}, which nothing computes",
                    value=node.name or name,
                )
        wanted += [name for inner in subgraphs(node) for name in _captures(inner)]
        needs.append([producer[name] for name in wanted if name in producer])
    order = _order(graph.node, needs)
    if order != list(range(len(order))):
        nodes = [graph.node[index] for index in order]
        copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)
    for node in graph.node:
        for inner in subgraphs(node):
            _sort_graph(inner, f"a graph in {title(node)}", frozenset(visible))


def _captures(graph: Any) -> Iterator[str]:
    """Names that a graph takes from around it."""
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {sparse.values.name for sparse in graph.sparse_initializer}
    own |= {name for node in graph.node for name in node.output}
    for node in graph.node:
        yield from (name for name in node.input if name and name not in own)
        for inner in subgraphs(node):
            yield from (name for name in _captures(inner) if name not in own)
    yield from (value.name for value in graph.output if value.name not in own)


def _order(nodes: Sequence[Any], needs: list[list[int]]) -> list[int]:
    """A topological order, the given one where it is one already.

    Source: Kahn, "Topological Sorting of Large Networks", Communications of the ACM 5, 1962.
    """
    if all(other < index for index, others in enumerate(needs) for other in others):
        return list(range(len(nodes)))
    users: list[list[int]] = [[] for _ in needs]
    missing = [0] * len(needs)
    for index, others in enumerate(needs):
        for other in set(others):
            users[other].append(index)
            missing[index] += 1
    ready = [index for index in reversed(range(len(needs))) if not missing[index]]
    order = []
    while ready:
        index = ready.pop()
        order.append(index)
        for user in users[index]:
            missing[user] -= 1
            if not missing[user]:
                ready.append(user)
    if len(order) < len(needs):
        left = set(range(len(needs))) - set(order)
        loop = _loop(needs, left)
        path = " -> ".join(title(nodes[index]) for index in loop[:4])
        more = f" and {len(loop) - 4} more" if len(loop) > 4 else ""
        raise fault("cyclic", f"the graph has a cycle: {path}{more}", value=nodes[loop[0]].name)
    return order


def _loop(needs: list[list[int]], left: set[int]) -> list[int]:
    """One cycle among nodes of which each needs another, in the order of the data."""
    index, path = min(left), []
    while index not in path:
        path.append(index)
        index = next(other for other in needs[index] if other in left)
    return path[path.index(index) :][::-1]
