"""TensorRT's backend as far as it goes without a GPU: graphs, profiles, versions, messages, and the calls
that a build makes, on a stand-in for the module `tensorrt`."""

from __future__ import annotations

import json
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from xinfer import BackendError, MissingExtraError
from xinfer.backends import RuntimeSettings, get_backend, tensorrt_build
from xinfer.backends.artifact_io import ArtifactIO
from xinfer.backends.tensorrt_build import ShapeProfile, complete_profiles, parse_layers
from xinfer.backends.tensorrt_graph import check_quantisation, with_half_precision


def small_graph() -> onnx.ModelProto:
    """image [N,3,8,8] -> softmax [N,4], features [N,8,8,8]; a residual path, a norm-like tail in fp32."""
    rng = np.random.default_rng(0)
    constants = {
        "k0": rng.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32),
        "b0": rng.normal(0, 0.1, 8).astype(np.float32),
        "k1": rng.normal(0, 0.2, (8, 8, 3, 3)).astype(np.float32),
        "w": rng.normal(0, 0.3, (8, 4)).astype(np.float32),
        "axes": np.array([2, 3], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["image", "k0", "b0"], ["c0"], "conv0", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c0"], ["r0"], "relu0"),
        helper.make_node("Conv", ["r0", "k1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c1", "r0"], ["features"], "residual"),
        helper.make_node("ReduceMean", ["features", "axes"], ["mean"], "mean", keepdims=0),
        helper.make_node("MatMul", ["mean", "w"], ["logits"], "head"),
        helper.make_node("Softmax", ["logits"], ["probability"], "softmax"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [
            helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N", 4]),
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 8, 8, 8]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, check_type=True).graph
    return {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}


@pytest.mark.parametrize(
    ("precision", "half"), [("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)]
)
def test_convolutions_and_products_compute_in_half_precision_when_asked_to(precision: Any, half: int) -> None:
    model = with_half_precision(small_graph(), precision)
    onnx.checker.check_model(model, full_check=True)
    types = types_of(model)
    by_name = {node.name: node for node in model.graph.node}
    for name in ("conv0", "relu0", "conv1", "residual", "head"):
        assert types[by_name[name].output[0]] == half, name
    for name in ("mean", "softmax"):
        assert types[by_name[name].output[0]] == TensorProto.FLOAT, name
    assert types["features"] == types["probability"] == TensorProto.FLOAT
    # No cast stands between two layers in half precision.
    assert by_name["relu0"].input[0] == by_name["conv0"].output[0]
    assert set(by_name["residual"].input) == {by_name["conv1"].output[0], by_name["relu0"].output[0]}


def test_half_precision_answers_as_the_source_does() -> None:
    ort = pytest.importorskip("onnxruntime", reason="runs the graphs")
    image = np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32)
    want, found = (
        ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            ["probability", "features"], {"image": image}
        )
        for model in (small_graph(), with_half_precision(small_graph(), "fp16"))
    )
    for left, right in zip(want, found, strict=True):
        np.testing.assert_allclose(left, right, atol=5e-3)
        assert not np.array_equal(left, right)


def qdq(zero: int | None, kind: int = TensorProto.INT8, name: str = "quantise_x") -> onnx.ModelProto:
    inputs = ["x", "scale"] + (["zero"] if zero is not None else [])
    numpy_kind = helper.tensor_dtype_to_np_dtype(kind)
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", inputs, ["q"], name),
            helper.make_node("DequantizeLinear", ["q", *inputs[1:]], ["y"], "dequantise_x"),
        ],
        "qdq",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        [numpy_helper.from_array(np.float32(0.1), "scale")]
        + ([numpy_helper.from_array(np.array(zero, numpy_kind), "zero")] if zero is not None else []),
    )
    return helper.make_model(graph)


def test_quantisation_is_accepted_when_symmetric() -> None:
    check_quantisation(qdq(0))
    check_quantisation(small_graph())


@pytest.mark.parametrize(
    ("model", "message"),
    [(qdq(3), "not 0"), (qdq(0, TensorProto.UINT8), "UINT8"), (qdq(128, TensorProto.UINT8), "UINT8")],
)
def test_quantisation_is_refused_by_the_name_of_the_node(model: onnx.ModelProto, message: str) -> None:
    with pytest.raises(BackendError, match=message) as caught:
        check_quantisation(model)
    assert caught.value.value == "quantise_x"
    assert caught.value.code == "backend.unsupported"


def test_operators_of_other_runtimes_are_refused() -> None:
    model = small_graph()
    model.graph.node[2].op_type = "ConvInteger"
    with pytest.raises(BackendError, match="another runtime"):
        check_quantisation(model)


def test_profiles_are_completed_with_fixed_shapes() -> None:
    profile = ShapeProfile(min=(1, 8), opt=(4, 8), max=(16, 8))
    complete = complete_profiles({"a": (-1, 8), "b": (3,)}, {"a": profile})
    assert complete == {"a": profile, "b": ShapeProfile(min=(3,), opt=(3,), max=(3,))}


@pytest.mark.parametrize(
    ("shapes", "profiles", "message"),
    [
        ({"a": (-1, 8)}, {}, "no profile"),
        ({"a": (-1, 8)}, {"a": ShapeProfile(min=(1, 8), opt=(1, 8), max=(2, 9))}, "does not fit"),
        ({"a": (-1, 8)}, {"a": ShapeProfile(min=(1,), opt=(1,), max=(2,))}, "does not fit"),
        ({"a": (8,)}, {"b": ShapeProfile(min=(1,), opt=(1,), max=(2,))}, "no input 'b'"),
    ],
)
def test_profiles_are_refused_when_they_contradict_the_model(
    shapes: Any, profiles: Any, message: str
) -> None:
    with pytest.raises(BackendError, match=message):
        complete_profiles(shapes, profiles)


@pytest.mark.parametrize(
    "sizes", [((2,), (1,), (3,)), ((1,), (4,), (3,)), ((0,), (1,), (1,)), ((1,), (1, 1), (1,))]
)
def test_a_profile_out_of_order_is_refused(sizes: Any) -> None:
    low, best, high = sizes
    with pytest.raises(ValueError, match="must"):
        ShapeProfile(min=low, opt=best, max=high)


@pytest.mark.parametrize(
    "tensor",
    [
        {"Name": "x", "Format/Datatype": "Channel major FP16 format where C % 2 == 0"},
        {"Name": "x", "Format": "Row major linear format", "DataType": "Half"},
    ],
    ids=["10.x", "11"],
)
def test_layers_are_read_from_either_release(tensor: dict[str, str]) -> None:
    document = {
        "Layers": [{"Name": "conv0", "LayerType": "CaskConvolution", "Inputs": [tensor], "Outputs": []}]
    }
    assert parse_layers(json.dumps(document)) == [("conv0", "CaskConvolution", "fp16")]
    assert parse_layers(json.dumps({"Layers": ["conv0"]})) == [("conv0", "unknown", "unknown")]


@pytest.mark.parametrize(
    ("text", "precision"),
    [("Row major linear FP32", "fp32"), ("Float", "fp32"), ("BFloat16", "bf16"), ("FP8", "fp8"),
     ("?", "unknown"),
     ("Four wide channel vectorized row major Int8 format", "int8"), ("Row major linear BF16", "bf16"),
     ("Int64", "int64")],
)  # fmt: skip
def test_precisions_are_read_from_the_inspectors_words(text: str, precision: str) -> None:
    layer = {"Name": "a", "LayerType": "b", "Inputs": [{"Format/Datatype": text}], "Outputs": []}
    assert parse_layers(json.dumps({"Layers": [layer]}))[0][2] == precision


class FakeTensorRT:
    """As much of the module as a build touches; `calls` keeps what the build asked for.

    It has no more than TensorRT 11 has: what 10.x alone has is added for 10.x.
    """

    class Severity(IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2

    def __init__(self, version: str, *, parses: bool = True, builds: bool = True) -> None:
        self.__version__ = version
        self.calls: dict[str, Any] = {}
        self.parses, self.builds = parses, builds
        severity = self.Severity

        class Logger:
            Severity = severity

        self.ILogger = Logger
        self.MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
        self.ProfilingVerbosity = SimpleNamespace(DETAILED="detailed")
        self.BuilderFlag = SimpleNamespace(TF32="tf32")
        self.TensorIOMode = SimpleNamespace(INPUT="in", OUTPUT="out")
        self.LayerInformationFormat = SimpleNamespace(JSON="json")
        names = ("FLOAT", "HALF", "INT8", "INT32", "INT64", "BOOL", "UINT8", "BF16")
        self.DataType = SimpleNamespace(**{name: name for name in names})
        if version.startswith("10"):
            self.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)

    def Builder(self, logger: Any) -> Any:  # noqa: N802
        self.logger = logger

        def create_network(flags: int) -> Any:
            self.calls["flags"] = flags
            tensor = SimpleNamespace(name="image", shape=(-1, 3, 8, 8))
            return SimpleNamespace(num_inputs=1, get_input=lambda index: tensor)

        def build_serialized_network(network: Any, config: Any) -> bytes | None:
            if self.builds:
                return b"plan"
            logger.log(self.Severity.WARNING, "a warning")
            logger.log(self.Severity.ERROR, "OutOfMemory: 17 GB were asked for")
            return None

        def set_shape(name: str, low: Any, best: Any, high: Any) -> None:
            self.calls["profile"] = (name, low, best, high)

        return SimpleNamespace(
            create_network=create_network,
            create_builder_config=lambda: FakeConfig(self.calls),
            create_optimization_profile=lambda: SimpleNamespace(set_shape=set_shape),
            build_serialized_network=build_serialized_network,
        )

    def OnnxParser(self, network: Any, logger: Any) -> Any:  # noqa: N802
        error = SimpleNamespace(
            node_name=lambda: "nms", node_operator=lambda: "NonZero", desc=lambda: "not supported"
        )
        return SimpleNamespace(
            parse_from_file=lambda path: self.parses, num_errors=1, get_error=lambda index: error
        )

    def Runtime(self, logger: Any) -> Any:  # noqa: N802
        layer = {"Name": "conv0", "LayerType": "CaskConvolution", "Inputs": [{"DataType": "Half"}]}
        inspector = SimpleNamespace(get_engine_information=lambda form: json.dumps({"Layers": [layer]}))
        shapes = {"image": (-1, 3, 8, 8), "probability": (-1, 4)}
        engine = SimpleNamespace(
            num_io_tensors=2,
            get_tensor_name=lambda index: list(shapes)[index],
            get_tensor_mode=lambda name: "in" if name == "image" else "out",
            get_tensor_dtype=lambda name: "FLOAT",
            get_tensor_shape=lambda name: shapes[name],
            create_engine_inspector=lambda: inspector,
        )
        return SimpleNamespace(deserialize_cuda_engine=lambda data: engine)


class FakeConfig:
    def __init__(self, calls: dict[str, Any]) -> None:
        self.__dict__["calls"] = calls

    def __setattr__(self, name: str, value: Any) -> None:
        # TensorRT's objects have these and refuse any other; 11 has no calibrator and no precision flags.
        assert name in ("builder_optimization_level", "profiling_verbosity")
        self.calls[name] = value

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self.calls[pool] = size

    def clear_flag(self, flag: str) -> None:
        self.calls["cleared"] = flag

    def add_optimization_profile(self, profile: Any) -> int:
        return 0

    def create_timing_cache(self, data: bytes) -> Any:
        self.calls["timing"] = data
        return SimpleNamespace(serialize=lambda: b"kernels")

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        self.calls["ignore_mismatch"] = ignore_mismatch
        return True


PROFILE = {"image": ShapeProfile(min=(1, 3, 8, 8), opt=(2, 3, 8, 8), max=(4, 3, 8, 8))}


def use(monkeypatch: pytest.MonkeyPatch, fake: FakeTensorRT) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", fake)  # type: ignore[arg-type]
    monkeypatch.setattr(tensorrt_build, "current_sm", lambda: "sm_90")
    monkeypatch.setattr("xinfer.backends.tensorrt.current_sm", lambda: "sm_90")


@pytest.mark.parametrize(("version", "flags"), [("10.0.1", 2), ("10.16.1.11", 2), ("11.4.0.2", 0)])
def test_networks_are_strongly_typed_in_every_release(
    version: str, flags: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = FakeTensorRT(version)
    use(monkeypatch, fake)
    cache = tmp_path / "cache" / "timing"
    tensorrt_build.build(
        tmp_path / "model.onnx", tmp_path, profiles=PROFILE, timing_cache=cache, memory_limit_bytes=1 << 20
    )
    assert fake.calls["flags"] == flags
    assert fake.calls["profile"] == ("image", (1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8))
    assert fake.calls["workspace"] == 1 << 20
    assert fake.calls["cleared"] == "tf32"
    assert fake.calls["profiling_verbosity"] == "detailed"
    assert (fake.calls["timing"], fake.calls["ignore_mismatch"]) == (b"", False)
    assert [file.name for file in cache.parent.iterdir()] == ["timing"]
    assert (tmp_path / "model.engine").read_bytes() == b"plan"
    io = ArtifactIO.load(tmp_path)
    assert (io.target, io.layers, io.device) == (("sm_90",), ("fp16",), "cuda")
    assert (io.inputs[0].spec.shape, io.outputs[0].spec.shape) == ((-1, 3, 8, 8), (-1, 4))
    tensorrt_build.build(tmp_path / "model.onnx", tmp_path, profiles=PROFILE, timing_cache=cache)
    assert fake.calls["timing"] == b"kernels"


def test_old_releases_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use(monkeypatch, FakeTensorRT("8.6.1"))
    with pytest.raises(BackendError, match="too old"):
        tensorrt_build.build(tmp_path / "model.onnx", tmp_path)


def test_a_node_that_cannot_be_parsed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use(monkeypatch, FakeTensorRT("11.4.0", parses=False))
    with pytest.raises(BackendError, match=r"node 'nms' \(NonZero\): not supported") as caught:
        tensorrt_build.build(tmp_path / "model.onnx", tmp_path)
    assert caught.value.value == "nms"


def test_why_a_build_failed_is_taken_from_the_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use(monkeypatch, FakeTensorRT("11.4.0", builds=False))
    with pytest.raises(BackendError, match="OutOfMemory: 17 GB") as caught:
        tensorrt_build.build(tmp_path / "model.onnx", tmp_path, profiles=PROFILE)
    assert caught.value.hint is not None
    assert "memory" in caught.value.hint
    assert not (tmp_path / "model.engine").exists()


@pytest.mark.parametrize(
    ("version", "sm", "message"),
    [("11.5.0", "sm_90", "built with TensorRT 11.4.0"), ("11.4.0", "sm_89", "built for sm_90")],
)
def test_an_engine_of_another_release_or_gpu_is_refused(
    version: str, sm: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use(monkeypatch, FakeTensorRT("11.4.0"))
    tensorrt_build.build(tmp_path / "model.onnx", tmp_path, profiles=PROFILE)
    use(monkeypatch, FakeTensorRT(version))
    monkeypatch.setattr("xinfer.backends.tensorrt.current_sm", lambda: sm)
    with pytest.raises(BackendError, match=message):
        get_backend("tensorrt").load(tmp_path, RuntimeSettings(num_threads=1, num_streams=1, device="cuda"))


def test_types_that_numpy_has_not_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTensorRT("11.4.0")
    assert tensorrt_build.datatype(fake, "HALF") == "FP16"
    with pytest.raises(BackendError, match="BF16"):
        tensorrt_build.datatype(fake, "BF16")


def test_tensorrt_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    with pytest.raises(MissingExtraError, match="tensorrt"):
        tensorrt_build.build(tmp_path / "model.onnx", tmp_path)
