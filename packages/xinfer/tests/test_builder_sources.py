"""Where a build may start: ONNX bytes, torch modules, free axes; preprocessing in front."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from xinfer import BuildError, CalibrationError, EngineBuilder, InferenceEngine, SourceModelError
from xinfer.builders.preprocessing import Preprocessing
from xinfer.sources import ShapeProfile

torch = pytest.importorskip("torch")


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 8, 3, stride=2)
        self.head = torch.nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(x).relu().mean((2, 3)))


def feeds(num: int, shape: tuple[int, ...]) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(0, 1, shape).astype(np.float32)} for _ in range(num)]


@pytest.fixture(scope="module")
def builder() -> EngineBuilder:
    return EngineBuilder.from_torch(
        Net(), [torch.zeros(2, 3, 16, 16)], dynamic_axes={"x": {0: "n"}}, output_names=["logits"]
    ).with_precision("fp32")


def quick(builder: EngineBuilder, samples: list[dict[str, np.ndarray]]) -> EngineBuilder:
    return builder.with_accuracy_budget(metric="cosine", samples=samples).with_backends("onnxruntime")


def test_engine_answers_as_the_torch_module_it_was_built_from(builder: EngineBuilder, tmp_path: Path) -> None:
    samples = feeds(3, (1, 3, 16, 16))
    package = quick(builder, samples).build_and_save(tmp_path / "x.engine")
    with InferenceEngine.load(package, require_signature=False) as engine, torch.inference_mode():
        for sample in samples:
            expected = Net()(torch.from_numpy(sample["x"])).numpy()
            np.testing.assert_allclose(engine.infer(sample)["logits"], expected, atol=1e-5)


def test_build_starts_from_bytes_and_keeps_their_digest(builder: EngineBuilder, tmp_path: Path) -> None:
    content = builder.plan.source.read_bytes()
    package = quick(EngineBuilder.from_onnx(content), feeds(2, (1, 3, 16, 16))).build_and_save(
        tmp_path / "x.engine"
    )
    from xinfer.package import file_digest

    assert package.manifest.source.onnx_digest == file_digest(builder.plan.source)


def test_free_axes_are_fixed_when_shapes_are_given(builder: EngineBuilder, tmp_path: Path) -> None:
    fixed = quick(builder, feeds(2, (4, 3, 16, 16))).with_shapes({"x": (4, 3, 16, 16)})
    package = fixed.build_and_save(tmp_path / "x.engine")
    assert package.manifest.io.inputs[0].shape == (4, 3, 16, 16)
    assert package.manifest.recipe.settings["shapes"]["x"]["max"] == [4, 3, 16, 16]


def test_samples_outside_the_profile_are_refused(builder: EngineBuilder) -> None:
    profile = ShapeProfile((1, 3, 16, 16), (2, 3, 16, 16), (4, 3, 16, 16))
    with pytest.raises(CalibrationError, match="outside"):
        quick(builder, feeds(1, (5, 3, 16, 16))).with_shapes({"x": profile}).build()
    with pytest.raises(SourceModelError, match="no input 'y'"):
        quick(builder, feeds(1, (1, 3, 16, 16))).with_shapes({"y": (1,)}).build()


def test_batches_are_raced_when_the_first_axis_is_free(builder: EngineBuilder, tmp_path: Path) -> None:
    samples = feeds(4, (1, 3, 16, 16))
    package = (
        quick(builder, samples).optimize_for("throughput", batch=(1, 4)).build_and_save(tmp_path / "x.engine")
    )
    assert package.receipt.protocol.batch in (1, 4)
    assert package.manifest.recipe.settings["batch"] == package.receipt.protocol.batch
    with pytest.raises(BuildError, match="batches"):
        builder.optimize_for("latency", batch=0)


def test_engine_takes_pictures_when_preprocessing_stands_in_the_graph(
    builder: EngineBuilder, tmp_path: Path
) -> None:
    spec = Preprocessing(size=(16, 16), mean=(127.0,) * 3, std=(128.0,) * 3)
    rng = np.random.default_rng(0)
    pictures = [{"image": rng.integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)} for _ in range(2)]
    package = quick(builder.with_preprocessing(spec), pictures).build_and_save(tmp_path / "x.engine")
    with InferenceEngine.load(package, require_signature=False) as engine, torch.inference_mode():
        x_NCHW = (torch.from_numpy(pictures[0]["image"]).permute(0, 3, 1, 2).float() - 127) / 128
        np.testing.assert_allclose(engine.infer(pictures[0])["logits"], Net()(x_NCHW).numpy(), atol=1e-4)
