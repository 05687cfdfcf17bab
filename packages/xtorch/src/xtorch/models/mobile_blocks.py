"""Building blocks of torchvision's mobile networks; the attributes' names are those of its state dicts.

Shapes: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Activation = Callable[[], nn.Module]


def scaled_channels(channels: float, divisor: int = 8) -> int:
    """Rounded to a multiple of `divisor`, but never down by more than a tenth.

    Source: Sandler et al., "MobileNetV2" (CVPR 2018), published code (`_make_divisible`).
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def conv_norm(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    norm: Callable[[int], nn.Module],
    activation: Activation | None,
    stride: int = 1,
    groups: int = 1,
) -> nn.Sequential:
    """Convolution without bias, normalisation, and an activation unless it is None."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        norm(outputs),
    ]
    return nn.Sequential(*layers, *([] if activation is None else [activation()]))


class SqueezeExcitation(nn.Module):
    """Channels weighted by what the whole image says.

    Source: Hu et al., "Squeeze-and-Excitation Networks" (CVPR 2018), section 3.
    """

    def __init__(self, channels: int, squeezed: int, *, activation: Activation, gate: Activation) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation = activation()
        self.scale_activation = gate()

    def forward(self, x_NCHW: Tensor) -> Tensor:
        mean_NC11 = x_NCHW.mean(dim=(2, 3), keepdim=True)
        return x_NCHW * self.scale_activation(self.fc2(self.activation(self.fc1(mean_NC11))))


class InvertedResidual(nn.Module):
    """Expand (1x1), depthwise (kxk), weigh channels, project (1x1); added to its input where it fits.

    Args:
        hidden: Channels in between; the expansion is left out where they are the inputs'.
        excitation: Of `hidden` channels; None: channels are not weighed.
        drop_rate: While training, the share of images for which the block is skipped.

    Source: Sandler et al., "MobileNetV2" (CVPR 2018), section 3; skipped blocks: Huang et al., "Deep Networks
    with Stochastic Depth" (ECCV 2016), section 3.
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        *,
        kernel: int,
        stride: int,
        norm: Callable[[int], nn.Module],
        activation: Activation,
        excitation: SqueezeExcitation | None,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.residual = stride == 1 and inputs == outputs
        self.drop_rate = drop_rate
        layers: list[nn.Module] = []
        if hidden != inputs:
            layers.append(conv_norm(inputs, hidden, 1, norm=norm, activation=activation))
        layers.append(
            conv_norm(hidden, hidden, kernel, norm=norm, activation=activation, stride=stride, groups=hidden)
        )
        if excitation is not None:
            layers.append(excitation)
        layers.append(conv_norm(hidden, outputs, 1, norm=norm, activation=None))
        self.block = nn.Sequential(*layers)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        y_NCHW = self.block(x_NCHW)
        if not self.residual:
            return y_NCHW
        if self.training and self.drop_rate > 0:
            kept_N111 = torch.rand(len(y_NCHW), 1, 1, 1, device=y_NCHW.device) >= self.drop_rate
            y_NCHW = y_NCHW * kept_N111 / (1 - self.drop_rate)
        return x_NCHW + y_NCHW


def initialise(model: nn.Module) -> None:
    """Random weights that keep the signal's scale.

    Source: He et al., "Delving Deep into Rectifiers" (ICCV 2015), section 2.2, over outputs.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
