"""Features of the frozen network, computed once per image and kept on disk.

Shapes: N images, V views (as it is, mirrored), F features, C channels, h and w rows and columns of a map, L
values that are kept of a view.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xtorch.data.check import UsableImage
from xtorch.models import efficientnet
from xtorch.models.classifier import FEATURES, MAP_CHANNELS, ClassifierConfig, head_map
from xtorch.models.resize import Preprocess
from xtorch.tasks.feature_cache import FeatureCache
from xtorch.tasks.images import network_input, read_pixels

_VERSION = 2
"""Raised when the same image and configuration would give other values."""
_BATCH = 8
VIEWS = 2


@dataclass(frozen=True, kw_only=True)
class Features:
    """What the frozen network says of images.

    Attributes:
        pooled: float32 [N,V,F], what a classifier sees.
        maps: float16 [N,V,C,h,w], of stride 16: what fine-tuning starts from; [N,V,0] where not asked for.
    """

    pooled: np.ndarray
    maps: Tensor

    def __getitem__(self, rows: slice) -> Features:
        return Features(pooled=self.pooled[rows], maps=self.maps[rows])


class FeatureExtractor:
    """
    Args:
        config: Of the classifier; its classes do not matter.
        cache_dir: Where features are kept; None: nowhere.
        with_maps: Whether maps are wanted: they take 88 KB an image.
    """

    def __init__(self, config: ClassifierConfig, *, cache_dir: Path | None, with_maps: bool = True) -> None:
        self._config = config
        self._net: efficientnet.EfficientNetLite | None = None
        self._preprocess = Preprocess(config.input_size, mean=efficientnet.MEAN, std=efficientnet.STD)
        self._map_shape = (MAP_CHANNELS, config.map_size, config.map_size) if with_maps else (0,)
        self._length = FEATURES + math.prod(self._map_shape)
        recipe = {
            "version": _VERSION,
            "task": "classification",
            "backbone": config.backbone,
            "weights": efficientnet.imagenet_weights_path().name,
            "input_size": config.input_size,
            "maps": with_maps,
        }
        self._cache = FeatureCache(cache_dir, recipe, (VIEWS, self._length))

    def features(
        self, root: Path, images: Sequence[UsableImage], report: Callable[[int, int], None]
    ) -> Features:
        """
        Args:
            root: The dataset's folder.
            images: Which of its images.
            report: Called with (done, total) now and then.

        Raises:
            DataError: An image cannot be decoded.
        """

        def computed(chunk: Sequence[int]) -> np.ndarray:
            side = self._config.input_size
            return self._compute([read_pixels(root, images[index].path, side) for index in chunk])

        digests = [image.digest for image in images]
        flat_NVL = self._cache.fill(digests, computed, batch_size=_BATCH, report=report)
        return Features(
            pooled=flat_NVL[:, :, :FEATURES].astype(np.float32),
            maps=torch.from_numpy(flat_NVL[:, :, FEATURES:]).unflatten(2, self._map_shape),
        )

    def _compute(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Of at most `_BATCH` images, features and map of each view side by side: float16 [N,V,L]."""
        if self._net is None:
            self._net = efficientnet.efficientnet_lite0()
            self._net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.inference_mode():
            x_NCHW = network_input(images, self._preprocess, _BATCH)
            views = []
            for view_NCHW in (x_NCHW, x_NCHW.flip(3)):
                maps, last = self._net.features(view_NCHW, [16, 32])
                pooled_NF = head_map(self._net, last).mean(dim=(2, 3))
                views.append(torch.cat([pooled_NF, maps.contiguous().flatten(1)], dim=1)[:, : self._length])
            return torch.stack(views, dim=1)[: len(images)].half().numpy()
