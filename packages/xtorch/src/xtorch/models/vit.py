"""Vision transformers. State dicts are timm's; torchvision's names are understood (`from_torchvision`).

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale" (ICLR
2021), section 3.1 and table 1; tiny and small: Touvron et al., "Training data-efficient image transformers &
distillation through attention" (ICML 2021), table 1.

Shapes: N images, C channels of an image, H rows, W columns, P patches, S tokens (P + 1), D channels of a
token, E channels of a head, h heads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xtorch.errors import SettingsError

#: Input normalisation: (x - MEAN) / STD of RGB values in 0..1; of Google's and timm's "augreg" checkpoints.
MEAN = (0.5, 0.5, 0.5)
STD = (0.5, 0.5, 0.5)

_PATCH_PX = 16


class _PatchEmbed(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, _PATCH_PX, _PATCH_PX)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.proj(x_NCHW).flatten(2).transpose(1, 2)


class _Attention(nn.Module):
    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x_NSD: Tensor) -> Tensor:
        query, key, value = self.qkv(x_NSD).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y_NhSE = F.scaled_dot_product_attention(query, key, value)
        return self.proj(y_NhSE.transpose(1, 2).flatten(2))


class _Mlp(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, x_NSD: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x_NSD)))


class _Block(nn.Module):
    """Attention and a feed-forward network, each normalised before and added."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attn = _Attention(channels, heads)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = _Mlp(channels)

    def forward(self, x_NSD: Tensor) -> Tensor:
        x_NSD = x_NSD + self.attn(self.norm1(x_NSD))
        return x_NSD + self.mlp(self.norm2(x_NSD))


class VisionTransformer(nn.Module):
    """A ViT with patches of 16x16 pixels and a class token, as a classifier, randomly initialised.

    Args:
        channels: Of a token.
        heads: Of the attention.
        layers: Blocks.
        image_size: Height and width of images, a multiple of 16.
        num_classes: Size of the classifier.

    Raises:
        SettingsError: `image_size` is no multiple of 16.
    """

    def __init__(
        self, *, channels: int, heads: int, layers: int = 12, image_size: int = 224, num_classes: int = 1000
    ) -> None:
        super().__init__()
        if image_size % _PATCH_PX or image_size < _PATCH_PX:
            raise SettingsError(f"image_size must be a multiple of {_PATCH_PX}.", value=image_size)
        self.patch_embed = _PatchEmbed(channels)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, channels))
        self.pos_embed = nn.Parameter(torch.empty(1, (image_size // _PATCH_PX) ** 2 + 1, channels))
        self.blocks = nn.ModuleList(_Block(channels, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.head = nn.Linear(channels, num_classes)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def features(self, x_NCHW: Tensor) -> Tensor:
        """Normalised tokens float32 [N,S,D], the class token first."""
        patches_NPD = self.patch_embed(x_NCHW)
        token_N1D = self.cls_token.expand(patches_NPD.shape[0], -1, -1)
        x_NSD = torch.cat([token_N1D, patches_NPD], dim=1) + self.pos_embed
        for block in self.blocks:
            x_NSD = block(x_NSD)
        return self.norm(x_NSD)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Class logits float32 [N, num_classes] of normalised RGB float32 [N,3,image_size,image_size]."""
        return self.head(self.features(x_NCHW)[:, 0])


def vit_tiny(*, num_classes: int = 1000, image_size: int = 224) -> VisionTransformer:
    """timm's ``vit_tiny_patch16_224``."""
    return VisionTransformer(channels=192, heads=3, num_classes=num_classes, image_size=image_size)


def vit_small(*, num_classes: int = 1000, image_size: int = 224) -> VisionTransformer:
    """timm's ``vit_small_patch16_224``."""
    return VisionTransformer(channels=384, heads=6, num_classes=num_classes, image_size=image_size)


def vit_base(*, num_classes: int = 1000, image_size: int = 224) -> VisionTransformer:
    """timm's ``vit_base_patch16_224``, torchvision's ``vit_b_16``."""
    return VisionTransformer(channels=768, heads=12, num_classes=num_classes, image_size=image_size)


_TORCHVISION = (
    (r"class_token", "cls_token"),
    (r"encoder\.pos_embedding", "pos_embed"),
    (r"conv_proj\.(.+)", r"patch_embed.proj.\1"),
    (r"encoder\.ln\.(.+)", r"norm.\1"),
    (r"heads\.head\.(.+)", r"head.\1"),
    (r"encoder\.layers\.encoder_layer_(\d+)\.ln_([12])\.(.+)", r"blocks.\1.norm\2.\3"),
    (r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.in_proj_(.+)", r"blocks.\1.attn.qkv.\2"),
    (r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.out_proj\.(.+)", r"blocks.\1.attn.proj.\2"),
    (r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:0|linear_1)\.(.+)", r"blocks.\1.mlp.fc1.\2"),
    (r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:3|linear_2)\.(.+)", r"blocks.\1.mlp.fc2.\2"),
)


def from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of torchvision's ``vit_b_16`` under timm's names.

    Raises:
        KeyError: A name is none of torchvision's.
    """
    renamed = {}
    for name, tensor in state.items():
        for pattern, ours in _TORCHVISION:
            if re.fullmatch(pattern, name):
                renamed[re.sub(pattern, ours, name)] = tensor
                break
        else:
            raise KeyError(name)
    return renamed
