"""Anomaly detection on features of a frozen backbone.

An image becomes a grid of patch descriptors of unit length; a scorer turns each into a number that grows
with strangeness; the image's score is a weighted mean of the strangest patches. The parts:

- `preprocess` scales the image (models/resize.py);
- `backbone` and `patches` make descriptors;
- `scorer` is one of `MemoryScorer`, `GaussianScorer`, `HeadScorer`;
- `tail` pools the image score and draws the map.

Shapes: N images, C channels of a descriptor, h and w rows and columns of the patch grid, M descriptors in
memory, R kept directions, S rows and columns of the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xtorch.models import efficientnet
from xtorch.models.resize import Preprocess, resize


@dataclass(frozen=True, kw_only=True)
class AnomalyConfig:
    """Architecture of an `AnomalyModel`; what `model.json` keeps."""

    backbone: str = "efficientnet_lite0"
    input_size: int = 256
    """Side of the image that the backbone sees, in pixels."""
    strides: tuple[int, ...] = (16, 32)
    """Feature maps that make a descriptor; the first gives the grid."""
    map_size: int = 64
    """Side of the anomaly map."""
    scorer: str = "memory"
    scorer_size: int = 0
    """Memory: number of descriptors; Gaussian: directions; head: hidden units."""
    top_fractions: tuple[float, ...] = (0.02, 0.1, 0.5)
    """Shares of the patches; the means of the strangest ones, averaged over the shares, are the score."""

    @property
    def grid_size(self) -> int:
        """Rows (and columns) of the patch grid."""
        return -(-self.input_size // self.strides[0])

    @property
    def channels(self) -> int:
        """Length of a descriptor."""
        return sum(efficientnet.FEATURE_MAPS[stride][1] for stride in self.strides)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        lists = {"strides": list(self.strides), "top_fractions": list(self.top_fractions)}
        return asdict(self) | lists


class Backbone(nn.Module):
    """Frozen EfficientNet-lite0; gives raw feature maps."""

    def __init__(self, strides: Sequence[int], *, pretrained: bool) -> None:
        super().__init__()
        build = efficientnet.efficientnet_lite0 if pretrained else efficientnet.EfficientNetLite0
        self.net = build(num_classes=None, max_stride=max(strides))
        self.strides = tuple(strides)
        self.requires_grad_(False)

    def forward(self, x_NCHW: Tensor) -> list[Tensor]:
        return self.net.features(x_NCHW, self.strides)


class Patches(nn.Module):
    """Feature maps -> descriptors of unit length on the first map's grid.

    The first (finest) map is averaged over 3x3 neighbours; coarser ones see as much anyway and are only
    brought to its size. Maps are centred, and scaled so that each weighs the same, by statistics of normal
    images. Descriptors then have unit length: what is compared is direction, not contrast.

    Source: Roth et al., "Towards Total Recall in Industrial Anomaly Detection" (CVPR 2022), section 3.1,
    with cosine instead of Euclidean distance.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.register_buffer("mean_C", torch.zeros(sum(channels)))
        self.register_buffer("scale_C", torch.ones(sum(channels)))
        self.mean_C: Tensor
        self.scale_C: Tensor

    def aligned(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps on one grid, float32 [N,C,h,w], neither centred nor scaled."""
        first_NChw, *coarser = maps
        smooth = F.avg_pool2d(first_NChw, 3, stride=1, padding=1, count_include_pad=False)
        height, width = smooth.shape[2:]
        return torch.cat([smooth, *(resize(x_NChw, height, width) for x_NChw in coarser)], dim=1)

    def fit(self, aligned_NChw: Tensor) -> None:
        """Set the statistics from normal images' aligned maps."""
        mean_C = aligned_NChw.mean(dim=(0, 2, 3))
        variance_C = aligned_NChw.var(dim=(0, 2, 3))
        scales = [
            (1.0 / variance.sum().sqrt().clamp(min=1e-6)).expand(len(variance))
            for variance in variance_C.split(self.channels)
        ]
        self.mean_C.copy_(mean_C)
        self.scale_C.copy_(torch.cat(scales))

    def normalised(self, aligned_NChw: Tensor) -> Tensor:
        """Centred, scaled, of unit length along C."""
        x_NChw = (aligned_NChw - self.mean_C[:, None, None]) * self.scale_C[:, None, None]
        return x_NChw / x_NChw.square().sum(dim=1, keepdim=True).clamp(min=1e-12).sqrt()

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.normalised(self.aligned(maps))


class MemoryScorer(nn.Module):
    """Distance to the nearest of M remembered descriptors of normal images.

    All vectors have unit length, so ||a - b||^2 = 2 - 2ab: one matrix product and a maximum.

    Source: Roth et al. (CVPR 2022), sections 3.1-3.3, without the re-weighting of equation 7.
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.register_buffer("bank_CM", torch.zeros(channels, size))
        self.bank_CM: Tensor

    def forward(self, patches_NChw: Tensor) -> Tensor:
        num, channels, height, width = patches_NChw.shape
        flat_NPC = patches_NChw.reshape(num, channels, height * width).transpose(1, 2)
        nearest_NP = torch.matmul(flat_NPC, self.bank_CM).amax(dim=2)
        distance_NP = (2.0 - 2.0 * nearest_NP).clamp(min=1e-6).sqrt()
        return distance_NP.reshape(num, height, width)


class GaussianScorer(nn.Module):
    """Mahalanobis distance to one Gaussian over the descriptors of normal images.

    Source: Rippel et al., "Modeling the Distribution of Normal Data in Pre-Trained Deep Features for Anomaly
    Detection" (ICPR 2020), section III, for patches; whitening keeps the R widest directions.
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.register_buffer("whiten_RC", torch.zeros(size, channels))
        self.register_buffer("offset_R", torch.zeros(size))
        self.whiten_RC: Tensor
        self.offset_R: Tensor

    def forward(self, patches_NChw: Tensor) -> Tensor:
        white_NRhw = F.conv2d(patches_NChw, self.whiten_RC[:, :, None, None], self.offset_R)
        return white_NRhw.square().mean(dim=1).sqrt()


class HeadScorer(nn.Module):
    """A small supervised network on each descriptor: log-odds of "defective"."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.hidden = nn.Conv2d(channels, size, 1)
        self.logit = nn.Conv2d(size, 1, 1)

    def forward(self, patches_NChw: Tensor) -> Tensor:
        return self.logit(F.relu(self.hidden(patches_NChw))).squeeze(1)


SCORERS: dict[str, type[nn.Module]] = {
    "memory": MemoryScorer,
    "gaussian": GaussianScorer,
    "head": HeadScorer,
}


def top_weights(top_fractions: Sequence[float], num_patches: int) -> Tensor:
    """Weights of an image's patch values, the highest first, whose sum is the image's score.

    Each share's strangest patches weigh the same together: a small defect stands out in the mean of a few
    patches, a faint one that covers much in the mean of many, and how large defects are nobody knows before.

    Args:
        top_fractions: In (0, 1].
        num_patches: Of an image.

    Returns:
        float32 [K], which sum to 1; K patches are in the largest share.
    """
    counts = [max(1, round(fraction * num_patches)) for fraction in top_fractions]
    weights_K = torch.zeros(max(counts))
    for count in counts:
        weights_K[:count] += 1 / (count * len(counts))
    return weights_K


class Tail(nn.Module):
    """Patch values [N,h,w] -> image score [N] and anomaly map [N,S,S].

    Args:
        weights_K: From `top_weights`.
        map_size: S.
    """

    def __init__(self, weights_K: Tensor, *, map_size: int) -> None:
        super().__init__()
        self.map_size = map_size
        # They follow from the configuration, so state dicts leave them out.
        self.register_buffer("weights_K", weights_K, persistent=False)
        self.weights_K: Tensor

    def pool(self, values_Nhw: Tensor) -> Tensor:
        """Weighted sum of the highest values: float32 [N]."""
        top_NK = values_Nhw.flatten(1).topk(len(self.weights_K), dim=1, sorted=True).values
        return (top_NK * self.weights_K).sum(dim=1)

    def forward(self, values_Nhw: Tensor) -> tuple[Tensor, Tensor]:
        map_NSS = resize(values_Nhw[:, None], self.map_size, self.map_size)[:, 0]
        return self.pool(values_Nhw), map_NSS


class AnomalyModel(nn.Module):
    """uint8 RGB [N,H,W,3] of any size -> score float32 [N] and anomaly map float32 [N,S,S].

    Args:
        config: the architecture.
        pretrained: take the backbone's ImageNet weights; else they come with a state dict.
    """

    def __init__(self, config: AnomalyConfig, *, pretrained: bool = False) -> None:
        super().__init__()
        self.config = config
        channels = [efficientnet.FEATURE_MAPS[stride][1] for stride in config.strides]
        self.preprocess = Preprocess(config.input_size, mean=efficientnet.MEAN, std=efficientnet.STD)
        self.backbone = Backbone(config.strides, pretrained=pretrained)
        self.patches = Patches(channels)
        self.scorer = SCORERS[config.scorer](config.channels, config.scorer_size)
        self.tail = Tail(top_weights(config.top_fractions, config.grid_size**2), map_size=config.map_size)

    def forward(self, image_NHWC: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.backbone(self.preprocess(image_NHWC))
        return self.tail(self.scorer(self.patches(maps)))
