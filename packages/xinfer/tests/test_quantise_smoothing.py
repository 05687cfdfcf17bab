"""SmoothQuant: the same function, flatter activations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from xinfer.builders.quantise import onnxruntime_dynamic, onnxruntime_qdq, smooth
from xinfer.errors import CalibrationError, InputError

CHANNELS = 32
OUTLIERS = (3, 17)


def save(path: Path, nodes: list, constants: dict[str, np.ndarray], outputs=("y",), opset: int = 18) -> Path:
    float_type = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", float_type, ["n", 6, CHANNELS])],
        [helper.make_tensor_value_info(name, float_type, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


def run(path: Path, feeds: list[dict[str, np.ndarray]]) -> np.ndarray:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, item)[0] for item in feeds])


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    gamma = rng.uniform(0.5, 1.5, CHANNELS)
    gamma[list(OUTLIERS)] *= 100
    first = rng.normal(0, CHANNELS**-0.5, (CHANNELS, 24))
    # What a network learns behind such channels: small weights.
    first[list(OUTLIERS)] /= 100
    return {
        "gamma": gamma.astype(np.float32),
        "beta": rng.normal(0, 0.1, CHANNELS).astype(np.float32),
        "w1": first.astype(np.float32),
        "b1": rng.normal(0, 0.1, 24).astype(np.float32),
        "w2": rng.normal(0, 24**-0.5, (24, 8)).astype(np.float32),
    }


def samples(num: int = 8, seed: int = 1) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(0, 1, (1, 6, CHANNELS)).astype(np.float32)} for _ in range(num)]


def tail() -> list:
    return [
        helper.make_node("MatMul", ["normal", "w1"], ["p1"], "first"),
        helper.make_node("Add", ["b1", "p1"], ["s1"], "bias"),
        helper.make_node("Relu", ["s1"], ["r1"], "relu"),
        helper.make_node("MatMul", ["r1", "w2"], ["y"], "second"),
    ]


def fused() -> list:
    node = helper.make_node("LayerNormalization", ["x", "gamma", "beta"], ["normal"], "norm", axis=-1)
    return [node]


def decomposed() -> tuple[list, dict[str, np.ndarray]]:
    """Layer normalisation as torch exported it before opset 17."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], "mean", axes=[-1]),
        helper.make_node("Sub", ["x", "mean"], ["centred"], "sub"),
        helper.make_node("Pow", ["centred", "two"], ["squares"], "pow"),
        helper.make_node("ReduceMean", ["squares"], ["variance"], "variance", axes=[-1]),
        helper.make_node("Add", ["variance", "epsilon"], ["safe"], "epsilon_add"),
        helper.make_node("Sqrt", ["safe"], ["deviation"], "sqrt"),
        helper.make_node("Div", ["centred", "deviation"], ["unit"], "div"),
        helper.make_node("Mul", ["unit", "gamma"], ["scaled"], "scale"),
        helper.make_node("Add", ["scaled", "beta"], ["normal"], "shift"),
    ]
    return nodes, {"two": np.float32(2), "epsilon": np.float32(1e-5)}


@pytest.mark.parametrize("norm", ["fused", "decomposed"])
def test_smooth_folds_into_the_normalisation_when_it_feeds_the_layer_alone(tmp_path: Path, norm: str) -> None:
    nodes, extra = (fused(), {}) if norm == "fused" else decomposed()
    source = save(
        tmp_path / "a.onnx", [*nodes, *tail()], weights() | extra, opset=18 if norm == "fused" else 17
    )
    done = smooth(source, tmp_path / "b.onnx", samples(), alpha=0.5)

    np.testing.assert_allclose(
        run(tmp_path / "b.onnx", samples(seed=5)), run(source, samples(seed=5)), atol=1e-4
    )
    assert [(item.tensor, item.layers, item.folded) for item in done] == [
        ("normal", ("first",), True),
        ("r1", ("second",), True),
    ]
    assert done[0].outlier_ratio > 50
    before, after = onnx.load(source).graph, onnx.load(tmp_path / "b.onnx").graph
    assert [node.op_type for node in after.node] == [node.op_type for node in before.node]
    assert len(after.initializer) == len(before.initializer)


def test_smooth_inserts_one_multiplication_when_others_read_the_activation(tmp_path: Path) -> None:
    nodes = [
        *fused(),
        helper.make_node("MatMul", ["normal", "w1"], ["q"], "query"),
        helper.make_node("MatMul", ["normal", "w1"], ["k"], "key"),
        helper.make_node("ReduceSum", ["normal", "last"], ["residual"], "residual"),
        helper.make_node("Mul", ["q", "k"], ["qk"], "qk"),
        helper.make_node("Add", ["qk", "residual"], ["y"], "sum"),
    ]
    source = save(tmp_path / "a.onnx", nodes, weights() | {"last": np.array([-1])})
    done = smooth(source, tmp_path / "b.onnx", samples(), alpha=0.5)

    np.testing.assert_allclose(
        run(tmp_path / "b.onnx", samples(seed=5)), run(source, samples(seed=5)), atol=1e-4
    )
    assert [(item.layers, item.folded) for item in done] == [(("query", "key"), False)]
    names = [node.name for node in onnx.load(tmp_path / "b.onnx").graph.node]
    assert len(names) == 1 + len(nodes)
    assert smooth(source, tmp_path / "c.onnx", samples(), alpha=0.5, min_outlier_ratio=1e9) == ()


def test_smooth_scales_rows_of_transposed_gemm_weights(tmp_path: Path) -> None:
    constants = weights() | {"w3": np.random.default_rng(2).normal(0, 0.3, (5, 24)).astype(np.float32)}
    nodes = [
        *fused(),
        helper.make_node("Reshape", ["normal", "flat"], ["rows"], "rows"),
        helper.make_node("Gemm", ["rows", "w1", "b1"], ["p1"], "first"),
        helper.make_node("Relu", ["p1"], ["r1"], "relu"),
        helper.make_node("Gemm", ["r1", "w3"], ["y"], "second", transB=1),
    ]
    source = save(tmp_path / "a.onnx", nodes, constants | {"flat": np.array([-1, CHANNELS])})
    done = smooth(source, tmp_path / "b.onnx", samples(), alpha=0.5)

    np.testing.assert_allclose(
        run(tmp_path / "b.onnx", samples(seed=5)), run(source, samples(seed=5)), atol=1e-4
    )
    assert [(item.layers, item.folded) for item in done] == [(("first",), False), (("second",), True)]


@pytest.mark.parametrize("alpha", [0.5, None])
def test_smooth_repairs_int8_when_channels_carry_outliers(tmp_path: Path, alpha: float | None) -> None:
    source = save(tmp_path / "a.onnx", [*fused(), *tail()], weights())
    smooth(source, tmp_path / "smooth.onnx", samples(32), alpha=alpha)
    expected = run(source, samples(16, seed=9))

    def noise(path: Path) -> float:
        onnxruntime_qdq(path, tmp_path / "q.onnx", samples(32), (), reduce_range=False, transformer=True)
        return float(np.mean((run(tmp_path / "q.onnx", samples(16, seed=9)) - expected) ** 2))

    plain, repaired = noise(source), noise(tmp_path / "smooth.onnx")
    assert plain > 0.02 * np.var(expected), "the model must be hard to quantise"
    assert repaired < plain / 20


def test_smooth_leaves_flat_activations_alone_when_it_may_choose(tmp_path: Path) -> None:
    flat = weights() | {"gamma": np.ones(CHANNELS, np.float32)}
    flat["w1"] = np.random.default_rng(4).normal(0, 0.2, (CHANNELS, 24)).astype(np.float32)
    source = save(tmp_path / "a.onnx", [*fused(), *tail()], flat)
    assert "first" not in {
        name for item in smooth(source, tmp_path / "b.onnx", samples()) for name in item.layers
    }


def test_smooth_leaves_layers_alone_when_told_to_skip_them(tmp_path: Path) -> None:
    source = save(tmp_path / "a.onnx", [*fused(), *tail()], weights())
    done = smooth(source, tmp_path / "b.onnx", samples(), alpha=0.5, skip=["first"])
    assert [item.layers for item in done] == [("second",)]


def test_smooth_refuses_when_alpha_or_samples_are_missing(tmp_path: Path) -> None:
    source = save(tmp_path / "a.onnx", [*fused(), *tail()], weights())
    with pytest.raises(InputError):
        smooth(source, tmp_path / "b.onnx", samples(), alpha=1.5)
    with pytest.raises(CalibrationError):
        smooth(source, tmp_path / "b.onnx", [])


def test_onnxruntime_dynamic_needs_no_calibration_and_leaves_float_nodes(tmp_path: Path) -> None:
    source = save(tmp_path / "a.onnx", [*fused(), *tail()], weights())
    smooth(source, tmp_path / "smooth.onnx", samples())
    onnxruntime_dynamic(tmp_path / "smooth.onnx", tmp_path / "all.onnx", reduce_range=False)
    onnxruntime_dynamic(tmp_path / "smooth.onnx", tmp_path / "one.onnx", ["first"], reduce_range=False)
    expected = run(source, samples(seed=5))
    errors = {}
    for name, num_integers in (("all", 2), ("one", 1)):
        path = tmp_path / f"{name}.onnx"
        kinds = [item.data_type for item in onnx.load(path).graph.initializer if len(item.dims) == 2]
        assert kinds.count(TensorProto.INT8) == num_integers
        errors[name] = float(np.square(run(path, samples(seed=5)) - expected).mean() / expected.var())
    assert errors["one"] < errors["all"] < 0.01
