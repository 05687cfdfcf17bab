"""The segmenter's network: sizes, what is trained, what is pretrained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from xtorch.errors import SettingsError, WeightsError
from xtorch.models import efficientnet
from xtorch.models.segmenter import EfficientUNet, Segmenter, SegmenterConfig, scaled_logits
from xtorch.tasks.segmentation import fitting


@pytest.mark.parametrize(
    ("backbone", "classes", "expected"),
    [("efficientnet_lite0", 5, (5, 32, 48)), ("unet", 5, (5, 64, 96)), ("unet", 2, (1, 64, 96))],
)
def test_logits_lie_over_the_whole_image(backbone: str, classes: int, expected: tuple[int, ...]) -> None:
    model = Segmenter(SegmenterConfig(num_classes=classes, height=64, width=96, backbone=backbone)).eval()
    with torch.inference_mode():
        for size in ((1, 1), (50, 70), (200, 130)):
            assert model(torch.zeros((2, *size, 3), dtype=torch.uint8)).shape == (2, *expected)


def test_two_classes_have_one_logit_against_nothing() -> None:
    logits = torch.randn(1, 1, 4, 6)
    both = scaled_logits(logits, (4, 6))
    assert both.shape == (1, 2, 4, 6)
    torch.testing.assert_close(both.softmax(dim=1)[:, 1], logits.sigmoid()[:, 0])
    larger = scaled_logits(torch.randn(2, 3, 4, 6), (16, 12))
    assert larger.shape == (2, 3, 16, 12)


@pytest.mark.parametrize(
    ("change", "match"),
    [({"height": 50}, "multiples"), ({"backbone": "x"}, "backbone"), ({"num_classes": 1}, "classes")],
)
def test_configurations_that_make_no_sense_are_refused(change: dict[str, object], match: str) -> None:
    with pytest.raises(SettingsError, match=match):
        SegmenterConfig(**{"num_classes": 3, "height": 64, "width": 64} | change)  # type: ignore[arg-type]


def test_first_blocks_and_statistics_stay_as_they_are() -> None:
    torch.manual_seed(0)
    network = EfficientUNet(3).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    network(torch.randn(2, 3, 64, 64)).square().mean().backward()
    optimiser.step()
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert not [name for name in changed if name.startswith(("encoder._conv_stem", "encoder._blocks.2."))]
    assert not [name for name in changed if name.startswith("encoder.") and "running" in name]
    assert [name for name in changed if name.startswith("decoder.") and "running" in name]
    assert "encoder._blocks.5._project_conv.weight" in changed


def test_encoder_is_the_pretrained_one(weights: Path) -> None:
    segmenter, is_pretrained = fitting.new_segmenter(3, (64, 64), backbone="auto", seed=0)
    assert is_pretrained
    own = segmenter.network.get_submodule("encoder").state_dict()
    published = efficientnet.efficientnet_lite0(num_classes=None).state_dict()
    assert own.keys() == published.keys()
    assert all(torch.equal(own[name], published[name]) for name in own)


def test_maps_are_those_of_the_encoder(weights: Path) -> None:
    """The expanding path gets the same maps as everyone else who asks for them."""
    segmenter, _ = fitting.new_segmenter(3, (64, 64), backbone="auto", seed=0)
    network = segmenter.network.eval()
    assert isinstance(network, EfficientUNet)
    seen: list[torch.Tensor] = []
    for expand in network.decoder:
        expand.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs[1:]))
    x_13HW = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(np.float32))
    with torch.inference_mode():
        network(x_13HW)
        expected = network.encoder.features(x_13HW, [16, 8, 4])
    for found, wanted in zip(seen[:3], expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_without_weights_a_plain_network_is_trained_unless_they_were_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(**_: object) -> None:
        raise WeightsError("not installed")

    monkeypatch.setattr(efficientnet, "efficientnet_lite0", missing)
    segmenter, is_pretrained = fitting.new_segmenter(2, (64, 64), backbone="auto", seed=0)
    assert (segmenter.config.backbone, is_pretrained) == ("unet", False)
    with pytest.raises(WeightsError):
        fitting.new_segmenter(2, (64, 64), backbone="efficientnet_lite0", seed=0)
