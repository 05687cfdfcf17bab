"""U-Net: a contracting and an expanding path with concatenated skips, for segmentation.

State dicts are those of the checkpoints of mateuszbuda/brain-segmentation-pytorch (torch.hub, width 32,
inputs of 256x256): padded convolutions without bias, BatchNorm, transposed convolutions.

Source: Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation"
(MICCAI 2015), figure 1; padding and BatchNorm as in Buda, Saha and Mazurowski, "Association of genomic
subtypes of lower-grade gliomas with shape features ..." (Computers in Biology and Medicine 109, 2019).

Shapes: N images, C channels, H rows, W columns, K classes.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 4


def _double_conv(inputs: int, outputs: int, name: str) -> nn.Module:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index, channels in ((1, inputs), (2, outputs)):
        layers[f"{name}conv{index}"] = nn.Conv2d(channels, outputs, 3, padding=1, bias=False)
        layers[f"{name}norm{index}"] = nn.BatchNorm2d(outputs)
        layers[f"{name}relu{index}"] = nn.ReLU()
    return nn.Sequential(layers)


class UNet(nn.Module):
    """U-Net with four levels, randomly initialised.

    Args:
        in_channels: channels of the image.
        out_channels: classes; 1 for foreground against background.
        width: channels of the first level; doubled at every level below.
    """

    def __init__(self, *, in_channels: int = 3, out_channels: int = 1, width: int = 32) -> None:
        super().__init__()
        channels = in_channels
        for level in range(1, LEVELS + 1):
            outputs = width * 2 ** (level - 1)
            self.add_module(f"encoder{level}", _double_conv(channels, outputs, f"enc{level}"))
            channels = outputs
        self.bottleneck = _double_conv(channels, 2 * channels, "bottleneck")
        for level in range(LEVELS, 0, -1):
            outputs = width * 2 ** (level - 1)
            self.add_module(f"upconv{level}", nn.ConvTranspose2d(2 * outputs, outputs, 2, 2))
            self.add_module(f"decoder{level}", _double_conv(2 * outputs, outputs, f"dec{level}"))
        self.conv = nn.Conv2d(width, out_channels, 1)

    def logits(self, x_NCHW: Tensor) -> Tensor:
        """Scores before the sigmoid, float32 [N,K,H,W]; H and W divisible by 16."""
        skips: list[Tensor] = []
        x = x_NCHW
        for level in range(1, LEVELS + 1):
            x = self.get_submodule(f"encoder{level}")(x)
            skips.append(x)
            x = F.max_pool2d(x, 2, 2)
        x = self.bottleneck(x)
        for level in range(LEVELS, 0, -1):
            x = self.get_submodule(f"upconv{level}")(x)
            x = self.get_submodule(f"decoder{level}")(torch.cat([x, skips.pop()], dim=1))
        return self.conv(x)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Probabilities float32 [N,K,H,W] of normalised float32 [N,C,H,W]; H and W divisible by 16."""
        return torch.sigmoid(self.logits(x_NCHW))
