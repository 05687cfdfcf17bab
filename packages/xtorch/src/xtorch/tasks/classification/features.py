"""Features of the frozen network, computed once per image and kept on disk.

Shapes: N images, V views (as it is, mirrored), F features, C channels, h and w rows and columns of a map.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xinfer.errors import ImageDecodeError
from xinfer.preproc import decode_image
from xtorch.data.check import UsableImage
from xtorch.errors import DataError
from xtorch.models import efficientnet
from xtorch.models.classifier import FEATURES, MAP_CHANNELS, ClassifierConfig, head_map
from xtorch.models.resize import Preprocess
from xtorch.tasks.feature_cache import FeatureCache

_VERSION = 1
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
        flat_NVL = np.empty((len(images), VIEWS, self._length), dtype=np.float16)
        missing: list[int] = []
        for index, image in enumerate(images):
            known = self._cache.load(image.digest)
            if known is None:
                missing.append(index)
            else:
                flat_NVL[index] = known
        done = len(images) - len(missing)
        report(done, len(images))
        for start in range(0, len(missing), _BATCH):
            chunk = missing[start : start + _BATCH]
            computed = self._compute([read_pixels(root, images[i].path, self._config) for i in chunk])
            for index, values in zip(chunk, computed, strict=True):
                flat_NVL[index] = values
                self._cache.save(images[index].digest, values)
            done += len(chunk)
            report(done, len(images))
        maps = torch.from_numpy(flat_NVL[:, :, FEATURES:])
        return Features(
            pooled=flat_NVL[:, :, :FEATURES].astype(np.float32),
            maps=maps.reshape(len(images), VIEWS, *self._map_shape),
        )

    def _compute(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Of each image, features and map of its views side by side, float16 [V,L]."""
        if self._net is None:
            self._net = efficientnet.efficientnet_lite0()
            self._net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.inference_mode():
            x_NCHW = torch.cat([self._preprocess(torch.from_numpy(image)[None]) for image in images])
            both = torch.cat([x_NCHW, x_NCHW.flip(3)]).contiguous(memory_format=torch.channels_last)
            maps, last = self._net.features(both, [16, 32])
            pooled = head_map(self._net, last).mean(dim=(2, 3))
            described = torch.cat([pooled, maps.contiguous().flatten(1)], dim=1)
            flat = described[:, : self._length].half().numpy()
        return [flat[[index, index + len(images)]] for index in range(len(images))]


def read_pixels(root: Path, path: str, config: ClassifierConfig) -> np.ndarray:
    """An image as the engine will see it, uint8 [H,W,3].

    Raises:
        DataError: It cannot be decoded.
    """
    try:
        return decode_image((root / path).read_bytes(), min_side=config.input_size)
    except (ImageDecodeError, OSError) as error:
        raise DataError(
            f"{path} cannot be decoded: {error}", value=path, hint="remove the file or save it again"
        ) from error
