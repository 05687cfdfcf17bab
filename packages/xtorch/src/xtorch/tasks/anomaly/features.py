"""Feature maps of a frozen backbone, computed once per image and kept on disk.

Shapes: N images, C channels, h and w rows and columns of a map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.fusion import fuse_conv_bn_eval

from xtorch.data.check import UsableImage
from xtorch.models import efficientnet
from xtorch.models.anomaly import AnomalyConfig, Backbone
from xtorch.models.resize import Preprocess
from xtorch.tasks.feature_cache import FeatureCache
from xtorch.tasks.images import network_input, read_pixels

_VERSION = 1
_BATCH = 8


def _fuse(module: torch.nn.Module) -> None:
    """Fold each batch normalisation into its convolution: the same values, in less time."""
    pairs = (
        ("_conv_stem", "_bn0"),
        ("_expand_conv", "_bn0"),
        ("_depthwise_conv", "_bn1"),
        ("_project_conv", "_bn2"),
    )
    for child in module.modules():
        for conv_name, norm_name in pairs:
            conv, norm = getattr(child, conv_name, None), getattr(child, norm_name, None)
            if isinstance(conv, torch.nn.Conv2d) and isinstance(norm, torch.nn.BatchNorm2d):
                setattr(child, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(child, norm_name, torch.nn.Identity())


class FeatureExtractor:
    """Computes and caches the feature maps that an `AnomalyConfig` asks for.

    Args:
        config: says backbone, input size and strides.
        cache_dir: where the cache lives; None: no cache.
    """

    def __init__(self, config: AnomalyConfig, *, cache_dir: Path | None) -> None:
        self.config = config
        self.preprocess = Preprocess(config.input_size, mean=efficientnet.MEAN, std=efficientnet.STD)
        self._backbone: Backbone | None = None
        sides = [-(-config.input_size // stride) for stride in config.strides]
        self._shapes = [
            (efficientnet.FEATURE_MAPS[stride][1], side, side)
            for stride, side in zip(config.strides, sides, strict=True)
        ]
        self._sizes = [channels * height * width for channels, height, width in self._shapes]
        recipe = {
            "version": _VERSION,
            "backbone": config.backbone,
            "weights": efficientnet.imagenet_weights_path().name,
            "input_size": config.input_size,
            "strides": list(config.strides),
        }
        self._cache = FeatureCache(cache_dir, recipe, (sum(self._sizes),))

    def maps(
        self,
        root: Path,
        images: Sequence[UsableImage],
        report: Callable[[int, int], None],
    ) -> list[Tensor]:
        """Feature maps of images.

        Args:
            root: the dataset's folder.
            images: which of its images.
            report: called with (done, total) now and then.

        Returns:
            One float16 tensor [N,C,h,w] for each stride of the configuration.

        Raises:
            DataError: an image cannot be decoded.
        """

        def computed(chunk: Sequence[int]) -> np.ndarray:
            side = self.config.input_size
            return self._compute([read_pixels(root, images[index].path, side) for index in chunk])

        digests = [image.digest for image in images]
        return self._unpacked(self._cache.fill(digests, computed, batch_size=_BATCH, report=report))

    def maps_of(self, images: Sequence[np.ndarray], report: Callable[[int, int], None]) -> list[Tensor]:
        """`maps` of images that are at hand, uint8 RGB [H,W,3] of any sizes; the cache is not used."""
        computed = []
        for start in range(0, len(images), _BATCH):
            computed.append(self._compute(images[start : start + _BATCH]))
            report(min(start + _BATCH, len(images)), len(images))
        return self._unpacked(np.concatenate(computed))

    def _compute(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Maps of at most `_BATCH` images, one after the other: float16 [N,L]."""
        if self._backbone is None:
            self._backbone = Backbone(self.config.strides, pretrained=True).eval()
            _fuse(self._backbone)
            self._backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.inference_mode():
            maps = self._backbone(network_input(images, self.preprocess, _BATCH))
            flat_NL = torch.cat([x_NChw.half().flatten(1) for x_NChw in maps], dim=1)
        return flat_NL[: len(images)].numpy()

    def _unpacked(self, flat_NL: np.ndarray) -> list[Tensor]:
        """The maps of each stride."""
        parts = torch.from_numpy(flat_NL).split(self._sizes, dim=1)
        return [part.unflatten(1, shape) for part, shape in zip(parts, self._shapes, strict=True)]
