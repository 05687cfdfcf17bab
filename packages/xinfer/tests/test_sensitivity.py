"""Sensitive layers are found, and returned to float until the budget holds."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from xinfer.builders.quantise import nncf_on_onnx, onnxruntime_qdq, portable_qdq, smooth
from xinfer.builders.sensitivity import LayerSensitivity, mixed_precision, rank_layers
from xinfer.errors import CalibrationError, InputError

CHANNELS = 48
OUTLIER = 11


def dense(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    return rng.normal(0, (2 / rows) ** 0.5, (rows, columns)).astype(np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four layers; one channel of the second's output is a thousand times the others, and means little."""
    rng = np.random.default_rng(0)
    weights = [dense(rng, CHANNELS, CHANNELS) for _ in range(4)]
    weights[1][:, OUTLIER] = 1000 * np.abs(weights[1][:, OUTLIER])
    weights[2][OUTLIER] /= 10_000
    nodes, tensor = [], "x"
    for index in range(4):
        last = index == 3
        product = "y" if last else f"p{index}"
        nodes.append(helper.make_node("MatMul", [tensor, f"w{index}"], [product], f"layer{index}"))
        if not last:
            nodes.append(helper.make_node("Relu", [product], [f"r{index}"], f"relu{index}"))
            tensor = f"r{index}"
    graph = helper.make_graph(
        nodes,
        "outliers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", CHANNELS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", CHANNELS])],
        [numpy_helper.from_array(value, f"w{index}") for index, value in enumerate(weights)],
    )
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(onnx.shape_inference.infer_shapes(proto), path)
    return path


def batches(num: int, seed: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": np.abs(rng.normal(0, 1, (16, CHANNELS))).astype(np.float32)} for _ in range(num)]


CALIBRATION, HELD_OUT = batches(8, 1), batches(4, 2)


def run(path: Path) -> np.ndarray:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["y"], feeds)[0] for feeds in HELD_OUT])


def agreement(path: Path, model: Path) -> float:
    """Mean cosine to the float model's outputs, around their mean."""
    got, want = run(path), run(model)
    got, want = got - want.mean(axis=0), want - want.mean(axis=0)
    norms = np.linalg.norm(got, axis=1) * np.linalg.norm(want, axis=1)
    return float(((got * want).sum(axis=1) / norms).mean())


def quantise(model: Path, path: Path, float_nodes: frozenset[str] = frozenset()) -> Path:
    onnxruntime_qdq(model, path, CALIBRATION, sorted(float_nodes), reduce_range=False)
    return path


def test_mixed_precision_repairs_the_model_when_int8_collapses(model: Path, tmp_path: Path) -> None:
    plain = quantise(model, tmp_path / "plain.onnx")
    assert agreement(plain, model) < 0.9, "plain INT8 must collapse, or this proves nothing"

    ranking = rank_layers(model, plain, CALIBRATION, layers=[f"layer{index}" for index in range(4)])
    assert ranking[0].name == "layer2", "it reads the outlier"
    assert ranking[0].sqnr_db < ranking[1].sqnr_db - 10

    result = mixed_precision(
        lambda nodes: quantise(model, tmp_path / f"{len(nodes)}.onnx", nodes),
        lambda path: agreement(path, model) > 0.99,
        ranking,
    )
    assert result.float_nodes is not None
    assert result.float_nodes[0] == "layer2"
    assert len(result.float_nodes) < 4
    assert result.made is not None
    assert agreement(result.made, model) > 0.99
    integers = [
        item for item in onnx.load(result.made).graph.initializer if item.data_type == TensorProto.INT8
    ]
    assert len([item for item in integers if len(item.dims) == 2]) == 4 - len(result.float_nodes)


def test_smooth_repairs_the_model_when_int8_collapses(model: Path, tmp_path: Path) -> None:
    assert agreement(quantise(model, tmp_path / "plain.onnx"), model) < 0.9
    smooth(model, tmp_path / "smooth.onnx", CALIBRATION)
    assert agreement(quantise(tmp_path / "smooth.onnx", tmp_path / "repaired.onnx"), model) > 0.99


def test_rank_layers_measures_the_noise_of_one_layer_when_it_alone_is_quantised(
    model: Path, tmp_path: Path
) -> None:
    ranking = rank_layers(model, quantise(model, tmp_path / "all.onnx"), HELD_OUT)
    assert {item.name for item in ranking} >= {f"layer{index}" for index in range(4)}
    assert [item.sqnr_db for item in ranking] == sorted(item.sqnr_db for item in ranking)
    measured = {item.name: item.sqnr_db for item in ranking}
    for name in ("layer0", "layer3"):
        others = frozenset(item.name for item in ranking) - {name}
        want, got = run(model), run(quantise(model, tmp_path / f"{name}.onnx", others))
        expected = 10 * math.log10(np.square(want).sum() / np.square(got - want).sum())
        # The layer's output is quantised here too.
        assert expected - 2 < measured[name] < expected + 8


def test_rank_layers_finds_the_sensitive_layer_when_another_recipe_quantised(
    model: Path, tmp_path: Path
) -> None:
    portable_qdq(model, tmp_path / "portable.onnx", CALIBRATION)
    ranking = rank_layers(model, tmp_path / "portable.onnx", CALIBRATION)
    assert ranking[0].name == "layer2"
    assert len(ranking) == 4


def test_rank_layers_sees_repaired_layers_when_the_recipe_smoothed_them(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "nncf.onnx"
    nncf_on_onnx(model, path, CALIBRATION, (), seed=0, transformer=True)
    ranking = rank_layers(model, path, CALIBRATION, layers=[f"layer{index}" for index in range(4)])
    assert len(ranking) == 4
    assert ranking[0].sqnr_db > 10, "weights and activations of a layer are scaled alike"


def test_mixed_precision_repairs_masked_attention_when_a_softmax_reads_what_a_sum_quantised(
    tmp_path: Path,
) -> None:
    """Scores plus a mask of -10,000: one scale for both leaves nothing of the scores."""
    rng = np.random.default_rng(3)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["scores"], "scores"),
        helper.make_node("Sub", ["x", "one"], ["empty"], "empty"),
        helper.make_node("Clip", ["empty", "lowest", "highest"], ["mask"], "clip"),
        helper.make_node("Mul", ["scores", "temperature"], ["scaled"], "scaled"),
        helper.make_node("Add", ["scaled", "mask"], ["masked"], "masked"),
        helper.make_node("Softmax", ["masked"], ["weights"], "softmax", axis=-1),
        helper.make_node("MatMul", ["weights", "v"], ["y"], "values"),
    ]
    constants = {
        "w": dense(rng, CHANNELS, CHANNELS), "v": dense(rng, CHANNELS, CHANNELS),
        "one": np.full(CHANNELS, 10_000, np.float32) * (np.arange(CHANNELS) % 4 == 0),
        "temperature": np.float32(3), "lowest": np.float32(-10_000), "highest": np.float32(0),
    }  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", CHANNELS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", CHANNELS])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    source = tmp_path / "attention.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(proto), source)
    plain = quantise(source, tmp_path / "plain.onnx")
    assert agreement(plain, source) < 0.9
    ranking = rank_layers(source, plain, CALIBRATION)
    assert ranking[0].name == "masked"
    result = mixed_precision(
        lambda nodes: quantise(source, tmp_path / f"{len(nodes)}.onnx", nodes),
        lambda path: agreement(path, source) > 0.99,
        ranking,
    )
    assert result.float_nodes is not None


def test_rank_layers_puts_layers_last_when_the_deadline_has_passed(model: Path, tmp_path: Path) -> None:
    path = quantise(model, tmp_path / "all.onnx")
    ranking = rank_layers(model, path, CALIBRATION, deadline=time.monotonic() - 1)
    assert all(math.isnan(item.sqnr_db) for item in ranking)


def test_rank_layers_refuses_when_nothing_is_quantised(model: Path) -> None:
    with pytest.raises(InputError):
        rank_layers(model, model, CALIBRATION)
    with pytest.raises(CalibrationError):
        rank_layers(model, model, [])


@pytest.mark.parametrize("needed", [1, 2, 7, 30, 63])
def test_mixed_precision_finds_the_smallest_set_when_more_layers_only_help(needed: int) -> None:
    ranking = [LayerSensitivity(name=f"n{index}", op_type="Conv", sqnr_db=index) for index in range(64)]
    result = mixed_precision(lambda nodes: nodes, lambda nodes: len(nodes) >= needed, ranking, max_steps=20)
    assert result.float_nodes == tuple(f"n{index}" for index in range(needed))
    assert result.made == frozenset(result.float_nodes)
    assert len(result.steps) <= 11
    assert [step.holds for step in result.steps] == [step.num_float >= needed for step in result.steps]


def test_mixed_precision_gives_nothing_when_no_set_holds() -> None:
    result = mixed_precision(lambda nodes: nodes, lambda nodes: False, ["a", "b", "c"])
    assert result.float_nodes is None
    assert {step.num_float for step in result.steps} <= {1, 2}


def test_mixed_precision_goes_on_when_one_attempt_crashes() -> None:
    def make(nodes: frozenset[str]) -> int:
        if len(nodes) == 3:
            raise RuntimeError("compiler bug")
        return len(nodes)

    result = mixed_precision(make, lambda num: num >= 2, [f"n{index}" for index in range(9)])
    assert result.float_nodes is not None
    assert len(result.float_nodes) == 4
    assert any(step.reason == "RuntimeError: compiler bug" for step in result.steps)


def test_mixed_precision_stops_when_steps_or_time_are_up() -> None:
    names = [f"n{index}" for index in range(500)]
    assert len(mixed_precision(len, lambda num: num > 300, names, max_steps=3).steps) == 3
    assert mixed_precision(len, lambda num: True, names, deadline=time.monotonic() - 1).steps == ()
