"""MobileNetV3, large and small. State dicts are torchvision's.

Source: Howard et al., "Searching for MobileNetV3" (ICCV 2019), tables 1 and 2.

Shapes: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from xtorch.models.mobile_blocks import (
    InvertedResidual,
    SqueezeExcitation,
    conv_norm,
    initialise,
    scaled_channels,
)

#: Input normalisation: (x - MEAN) / STD of RGB values in 0..1, per channel.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

_STEM_CHANNELS = 16
_norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)


class _Row(NamedTuple):
    """A row of the paper's tables; `hard`: hard-swish instead of ReLU."""

    kernel: int
    hidden: int
    outputs: int
    excited: bool
    hard: bool
    stride: int


_LARGE = (
    _Row(3, 16, 16, False, False, 1),
    _Row(3, 64, 24, False, False, 2),
    _Row(3, 72, 24, False, False, 1),
    _Row(5, 72, 40, True, False, 2),
    _Row(5, 120, 40, True, False, 1),
    _Row(5, 120, 40, True, False, 1),
    _Row(3, 240, 80, False, True, 2),
    _Row(3, 200, 80, False, True, 1),
    _Row(3, 184, 80, False, True, 1),
    _Row(3, 184, 80, False, True, 1),
    _Row(3, 480, 112, True, True, 1),
    _Row(3, 672, 112, True, True, 1),
    _Row(5, 672, 160, True, True, 2),
    _Row(5, 960, 160, True, True, 1),
    _Row(5, 960, 160, True, True, 1),
)
_SMALL = (
    _Row(3, 16, 16, True, False, 2),
    _Row(3, 72, 24, False, False, 2),
    _Row(3, 88, 24, False, False, 1),
    _Row(5, 96, 40, True, True, 2),
    _Row(5, 240, 40, True, True, 1),
    _Row(5, 240, 40, True, True, 1),
    _Row(5, 120, 48, True, True, 1),
    _Row(5, 144, 48, True, True, 1),
    _Row(5, 288, 96, True, True, 2),
    _Row(5, 576, 96, True, True, 1),
    _Row(5, 576, 96, True, True, 1),
)


class MobileNetV3(nn.Module):
    """MobileNetV3 of width 1 as a classifier, randomly initialised."""

    def __init__(self, rows: Sequence[_Row], *, last_channels: int, num_classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            conv_norm(3, _STEM_CHANNELS, 3, norm=_norm, activation=nn.Hardswish, stride=2)
        ]
        inputs = _STEM_CHANNELS
        for row in rows:
            excitation = None
            if row.excited:
                excitation = SqueezeExcitation(
                    row.hidden, scaled_channels(row.hidden / 4), activation=nn.ReLU, gate=nn.Hardsigmoid
                )
            layers.append(
                InvertedResidual(
                    inputs,
                    row.hidden,
                    row.outputs,
                    kernel=row.kernel,
                    stride=row.stride,
                    norm=_norm,
                    activation=nn.Hardswish if row.hard else nn.ReLU,
                    excitation=excitation,
                )
            )
            inputs = row.outputs
        head_channels = 6 * inputs
        layers.append(conv_norm(inputs, head_channels, 1, norm=_norm, activation=nn.Hardswish))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(head_channels, last_channels),
            nn.Hardswish(),
            nn.Dropout(0.2),
            nn.Linear(last_channels, num_classes),
        )
        initialise(self)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Class logits float32 [N, num_classes] of normalised RGB float32 [N,3,H,W]."""
        return self.classifier(self.features(x_NCHW).mean(dim=(2, 3)))


def mobilenet_v3_large(*, num_classes: int = 1000) -> MobileNetV3:
    """The paper's table 1."""
    return MobileNetV3(_LARGE, last_channels=1280, num_classes=num_classes)


def mobilenet_v3_small(*, num_classes: int = 1000) -> MobileNetV3:
    """The paper's table 2."""
    return MobileNetV3(_SMALL, last_channels=1024, num_classes=num_classes)
