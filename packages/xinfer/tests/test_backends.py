"""The contract of backends: each, on each device that is here, against a NumPy reference."""

from __future__ import annotations

import shutil
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from xinfer import BackendError, EngineClosedError, HardwareTarget
from xinfer.backends import BACKENDS, CompiledModel, RuntimeSettings, check_settings, get_backend
from xinfer.builders import openvino_ir

HERE = HardwareTarget.detect()
RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(0, 0.5, (4, 3)).astype(np.float32)
BIAS = RNG.normal(0, 0.5, 3).astype(np.float32)
KERNEL = RNG.normal(0, 0.3, (5, 2, 3, 3)).astype(np.float32)
HAS_CUDA = any(gpu.device == "cuda" for gpu in HERE.gpus)


def _case(name: str, device: str) -> object:
    marks = []
    if device == "cuda":
        marks = [pytest.mark.gpu, pytest.mark.skipif(not HAS_CUDA, reason="no NVIDIA GPU is here")]
    return pytest.param((name, device), id=f"{name}-{device}", marks=marks)


CASES = [
    _case("openvino", "cpu"),
    _case("onnxruntime", "cpu"),
    _case("inductor", "cpu"),
    _case("onnxruntime", "cuda"),
    _case("inductor", "cuda"),
    _case("tensorrt", "cuda"),
]


def reference(x_N4: np.ndarray, image_NHW2: np.ndarray) -> dict[str, np.ndarray]:
    """What the model below computes."""
    planes = image_NHW2.astype(np.float32).transpose(0, 3, 1, 2) / 255
    padded = np.pad(planes, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return {
        "linear": np.maximum(x_N4 @ WEIGHT + BIAS, 0),
        "convolved": np.einsum("nchwij,ocij->nohw", windows, KERNEL),
    }


def save_onnx(path: Path) -> None:
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
    onnx.save(model, str(path))


def exported() -> object:
    """The same model as a torch.export program."""
    torch = pytest.importorskip("torch", reason="the backend inductor needs torch")

    class Reference(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(4, 3)
            self.conv = torch.nn.Conv2d(2, 5, 3, padding=1, bias=False)
            self.linear.weight.data = torch.from_numpy(WEIGHT.T.copy())
            self.linear.bias.data = torch.from_numpy(BIAS.copy())
            self.conv.weight.data = torch.from_numpy(KERNEL.copy())

        def forward(self, x: object, image: object) -> dict[str, object]:
            planes = (image.to(torch.float32) / 255).permute(0, 3, 1, 2)  # type: ignore[attr-defined]
            return {"linear": torch.relu(self.linear(x)), "convolved": self.conv(planes)}

    n, height, width = (torch.export.Dim(name, min=1, max=64) for name in ("n", "height", "width"))
    example = (torch.zeros(2, 4), torch.zeros((2, 6, 5, 2), dtype=torch.uint8))
    shapes = {"x": {0: n}, "image": {0: n, 1: height, 2: width}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(Reference().eval(), example, dynamic_shapes=shapes)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Makes each backend's artifact when it is first asked for."""
    root = tmp_path_factory.mktemp("artifacts")
    save_onnx(root / "model.onnx")

    def make(name: str, device: str) -> Path:
        info = BACKENDS[name]
        if not info.installed:
            pytest.skip(f"{info.runtime} is not installed")
        folder = root / f"{name}-{device}"
        if folder.exists():
            return folder
        folder.mkdir()
        if name == "openvino":
            openvino_ir.convert(root / "model.onnx", folder)
        elif name == "onnxruntime":
            shutil.copy(root / "model.onnx", folder)
        elif name == "inductor":
            if not (shutil.which("g++") or shutil.which("clang++")):
                pytest.skip("no C++ compiler is installed")
            from xinfer.backends.inductor import compile_exported

            compile_exported(exported(), folder, device=device)  # type: ignore[arg-type]
        else:
            from xinfer.backends.tensorrt_build import ShapeProfile, build

            profiles = {
                "x": ShapeProfile(min=(1, 4), opt=(2, 4), max=(8, 4)),
                "image": ShapeProfile(min=(1, 1, 1, 2), opt=(2, 6, 5, 2), max=(8, 16, 16, 2)),
            }
            build(root / "model.onnx", folder, profiles=profiles)
        return folder

    return make


@pytest.fixture(params=CASES)
def load(
    request: pytest.FixtureRequest, artifact: Callable[[str, str], Path]
) -> Callable[..., CompiledModel]:
    """Loads the backend under test with the settings given."""
    name, device = request.param
    folder = artifact(name, device)

    def load(
        num_threads: int = 1, num_streams: int = 1, cache_dir: Path | None = None, folder: Path = folder
    ) -> CompiledModel:
        settings = RuntimeSettings(num_threads=num_threads, num_streams=num_streams, device=device)
        return get_backend(name).load(folder, settings, cache_dir=cache_dir)

    return load


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


def test_every_backend_is_covered() -> None:
    assert {case.values[0][0] for case in CASES} == BACKENDS.keys()  # type: ignore[attr-defined]


class TestBackend:
    @pytest.mark.parametrize(("threads", "streams"), [(1, 1), (2, 1), (2, 2)])
    def test_fp32_equals_the_reference_when_sizes_change(
        self, load: Callable[..., CompiledModel], threads: int, streams: int
    ) -> None:
        model = load(threads, streams)
        for seed, (batch, height, width) in enumerate([(1, 4, 4), (3, 7, 5), (1, 9, 3)]):
            inputs = feeds(seed, batch, height, width)
            check(model.infer(inputs), inputs)

    def test_executed_precision_is_fp32_when_asked_for(self, load: Callable[..., CompiledModel]) -> None:
        assert load().executed_precision() == "fp32"

    def test_tensors_are_described(self, load: Callable[..., CompiledModel]) -> None:
        model = load()
        assert [(spec.name, spec.datatype, spec.shape) for spec in model.inputs] == [
            ("x", "FP32", (-1, 4)),
            ("image", "UINT8", (-1, -1, -1, 2)),
        ]
        assert [(spec.name, spec.dtype) for spec in model.outputs] == [
            ("linear", "float32"),
            ("convolved", "float32"),
        ]

    def test_outputs_belong_to_the_caller(self, load: Callable[..., CompiledModel]) -> None:
        model = load()
        inputs = feeds(0)
        first = model.infer(inputs)
        model.infer(feeds(1))
        check(first, inputs)

    def test_inputs_stay_as_they_are_when_not_writeable(self, load: Callable[..., CompiledModel]) -> None:
        inputs = feeds(0)
        for array in inputs.values():
            array.flags.writeable = False
        check(load().infer(inputs), inputs)

    def test_concurrent_callers_get_their_own_answers(self, load: Callable[..., CompiledModel]) -> None:
        model = load(2, 2)
        inputs = [feeds(seed, height=4 + seed % 3) for seed in range(40)]
        with ThreadPoolExecutor(8) as pool:
            for outputs, given in zip(pool.map(model.infer, inputs), inputs, strict=True):
                check(outputs, given)

    @pytest.mark.parametrize(
        "bad",
        [
            {"x": np.zeros((2, 7), np.float32)},
            {"x": np.zeros((2, 4), np.float64)},
            {"x": np.zeros((2, 4, 1), np.float32)},
            {"image": np.zeros((2, 6, 5, 3), np.uint8)},
            {"x": None},
            {"y": np.zeros((2, 4), np.float32)},
        ],
        ids=["shape", "dtype", "rank", "channels", "missing", "unknown"],
    )
    def test_refused_inputs_are_typed_errors_and_leave_the_model_usable(
        self, load: Callable[..., CompiledModel], bad: dict[str, np.ndarray | None]
    ) -> None:
        model = load()
        given = {name: array for name, array in (feeds(0) | bad).items() if array is not None}
        with pytest.raises(BackendError):
            model.infer(given)
        inputs = feeds(1)
        check(model.infer(inputs), inputs)

    def test_profile_names_every_layer_and_its_share(self, load: Callable[..., CompiledModel]) -> None:
        model = load()
        layers = model.profile(feeds(0), repeats=3)
        assert sum(layer.share for layer in layers) == pytest.approx(1)
        assert all(layer.time_ms >= 0 and layer.name and layer.type for layer in layers)
        assert len({layer.name for layer in layers}) == len(layers)
        assert "fp32" in {layer.precision for layer in layers if "conv" in (layer.type + layer.name).lower()}
        with pytest.raises(BackendError):
            model.profile(feeds(0) | {"x": np.zeros((2, 7), np.float32)}, repeats=1)
        inputs = feeds(1)
        check(model.infer(inputs), inputs)

    def test_infer_and_profile_fail_when_closed(self, load: Callable[..., CompiledModel]) -> None:
        model = load()
        model.close()
        model.close()
        for call in (model.infer, model.profile):
            with pytest.raises(EngineClosedError):
                call(feeds(0))
        with pytest.raises(EngineClosedError):
            model.executed_precision()

    def test_inferences_under_way_end_or_are_refused_when_closed(
        self, load: Callable[..., CompiledModel]
    ) -> None:
        model = load(2, 2)
        inputs = feeds(0)
        started = threading.Semaphore(0)

        def run() -> int:
            done = 0
            while True:
                try:
                    outputs = model.infer(inputs)
                except EngineClosedError:
                    return done
                check(outputs, inputs)
                done += 1
                started.release()

        with ThreadPoolExecutor(4) as pool:
            running = [pool.submit(run) for _ in range(4)]
            for _ in range(8):
                assert started.acquire(timeout=30)
            model.close()
            assert sum(future.result(timeout=30) for future in running) >= 8

    def test_a_kept_form_answers_alike_when_loaded_again(
        self, load: Callable[..., CompiledModel], tmp_path: Path
    ) -> None:
        inputs = feeds(0)
        for _ in range(2):
            model = load(cache_dir=tmp_path / "cache")
            check(model.infer(inputs), inputs)
            model.close()

    def test_a_damaged_artifact_is_a_typed_error(
        self, load: Callable[..., CompiledModel], tmp_path: Path
    ) -> None:
        for info in BACKENDS.values():
            for file in info.files:
                (tmp_path / file).write_bytes(b"garbage")
        with pytest.raises(BackendError):
            load(folder=tmp_path)


def settings(**changes: object) -> RuntimeSettings:
    return RuntimeSettings(**{"num_threads": 1, "num_streams": 1} | changes)  # type: ignore[arg-type]


@pytest.mark.skipif(HERE.bf16_flag is None, reason="this CPU does not execute bf16")
def test_openvino_executes_bf16_only_when_asked_to(artifact: Callable[[str, str], Path]) -> None:
    model = get_backend("openvino").load(artifact("openvino", "cpu"), settings(float_precision="bf16"))
    assert "bf16" in model.executed_precision()
    inputs = feeds(0)
    check(model.infer(inputs), inputs, tolerance=0.05)


@pytest.mark.parametrize(
    ("name", "device", "precision", "hint"),
    [
        ("onnxruntime", "cpu", "bf16", "openvino or inductor can"),
        ("onnxruntime", "npu", "fp16", "openvino can"),
        ("openvino", "cuda", "fp32", "onnxruntime or inductor or tensorrt can"),
        ("tensorrt", "cpu", "fp32", "openvino or onnxruntime or inductor can"),
    ],
)
def test_what_a_backend_cannot_do_is_refused_with_those_that_can(
    name: str, device: str, precision: str, hint: str
) -> None:
    with pytest.raises(BackendError) as caught:
        check_settings(name, device=device, precision=precision)  # type: ignore[arg-type]
    assert caught.value.code == "backend.unsupported"
    assert caught.value.hint == hint


def test_onnxruntime_refuses_bf16(artifact: Callable[[str, str], Path]) -> None:
    with pytest.raises(BackendError, match="bf16"):
        get_backend("onnxruntime").load(artifact("onnxruntime", "cpu"), settings(float_precision="bf16"))


@pytest.mark.skipif(HAS_CUDA, reason="this machine may have the CUDA provider")
@pytest.mark.parametrize(
    ("name", "device", "where"),
    [
        ("onnxruntime", "cuda", "onnxruntime-gpu"),
        ("onnxruntime", "rocm", "migraphx"),
        ("openvino", "npu", "CPU"),
    ],
)
def test_a_device_that_is_not_here_is_a_typed_error(
    name: str, device: str, where: str, artifact: Callable[[str, str], Path]
) -> None:
    precision = "fp16" if device == "npu" else "fp32"
    with pytest.raises(BackendError) as caught:
        get_backend(name).load(artifact(name, "cpu"), settings(device=device, float_precision=precision))
    assert caught.value.code == "backend.unavailable"
    assert caught.value.hint is not None
    assert where in caught.value.hint


def test_onnxruntime_takes_the_provider_of_the_device() -> None:
    from xinfer.backends.onnxruntime import providers

    every = [
        "CUDAExecutionProvider",
        "ROCMExecutionProvider",
        "MIGraphXExecutionProvider",
        "CPUExecutionProvider",
    ]
    assert providers(settings(), every) == ["CPUExecutionProvider"]
    (name, options), rest = providers(settings(device="cuda"), every)
    assert (name, options["use_tf32"], rest) == ("CUDAExecutionProvider", "0", "CPUExecutionProvider")
    (name, options), _ = providers(settings(device="rocm", float_precision="fp16"), every)
    assert (name, options["migraphx_fp16_enable"]) == ("MIGraphXExecutionProvider", "1")
    assert providers(settings(device="rocm"), every[1:2])[0][0] == "ROCMExecutionProvider"


def test_onnxruntime_optimises_again_when_its_kept_graph_is_damaged(
    artifact: Callable[[str, str], Path], tmp_path: Path
) -> None:
    backend, folder, inputs = get_backend("onnxruntime"), artifact("onnxruntime", "cpu"), feeds(0)
    backend.load(folder, settings(), cache_dir=tmp_path)
    (kept,) = tmp_path.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2])
    check(backend.load(folder, settings(), cache_dir=tmp_path).infer(inputs), inputs)
    assert kept.read_bytes() == whole
    backend.load(folder, settings(num_threads=2), cache_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_onnxruntime_keeps_models_apart_when_only_their_weights_differ(tmp_path: Path) -> None:
    answers = []
    for scale in (1.0, 2.0):
        folder = tmp_path / str(scale)
        folder.mkdir()
        save_onnx(tmp_path / "model.onnx")
        model = onnx.load(str(tmp_path / "model.onnx"))
        weight = next(tensor for tensor in model.graph.initializer if tensor.name == "weight")
        weight.CopyFrom(numpy_helper.from_array(WEIGHT * scale, "weight"))
        onnx.save(
            model,
            str(folder / "model.onnx"),
            save_as_external_data=True,
            location="weights",
            size_threshold=0,
        )
        loaded = get_backend("onnxruntime").load(folder, settings(), cache_dir=tmp_path / "cache")
        answers.append(loaded.infer(feeds(0))["linear"])
    assert not np.array_equal(*answers)


def test_settings_of_old_documents_are_read() -> None:
    old = {"num_threads": 2, "num_streams": 1, "float_precision": "bf16"}
    read = RuntimeSettings.from_json(old)
    assert (read.device, read.float_precision) == ("cpu", "bf16")
    assert RuntimeSettings.from_json(read.to_json()) == read


def test_an_unknown_backend_is_a_typed_error() -> None:
    with pytest.raises(BackendError) as caught:
        get_backend("tensorflow")
    assert caught.value.code == "backend.unknown"


def test_closing_openvino_wakes_inferences_that_wait(artifact: Callable[[str, str], Path]) -> None:
    model = get_backend("openvino").load(artifact("openvino", "cpu"), settings())
    feeds = {spec.name: np.ones([abs(size) for size in spec.shape], spec.dtype) for spec in model.inputs}
    model.infer(feeds)
    request = model._requests.get()  # type: ignore[attr-defined]  # an inference is under way
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(model.infer, feeds) for _ in range(2)]
        closing = pool.submit(model.close)
        while model._compiled is not None:  # type: ignore[attr-defined]
            time.sleep(0.001)
        assert not closing.done()
        model._requests.put(request)  # type: ignore[attr-defined]
        closing.result(timeout=10)
        for future in waiting:
            with pytest.raises(EngineClosedError):
                future.result(timeout=10)
    model.close()
