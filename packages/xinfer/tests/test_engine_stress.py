"""Engines under load: answers belong to their requests, memory comes back."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from xinfer import EngineBuilder, InferenceEngine

WIDTH = 64
NUM_THREADS, NUM_INFERENCES = 8, 1000


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def engine_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y = x @ W, with 8 MiB of weights behind it that a leak would keep."""
    folder = tmp_path_factory.mktemp("stress")
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(0, 1, (WIDTH, WIDTH)).astype(np.float32),
        "wide": rng.normal(0, 1, (WIDTH, 1 << 15)).astype(np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["y"], "product"),
            helper.make_node("MatMul", ["x", "wide"], ["p"], "ballast"),
            helper.make_node("ReduceMax", ["p"], ["z"], "reduced", keepdims=0),
        ],
        "stress",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, WIDTH])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, WIDTH]),
            helper.make_tensor_value_info("z", TensorProto.FLOAT, []),
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    samples = [{"x": rng.normal(0, 1, (1, WIDTH)).astype(np.float32)} for _ in range(2)]
    (
        EngineBuilder.from_onnx(path)
        .with_backends(request.param)
        .with_precision("fp32")
        .with_accuracy_budget(metric="cosine", samples=samples)
        .with_budget(1)
        .build_and_save(folder / "stress.engine")
    )
    np.save(folder / "w.npy", weights["w"])
    return folder / "stress.engine"


def test_every_answer_belongs_to_its_request_when_eight_threads_ask_at_once(engine_path: Path) -> None:
    w = np.load(engine_path.parent / "w.npy")
    wrong: list[str] = []
    with InferenceEngine.load(engine_path, require_signature=False) as engine:

        def ask(thread: int) -> None:
            rng = np.random.default_rng(thread)
            for index in range(NUM_INFERENCES):
                x = rng.normal(0, 1, (1, WIDTH)).astype(np.float32)
                # Half of them through futures: both ways share the engine's streams.
                answer = engine.infer_async({"x": x}).result() if index % 2 else engine.infer({"x": x})
                if not np.allclose(answer["y"], x @ w, atol=1e-3):
                    wrong.append(f"thread {thread}, request {index}")

        threads = [threading.Thread(target=ask, args=(index,), daemon=True) for index in range(NUM_THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=240)
        assert not any(thread.is_alive() for thread in threads), "deadlock"
    assert wrong == []


def test_results_come_in_order_when_many_run_at_once(engine_path: Path) -> None:
    w = np.load(engine_path.parent / "w.npy")
    rng = np.random.default_rng(1)
    xs = [rng.normal(0, 1, (1, WIDTH)).astype(np.float32) for _ in range(200)]
    taken = 0

    def feeds():
        nonlocal taken
        for x in xs:
            taken += 1
            yield {"x": x}

    with InferenceEngine.load(engine_path, require_signature=False) as engine:
        results = engine.infer_many(feeds(), in_flight=4)
        first = next(results)
        assert taken == 4, "inputs are taken as they are needed"
        for x, answer in zip(xs, [first, *results], strict=True):
            np.testing.assert_allclose(answer["y"], x @ w, atol=1e-3)


LOADS = """
import sys, psutil
from xinfer import InferenceEngine

def resident():
    return psutil.Process().memory_info().rss

def load(num):
    for _ in range(num):
        with InferenceEngine.load(sys.argv[1], require_signature=False) as engine:
            engine.infer(engine.golden.inputs)

load(15)
before = resident()
load(int(sys.argv[2]))
print((resident() - before) / 2**20)
"""


def test_memory_comes_back_when_engines_are_closed(engine_path: Path) -> None:
    num_loads = 40
    size_mib = engine_path.stat().st_size / 2**20
    assert size_mib > 8
    out = subprocess.run(
        [sys.executable, "-c", LOADS, str(engine_path), str(num_loads)],
        capture_output=True,
        text=True,
        check=True,
        timeout=280,
    )
    grown_mib = float(out.stdout)
    assert grown_mib < 0.1 * num_loads * size_mib, "keeping a tenth of every engine would be a leak"


def test_inference_waits_for_nothing_when_engine_is_closed_meanwhile(engine_path: Path) -> None:
    from xinfer import EngineClosedError

    engine = InferenceEngine.load(engine_path, require_signature=False)
    closed: list[bool] = []

    def ask() -> None:
        try:
            while True:
                engine.infer(engine.golden.inputs)
        except EngineClosedError:
            closed.append(True)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    engine.close()
    for thread in threads:
        thread.join(timeout=60)
    assert closed == [True] * 4
