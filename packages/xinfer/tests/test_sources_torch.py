"""Torch modules and exported programs as source models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from xinfer.errors import SourceModelError
from xinfer.sources import from_torch

torch = pytest.importorskip("torch", reason="torch is optional: xinfer[torch]")
pytest.importorskip("onnxscript", reason="torch's exporter needs it: xinfer[torch]")


class Block(torch.nn.Module):
    """Attention and normalisation over x [B,T,8]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query, self.norm = torch.nn.Linear(8, 8), torch.nn.LayerNorm(8)
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = self.query(x) @ x.transpose(1, 2) + mask
        mixed = self.norm(self.dropout(scores.softmax(-1) @ x))
        return mixed, mixed.mean((1, 2))


class Random(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)


class Branching(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum().item() > 0 else -x


def inputs(batch: int = 2, length: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, length, 8, generator=generator), torch.zeros(length, length)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory):
    module = Block().train()
    folder = tmp_path_factory.mktemp("torch")
    axes = {"x": {0: "batch", 1: "length"}, "mask": {0: "length", 1: "length"}}
    source = from_torch(module, inputs(), folder=folder, dynamic_axes=axes, output_names=["mixed", "mean"])
    assert module.training
    return source


def test_module_becomes_a_source_with_its_program_beside_it(exported) -> None:
    assert sorted(path.name for path in exported.path.parent.iterdir()) == ["model.onnx", "model.pt2"]
    assert [value.name for value in exported.facts.inputs] == ["x", "mask"]
    assert exported.facts.inputs[0].shape == (-1, -1, 8)
    assert exported.facts.inputs[0].axes[1] == exported.facts.inputs[1].axes[0]
    assert [value.name for value in exported.facts.outputs] == ["mixed", "mean"]
    assert exported.facts.opset == 18
    assert exported.facts.is_transformer


def test_free_axes_are_free(exported) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    x, mask = inputs(3, 9)
    session = onnxruntime.InferenceSession(str(exported.path), providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": x.numpy(), "mask": mask.numpy()})
    expected = Block().eval()(x, mask)
    np.testing.assert_allclose(found[0], expected[0].detach().numpy(), atol=1e-5)
    assert found[1].shape == (3,)


def test_exported_program_is_a_source_too(exported, tmp_path: Path) -> None:
    program = torch.export.load(exported.exported_program)
    source = from_torch(program, inputs(4, 6), folder=tmp_path)
    assert source.facts.inputs[0].shape == (-1, -1, 8)
    with pytest.raises(SourceModelError, match="its own free axes"):
        from_torch(program, inputs(), folder=tmp_path, dynamic_axes={"x": {0: "batch"}})


def test_export_is_refused_when_the_answers_differ(tmp_path: Path) -> None:
    with pytest.raises(SourceModelError) as caught:
        from_torch(Random(), (torch.zeros(2, 3),), folder=tmp_path)
    assert caught.value.code == "build.source_model.parity"
    assert not list(tmp_path.iterdir())


def test_what_torch_cannot_export_is_a_typed_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SourceModelError) as caught:
        from_torch(Branching(), (torch.ones(2),), folder=tmp_path)
    assert caught.value.code == "build.source_model.export"
    with pytest.raises(SourceModelError, match="int is neither"):
        from_torch(3, (torch.ones(2),), folder=tmp_path)
    with pytest.raises(SourceModelError, match="dynamic_axes names"):
        from_torch(Random(), (torch.ones(2),), folder=tmp_path, dynamic_axes={"y": {0: "n"}})
    assert not list(tmp_path.iterdir())
