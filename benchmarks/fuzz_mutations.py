"""Damaged models and engine files for `fuzz.py`: seeds, and what can be done to them.

A mutation is a function of a seed and a generator; the same case number always gives the same bytes.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.random import Generator
from onnx import TensorProto, helper, numpy_helper

HUGE = (-(2**63), -1, 0, 1, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1)
LOCATIONS = (
    "../canary/secret.txt", "../../canary/secret.txt", "/etc/hostname", "/dev/zero", "link", "pipe", "folder",
    "weights.bin", "weights.bin/../weights.bin", "./weights.bin", "C:\\weights.bin", "..\\canary", "", "\0",
    "a" * 5000,     "folder/inside.bin", "linked/inside.bin", "missing.bin",
)  # fmt: skip


def onnx_seeds() -> list[onnx.ModelProto]:
    """Small valid models: convolutions, attention, control flow, functions, quantised, old style."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(rng.normal(0, 0.1, shape).astype(np.float32), name)

    def value(name: str, *shape: int | str, kind: int = TensorProto.FLOAT) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    def model(graph: Any, **more: Any) -> onnx.ModelProto:
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9, **more)

    node = helper.make_node
    cnn = helper.make_graph(
        [
            node("Conv", ["x", "k", "b"], ["c"], "conv", pads=[1] * 4, strides=[2, 2]),
            node("Relu", ["c"], ["r"], "relu"),
            node("GlobalAveragePool", ["r"], ["g"], "pool"),
            node("Flatten", ["g"], ["f"], "flatten"),
            node("Gemm", ["f", "w"], ["y"], "fc"),
        ],
        "cnn",
        [value("x", "N", 3, 8, 8)],
        [value("y", "N", 5)],
        [weight("k", 4, 3, 3, 3), weight("b", 4), weight("w", 4, 5)],
    )
    attention = helper.make_graph(
        [
            node("MatMul", ["x", "wq"], ["q"], "q"),
            node("Transpose", ["x"], ["k"], "k", perm=[0, 2, 1]),
            node("MatMul", ["q", "k"], ["s"], "scores"),
            node("Softmax", ["s"], ["p"], "softmax", axis=-1),
            node("MatMul", ["p", "x"], ["o"], "mix"),
            node("LayerNormalization", ["o", "scale"], ["y"], "norm"),
        ],
        "attention",
        [value("x", "B", "T", 8)],
        [value("y", "B", "T", 8)],
        [weight("wq", 8, 8), weight("scale", 8)],
    )
    branches = [
        helper.make_graph([node(kind, ["x"], [name], f"in_{name}")], name, [], [value(name, 4)])
        for kind, name in (("Relu", "a"), ("Neg", "b"))
    ]
    control = helper.make_graph(
        [node("If", ["flag"], ["y"], "branch", then_branch=branches[0], else_branch=branches[1])],
        "control",
        [value("x", 4), value("flag", kind=TensorProto.BOOL)],
        [value("y", 4)],
    )
    function = helper.make_function(
        "local", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 18)]
    )
    calls = helper.make_graph(
        [node("Twice", ["x"], ["t"], "call", domain="local"), node("Exp", ["t"], ["y"], "exp")],
        "calls",
        [value("x", 4)],
        [value("y", 4)],
    )
    with_function = model(calls, functions=[function])
    with_function.opset_import.append(helper.make_opsetid("local", 1))
    constants = [numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.uint8(7), "z")]
    quantised = helper.make_graph(
        [
            node("QuantizeLinear", ["x", "s", "z"], ["q"], "quantise"),
            node("DequantizeLinear", ["q", "s", "z"], ["d"], "dequantise"),
            node(
                "Constant", [], ["shape"], "shape", value=numpy_helper.from_array(np.array([2, 2], np.int64))
            ),
            node("Reshape", ["d", "shape"], ["y"], "reshape"),
        ],
        "quantised",
        [value("x", 4), value("s"), value("z", kind=TensorProto.UINT8)],
        [value("y", 2, 2)],
        constants,
    )
    return [model(cnn), model(attention), model(control), with_function, model(quantised)]


# -------------------------------------------------------------------------------------------------- bytes


def flip(data: bytes, rng: Generator) -> bytes:
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 17))):
        out[int(rng.integers(len(out)))] ^= 1 << int(rng.integers(8))
    return bytes(out)


def overwrite(data: bytes, rng: Generator) -> bytes:
    out = bytearray(data)
    start = int(rng.integers(len(out)))
    length = int(rng.integers(1, 33))
    filling = (rng.bytes(length), bytes(length), b"\xff" * length, b"\x80" * length)[int(rng.integers(4))]
    out[start : start + length] = filling
    return bytes(out)


def truncate(data: bytes, rng: Generator) -> bytes:
    return data[: int(rng.integers(len(data)))]


def cut(data: bytes, rng: Generator) -> bytes:
    start, length = int(rng.integers(len(data))), int(rng.integers(1, 200))
    return data[:start] + data[start + length :]


def splice(data: bytes, rng: Generator) -> bytes:
    start, length = int(rng.integers(len(data))), int(rng.integers(1, 400))
    target = int(rng.integers(len(data)))
    return data[:target] + data[start : start + length] * int(rng.integers(1, 6)) + data[target:]


def noise(_: bytes, rng: Generator) -> bytes:
    return rng.bytes(int(rng.integers(0, 600)))


def double(data: bytes, rng: Generator) -> bytes:
    return data + data[int(rng.integers(len(data))) :]


def deep(data: bytes, rng: Generator) -> bytes:
    """Appends graphs within graphs, deeper than protobuf allows: a field may come in parts."""

    def field(number: int, content: bytes) -> bytes:
        length, size = len(content), b""
        while length > 0x7F:
            size += bytes([length & 0x7F | 0x80])
            length >>= 7
        return bytes([number << 3 | 2]) + size + bytes([length]) + content

    graph = b""
    for _ in range(int(rng.choice([20, 33, 34, 100, 3000]))):
        graph = field(1, field(5, field(6, graph)))
    return data + field(7, graph)


BYTES: tuple[Callable[[bytes, Generator], bytes], ...] = (
    flip,
    overwrite,
    truncate,
    cut,
    splice,
    noise,
    double,
    deep,
)

# --------------------------------------------------------------------------------------------- ONNX fields


def _pick(items: Any, rng: Generator) -> Any:
    return items[int(rng.integers(len(items)))] if len(items) else None


def _huge(rng: Generator) -> int:
    return HUGE[int(rng.integers(len(HUGE)))]


def cycle(model: Any, rng: Generator) -> None:
    last, first = _pick(model.graph.node, rng), _pick(model.graph.node, rng)
    if last is not None and first.input:
        first.input[int(rng.integers(len(first.input)))] = last.output[0]


def dangling(model: Any, rng: Generator) -> None:
    node = _pick(model.graph.node, rng)
    if node is not None and node.input:
        node.input[int(rng.integers(len(node.input)))] = ("nowhere", "", "\0", "n" * 3000)[
            int(rng.integers(4))
        ]


def duplicate(model: Any, rng: Generator) -> None:
    match int(rng.integers(4)):
        case 0:
            model.graph.node.append(_pick(model.graph.node, rng) or onnx.NodeProto())
        case 1:
            model.graph.initializer.extend(list(model.graph.initializer))
        case 2:
            model.graph.input.extend(list(model.graph.input))
        case _:
            for node in model.graph.node:
                node.name = "same"


def operators(model: Any, rng: Generator) -> None:
    node = _pick(model.graph.node, rng)
    if node is not None:
        names = ("Nothing", "", "EPContext", "Loop", "Scan", "Attention", "ATen", "Conv", "NonMaxSuppression",
                 "Einsum", "ConstantOfShape", "Expand", "StringNormalizer", "RNN", "SequenceConstruct",
                 "Optional")  # fmt: skip
        node.op_type = names[int(rng.integers(len(names)))]
        node.domain = ("", "ai.onnx", "com.microsoft", "com.example", "ai.onnx.ml")[int(rng.integers(5))]


def types(model: Any, rng: Generator) -> None:
    kind = int(rng.integers(-1, 30)) if rng.random() < 0.9 else 2**31 - 1
    target = _pick([*model.graph.input, *model.graph.output, *model.graph.initializer], rng)
    if isinstance(target, onnx.TensorProto):
        target.data_type = kind
    elif target is not None:
        target.type.tensor_type.elem_type = kind


def dims(model: Any, rng: Generator) -> None:
    target = _pick([*model.graph.input, *model.graph.output, *model.graph.initializer], rng)
    if isinstance(target, onnx.TensorProto):
        number = int(rng.integers(1, 5)) if rng.random() < 0.9 else 3000
        target.dims.extend([_huge(rng)] * number)
        if rng.random() < 0.3:
            del target.dims[:-1]
    elif target is not None:
        dim = target.type.tensor_type.shape.dim.add() if rng.random() < 0.3 else None
        dim = dim if dim is not None else _pick(target.type.tensor_type.shape.dim, rng)
        if dim is not None:
            dim.dim_value = _huge(rng)


def contents(model: Any, rng: Generator) -> None:
    tensor = _pick(model.graph.initializer, rng)
    if tensor is None:
        return
    match int(rng.integers(4)):
        case 0:
            tensor.raw_data = tensor.raw_data[: int(rng.integers(len(tensor.raw_data) + 1))]
        case 1:
            tensor.raw_data += rng.bytes(int(rng.integers(1, 5000)))
        case 2:
            tensor.float_data.extend([float("nan")] * int(rng.integers(1, 50)))
        case _:
            tensor.ClearField("raw_data")
            tensor.string_data.extend([rng.bytes(9)] * int(rng.integers(1, 50)))


def external(model: Any, rng: Generator) -> None:
    tensor = _pick(model.graph.initializer, rng)
    if tensor is None:
        tensor = model.graph.initializer.add(name="added", data_type=1, dims=[4])
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL if rng.random() < 0.9 else TensorProto.DEFAULT
    entries = {"location": LOCATIONS[int(rng.integers(len(LOCATIONS)))]}
    if rng.random() < 0.5:
        entries["offset"] = str(_huge(rng)) if rng.random() < 0.7 else "0x10"
    if rng.random() < 0.5:
        entries["length"] = str(_huge(rng)) if rng.random() < 0.7 else "many"
    for key, text in entries.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, text


def nested(model: Any, rng: Generator) -> None:
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["d0"])], "deepest", [], [])
    for depth in range(int(rng.choice([3, 10, 20, 30]))):
        node = helper.make_node(
            "If", ["flag"], [f"d{depth + 1}"], then_branch=graph, else_branch=onnx.GraphProto()
        )
        graph = onnx.GraphProto(name=f"level{depth}")
        graph.node.append(node)
    model.graph.node.extend(graph.node)


def attributes(model: Any, rng: Generator) -> None:
    node = _pick(model.graph.node, rng)
    if node is None:
        return
    names = [a.name for a in node.attribute] + [
        "axis",
        "pads",
        "kernel_shape",
        "to",
        "value",
        "perm",
        "group",
        "body",
    ]
    values: tuple[Any, ...] = (
        _huge(rng), [_huge(rng)] * int(rng.integers(1, 9)), 1e38, "text", [b"a", b"b"], [1.5],
        onnx.GraphProto(),         numpy_helper.from_array(np.arange(3)),
    )  # fmt: skip
    fresh = helper.make_attribute(
        names[int(rng.integers(len(names)))], values[int(rng.integers(len(values)))]
    )
    if rng.random() < 0.3:
        fresh.type = int(rng.integers(0, 15))
    kept = [a for a in node.attribute if a.name != fresh.name or rng.random() < 0.2]
    del node.attribute[:]
    node.attribute.extend([*kept, fresh])


def versions(model: Any, rng: Generator) -> None:
    match int(rng.integers(4)):
        case 0:
            model.ir_version = _huge(rng)
        case 1:
            for entry in model.opset_import:
                entry.version = _huge(rng)
        case 2:
            del model.opset_import[:]
        case _:
            model.opset_import.extend([helper.make_opsetid("", 7), helper.make_opsetid("x" * 2000, 1)])


def functions(model: Any, rng: Generator) -> None:
    """Functions that call themselves, or each other so often that a few lines fill any machine."""
    depth = int(rng.choice([1, 4, 30]))
    for level in range(depth):
        inner = f"F{level + 1}" if level + 1 < depth else ("F0" if rng.random() < 0.5 else "Nowhere")
        calls = [
            helper.make_node(inner, [f"a{index}" if index else "a"], [f"a{index + 1}"], domain="bomb")
            for index in range(9)
        ]
        model.functions.append(
            helper.make_function("bomb", f"F{level}", ["a"], ["a9"], calls, [helper.make_opsetid("bomb", 1)])
        )
    model.opset_import.append(helper.make_opsetid("bomb", 1))
    model.graph.node.append(helper.make_node("F0", ["x"], ["boom"], "bomb", domain="bomb"))


def expanding(model: Any, rng: Generator) -> None:
    """A few bytes that ask for terabytes when the graph is folded."""
    shape = numpy_helper.from_array(np.array([2**20, 2**20], np.int64), "terabytes")
    model.graph.initializer.append(shape)
    model.graph.node.append(helper.make_node("ConstantOfShape", ["terabytes"], ["much"], "much"))
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "sparse"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([abs(_huge(rng)) % 2**62], np.int64), "indices"))
    sparse.dims.extend([2**20, int(rng.choice([1, 2**10, 2**40]))])


def shuffle(model: Any, rng: Generator) -> None:
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes[int(index)] for index in rng.permutation(len(nodes)))


def remove(model: Any, rng: Generator) -> None:
    field = ("node", "input", "output", "initializer", "name", "graph")[int(rng.integers(6))]
    (model if field == "graph" else model.graph).ClearField(field)


def crowd(model: Any, rng: Generator) -> None:
    match int(rng.integers(4)):
        case 0:
            model.graph.node.extend([helper.make_node("Relu", ["x"], [f"r{i}"]) for i in range(3000)])
        case 1:
            model.graph.node.append(helper.make_node("Concat", ["x"] * 5000, ["many"], "many", axis=0))
        case 2:
            model.graph.doc_string = "d" * 100_000
            model.producer_name = "\n" * 5000
        case _:
            model.graph.input.extend(
                [helper.make_tensor_value_info(f"i{i}", 1, ["N"] * 3) for i in range(2000)]
            )


FIELDS: tuple[Callable[[Any, Generator], None], ...] = (
    cycle, dangling, duplicate, operators, types, dims, contents, external, nested, attributes, versions,
    functions, expanding, shuffle, remove, crowd,
)  # fmt: skip


def mutate_onnx(seeds: list[onnx.ModelProto], rng: Generator) -> tuple[str, bytes]:
    """One damaged model: what was done to it, and its bytes."""
    model = onnx.ModelProto()
    model.CopyFrom(seeds[int(rng.integers(len(seeds)))])
    done = []
    if rng.random() < 0.7:
        for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
            change = FIELDS[int(rng.integers(len(FIELDS)))]
            change(model, rng)
            done.append(change.__name__)
    data = model.SerializeToString()
    if not done or rng.random() < 0.1:
        damage = BYTES[int(rng.integers(len(BYTES)))]
        data = damage(data or b"\0", rng)
        done.append(damage.__name__)
    return done[0], data


# ------------------------------------------------------------------------------------------- engine files

NAMES = (
    "../evil", "../../canary/evil", "/tmp/evil", "artifact/../../evil", "artifact/", "artifact/a/../../../b",
    "C:\\evil", "artifact\\evil", "artifact/.hidden", "manifest.json", "MANIFEST.JSON", "manifest.json/x",
    "artifact/\u202e", "artifact/" + "a/" * 40 + "b", "artifact/" + "n" * 3000, "", "artifact/model.onnx/x",
    "artifact/a\0b", "model.sig",
)  # fmt: skip


def read_entries(data: bytes) -> dict[str, bytes]:
    """The files of the seed package."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_entries(entries: list[tuple[str | zipfile.ZipInfo, bytes]], **options: Any) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return buffer.getvalue()


def names(entries: dict[str, bytes], rng: Generator) -> bytes:
    extra = NAMES[int(rng.integers(len(NAMES)))]
    info = zipfile.ZipInfo()
    info.filename = extra
    info.create_system = int(rng.choice([0, 3, 255]))
    info.external_attr = int(rng.choice([0, 0o100644 << 16, 0o120777 << 16, 0o040755 << 16, 0o010644 << 16]))
    everything: list[tuple[str | zipfile.ZipInfo, bytes]] = [*entries.items(), (info, b"/etc/hostname")]
    if rng.random() < 0.3:
        everything = [everything[int(i)] for i in rng.permutation(len(everything))]
    return write_entries(everything)


def missing(entries: dict[str, bytes], rng: Generator) -> bytes:
    gone = list(entries)[int(rng.integers(len(entries)))]
    return write_entries([(name, data) for name, data in entries.items() if name != gone])


def compressed(entries: dict[str, bytes], rng: Generator) -> bytes:
    kind = (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)[int(rng.integers(3))]
    return write_entries([*entries.items(), ("artifact/bomb", bytes(1 << 18))], compression=kind)


def crowded(entries: dict[str, bytes], rng: Generator) -> bytes:
    number = int(rng.choice([300, 5000]))
    return write_entries([*entries.items(), *((f"artifact/f{i}", b"") for i in range(number))])


def directory(entries: dict[str, bytes], rng: Generator) -> bytes:
    """Fields of the directory that lie: sizes, offsets, flags, methods, counts."""
    data = bytearray(write_entries(list(entries.items())))
    records = [i for i in range(len(data) - 4) if data[i : i + 4] in (b"PK\1\2", b"PK\3\4", b"PK\5\6")]
    for _ in range(int(rng.integers(1, 4))):
        start = records[int(rng.integers(len(records)))]
        offset = start + 4 + int(rng.integers(0, 42 if data[start + 2] == 1 else 18))
        width = int(rng.choice([2, 4]))
        number = int(rng.choice([0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF]))
        data[offset : offset + width] = struct.pack("<I", number)[:width]
    return bytes(data)


def document(entries: dict[str, bytes], rng: Generator) -> bytes:
    """A document with one to three values replaced, removed or added; the zip file itself is sound."""
    name = ("manifest.json", "receipt.json", "labels.json")[int(rng.choice([0, 0, 1, 1, 2]))]
    content = json.loads(entries[name])
    for _ in range(int(rng.integers(1, 4))):
        content = _change(content, rng)
    text = json.dumps(content).replace('"@raw:', "").replace(':raw@"', "")
    return write_entries(list((entries | {name: text.encode()}).items()))


def _change(content: Any, rng: Generator) -> Any:
    raw = (
        "1e999",
        "NaN",
        "-Infinity",
        "1" * 400,
        "9" * 5000,
        "\\ud800",
        "[" * 2000,
        "[" * 500 + "]" * 500,
        "-0",
        "1E400",
    )
    values: tuple[Any, ...] = (
        None, True, -1, 0, 2**70, 1.5, "", "text", "\ud800", "\0", "x" * 3000, [], {}, [[[]]], {"a": 1},
        10**400, "../x",
        *(f"@raw:{text}:raw@" for text in raw),
    )  # fmt: skip
    fresh = values[int(rng.integers(len(values)))]
    spots: list[tuple[Any, Any]] = []

    def walk(part: Any) -> None:
        for key in part if isinstance(part, dict) else range(len(part)):
            spots.append((part, key))
            if isinstance(part[key], (dict, list)):
                walk(part[key])

    if not isinstance(content, (dict, list)) or not content or rng.random() < 0.03:
        return fresh
    walk(content)
    part, key = spots[int(rng.integers(len(spots)))]
    match int(rng.integers(6)):
        case 0:
            del part[key]
        case 1 if isinstance(part, dict):
            part["surprise"] = fresh
        case 1:
            part.append(fresh)
        case _:
            part[key] = fresh
    return content


def raw_document(entries: dict[str, bytes], rng: Generator) -> bytes:
    name = list(entries)[int(rng.integers(len(entries)))]
    damage = BYTES[int(rng.integers(len(BYTES)))]
    return write_entries(list((entries | {name: damage(entries[name] or b"\0", rng)}).items()))


def golden(entries: dict[str, bytes], rng: Generator) -> bytes:
    """Arrays whose headers lie, pickles, and archives in the archive."""
    headers = (
        f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({abs(_huge(rng))},), }}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '<U1000000', 'fortran_order': False, 'shape': (9,), }",
        "{'descr': [('a', '<f4')], 'fortran_order': True, 'shape': (2, -2), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (0,) * 9, }",
        "(" * 90 + ")" * 90,
        "__import__('os').system('touch evil')",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 1), }",
    )
    header = headers[int(rng.integers(len(headers)))].encode()
    array = (
        b"\x93NUMPY"
        + bytes([int(rng.choice([1, 1, 2, 9])), 0])
        + struct.pack("<H", len(header))
        + header
        + bytes(4)
    )
    name = ("input.x.npy", "output.y.npy", "other.npy", "input..npy", "../input.x.npy")[int(rng.integers(5))]
    inner = write_entries(
        [(name, array)], compression=int(rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
    )
    return write_entries(list((entries | {"golden.npz": inner}).items()))


PACKAGES: tuple[Callable[[dict[str, bytes], Generator], bytes], ...] = (
    names, missing, compressed, crowded, directory, directory, document, document, document, document,
    raw_document, golden,
)  # fmt: skip


def mutate_package(data: bytes, entries: dict[str, bytes], rng: Generator) -> tuple[str, bytes]:
    """One damaged engine file: what was done to it, and its bytes."""
    if rng.random() < 0.3:
        damage = BYTES[int(rng.integers(len(BYTES)))]
        return damage.__name__, damage(data, rng)
    change = PACKAGES[int(rng.integers(len(PACKAGES)))]
    return change.__name__, change(entries, rng)
