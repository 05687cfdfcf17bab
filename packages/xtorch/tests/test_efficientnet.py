from __future__ import annotations

from pathlib import Path

import pytest
import torch

from xtorch.errors import WeightsError
from xtorch.models import efficientnet


@pytest.mark.parametrize("size", [224, 256])
def test_logits_equal_the_reference_package(weights: Path, size: int) -> None:
    reference_package = pytest.importorskip(
        "efficientnet_lite_pytorch", reason="the reference implementation is not installed"
    )
    state = torch.load(weights, weights_only=True)
    reference = reference_package.EfficientNet.from_name("efficientnet-lite0", image_size=size)
    reference.load_state_dict(state)
    x_NCHW = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = reference.eval()(x_NCHW)
        found = efficientnet.efficientnet_lite0()(x_NCHW)
    assert float(expected.abs().max()) > 1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_feature_maps_have_the_promised_shapes(weights: Path) -> None:
    x_NCHW = torch.zeros(1, 3, 128, 96)
    model = efficientnet.efficientnet_lite0(num_classes=None)
    with torch.inference_mode():
        maps = model.features(x_NCHW, [8, 16, 32, 4])
    assert [tuple(m.shape[1:]) for m in maps] == [(40, 16, 12), (112, 8, 6), (320, 4, 3), (24, 32, 24)]


def test_features_are_the_same_when_the_model_is_cut_off(weights: Path) -> None:
    x_NCHW = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole = efficientnet.efficientnet_lite0().features(x_NCHW, [16])
        cut = efficientnet.efficientnet_lite0(num_classes=None, max_stride=16).features(x_NCHW, [16])
    assert torch.equal(whole[0], cut[0])
    assert len(efficientnet.EfficientNetLite0(num_classes=None, max_stride=16)._blocks) == 11


def test_wrong_use_is_refused() -> None:
    with pytest.raises(ValueError, match="max_stride"):
        efficientnet.EfficientNetLite0(num_classes=None, max_stride=5)
    with pytest.raises(TypeError, match="without a classifier"):
        efficientnet.EfficientNetLite0(num_classes=None)(torch.zeros(1, 3, 32, 32))


def test_weights_are_refused_when_they_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"_conv_stem.weight": torch.zeros(1)}, tmp_path / "other.pth")
    monkeypatch.setattr(efficientnet, "imagenet_weights_path", lambda: tmp_path / "other.pth")
    with pytest.raises(WeightsError) as caught:
        efficientnet.efficientnet_lite0()
    assert caught.value.code == "weights.unavailable"
