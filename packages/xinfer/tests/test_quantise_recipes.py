"""What the recipes promise of their files: legal for the runtimes, right, deterministic."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime as ort
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper

from xinfer.backends import RuntimeSettings, get_backend
from xinfer.builders import openvino_ir
from xinfer.builders.quantise import (
    CALIBRATIONS,
    Calibration,
    nncf_on_openvino,
    onnxruntime_qdq,
    portable_qdq,
    prepare,
)
from xinfer.builders.quantise.calibration import activation_ranges
from xinfer.builders.sensitivity import rank_layers
from xinfer.errors import CalibrationError

CHANNELS = 8


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A residual block with ReLU and concatenation, pooling, a classifier with a bias as its own Add."""
    rng = np.random.default_rng(0)

    def kernel(outputs: int, inputs: int) -> np.ndarray:
        value = rng.normal(0, (2 / (9 * inputs)) ** 0.5, (outputs, inputs, 3, 3))
        # Channels of different size: one scale per channel matters.
        return (value * np.geomspace(0.05, 2, outputs)[:, None, None, None]).astype(np.float32)

    constants = {
        "k0": kernel(CHANNELS, 3),
        "k1": kernel(CHANNELS, CHANNELS),
        "k2": kernel(CHANNELS, 2 * CHANNELS),
        "b0": rng.normal(0, 0.3, CHANNELS).astype(np.float32),
        "w": rng.normal(0, 0.3, (CHANNELS, 5)).astype(np.float32),
        "b": rng.normal(0, 100, 5).astype(np.float32),
    }
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "k0", "b0"], ["c0"], "conv0", **pads),
        helper.make_node("Relu", ["c0"], ["r0"], "relu0"),
        helper.make_node("Conv", ["r0", "k1"], ["c1"], "conv1", **pads),
        helper.make_node("Add", ["c1", "r0"], ["residual"], "add"),
        helper.make_node("Concat", ["residual", "r0"], ["joined"], "concat", axis=1),
        helper.make_node("Conv", ["joined", "k2"], ["c2"], "conv2", **pads),
        helper.make_node("GlobalAveragePool", ["c2"], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("MatMul", ["flat", "w"], ["logits"], "classifier"),
        helper.make_node("Add", ["logits", "b"], ["y"], "bias"),
    ]
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    path = tmp_path_factory.mktemp("recipes") / "model.onnx"
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(onnx.shape_inference.infer_shapes(proto), path)
    return path


def batches(num: int, seed: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(0, 1, (4, 3, 12, 12)).astype(np.float32)} for _ in range(num)]


CALIBRATION, HELD_OUT = batches(6, 1), batches(4, 2)


def run(path: Path) -> np.ndarray:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, feeds)[0] for feeds in HELD_OUT])


def run_in_openvino(path: Path, folder: Path) -> np.ndarray:
    openvino_ir.convert(path, folder)
    settings = RuntimeSettings(num_threads=1, num_streams=1, float_precision="fp32")
    compiled = get_backend("openvino").load(folder, settings)
    try:
        return np.concatenate([compiled.infer(feeds)["y"] for feeds in HELD_OUT])
    finally:
        compiled.close()


def error(got: np.ndarray, want: np.ndarray) -> float:
    """Root mean square error over the spread between samples, which biases do not flatter."""
    return float(np.sqrt(np.square(got - want).mean()) / want.std(axis=0).mean())


def dequantisers(path: Path) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, bool]]:
    """(scale, zero point, quantised constant or empty, is constant) of each DequantizeLinear."""
    graph = onnx.load(path).graph
    constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    return [
        (
            constants[node.input[1]],
            constants[node.input[2]],
            constants.get(node.input[0], np.empty(0)),
            node.input[0] in constants,
        )
        for node in graph.node
        if node.op_type == "DequantizeLinear"
    ]


def test_portable_qdq_is_what_tensorrt_requires(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "portable.onnx"
    portable_qdq(model, path, CALIBRATION)
    onnx.checker.check_model(str(path), full_check=True)
    found = dequantisers(path)
    assert len(found) > 6
    for scale, zero_point, value, is_constant in found:
        assert zero_point.dtype == np.int8, "S8 alone, no INT32 biases"
        assert not zero_point.any()
        assert is_constant == (scale.size > 1), "one scale per activation, one per channel of weights"
        if is_constant:
            assert value.dtype == np.int8
    assert {node.domain for node in onnx.load(path).graph.node} <= {"", "ai.onnx"}


def test_portable_qdq_quantises_inputs_of_layers_and_no_biases_when_layers_are_fused(
    model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "portable.onnx"
    portable_qdq(model, path, CALIBRATION)
    graph = onnx.load(path).graph
    producers = {name: node.op_type for node in graph.node for name in node.output}
    nodes = {node.name: node for node in graph.node}
    for name in ("conv0", "conv1", "conv2", "add"):
        assert {producers[tensor] for tensor in nodes[name].input[:2]} == {"DequantizeLinear"}
    # Whatever quantises reads the activation, never what a convolution makes before it.
    assert nodes["relu0"].input[0] == nodes["conv0"].output[0]
    assert producers[graph.output[0].name] != "DequantizeLinear"


def test_portable_qdq_agrees_in_both_runtimes_when_the_graph_concatenates(
    model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "portable.onnx"
    portable_qdq(model, path, CALIBRATION)
    want = run(model)
    assert error(run(path), want) < 0.1
    assert error(run_in_openvino(path, tmp_path / "ir"), want) < 0.1


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_onnxruntime_qdq_stays_right_and_deterministic_when_calibrated(
    model: Path, tmp_path: Path, calibration: Calibration
) -> None:
    paths = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for path in paths:
        onnxruntime_qdq(model, path, CALIBRATION, ["classifier"], reduce_range=False, calibration=calibration)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert error(run(paths[0]), run(model)) < 0.2


def test_activation_ranges_leave_rare_values_outside_when_asked_to(model: Path, tmp_path: Path) -> None:
    samples = batches(24, 3)
    for feeds in samples:
        feeds["x"][0, 0, 0, 0] = -20
    samples[5]["x"][1, 2, 3, 4] = 1000
    prepare(model, tmp_path / "prepared.onnx")

    def ranges(method: Literal["percentile", "entropy"]) -> dict[str, tuple[float, float]]:
        return activation_ranges(tmp_path / "prepared.onnx", samples, ["Conv", "Gemm"], method)

    percentile, entropy = ranges("percentile"), ranges("entropy")
    low, high = percentile["x"]
    assert low == -20, "one in 1,700 is no rarity"
    assert 3 < high < 20, "one in 41,000 is"
    # The pool sees what convolutions make of it: too much to be rare, too little to matter.
    assert entropy["x"][1] < 1000
    assert percentile == ranges("percentile")
    assert set(percentile) >= {"x", "c0", "r0", "joined", "y"}


def test_recipes_leave_nodes_in_float_when_told_to(model: Path, tmp_path: Path) -> None:
    for recipe, options in ((onnxruntime_qdq, {"reduce_range": False}), (portable_qdq, {})):
        path = tmp_path / "q.onnx"
        recipe(model, path, CALIBRATION, ["conv1", "classifier"], **options)
        graph = onnx.load(path).graph
        producers = {name: node.op_type for node in graph.node for name in node.output}
        nodes = {node.name: node for node in graph.node}
        assert producers.get(nodes["conv1"].input[1]) is None
        assert producers.get(nodes["conv2"].input[1]) == "DequantizeLinear"
        # ONNX Runtime fuses MatMul and Add into a Gemm of another name; its weight must stay all the same.
        weights = [item for item in graph.initializer if list(item.dims) == [CHANNELS, 5]]
        assert [item.data_type for item in weights] == [TensorProto.FLOAT]


def test_recipes_refuse_when_there_are_no_samples(model: Path, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError):
        portable_qdq(model, tmp_path / "q.onnx", [])
    with pytest.raises(CalibrationError):
        onnxruntime_qdq(model, tmp_path / "q.onnx", [], (), reduce_range=False)


def test_onnxruntime_qdq_leaves_outputs_alone_when_only_inputs_are_wanted(
    model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "q.onnx"
    onnxruntime_qdq(model, path, CALIBRATION, (), reduce_range=False, inputs_only=True)
    graph = onnx.load(path).graph
    producers = {name: node.name for node in graph.node for name in node.output}
    quantised = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    # What a convolution makes before its activation, and what nobody reads, stays as it is.
    assert not {"conv0", "conv2"} & {producers.get(name) for name in quantised}
    assert graph.output[0].name not in quantised
    assert error(run_in_openvino(path, tmp_path / "ir"), run(model)) < 0.2


def test_nncf_gives_symmetric_ranges_when_asked_to(model: Path, tmp_path: Path) -> None:
    for symmetric in (False, True):
        folder = tmp_path / str(symmetric)
        nncf_on_openvino(model, folder, CALIBRATION, ["conv1"], seed=0, symmetric=symmetric)
        ops = openvino.Core().read_model(folder / "model.xml").get_ordered_ops()
        of_input = next(node for node in ops if node.get_type_name() == "FakeQuantize")
        low, high = (float(of_input.input_value(index).get_node().get_data().ravel()[0]) for index in (1, 2))
        # Of the 256 levels of a signed integer one more is negative.
        assert (abs(low / high + 128 / 127) < 1e-3) == symmetric
        convolutions = [node for node in ops if node.get_type_name() == "Convolution"]
        in_float = [
            node for node in convolutions if node.input_value(1).get_node().get_type_name() == "Constant"
        ]
        assert [node.get_friendly_name() for node in in_float] == ["conv1"]


def test_rank_layers_names_the_product_when_its_bias_was_fused_into_it(model: Path, tmp_path: Path) -> None:
    onnxruntime_qdq(model, tmp_path / "q.onnx", CALIBRATION, (), reduce_range=False)
    names = [layer.name for layer in rank_layers(model, tmp_path / "q.onnx", CALIBRATION)]
    assert "classifier" in names
    assert "bias" not in names
    assert {"conv0", "conv1", "conv2", "add"} <= set(names)


def test_recipes_raise_the_opset_when_it_has_no_scales_per_channel(model: Path, tmp_path: Path) -> None:
    old = onnx.load(model)
    # None of its operators changed in between.
    old.opset_import[0].version = 11
    onnx.save(old, tmp_path / "old.onnx")
    for name, recipe, options in (("a", onnxruntime_qdq, {"reduce_range": False}), ("b", portable_qdq, {})):
        path = tmp_path / f"{name}.onnx"
        recipe(tmp_path / "old.onnx", path, CALIBRATION, (), **options)
        onnx.checker.check_model(str(path), full_check=True)
        assert error(run(path), run(model)) < 0.2
