"""A detector of images of any size: letterboxing in front of YOLOX, decoding behind it, all in one graph.

Shapes: N images, H and W rows and columns of the image, S and T of the network's input, A locations, K
classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from xtorch.errors import SettingsError
from xtorch.models.yolox import NANO, SMALL, TINY, Yolox, locations

PAD_VALUE = 114
"""Grey of YOLOX's letterbox, 0..255."""
SIZES = {"nano": NANO, "tiny": TINY, "small": SMALL}


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """What a detector is made of.

    Attributes:
        architecture: of `SIZES`.
        height, width: of the network's input in pixels, multiples of 32.
    """

    architecture: str
    height: int
    width: int
    num_classes: int

    def __post_init__(self) -> None:
        if self.architecture not in SIZES:
            raise SettingsError(
                f"There is no YOLOX-{self.architecture}.",
                value=self.architecture,
                hint=f"known: {', '.join(SIZES)}",
            )
        if self.height % 32 or self.width % 32 or min(self.height, self.width) < 32:
            raise SettingsError(
                "The network's input must have sides that are multiples of 32.",
                value=[self.height, self.width],
            )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def _scaled(size_in: int, other_in: int, size_out: int, other_out: int) -> tuple[Tensor, Tensor]:
    """Image pixels per network pixel as a fraction, int64 [1]: the larger of the two axes' needs."""
    # As tensors, because both sizes may be symbolic in an export.
    this = torch.arange(size_in, dtype=torch.int64)[-1:] + 1
    other = torch.arange(other_in, dtype=torch.int64)[-1:] + 1
    wider = this * other_out >= other * size_out
    return torch.where(wider, this, other), torch.where(wider, size_out, other_out)


def letterbox_weights(size_in: int, size_out: int, numerator: Tensor, denominator: Tensor) -> Tensor:
    """Weights of an antialiased linear resize along one axis, at a given scale, from the first pixel on.

    Args:
        size_in: number of input samples; may be symbolic in an export.
        size_out: number of output samples.
        numerator, denominator: input samples per output sample, int64 [1] each.

    Returns:
        float32 [size_out, size_in]; rows sum to 1, those that lie beyond the input to 0.

    Source: as `xtorch.models.resize.resize_weights`, whose scale is size_in / size_out.
    """
    out_S1 = torch.arange(size_out, dtype=torch.int64)[:, None]
    in_1H = torch.arange(size_in, dtype=torch.int64)[None, :]
    centre_S1 = (2 * out_S1 + 1) * numerator
    distance_SH = ((2 * in_1H + 1) * denominator - centre_S1).abs()
    reach = 2 * torch.maximum(numerator, denominator)
    weights_SH = (reach - distance_SH).clamp(min=0)
    total_S1 = weights_SH.sum(dim=1, keepdim=True).clamp(min=1)
    inside_S1 = centre_S1 < (2 * in_1H[:, -1:] + 2) * denominator
    return weights_SH.to(torch.float32) / total_S1.to(torch.float32) * inside_S1.to(torch.float32)


class Letterbox(nn.Module):
    """uint8 RGB [N,H,W,3] of any size -> float32 [N,3,S,T] in 0..255, padded on the right and below.

    Args:
        size: (S, T).
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, image_NHWC: Tensor) -> tuple[Tensor, Tensor]:
        """The network's input, and image pixels per network pixel, float32 [1]."""
        height, width = image_NHWC.shape[1], image_NHWC.shape[2]
        numerator, denominator = _scaled(height, width, *self.size)
        rows_SH = letterbox_weights(height, self.size[0], numerator, denominator)
        columns_TW = letterbox_weights(width, self.size[1], numerator, denominator)
        # Padding is what is left of nothing: zero weights, before the grey is added back.
        x_NCHW = image_NHWC.permute(0, 3, 1, 2).to(torch.float32) - PAD_VALUE
        x_NCST = torch.matmul(rows_SH, torch.matmul(x_NCHW, columns_TW.T)) + PAD_VALUE
        return x_NCST, numerator.to(torch.float32) / denominator.to(torch.float32)


class Decode(nn.Module):
    """YOLOX's output -> boxes in pixels of the image, and scores.

    Source: the YOLOX paper, section 2.1; score = objectness * class.
    """

    cells_A2: Tensor  # noqa: N815
    strides_A1: Tensor  # noqa: N815

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        cells_A2, strides_A1 = locations(size)
        self.register_buffer("cells_A2", cells_A2, persistent=False)
        self.register_buffer("strides_A1", strides_A1, persistent=False)

    def forward(self, found_NAC: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        centres = (found_NAC[..., :2] + self.cells_A2) * self.strides_A1
        half = found_NAC[..., 2:4].exp() * (self.strides_A1 / 2)
        boxes_NA4 = torch.cat([centres - half, centres + half], dim=2) * scale
        return boxes_NA4, found_NAC[..., 4:5] * found_NAC[..., 5:]


class Detector(nn.Module):
    """uint8 RGB [N,H,W,3] -> boxes float32 [N,A,4] (left, top, right, bottom, in the image's pixels) and
    scores float32 [N,A,K].

    The network takes RGB; `from_bgr` turns published weights round.
    """

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        self.preprocess = Letterbox(config.size)
        self.network = Yolox(replace(SIZES[config.architecture], num_classes=config.num_classes))
        self.decode = Decode(config.size)

    def forward(self, image_NHWC: Tensor) -> tuple[Tensor, Tensor]:
        x_NCHW, scale = self.preprocess(image_NHWC)
        boxes, scores = self.decode(self.network(x_NCHW), scale)
        return boxes, scores


@torch.no_grad()
def from_bgr(network: Yolox) -> Yolox:
    """Makes a network of BGR images one of RGB images (or back), in place."""
    weight = network.backbone.backbone.stem.conv.conv.weight  # [O, 4 corners * 3 channels, 3, 3]
    corners = weight.unflatten(1, (4, 3))
    weight.copy_(corners.flip(2).flatten(1, 2))
    return network


@torch.no_grad()
def unfold_batch_norm(network: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """Gives BatchNorm the statistics of real inputs while the network goes on computing the same.

    Published exports have BatchNorm folded into the convolutions. With the statistics that the convolutions'
    outputs really have, and scale and shift that undo them, training may normalise by batches again.

    Args:
        network: changed in place; left in evaluation mode.
        batches: inputs float32 [N,3,S,T] like those of training.

    Source: the inverse of folding, as in Jacob et al., "Quantization and Training of Neural Networks"
    (CVPR 2018), section 3.2.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    sums = {norm: torch.zeros(2, norm.num_features, dtype=torch.float64) for norm in norms}
    counts = dict.fromkeys(norms, 0)

    def observe(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        x_NCHW = inputs[0]
        variance, mean = torch.var_mean(x_NCHW, dim=(0, 2, 3), correction=0)
        num = x_NCHW.shape[0] * x_NCHW.shape[2] * x_NCHW.shape[3]
        sums[norm] += num * torch.stack([mean.double(), variance.double() + mean.double().square()])
        counts[norm] += num

    hooks = [norm.register_forward_pre_hook(observe) for norm in norms]
    try:
        network.eval()
        for x_NCHW in batches:
            network(x_NCHW)
    finally:
        for hook in hooks:
            hook.remove()
    for norm in norms:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        mean = sums[norm][0] / counts[norm]
        # A channel that never varies keeps a little variance: batches divide by it.
        variance = (sums[norm][1] / counts[norm] - mean.square()).clamp(min=norm.eps)
        gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        norm.bias.copy_(norm.bias.double() + gain * (mean - norm.running_mean.double()))
        norm.weight.copy_(gain * (variance + norm.eps).sqrt())
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
    return network
