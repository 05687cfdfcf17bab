"""A model that INT8 ruins: mixed precision repairs it, or fp32 wins; never published below budget."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from xinfer import EngineBuilder, InferenceEngine

CHANNELS, OUTLIER, LAYERS = 48, 11, 4
Feeds = dict[str, np.ndarray]


def batches(num: int, seed: int) -> list[Feeds]:
    rng = np.random.default_rng(seed)
    return [{"x": np.abs(rng.normal(0, 1, (8, CHANNELS))).astype(np.float32)} for _ in range(num)]


CALIBRATION, HELD_OUT = batches(8, 1), batches(6, 2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One channel between the layers is a thousand times the others, and means little."""
    rng = np.random.default_rng(0)
    weights = [rng.normal(0, (2 / CHANNELS) ** 0.5, (CHANNELS, CHANNELS)) for _ in range(LAYERS)]
    weights[1][:, OUTLIER] = 1000 * np.abs(weights[1][:, OUTLIER])
    weights[2][OUTLIER] /= 10_000
    nodes, tensor = [], "x"
    for index in range(LAYERS):
        product = "y" if index == LAYERS - 1 else f"p{index}"
        nodes.append(helper.make_node("MatMul", [tensor, f"w{index}"], [product], f"layer{index}"))
        if index < LAYERS - 1:
            tensor = f"r{index}"
            nodes.append(helper.make_node("Relu", [product], [tensor], f"relu{index}"))
    graph = helper.make_graph(
        nodes,
        "outliers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", CHANNELS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", CHANNELS])],
        [numpy_helper.from_array(value.astype(np.float32), f"w{i}") for i, value in enumerate(weights)],
    )
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def builder(model: Path) -> EngineBuilder:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    wanted = np.concatenate([session.run(["y"], feeds)[0] for feeds in HELD_OUT])

    def agreement(outputs: Sequence[Feeds]) -> float:
        """Mean cosine around the mean: a large common part must not hide that the rest is gone."""
        found = np.concatenate([output["y"] for output in outputs])
        a, b = found - found.mean(axis=0), wanted - wanted.mean(axis=0)
        return float(
            ((a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1) + 1e-12)).mean()
        )

    return (
        EngineBuilder.from_onnx(model)
        .with_backends("onnxruntime")
        .with_precision("fp32")
        .with_int8(CALIBRATION)
        .with_accuracy_budget(metric="agreement", evaluate=agreement, samples=HELD_OUT, max_drop=0.01)
        .with_budget(120)
    )


def test_mixed_precision_repairs_int8_when_it_collapses(builder: EngineBuilder, tmp_path: Path) -> None:
    package = builder.build_and_save(tmp_path / "x.engine")
    rows = {row.id: row for row in package.receipt.candidates}
    plain = rows["onnxruntime/int8/ort-qdq/network"]
    assert plain.status == "over_budget"
    assert plain.drop is not None
    assert plain.drop > 0.1, "plain INT8 must collapse, or this proves nothing"
    mixed = rows["onnxruntime/int8/ort-qdq/network/mixed"]
    assert mixed.drop is not None
    assert mixed.drop <= 0.01
    assert "layer2" in mixed.settings["float_layers"], "it reads the outlier"
    assert len(mixed.settings["float_layers"]) < LAYERS
    assert mixed.precision_executed is not None
    assert "int8" in mixed.precision_executed
    assert package.receipt.accuracy is not None
    with InferenceEngine.load(package, require_signature=False) as engine:
        assert builder.plan.evaluate is not None
        value = builder.plan.evaluate([engine.infer(feeds) for feeds in HELD_OUT])
    assert value >= package.receipt.accuracy.source_value - 0.01


def test_fp32_wins_and_the_receipt_says_why_when_nothing_repairs(
    builder: EngineBuilder, tmp_path: Path
) -> None:
    plan = builder.plan
    strict = builder.with_accuracy_budget(
        metric=plan.metric, evaluate=plan.evaluate, samples=plan.samples, max_drop=1e-7
    )
    package = strict.build_and_save(tmp_path / "x.engine")
    assert package.manifest.precision.executed == "fp32"
    rows = {row.id: row for row in package.receipt.candidates}
    mixed = rows["onnxruntime/int8/ort-qdq/network/mixed"]
    assert mixed.status == "over_budget"
    assert "layers in float" in str(mixed.reason)
