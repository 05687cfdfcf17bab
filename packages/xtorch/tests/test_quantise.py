from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from xtorch import ParityError, SettingsError, Trainer, TrainerConfig
from xtorch.optim import parameter_groups
from xtorch.qdq import check_parity
from xtorch.quantise import (
    FakeQuantiser,
    QuantisedLayer,
    QuantiseSettings,
    calibrate,
    export_quantised,
    prepare,
    quantisers,
)


class Residual(nn.Module):
    """A small ResNet: everything that quantisation has to deal with."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.conv = nn.Conv2d(16, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.norm(self.conv(x)))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def images(count: int = 32, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noise with a bright patch in one of four corners, which is the class."""
    generator = torch.Generator().manual_seed(seed)
    x_NCHW = 0.5 * torch.randn(count, 3, 12, 12, generator=generator)
    y_N = torch.randint(4, (count,), generator=generator)
    for picture, label in zip(x_NCHW, y_N.tolist(), strict=True):
        picture[label % 3, :4, :4] += 1.0 + label
    return x_NCHW, y_N


def entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    torch.manual_seed(0)
    model = Residual()
    Trainer(TrainerConfig(max_epochs=12, learning_rate=0.01)).fit(model, [images()] * 2, loss=entropy)
    return model


@pytest.fixture(scope="module")
def calibrated(trained: nn.Module) -> nn.Module:
    model = prepare(trained)
    calibrate(model, [images(seed=1)[0]])
    return model


@pytest.fixture(scope="module")
def learned(trained: nn.Module) -> nn.Module:
    """After a few steps of training with rounding in the loop."""
    model = prepare(trained)
    calibrate(model, [images(seed=1)[0]])
    Trainer(TrainerConfig(max_epochs=3)).fit(
        model,
        [images()],
        loss=entropy,
        optimiser=lambda module: torch.optim.AdamW(parameter_groups(module, weight_decay=0.01), lr=1e-3),
    )
    return model


@pytest.fixture(scope="module")
def exported(learned: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    export_quantised(learned, [images(4)[0]], path, output_names=["scores"], free_axes=[0])
    return path


def test_values_and_gradients_are_the_papers() -> None:
    quantiser = FakeQuantiser(-128, 127, scale=torch.tensor(0.5))
    x = torch.tensor([[0.6, -0.3, 100.0, -100.0, 0.75, 0.25]], requires_grad=True)
    out = quantiser(x)
    assert out.tolist() == [[0.5, -0.5, 63.5, -64.0, 1.0, 0.0]]  # half to even: 1.5 -> 2, 0.5 -> 0
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[1, 1, 0, 0, 1, 1]]
    inside = sum(round(v / 0.5) - v / 0.5 for v in (0.6, -0.3, 0.75, 0.25))
    assert quantiser.scale.grad is not None
    expected = (inside + 127 - 128) / math.sqrt(6 * 127)
    assert quantiser.scale.grad.item() == pytest.approx(expected, rel=1e-5)


def test_channels_have_their_own_scales() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3)
    with torch.no_grad():
        layer.weight[1] *= 100
    wrapped = QuantisedLayer(layer)
    rounded = wrapped.weight(layer.weight)
    step = layer.weight.flatten(1).abs().amax(1) / 127
    assert wrapped.weight.scale.tolist() == pytest.approx(step.tolist())
    assert ((rounded - layer.weight).flatten(1).abs().amax(1) <= step / 2 * 1.001).all()
    assert len(rounded[0].unique()) > 5


def test_preparing_folds_norms_and_keeps_the_answers(trained: nn.Module) -> None:
    x = images(8, seed=3)[0]
    model = prepare(trained)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert sum(isinstance(module, QuantisedLayer) for module in model.modules()) == 3
    with torch.no_grad():
        for module in quantisers(model):
            module.observing = True
        weights_rounded, expected = model(x), trained(x)
        calibrate(model, [x])
        rounded = model(x)
    largest = expected.abs().max()
    assert 0 < (weights_rounded - expected).abs().max() < 0.03 * largest
    assert 0 < (rounded - expected).abs().max() < 0.06 * largest
    assert any(isinstance(module, nn.BatchNorm2d) for module in trained.modules())


def test_readers_of_a_value_share_its_quantiser(calibrated: nn.Module) -> None:
    # image, stem's end (read by the convolution and the addition), second convolution's end, pooled features
    assert sum(module.axis is None for module in quantisers(calibrated)) == 4


def test_zero_points_follow_the_range(calibrated: nn.Module, trained: nn.Module) -> None:
    activations = [module for module in quantisers(calibrated) if module.axis is None]
    assert 0 < int(activations[0].zero_point) < 255  # the image
    assert sum(int(module.zero_point) == 0 for module in activations) == 2  # behind ReLU
    symmetric = prepare(trained, QuantiseSettings(activations="s8"))
    calibrate(symmetric, [images()[0]])
    assert all(int(module.zero_point) == 0 for module in quantisers(symmetric))


def test_skipped_modules_stay_in_float(trained: nn.Module) -> None:
    model = prepare(trained, QuantiseSettings(skip=("stem", "head")))
    wrapped = [name for name, module in model.named_modules() if isinstance(module, QuantisedLayer)]
    assert wrapped == ["conv"]


def test_training_moves_the_scales_and_lowers_the_loss(calibrated: nn.Module, learned: nn.Module) -> None:
    before = [module.scale.detach() for module in quantisers(calibrated)]
    after = [module.scale.detach() for module in quantisers(learned)]
    assert all(not torch.equal(first, second) for first, second in zip(before, after, strict=True))
    with torch.no_grad():
        assert entropy(learned, images()) < entropy(calibrated, images())


def test_exported_graph_holds_integers_and_learned_scales(exported: Path, learned: nn.Module) -> None:
    graph = onnx.load(exported).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    integers = [array for array in constants.values() if array.dtype == np.int8 and array.ndim > 1]
    assert sorted(array.shape for array in integers) == [(4, 16), (16, 3, 3, 3), (16, 16, 3, 3)]
    quantise = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantise) == 4
    assert all(constants[node.input[2]].dtype == np.uint8 for node in quantise)
    scales = sorted(float(constants[node.input[1]]) for node in quantise)
    assert scales == pytest.approx(
        sorted(float(m.scale.detach()) for m in quantisers(learned) if m.axis is None)
    )


def session(path: Path, level: str, optimised: Path | None = None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def test_onnx_runtime_answers_the_same_and_executes_integers(
    exported: Path, learned: nn.Module, tmp_path: Path
) -> None:
    x = images(16, seed=5)[0]
    with torch.no_grad():
        expected = learned(x).numpy()
    plain = session(exported, "ORT_DISABLE_ALL").run(None, {"input": x.numpy()})[0]
    assert np.abs(plain - expected).max() < 1e-4 * np.abs(expected).max() + 1e-5
    fast = session(exported, "ORT_ENABLE_ALL", tmp_path / "optimised.onnx").run(None, {"input": x.numpy()})[0]
    assert np.abs(fast - expected).max() < 0.02 * np.abs(expected).max()
    assert (fast.argmax(1) == expected.argmax(1)).all()
    executed = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert "QLinearConv" in executed
    assert not {"Conv", "FusedConv"} & set(executed)


def test_openvino_executes_integers(exported: Path, learned: nn.Module) -> None:
    openvino = pytest.importorskip("openvino")
    from xinfer.builders.openvino_ir import fold_quantisation

    x = images(4, seed=5)[0]
    model = openvino.Core().read_model(str(exported))
    fold_quantisation(model)
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    with torch.no_grad():
        expected = learned(x).numpy()
    got = compiled(x.numpy())[0]
    assert np.abs(got - expected).max() < 0.02 * np.abs(expected).max()
    layers = [
        node.get_rt_info()["runtimePrecision"].astype(str)
        for node in compiled.get_runtime_model().get_ops()
        if node.get_rt_info()["layerType"].astype(str) == "Convolution"
    ]
    assert len(layers) == 2
    assert set(layers) <= {"u8", "i8"}


@pytest.mark.slow
def test_xinfer_builds_an_engine_that_executes_int8(exported: Path) -> None:
    pytest.importorskip("openvino")
    from xinfer import EngineBuilder

    feeds = [{"input": images(1, seed=seed)[0].numpy()} for seed in range(8)]
    built = (
        EngineBuilder.from_onnx(exported)
        .with_backends("openvino")
        .with_precision("fp32")
        .with_accuracy_budget(metric="cosine", samples=feeds, max_drop=0.05)
        .with_budget(60)
        .build()
    )
    assert "int8" in built.manifest.precision.executed


def test_symmetric_export_is_what_tensorrt_takes(trained: nn.Module, tmp_path: Path) -> None:
    model = prepare(trained, QuantiseSettings(activations="s8"))
    calibrate(model, [images()[0]])
    path = tmp_path / "model.onnx"
    export_quantised(model, [images(2)[0]], path)
    graph = onnx.load(path).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert constants[node.input[2]].dtype == np.int8
            assert not constants[node.input[2]].any()


def test_refusals_name_the_cause(
    trained: nn.Module, learned: nn.Module, exported: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="not been calibrated"):
        export_quantised(prepare(trained), [images(2)[0]], tmp_path / "x.onnx")
    with pytest.raises(SettingsError, match="no batches"):
        calibrate(prepare(trained), [])
    with pytest.raises(SettingsError, match="not finite"):
        calibrate(prepare(trained), [torch.full((1, 3, 8, 8), torch.inf)])
    with pytest.raises(SettingsError, match="can be quantised"):
        prepare(nn.ReLU())
    with pytest.raises(SettingsError, match="u8 or s8"):
        QuantiseSettings(activations="u4")  # type: ignore[arg-type]

    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(SettingsError, match="traced"):
        prepare(Branching())
    with pytest.raises(ParityError):
        check_parity(prepare(trained), [images(2)[0] * 5], exported, tolerance=1e-3)
