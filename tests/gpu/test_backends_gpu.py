"""TensorRT, ONNX Runtime and AOTInductor on an NVIDIA GPU: builds, precisions, threads, memory.

The contract that all backends share is `packages/xinfer/tests/test_backends.py`, which also runs here.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from xinfer import BackendError, HardwareTarget
from xinfer.backends import CompiledModel, RuntimeSettings, get_backend
from xinfer.backends.artifact_io import ArtifactIO

Arrays = Mapping[str, np.ndarray]
SETTINGS = RuntimeSettings(num_threads=1, num_streams=2, device="cuda")


def agree(model: CompiledModel, samples: Sequence[Arrays], expected: Sequence[Arrays], cosine: float) -> None:
    """Checks every answer, asked for from eight threads at once."""
    with ThreadPoolExecutor(8) as pool:
        for found, want in zip(pool.map(model.infer, list(samples) * 4), list(expected) * 4, strict=True):
            assert list(found) == list(want)
            for name, array in want.items():
                assert found[name].shape == array.shape
                left, right = found[name].astype(np.float64).ravel(), array.astype(np.float64).ravel()
                assert left @ right / (np.linalg.norm(left) * np.linalg.norm(right)) >= cosine, name


def test_detection_agrees_with_the_driver(torch_cuda: None) -> None:
    import torch

    major, minor = torch.cuda.get_device_capability(0)
    gpus = [gpu for gpu in HardwareTarget.detect().gpus if gpu.device == "cuda"]
    assert f"sm_{major}{minor}" in {gpu.arch for gpu in gpus}
    assert all(gpu.driver and gpu.name for gpu in gpus)


def tensorrt_engine(source: Path, folder: Path, timing_cache: Path | None = None) -> Path:
    from xinfer.backends.tensorrt_build import ShapeProfile, build

    folder.mkdir()
    profiles = {"image": ShapeProfile(min=(1, 3, 32, 32), opt=(2, 3, 32, 32), max=(4, 3, 32, 32))}
    build(source, folder, profiles=profiles, timing_cache=timing_cache)
    return folder


@pytest.mark.parametrize(("precision", "cosine"), [("fp32", 0.99999), ("fp16", 0.9999), ("bf16", 0.999)])
def test_tensorrt_executes_the_precision_of_the_graph(
    precision: Any,
    cosine: float,
    tensorrt: None,
    source: Path,
    samples: list[Arrays],
    expected: list[Arrays],
    tmp_path: Path,
) -> None:
    from xinfer.backends.tensorrt_graph import convert_file

    path = source
    if precision != "fp32":
        path = tmp_path / "half.onnx"
        convert_file(source, path, precision)
    model = get_backend("tensorrt").load(tensorrt_engine(path, tmp_path / "engine"), SETTINGS)
    assert precision in model.executed_precision()
    agree(model, samples, expected, cosine)
    layers = model.profile(samples[0], repeats=5)
    assert sum(layer.share for layer in layers) == pytest.approx(1)
    assert precision in {layer.precision for layer in layers}
    model.close()


def test_tensorrt_executes_explicit_int8(
    tensorrt: None, source: Path, samples: list[Arrays], expected: list[Arrays], tmp_path: Path
) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization", reason="writes the QDQ graph")
    from xinfer.backends.tensorrt_graph import check_quantisation

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            self.left = iter(samples)

        def get_next(self) -> Any:
            return next(self.left, None)

    path = tmp_path / "int8.onnx"
    quantization.quantize_static(
        str(source),
        str(path),
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        activation_type=quantization.QuantType.QInt8,
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=["Conv"],
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    )
    check_quantisation(onnx.load(str(path)))
    model = get_backend("tensorrt").load(tensorrt_engine(path, tmp_path / "engine"), SETTINGS)
    assert "int8" in model.executed_precision()
    agree(model, samples, expected, 0.99)
    model.close()


def test_tensorrt_keeps_what_it_measured(tensorrt: None, source: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "timing"
    tensorrt_engine(source, tmp_path / "first", cache)
    size = cache.stat().st_size
    assert size > 0
    tensorrt_engine(source, tmp_path / "second", cache)
    assert cache.stat().st_size >= size


def test_tensorrt_refuses_a_size_beyond_its_profile(tensorrt: None, source: Path, tmp_path: Path) -> None:
    model = get_backend("tensorrt").load(tensorrt_engine(source, tmp_path / "engine"), SETTINGS)
    with pytest.raises(BackendError, match=r"1\.\.4"):
        model.infer({"image": np.zeros((5, 3, 32, 32), np.float32)})
    model.close()


def test_tensorrt_names_the_node_that_it_cannot_parse(tensorrt: None, source: Path, tmp_path: Path) -> None:
    model = onnx.load(str(source))
    model.graph.node[1].op_type = "NoSuchOperator"
    onnx.save(model, str(tmp_path / "bad.onnx"))
    with pytest.raises(BackendError, match="relu0"):
        tensorrt_engine(tmp_path / "bad.onnx", tmp_path / "engine")


def test_tensorrt_gives_its_memory_back(
    tensorrt: None, source: Path, samples: list[Arrays], tmp_path: Path
) -> None:
    from xinfer.backends.cuda_memory import call, runtime

    engine = tensorrt_engine(source, tmp_path / "engine")
    free_bytes = []
    for _ in range(20):
        model = get_backend("tensorrt").load(engine, SETTINGS)
        model.infer(samples[0])
        model.close()
        free_bytes.append(call(runtime().cudaMemGetInfo())[0])
    # The first loads keep the runtime's own.
    assert free_bytes[-1] >= free_bytes[4] - (8 << 20)


def test_onnxruntime_executes_on_the_gpu(
    ort_cuda: None, source: Path, samples: list[Arrays], expected: list[Arrays], tmp_path: Path
) -> None:
    shutil.copy(source, tmp_path / "model.onnx")
    model = get_backend("onnxruntime").load(tmp_path, SETTINGS, cache_dir=tmp_path / "cache")
    assert model.executed_precision() == "fp32"
    agree(model, samples, expected, 0.99999)
    assert sum(layer.share for layer in model.profile(samples[0], repeats=3)) == pytest.approx(1)
    model.close()


@pytest.mark.parametrize(("precision", "cosine"), [("fp32", 0.99999), ("bf16", 0.999), ("fp16", 0.9999)])
def test_inductor_executes_on_the_gpu(
    precision: Any, cosine: float, torch_cuda: None, samples: list[Arrays], tmp_path: Path
) -> None:
    import torch

    from xinfer.backends.inductor import compile_exported

    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 3, 2, 1),
        torch.nn.BatchNorm2d(32),
        torch.nn.ReLU(),
        torch.nn.Conv2d(32, 32, 3, padding=1),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(32, 10),
    ).eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        batch = torch.export.Dim("batch", min=1, max=8)
        example = (torch.zeros(2, 3, 32, 32),)
        program = torch.export.export(net, example, dynamic_shapes=({0: batch},))
        compile_exported(
            program,
            tmp_path,
            precision=precision,
            device="cuda",
            input_names=["image"],
            output_names=["logits"],
        )
        expected = [{"logits": net(torch.from_numpy(feeds["image"])).numpy()} for feeds in samples]
    major, minor = torch.cuda.get_device_capability()
    assert f"sm_{major}{minor}" in ArtifactIO.load(tmp_path).target
    model = get_backend("inductor").load(tmp_path, SETTINGS)
    assert precision in model.executed_precision()
    agree(model, samples, expected, cosine)
    assert sum(layer.share for layer in model.profile(samples[0], repeats=3)) == pytest.approx(1)
    model.close()
