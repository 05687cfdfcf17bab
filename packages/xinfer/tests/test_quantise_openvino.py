"""OpenVINO reads quantised ONNX right: per channel, around Concat, at outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper

from xinfer.builders import openvino_ir

SHAPE = (2, 4, 6, 6)


def save(path: Path, nodes: list, constants: dict[str, np.ndarray]) -> Path:
    graph = helper.make_graph(
        nodes,
        "quantised",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *SHAPE[1:]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


def pair(source: str, target: str, scale: str, zero: str, axis: int | None = None) -> list:
    options = {} if axis is None else {"axis": axis}
    return [
        helper.make_node("QuantizeLinear", [source, scale, zero], [f"{target}_q"], f"{target}_q", **options),
        helper.make_node(
            "DequantizeLinear", [f"{target}_q", scale, zero], [target], f"{target}_dq", **options
        ),
    ]


def both(path: Path, folder: Path) -> tuple[np.ndarray, np.ndarray, openvino.Model]:
    x = np.random.default_rng(0).normal(0, 1, SHAPE).astype(np.float32)
    options = ort.SessionOptions()
    # As written: no kernels for integers, no other rounding.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    expected = ort.InferenceSession(path, options).run(["y"], {"x": x})[0]
    openvino_ir.convert(path, folder)
    model = openvino.Core().read_model(folder / "model.xml")
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled({"x": x})["y"], expected, model


def kinds(model: openvino.Model) -> list[str]:
    return [node.get_type_name() for node in model.get_ordered_ops()]


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
def test_convert_folds_pairs_of_one_scale_per_channel(tmp_path: Path, kind: type) -> None:
    zero = np.array([3, 100, 128, 250] if kind is np.uint8 else [0, -5, 0, 100], kind)
    constants = {"scale": np.array([0.01, 0.02, 0.05, 0.001], np.float32), "zero": zero}
    nodes = [*pair("x", "d", "scale", "zero", axis=1), helper.make_node("Relu", ["d"], ["y"], "relu")]
    got, expected, model = both(save(tmp_path / "a.onnx", nodes, constants), tmp_path / "ir")
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert kinds(model).count("FakeQuantize") == 1
    assert "Subtract" not in kinds(model)


def test_convert_keeps_names_and_values_when_the_output_is_quantised(tmp_path: Path) -> None:
    constants = {"scale": np.float32(0.02), "zero": np.uint8(120)}
    nodes = [helper.make_node("Relu", ["x"], ["r"], "relu"), *pair("r", "y", "scale", "zero")]
    got, expected, model = both(save(tmp_path / "a.onnx", nodes, constants), tmp_path / "ir")
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert [output.get_names() for output in model.outputs] == [{"y"}]


def test_convert_is_right_when_scales_differ_around_concat(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    kernels = rng.integers(-127, 128, (2, 3, 4, 3, 3)).astype(np.int8)
    constants = {
        "k0": kernels[0], "k1": kernels[1], "k2": rng.integers(-127, 128, (5, 6, 3, 3)).astype(np.int8),
        "ks": np.array([0.001, 0.004, 0.002], np.float32), "kz": np.zeros(3, np.int8),
        "k2s": np.geomspace(0.0005, 0.01, 5).astype(np.float32), "k2z": np.zeros(5, np.int8),
        "s0": np.float32(0.03), "z0": np.uint8(127), "s1": np.float32(0.01), "z1": np.uint8(5),
        "s2": np.float32(0.09), "z2": np.uint8(60),
    }  # fmt: skip
    nodes = [
        *pair("x", "xq", "s0", "z0"),
        *(
            helper.make_node("DequantizeLinear", [name, scale, zero], [f"{name}_f"], f"{name}_dq", axis=0)
            for name, scale, zero in (("k0", "ks", "kz"), ("k1", "ks", "kz"), ("k2", "k2s", "k2z"))
        ),
        helper.make_node("Conv", ["xq", "k0_f"], ["c0"], "conv0", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c0"], ["r0"], "relu0"),
        *pair("r0", "r0_d", "s1", "z1"),
        helper.make_node("Conv", ["xq", "k1_f"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        *pair("c1", "c1_d", "s2", "z2"),
        helper.make_node("Concat", ["r0_d", "c1_d"], ["joined"], "concat", axis=1),
        *pair("joined", "joined_d", "s2", "z2"),
        helper.make_node("Conv", ["joined_d", "k2_f"], ["y"], "conv2", pads=[1, 1, 1, 1]),
    ]
    got, expected, model = both(save(tmp_path / "a.onnx", nodes, constants), tmp_path / "ir")
    # Integers that fall on either side of a rounding differ by one step.
    assert np.abs(got - expected).max() < 0.02 * np.abs(expected).max()
    assert np.corrcoef(got.ravel(), expected.ravel())[0, 1] > 0.9999
    assert kinds(model).count("FakeQuantize") == 4


def test_convert_stores_weights_as_integers_and_floats_in_full(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    kernel = rng.integers(-127, 128, (64, 4, 3, 3)).astype(np.int8)
    plain = rng.normal(0, 0.1, (8, 64, 3, 3)).astype(np.float32)
    constants = {
        "k": kernel, "scale": np.full(64, 0.01, np.float32), "zero": np.zeros(64, np.int8), "k2": plain,
    }  # fmt: skip
    nodes = [
        helper.make_node("DequantizeLinear", ["k", "scale", "zero"], ["kf"], "dq", axis=0),
        helper.make_node("Conv", ["x", "kf"], ["c"], "conv"),
        helper.make_node("Conv", ["c", "k2"], ["y"], "conv2"),
    ]
    got, expected, _ = both(save(tmp_path / "a.onnx", nodes, constants), tmp_path / "ir")
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-3)
    size = (tmp_path / "ir" / "model.bin").stat().st_size
    assert kernel.nbytes + plain.nbytes <= size < kernel.nbytes + plain.nbytes + 2048
