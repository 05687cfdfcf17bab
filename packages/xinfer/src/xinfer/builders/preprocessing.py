"""Preprocessing in the graph: a wrapped model takes uint8 RGB images [N,H,W,3]."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from xinfer._extras import require
from xinfer.builders.graph import load_onnx
from xinfer.errors import SourceModelError

OPSET = 17
"""Older models are raised to it where that is possible: quantisers need 13 for scales per channel."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What a network wants of an image; `wrap` puts it in front of the network.

    Attributes:
        size: Height and width that the network takes, 0 for one that is free; None: both are.
        resize: ``outside``: the caller resizes (`ImageInput.size` and `.mode` say how) and the graph takes
            exactly `size`; ``graph``: images of any size, stretched to `size` in the graph.
        mean, std: `(x - mean) / std` of values in 0..255, in the network's channel order.
        color: The network's channel order; users always give RGB.
        layout: The network's axes.
    """

    size: tuple[int, int] | None = None
    resize: Literal["outside", "graph"] = "outside"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    color: Literal["RGB", "BGR"] = "RGB"
    layout: Literal["NCHW", "NHWC"] = "NCHW"

    def __post_init__(self) -> None:
        if self.size is not None and min(self.size) < 0:
            raise ValueError(f"size must not be negative, found {list(self.size)}")
        if self.resize == "graph" and (self.size is None or 0 in self.size):
            raise ValueError("resizing in the graph needs a size")
        if 0 in self.std:
            raise ValueError("std must not be zero")


@dataclass(frozen=True, kw_only=True)
class YoloxHead:
    """A grid-decoding tail: [N,K,5+C] of YOLOX becomes boxes [N,K,4] and scores [N,K,C].

    Source: Ge et al., "YOLOX: Exceeding YOLO Series in 2021", section 2.1, and its code's
    `decode_outputs`: centre = (xy + cell) * stride, size = exp(wh) * stride, score = objectness * class.

    Attributes:
        strides: Of the levels, in the order of K.
    """

    strides: tuple[int, ...] = (8, 16, 32)
    boxes: str = "boxes"
    scores: str = "scores"


def wrap(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    spec: Preprocessing,
    *,
    input_name: str = "image",
    batch: int | str | None = None,
    outputs: Mapping[str, str] | None = None,
    only_output: str | None = None,
    head: YoloxHead | None = None,
) -> Path:
    """Writes a model that takes uint8 RGB images [N,H,W,3].

    Nodes that are added are named ``preprocess/...`` and ``decode/...``.

    Args:
        source: An ONNX file with one float32 image input.
        destination: Where to write.
        spec: What the network wants.
        input_name: Name of the new input.
        batch: Size or name of the new first axis; None: as the source declares it.
        outputs: New names, by the source's names; others keep theirs.
        only_output: New name of the first output; further ones (of training, mostly) are dropped.
        head: A tail to put behind the only output.

    Returns:
        `destination`.

    Raises:
        SourceModelError: The model has no such input or output, or the result is not valid.
    """
    onnx = require("onnx", "build")
    model = _modern(onnx, load_onnx(Path(source)))
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1 or inputs[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise SourceModelError(
            "preprocessing needs a model with one float32 input", value=[value.name for value in inputs]
        )
    dims = list(inputs[0].type.tensor_type.shape.dim)
    if len(dims) != 4:
        raise SourceModelError(f"{inputs[0].name} is no image: {len(dims)} axes", value=inputs[0].name)
    first = batch if batch is not None else (dims[0].dim_value or dims[0].dim_param or "N")
    edit = _Edit(onnx, graph)
    network_input = edit.free(inputs[0].name, input_name)
    if only_output is not None:
        del graph.output[1:]
        edit.rename_output(graph.output[0].name, only_output)
    for name, new in (outputs or {}).items():
        edit.rename_output(name, new)
    height, width = spec.size if spec.size is not None and spec.resize == "outside" else (0, 0)
    shape = [first, height or "H", width or "W", 3]
    graph.input.remove(inputs[0])
    graph.input.insert(0, onnx.helper.make_tensor_value_info(input_name, onnx.TensorProto.UINT8, shape))
    edit.prepend(spec, input_name, network_input)
    # The shapes inside were true of what the source declared, which may be another size.
    del graph.value_info[:]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    if head is not None:
        edit.append_yolox(head, spec)
    try:
        wrapped = _inferred(onnx, model).SerializeToString()
    except Exception as error:
        # onnx's errors share no base class.
        raise SourceModelError(f"the model cannot be wrapped: {error}", value=str(source)) from error
    # Whole or not at all: another process may be reading an earlier one.
    target = Path(destination)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.write_bytes(wrapped)
    return temporary.replace(target)


def _modern(onnx: Any, model: Any) -> Any:
    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if version < OPSET:
        try:
            model = onnx.version_converter.convert_version(model, OPSET)
        except Exception:
            # Not every operator has a converter; the model is valid as it is.
            return model
        model.ir_version = max(model.ir_version, 8)
    return model


def _inferred(onnx: Any, model: Any) -> Any:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    for value in inferred.graph.output:
        if not value.type.tensor_type.HasField("shape"):
            raise ValueError(f"the shape of {value.name} cannot be told")
    onnx.checker.check_model(inferred)
    return inferred


class _Edit:
    """Adds nodes to a graph."""

    def __init__(self, onnx: Any, graph: Any) -> None:
        self.onnx, self.graph = onnx, graph
        self.nodes: list[Any] = []

    def constant(self, name: str, value: np.ndarray) -> str:
        self.graph.initializer.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, kind: str, inputs: list[str], name: str, *, output: str = "", **attributes: Any) -> str:
        output = output or name
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [output], name, **attributes))
        return output

    def free(self, name: str, wanted: str) -> str:
        """Renames the tensor `wanted`, if there is one; returns what `name` is called afterwards."""
        new = f"{wanted}/source"
        for node in self.graph.node:
            for field in (node.input, node.output):
                for index, tensor in enumerate(field):
                    if tensor == wanted:
                        field[index] = new
        for value in (*self.graph.output, *self.graph.initializer):
            if value.name == wanted:
                value.name = new
        return new if name == wanted else name

    def rename_output(self, name: str, new: str) -> None:
        for value in self.graph.output:
            if value.name == name:
                value.name = new
                break
        else:
            raise SourceModelError(
                f"the model has no output {name!r}", value=[value.name for value in self.graph.output]
            )
        for node in self.graph.node:
            for field in (node.input, node.output):
                for index, tensor in enumerate(field):
                    if tensor == name:
                        field[index] = new

    def prepend(self, spec: Preprocessing, image: str, network_input: str) -> None:
        x = self.node("Cast", [image], "preprocess/float", to=self.onnx.TensorProto.FLOAT)
        x = self.node("Transpose", [x], "preprocess/planes", perm=[0, 3, 1, 2])
        if spec.size is not None and spec.resize == "graph":
            x = self._resize(x, image, *spec.size)
        if spec.color == "BGR":
            order = self.constant("preprocess/order", np.array([2, 1, 0], np.int64))
            x = self.node("Gather", [x, order], "preprocess/channels", axis=1)
        if any(spec.mean):
            mean = self.constant("preprocess/mean", np.array(spec.mean, np.float32).reshape(1, 3, 1, 1))
            x = self.node("Sub", [x, mean], "preprocess/centred")
        if any(value != 1 for value in spec.std):
            std = self.constant(
                "preprocess/scale", (1 / np.array(spec.std)).astype(np.float32).reshape(1, 3, 1, 1)
            )
            x = self.node("Mul", [x, std], "preprocess/scaled")
        if spec.layout == "NHWC":
            x = self.node("Transpose", [x], "preprocess/layout", perm=[0, 2, 3, 1])
        self.nodes[-1].output[0] = network_input
        self._put_first()

    def _resize(self, x: str, image: str, height: int, width: int) -> str:
        """Antialiased linear resize as two matrix products (docs/decisions/0002).

        Source: the triangle filter of Pillow's `Image.resize(BILINEAR)`, `libImaging/Resample.c`,
        `precompute_coeffs`, as in `xtorch.models.resize`. In integers, because a runtime that computes in
        bfloat16 would round positions.
        """
        shape = self.node("Shape", [image], "preprocess/shape")
        rows_SH = self._resize_weights("rows", shape, 1, height)
        columns_TW = self._resize_weights("columns", shape, 2, width)
        columns_WT = self.node("Transpose", [columns_TW], "preprocess/columns/transposed", perm=[1, 0])
        x = self.node("MatMul", [x, columns_WT], "preprocess/resized_columns")
        return self.node("MatMul", [rows_SH, x], "preprocess/resized")

    def _resize_weights(self, what: str, shape: str, axis: int, size_out: int) -> str:
        def name(part: str) -> str:
            return f"preprocess/{what}/{part}"

        def whole(part: str, value: Any) -> str:
            return self.constant(name(part), np.array(value, np.int64))

        out_S1 = 2 * np.arange(size_out, dtype=np.int64)[:, None] + 1
        two, size, zero = whole("two", 2), whole("size", 2 * size_out), whole("zero", 0)
        size_in = self.node("Gather", [shape, whole("axis", axis)], name("size_in"))
        index_H = self.node("Range", [zero, size_in, whole("one", 1)], name("range"))
        # Distance between centres and the triangle's half-width, both times 2 * size_out.
        left_H = self.node("Mul", [index_H, size], name("left"))
        left_H = self.node("Add", [left_H, whole("half", size_out)], name("centres_in"))
        right_S1 = self.node("Mul", [whole("centres", out_S1), size_in], name("centres_out"))
        distance_SH = self.node("Sub", [left_H, right_S1], name("difference"))
        distance_SH = self.node("Abs", [distance_SH], name("distance"))
        twice = self.node("Mul", [size_in, two], name("twice"))
        reach = self.node("Max", [twice, size], name("reach"))
        weights_SH = self.node("Sub", [reach, distance_SH], name("inside"))
        weights_SH = self.node("Max", [weights_SH, zero], name("triangle"))
        total_S1 = self.node("ReduceSum", [weights_SH, whole("last", [1])], name("total"), keepdims=1)
        to = self.onnx.TensorProto.FLOAT
        weights_SH = self.node("Cast", [weights_SH], name("triangle_float"), to=to)
        total_S1 = self.node("Cast", [total_S1], name("total_float"), to=to)
        return self.node("Div", [weights_SH, total_S1], name("weights"))

    def _put_first(self) -> None:
        for position, node in enumerate(self.nodes):
            self.graph.node.insert(position, node)
        self.nodes = []

    def append_yolox(self, head: YoloxHead, spec: Preprocessing) -> None:
        if len(self.graph.output) != 1 or spec.size is None or 0 in spec.size:
            raise SourceModelError(
                "a YOLOX head needs one output and a fixed size",
                value=[value.name for value in self.graph.output],
            )
        output = self.graph.output[0].name
        cells, strides = [], []
        for stride in head.strides:
            rows, columns = np.mgrid[: spec.size[0] // stride, : spec.size[1] // stride]
            cells.append(np.stack([columns, rows], axis=-1).reshape(-1, 2))
            strides.append(np.full((rows.size, 1), stride))
        grid = self.constant("decode/cells", np.concatenate(cells).astype(np.float32)[None])
        stride_1K1 = self.constant("decode/strides", np.concatenate(strides).astype(np.float32)[None])
        half = self.constant("decode/half", np.array(0.5, np.float32))
        axis = self.constant("decode/axis", np.array([2], np.int64))

        def columns_of(what: str, start: int, end: int) -> str:
            bounds = [
                self.constant(f"decode/{what}/{edge}", np.array([value], np.int64))
                for edge, value in (("start", start), ("end", end))
            ]
            return self.node("Slice", [output, *bounds, axis], f"decode/{what}")

        centre = self.node("Add", [columns_of("xy", 0, 2), grid], "decode/centre_cells")
        centre = self.node("Mul", [centre, stride_1K1], "decode/centre")
        size = self.node("Exp", [columns_of("wh", 2, 4)], "decode/size_cells")
        size = self.node("Mul", [size, stride_1K1], "decode/size")
        reach = self.node("Mul", [size, half], "decode/reach")
        upper = self.node("Sub", [centre, reach], "decode/upper_left")
        lower = self.node("Add", [centre, reach], "decode/lower_right")
        self.node("Concat", [upper, lower], "decode/boxes", output=head.boxes, axis=2)
        scores = [columns_of("objectness", 4, 5), columns_of("classes", 5, np.iinfo(np.int64).max)]
        self.node("Mul", scores, "decode/scores", output=head.scores)
        self.graph.node.extend(self.nodes)
        self.nodes = []
        del self.graph.output[:]
        for name in (head.boxes, head.scores):
            value = self.onnx.helper.make_tensor_value_info(name, self.onnx.TensorProto.FLOAT, None)
            self.graph.output.append(value)
