"""Tests that need an NVIDIA GPU. Each says what it misses where it is skipped."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from xinfer import HardwareTarget

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpus = [gpu for gpu in HardwareTarget.detect().gpus if gpu.device == "cuda"]
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not gpus:
                item.add_marker(pytest.mark.skip(reason="nvidia-smi shows no GPU here"))


def need(*modules: str) -> None:
    """Skips the test unless these modules are installed."""
    for module in modules:
        try:
            found = importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:
            found = False
        if not found:
            pytest.skip(f"{module} is not installed")


@pytest.fixture
def tensorrt() -> None:
    need("tensorrt", "cuda.bindings.runtime")


@pytest.fixture
def torch_cuda() -> None:
    need("torch")
    import torch

    if not torch.cuda.is_available():
        pytest.skip("the installed torch has no CUDA or sees no GPU")


@pytest.fixture
def ort_cuda() -> None:
    need("onnxruntime")
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("the installed ONNX Runtime has no CUDAExecutionProvider: onnxruntime-gpu has")


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """image [N,3,32,32] -> probability [N,10], features [N,32,16,16]: a small residual network."""
    rng = np.random.default_rng(0)
    constants = {
        "k0": rng.normal(0, 0.2, (32, 3, 3, 3)).astype(np.float32),
        "b0": rng.normal(0, 0.1, 32).astype(np.float32),
        "k1": rng.normal(0, 0.06, (32, 32, 3, 3)).astype(np.float32),
        "b1": rng.normal(0, 0.1, 32).astype(np.float32),
        "w": rng.normal(0, 0.3, (32, 10)).astype(np.float32),
        "axes": np.array([2, 3], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["image", "k0", "b0"], ["c0"], "conv0", pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Relu", ["c0"], ["r0"], "relu0"),
        helper.make_node("Conv", ["r0", "k1", "b1"], ["c1"], "conv1", pads=[1] * 4),
        helper.make_node("Add", ["c1", "r0"], ["features"], "residual"),
        helper.make_node("ReduceMean", ["features", "axes"], ["mean"], "mean", keepdims=0),
        helper.make_node("MatMul", ["mean", "w"], ["logits"], "head"),
        helper.make_node("Softmax", ["logits"], ["probability"], "softmax"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 32, 32])],
        [
            helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N", 10]),
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 32, 16, 16]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    path = tmp_path_factory.mktemp("source") / "model.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    return path


@pytest.fixture(scope="session")
def samples() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"image": rng.normal(size=(1 + i % 4, 3, 32, 32)).astype(np.float32)} for i in range(12)]


@pytest.fixture(scope="session")
def expected(source: Path, samples: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """What the source model answers on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return [dict(zip(names, session.run(names, feeds), strict=True)) for feeds in samples]
