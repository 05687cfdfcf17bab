"""Typed half precision: same answers, right types, no overflow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from xinfer.builders.quantise import to_bf16, to_fp16
from xinfer.errors import SourceModelError

HALF, BRAIN, FLOAT = TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_source(tmp_path / "source.onnx", opset=18)


def make_source(path: Path, *, opset: int) -> Path:
    """A convolution, a resize by float scales, a mask with huge constants, an epsilon, shape arithmetic."""
    rng = np.random.default_rng(0)
    constants = {
        "k": rng.normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32),
        "b": rng.normal(0, 0.3, 4).astype(np.float32),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "lowest": np.full((1, 1, 1, 1), -3.4e38, np.float32),
        "zero": np.zeros((1, 1, 1, 1), np.float32),
        "epsilon": np.float32(1e-12),
        "axes": np.array([1]),
        "high_from": np.float32(2),
    }
    nodes = [
        helper.make_node("Conv", ["x", "k", "b"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Resize", ["c", "", "scales"], ["r"], "resize", mode="nearest"),
        helper.make_node("Greater", ["r", "high_from"], ["high"], "greater"),
        helper.make_node("Where", ["high", "lowest", "zero"], ["mask"], "where"),
        helper.make_node("Add", ["r", "mask"], ["masked"], "mask_add"),
        helper.make_node("Softmax", ["masked"], ["probabilities"], "softmax", axis=1),
        helper.make_node("ReduceL2", ["r", "axes"], ["length"], "length", keepdims=1),
        helper.make_node("Add", ["length", "epsilon"], ["safe"], "safe_add"),
        helper.make_node("Div", ["r", "safe"], ["unit"], "divide"),
        helper.make_node("Cast", ["high"], ["counted"], "count", to=FLOAT),
        helper.make_node("Shape", ["r"], ["shape"], "shape"),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"], "zeros"),
        helper.make_node("Sum", ["probabilities", "unit", "counted", "zeros"], ["y"], "sum"),
        helper.make_node("Relu", ["y"], ["z"], "relu"),
    ]
    graph = helper.make_graph(
        nodes,
        "half",
        [helper.make_tensor_value_info("x", FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in ("y", "z")],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


def feeds() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(3).normal(0, 1, (2, 3, 8, 8)).astype(np.float32)}


def kinds(path: Path) -> dict[str, int]:
    """The types of all inner tensors; raises where two meet that must not."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path), check_type=True, strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    found = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        found[value.name] = value.type.tensor_type.elem_type
    return found


def test_to_fp16_keeps_answers_and_interface_when_everything_is_converted(
    source: Path, tmp_path: Path
) -> None:
    path = tmp_path / "half.onnx"
    to_fp16(source, path)
    expected = ort.InferenceSession(source).run(None, feeds())
    outputs = ort.InferenceSession(path).run(None, feeds())
    for got, want in zip(outputs, expected, strict=True):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, atol=4e-3)
    found = kinds(path)
    assert found["x"] == found["y"] == found["z"] == FLOAT
    assert found["c"] == found["probabilities"] == found["unit"] == found["counted"] == HALF
    assert found["scales"] == FLOAT, "Resize takes its scales in float32"
    assert found["length"] == FLOAT, "sums of squares stay in float32"
    assert path.stat().st_size < source.stat().st_size


def test_to_fp16_leaves_nodes_in_float_when_told_to(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.onnx"
    to_fp16(source, path, keep_float=["conv", "relu"])
    found = kinds(path)
    assert found["c"] == found["k"] == FLOAT
    assert found["probabilities"] == HALF
    expected = ort.InferenceSession(source).run(None, feeds())
    for got, want in zip(ort.InferenceSession(path).run(None, feeds()), expected, strict=True):
        np.testing.assert_allclose(got, want, atol=4e-3)


def test_to_fp16_keeps_constants_finite_and_not_zero_when_they_leave_the_range(
    source: Path, tmp_path: Path
) -> None:
    path = tmp_path / "half.onnx"
    to_fp16(source, path)
    values = [numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer]
    halves = [value for value in values if value.dtype == np.float16]
    assert min(float(value.min()) for value in halves) == -65504
    assert np.isfinite(np.concatenate([value.ravel() for value in halves])).all()


def test_to_bf16_keeps_answers_when_everything_is_converted(tmp_path: Path) -> None:
    source, path = make_source(tmp_path / "source.onnx", opset=22), tmp_path / "brain.onnx"
    to_bf16(source, path)
    found = kinds(path)
    assert found["c"] == found["probabilities"] == found["length"] == BRAIN
    expected = ort.InferenceSession(source).run(None, feeds())
    outputs = ReferenceEvaluator(onnx.load(path)).run(None, feeds())
    for got, want in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(got, want, atol=0.1)


def test_to_fp16_refuses_when_a_graph_stands_inside_a_node(tmp_path: Path) -> None:
    scalar = helper.make_tensor_value_info("y", FLOAT, None)
    branch = helper.make_graph([helper.make_node("Identity", ["x"], ["inner"])], "b", [], [
        helper.make_tensor_value_info("inner", FLOAT, None)
    ])  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], "branch", then_branch=branch, else_branch=branch)],
        "g",
        [
            helper.make_tensor_value_info("x", FLOAT, [2]),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        ],
        [scalar],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "a.onnx")
    with pytest.raises(SourceModelError) as caught:
        to_fp16(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert caught.value.value == "branch"
