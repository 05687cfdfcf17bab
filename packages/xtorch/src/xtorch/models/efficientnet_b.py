"""EfficientNet-B0. State dicts are torchvision's; timm's names are understood (`from_timm`).

Source: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (ICML 2019),
table 1.

Shapes: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from xtorch.models.efficientnet import HEAD_CHANNELS, STAGES, STEM_CHANNELS
from xtorch.models.mobile_blocks import InvertedResidual, SqueezeExcitation, conv_norm, initialise

#: Input normalisation: (x - MEAN) / STD of RGB values in 0..1, per channel.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

_SQUEEZE = 4
"""Channels of a block's input per squeezed channel."""


class EfficientNetB0(nn.Module):
    """EfficientNet-B0 as a classifier, randomly initialised.

    Args:
        num_classes: Size of the classifier.
        dropout: Before the classifier.
        drop_rate: Share of images for which the last block is skipped while training; earlier ones less.
    """

    def __init__(self, *, num_classes: int = 1000, dropout: float = 0.2, drop_rate: float = 0.2) -> None:
        super().__init__()
        features = [conv_norm(3, STEM_CHANNELS, 3, norm=nn.BatchNorm2d, activation=nn.SiLU, stride=2)]
        total = sum(stage.repeats for stage in STAGES)
        inputs, done = STEM_CHANNELS, 0
        for repeats, kernel, stride, expansion, outputs in STAGES:
            blocks: list[nn.Module] = []
            for repeat in range(repeats):
                hidden = inputs * expansion
                blocks.append(
                    InvertedResidual(
                        inputs,
                        hidden,
                        outputs,
                        kernel=kernel,
                        stride=stride if repeat == 0 else 1,
                        norm=nn.BatchNorm2d,
                        activation=nn.SiLU,
                        excitation=SqueezeExcitation(
                            hidden, inputs // _SQUEEZE, activation=nn.SiLU, gate=nn.Sigmoid
                        ),
                        drop_rate=drop_rate * done / total,
                    )
                )
                inputs, done = outputs, done + 1
            features.append(nn.Sequential(*blocks))
        features.append(conv_norm(inputs, HEAD_CHANNELS, 1, norm=nn.BatchNorm2d, activation=nn.SiLU))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(HEAD_CHANNELS, num_classes))
        initialise(self)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Class logits float32 [N, num_classes] of normalised RGB float32 [N,3,H,W]."""
        return self.classifier(self.features(x_NCHW).mean(dim=(2, 3)))


_TIMM_OUTER = {
    "conv_stem": "features.0.0",
    "bn1": "features.0.1",
    "conv_head": "features.8.0",
    "bn2": "features.8.1",
    "classifier": "classifier.1",
}
# Of a block without and with an expansion.
_TIMM_FIRST = {
    "conv_dw": "0.0",
    "bn1": "0.1",
    "se.conv_reduce": "1.fc1",
    "se.conv_expand": "1.fc2",
    "conv_pw": "2.0",
    "bn2": "2.1",
}
_TIMM_OTHERS = {
    "conv_pw": "0.0",
    "bn1": "0.1",
    "conv_dw": "1.0",
    "bn2": "1.1",
    "se.conv_reduce": "2.fc1",
    "se.conv_expand": "2.fc2",
    "conv_pwl": "3.0",
    "bn3": "3.1",
}


def from_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of timm's ``efficientnet_b0`` under the names of `EfficientNetB0`.

    Raises:
        KeyError: A name is none of timm's.
    """
    renamed = {}
    for name, tensor in state.items():
        layer, _, leaf = name.rpartition(".")
        block = re.fullmatch(r"blocks\.(\d+)\.(\d+)\.(.+)", layer)
        if block is None:
            renamed[f"{_TIMM_OUTER[layer]}.{leaf}"] = tensor
            continue
        stage, repeat, inner = int(block[1]), block[2], block[3]
        inner = (_TIMM_FIRST if stage == 0 else _TIMM_OTHERS)[inner]
        renamed[f"features.{stage + 1}.{repeat}.block.{inner}.{leaf}"] = tensor
    return renamed
