"""A labeller of every pixel of images of any size: resizing in front of a U-Net, all in one graph.

`EfficientUNet` is U-Net's expanding path on EfficientNet-lite0's feature maps: an encoder that knows how
pictures look needs few examples.

Source: Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation"
(MICCAI 2015), figure 1; upsampling by nearest neighbour and a convolution in place of transposed
convolutions: Odena, Dumoulin and Olah, "Deconvolution and Checkerboard Artifacts" (Distill 2016).

Shapes: N images, H and W rows and columns of the image, S and T of the network's input, C channels, K
classes, L logits of a pixel: 1 for two classes, else K.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xtorch.errors import SettingsError
from xtorch.models import efficientnet
from xtorch.models.resize import resize
from xtorch.models.unet import UNet

BACKBONES = ("efficientnet_lite0", "unet")
MULTIPLE = 32
"""Sides of the network's input are multiples of this."""
_ENDS = {0: 16, 2: 24, 4: 40, 10: 112, 15: 320}
"""Last block of each resolution of EfficientNet-lite0 (strides 2 to 32) -> its channels."""
_DECODER = (128, 64, 48, 24)
"""Channels at strides 16, 8, 4 and 2."""
_FROZEN_BLOCKS = 3
"""Blocks up to stride 4 find edges and textures, whatever the pictures show."""
_UNET_WIDTH = 16


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig:
    """What a segmenter is made of; what ``model.json`` keeps.

    Attributes:
        height, width: Of the network's input in pixels, multiples of 32. Images are stretched to it.
    """

    num_classes: int
    height: int
    width: int
    backbone: str = "efficientnet_lite0"

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise SettingsError(
                f"There is no backbone {self.backbone!r}.",
                value=self.backbone,
                hint=f"known: {', '.join(BACKBONES)}",
            )
        if self.height % MULTIPLE or self.width % MULTIPLE or min(self.height, self.width) < MULTIPLE:
            raise SettingsError(
                "The network's input must have sides that are multiples of 32.",
                value=[self.height, self.width],
            )
        if not 2 <= self.num_classes <= 255:
            raise SettingsError("There must be 2 to 255 classes.", value=self.num_classes)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    @property
    def num_logits(self) -> int:
        """Logits of a pixel."""
        return 1 if self.num_classes == 2 else self.num_classes

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Stretch(nn.Module):
    """uint8 RGB [N,H,W,3] of any size -> normalised float32 [N,3,S,T]; the aspect ratio is not kept.

    Args:
        size: (S, T).
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, image_NHWC: Tensor) -> Tensor:
        x_NCHW = image_NHWC.permute(0, 3, 1, 2).to(torch.float32)
        return resize(normalised(x_NCHW), *self.size)


def normalised(x_NCHW: Tensor) -> Tensor:
    """Values 0..255 as the networks take them."""
    return (x_NCHW - efficientnet.MEAN) / efficientnet.STD


def _conv(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


class Expand(nn.Module):
    """Twice the resolution, joined with the feature map of the contracting path, two convolutions."""

    def __init__(self, inputs: int, skipped: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(*_conv(inputs + skipped, outputs), *_conv(outputs, outputs))

    def forward(self, x_NCHW: Tensor, skip_NCHW: Tensor) -> Tensor:
        larger = F.interpolate(x_NCHW, scale_factor=2.0, mode="nearest")
        found: Tensor = self.conv(torch.cat([larger, skip_NCHW], dim=1))
        return found


class EfficientUNet(nn.Module):
    """EfficientNet-lite0 with U-Net's expanding path: float32 [N,3,S,T] -> logits [N,L,S/2,T/2].

    BatchNorm of the encoder keeps its pretrained statistics: others would be those of a few images. Its first
    blocks are not trained.
    """

    def __init__(self, num_logits: int) -> None:
        super().__init__()
        self.encoder = efficientnet.EfficientNetLite0(num_classes=None)
        channels = list(_ENDS.values())
        inputs = channels[-1]
        self.decoder = nn.ModuleList()
        for skipped, outputs in zip(channels[-2::-1], _DECODER, strict=True):
            self.decoder.append(Expand(inputs, skipped, outputs))
            inputs = outputs
        self.head = nn.Conv2d(inputs, num_logits, 1)
        for module in (self.encoder._conv_stem, self.encoder._bn0, *self.encoder._blocks[:_FROZEN_BLOCKS]):
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self.encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, x_NCHW: Tensor) -> Tensor:
        maps: list[Tensor] = []
        x = F.relu6(self.encoder._bn0(self.encoder._conv_stem(x_NCHW)))
        for index, block in enumerate(self.encoder._blocks):
            x = block(x)
            if index in _ENDS:
                maps.append(x)
        x = maps.pop()
        for expand in self.decoder:
            x = expand(x, maps.pop())
        logits_NLhw: Tensor = self.head(x)
        return logits_NLhw


class PlainUNet(nn.Module):
    """A U-Net of random weights: float32 [N,3,S,T] -> logits [N,L,S,T]."""

    def __init__(self, num_logits: int) -> None:
        super().__init__()
        self.unet = UNet(out_channels=num_logits, width=_UNET_WIDTH)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.unet.logits(x_NCHW)


class Segmenter(nn.Module):
    """uint8 RGB [N,H,W,3] of any size -> logits float32 [N,L,h,w] over the whole image.

    h and w are fixed: half of the network's input with EfficientNet, all of it with the plain U-Net. With two
    classes the logit is that of class 1.
    """

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.config = config
        self.preprocess = Stretch(config.size)
        kind = EfficientUNet if config.backbone == "efficientnet_lite0" else PlainUNet
        self.network: nn.Module = kind(config.num_logits)

    def forward(self, image_NHWC: Tensor) -> Tensor:
        logits_NLhw: Tensor = self.network(self.preprocess(image_NHWC))
        return logits_NLhw


def scaled_logits(logits_NLhw: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits at another size, and one for each class: of two, the first class's is 0.

    Args:
        logits_NLhw: Of a `Segmenter`.
        size: Height and width.

    Returns:
        float32 [N,K,height,width].
    """
    logits = logits_NLhw.float()
    if tuple(logits.shape[2:]) != size:
        logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    return torch.cat([torch.zeros_like(logits), logits], dim=1) if logits.shape[1] == 1 else logits
