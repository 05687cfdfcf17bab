"""Every backend against a NumPy reference."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from xinfer import BackendError, EngineClosedError, HardwareTarget
from xinfer.backends import BACKENDS, RuntimeSettings, get_backend
from xinfer.builders import openvino_ir

RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(0, 0.5, (4, 3)).astype(np.float32)
BIAS = RNG.normal(0, 0.5, 3).astype(np.float32)
KERNEL = RNG.normal(0, 0.3, (5, 2, 3, 3)).astype(np.float32)


def reference(x_N4: np.ndarray, image_NHW2: np.ndarray) -> dict[str, np.ndarray]:
    """What the model below computes."""
    planes = image_NHW2.astype(np.float32).transpose(0, 3, 1, 2) / 255
    padded = np.pad(planes, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return {
        "linear": np.maximum(x_N4 @ WEIGHT + BIAS, 0),
        "convolved": np.einsum("nchwij,ocij->nohw", windows, KERNEL),
    }


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    nodes = [
        helper.make_node("Gemm", ["x", "weight", "bias"], ["gemm"]),
        helper.make_node("Relu", ["gemm"], ["linear"]),
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "scale"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "kernel"], ["convolved"], pads=[1, 1, 1, 1]),
    ]
    constants = {"weight": WEIGHT, "bias": BIAS, "kernel": KERNEL, "scale": np.float32(255)}
    graph = helper.make_graph(
        nodes,
        "reference",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4]),
            helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 2]),
        ],
        [
            helper.make_tensor_value_info("linear", TensorProto.FLOAT, ["N", 3]),
            helper.make_tensor_value_info("convolved", TensorProto.FLOAT, ["N", 5, "H", "W"]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    root = tmp_path_factory.mktemp("artifacts")
    (root / "onnxruntime").mkdir()
    onnx.save(model, str(root / "onnxruntime" / "model.onnx"))
    openvino_ir.convert(root / "onnxruntime" / "model.onnx", root / "openvino")
    return {name: root / name for name in BACKENDS}


def feeds(seed: int, batch: int = 2, height: int = 6, width: int = 5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(size=(batch, 4)).astype(np.float32),
        "image": rng.integers(0, 256, (batch, height, width, 2), dtype=np.uint8),
    }


def check(outputs: dict[str, np.ndarray], inputs: dict[str, np.ndarray], tolerance: float = 1e-4) -> None:
    expected = reference(inputs["x"], inputs["image"])
    assert list(outputs) == ["linear", "convolved"]
    for name, array in expected.items():
        np.testing.assert_allclose(outputs[name], array, atol=tolerance, rtol=tolerance)


def test_every_backend_is_covered(artifacts: dict[str, Path]) -> None:
    assert artifacts.keys() == BACKENDS.keys()


@pytest.mark.parametrize("name", BACKENDS)
class TestBackend:
    @pytest.mark.parametrize(("threads", "streams"), [(1, 1), (2, 1), (2, 2)])
    def test_fp32_equals_the_reference(
        self, name: str, artifacts: dict[str, Path], threads: int, streams: int
    ) -> None:
        settings = RuntimeSettings(num_threads=threads, num_streams=streams)
        model = get_backend(name).load(artifacts[name], settings)
        for seed, (batch, height, width) in enumerate([(1, 4, 4), (3, 7, 5), (1, 9, 3)]):
            inputs = feeds(seed, batch, height, width)
            check(model.infer(inputs), inputs)

    def test_executed_precision_is_fp32_when_asked_for(self, name: str, artifacts: dict[str, Path]) -> None:
        model = get_backend(name).load(artifacts[name], RuntimeSettings(num_threads=1, num_streams=1))
        assert model.executed_precision() == "fp32"

    def test_tensors_are_described(self, name: str, artifacts: dict[str, Path]) -> None:
        model = get_backend(name).load(artifacts[name], RuntimeSettings(num_threads=1, num_streams=1))
        assert [(spec.name, spec.datatype, spec.shape) for spec in model.inputs] == [
            ("x", "FP32", (-1, 4)),
            ("image", "UINT8", (-1, -1, -1, 2)),
        ]
        assert [(spec.name, spec.dtype) for spec in model.outputs] == [
            ("linear", "float32"),
            ("convolved", "float32"),
        ]

    def test_outputs_belong_to_the_caller(self, name: str, artifacts: dict[str, Path]) -> None:
        model = get_backend(name).load(artifacts[name], RuntimeSettings(num_threads=1, num_streams=1))
        inputs = feeds(0)
        first = model.infer(inputs)
        model.infer(feeds(1))
        check(first, inputs)

    def test_concurrent_callers_get_their_own_answers(self, name: str, artifacts: dict[str, Path]) -> None:
        model = get_backend(name).load(artifacts[name], RuntimeSettings(num_threads=2, num_streams=2))
        inputs = [feeds(seed, height=4 + seed % 3) for seed in range(40)]
        with ThreadPoolExecutor(8) as pool:
            for outputs, given in zip(pool.map(model.infer, inputs), inputs, strict=True):
                check(outputs, given)

    def test_a_refused_input_is_a_typed_error_and_leaves_the_model_usable(
        self, name: str, artifacts: dict[str, Path]
    ) -> None:
        model = get_backend(name).load(artifacts[name], RuntimeSettings(num_threads=1, num_streams=1))
        bad = feeds(0) | {"x": np.zeros((2, 7), np.float32)}
        with pytest.raises(BackendError):
            model.infer(bad)
        inputs = feeds(1)
        check(model.infer(inputs), inputs)

    def test_profile_names_every_layer_and_its_share(self, name: str, artifacts: dict[str, Path]) -> None:
        model = get_backend(name).load(artifacts[name], RuntimeSettings(num_threads=1, num_streams=1))
        layers = model.profile(feeds(0), repeats=3)
        assert sum(layer.share for layer in layers) == pytest.approx(1)
        assert all(layer.time_ms >= 0 and layer.name and layer.type for layer in layers)
        assert {layer.precision for layer in layers if "Conv" in layer.type} >= {"fp32"}
        with pytest.raises(BackendError):
            model.profile(feeds(0) | {"x": np.zeros((2, 7), np.float32)}, repeats=1)

    def test_infer_fails_when_closed(self, name: str, artifacts: dict[str, Path]) -> None:
        model = get_backend(name).load(artifacts[name], RuntimeSettings(num_threads=1, num_streams=1))
        model.close()
        with pytest.raises(EngineClosedError):
            model.infer(feeds(0))

    def test_a_damaged_artifact_is_a_typed_error(self, name: str, tmp_path: Path) -> None:
        for file in ("model.onnx", "model.xml", "model.bin"):
            (tmp_path / file).write_bytes(b"garbage")
        with pytest.raises(BackendError):
            get_backend(name).load(tmp_path, RuntimeSettings(num_threads=1, num_streams=1))


@pytest.mark.skipif(HardwareTarget.detect().bf16_flag is None, reason="this CPU does not execute bf16")
def test_openvino_executes_bf16_only_when_asked_to(artifacts: dict[str, Path]) -> None:
    settings = RuntimeSettings(num_threads=1, num_streams=1, float_precision="bf16")
    model = get_backend("openvino").load(artifacts["openvino"], settings)
    assert "bf16" in model.executed_precision()
    inputs = feeds(0)
    check(model.infer(inputs), inputs, tolerance=0.05)


def test_onnxruntime_refuses_bf16(artifacts: dict[str, Path]) -> None:
    settings = RuntimeSettings(num_threads=1, num_streams=1, float_precision="bf16")
    with pytest.raises(BackendError, match="bf16"):
        get_backend("onnxruntime").load(artifacts["onnxruntime"], settings)


def test_an_unknown_backend_is_a_typed_error() -> None:
    with pytest.raises(BackendError) as caught:
        get_backend("tensorflow")
    assert caught.value.code == "backend.unknown"


def test_closing_openvino_wakes_inferences_that_wait(artifacts: dict[str, Path]) -> None:
    model = get_backend("openvino").load(artifacts["openvino"], RuntimeSettings(num_threads=1, num_streams=1))
    feeds = {spec.name: np.ones([abs(size) for size in spec.shape], spec.dtype) for spec in model.inputs}
    model.infer(feeds)
    request = model._requests.get()  # an inference is under way
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(model.infer, feeds) for _ in range(2)]
        closing = pool.submit(model.close)
        while model._compiled is not None:
            time.sleep(0.001)
        assert not closing.done()
        model._requests.put(request)
        closing.result(timeout=10)
        for future in waiting:
            with pytest.raises(EngineClosedError):
                future.result(timeout=10)
    model.close()
