"""Feature maps of a frozen backbone, computed once per image and kept on disk.

The cache: ``<cache_dir>/features/<recipe>/<ab>/<digest>.npy``, where `recipe` names everything that the
maps depend on but the image. Each file holds the maps one after the other, float16, and is written to a
temporary name first; a file that cannot be read is computed again.

Shapes: N images, C channels, h and w rows and columns of a map.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.fusion import fuse_conv_bn_eval

from xinfer.preproc import decode_image
from xtorch.data.check import UsableImage
from xtorch.models import efficientnet
from xtorch.models.anomaly import AnomalyConfig, Backbone
from xtorch.models.resize import Preprocess

_VERSION = 1
_BATCH = 8


def _recipe(config: AnomalyConfig) -> str:
    parts = {
        "version": _VERSION,
        "backbone": config.backbone,
        "weights": efficientnet.imagenet_weights_path().name,
        "input_size": config.input_size,
        "strides": list(config.strides),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


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
        self._folder = None if cache_dir is None else Path(cache_dir) / "features" / _recipe(config)
        self._shapes = [
            (efficientnet.FEATURE_MAPS[stride][1], -(-config.input_size // stride))
            for stride in config.strides
        ]

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
        """
        outputs = [
            torch.empty((len(images), channels, side, side), dtype=torch.float16)
            for channels, side in self._shapes
        ]
        missing: list[int] = []
        for index, image in enumerate(images):
            flat = self._load(image.digest)
            if flat is None:
                missing.append(index)
            else:
                self._unpack(flat, outputs, index)
        done = len(images) - len(missing)
        report(done, len(images))
        for start in range(0, len(missing), _BATCH):
            chunk = missing[start : start + _BATCH]
            pixels = [
                decode_image((root / images[index].path).read_bytes(), min_side=self.config.input_size)
                for index in chunk
            ]
            computed = self._compute(pixels)
            for row, index in enumerate(chunk):
                for output, values in zip(outputs, computed, strict=True):
                    output[index] = values[row]
                self._save(images[index].digest, np.concatenate([v[row].numpy().ravel() for v in computed]))
            done += len(chunk)
            report(done, len(images))
        return outputs

    def maps_of(self, images: Sequence[np.ndarray], report: Callable[[int, int], None]) -> list[Tensor]:
        """`maps` of images that are at hand, uint8 RGB [H,W,3] of any sizes; the cache is not used."""
        computed = []
        for start in range(0, len(images), _BATCH):
            computed.append(self._compute(images[start : start + _BATCH]))
            report(min(start + _BATCH, len(images)), len(images))
        return [torch.cat(maps) for maps in zip(*computed, strict=True)]

    def _compute(self, images: Sequence[np.ndarray]) -> list[Tensor]:
        """Maps of at most `_BATCH` images. Always as many are computed: kernels, and with them the last
        bits, depend on the number, and a run that was interrupted must end with the same ones."""
        if self._backbone is None:
            self._backbone = Backbone(self.config.strides, pretrained=True).eval()
            _fuse(self._backbone)
            self._backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.inference_mode():
            inputs = [self.preprocess(torch.from_numpy(image_HW3)[None]) for image_HW3 in images]
            inputs += [torch.zeros_like(inputs[0])] * (_BATCH - len(inputs))
            x_NCHW = torch.cat(inputs).contiguous(memory_format=torch.channels_last)
            return [x[: len(images)].to(torch.float16).contiguous() for x in self._backbone(x_NCHW)]

    def _unpack(self, flat: np.ndarray, outputs: Sequence[Tensor], index: int) -> None:
        start = 0
        for output in outputs:
            size = output[index].numel()
            output[index] = torch.from_numpy(flat[start : start + size]).reshape(output[index].shape)
            start += size

    def _path(self, digest: str) -> Path:
        assert self._folder is not None
        name = digest.removeprefix("sha256:")
        return self._folder / name[:2] / f"{name}.npy"

    def _load(self, digest: str) -> np.ndarray | None:
        if self._folder is None:
            return None
        try:
            flat = np.load(self._path(digest), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        expected = sum(channels * side * side for channels, side in self._shapes)
        return flat if flat.shape == (expected,) and flat.dtype == np.float16 else None

    def _save(self, digest: str, flat: np.ndarray) -> None:
        if self._folder is None:
            return
        path = self._path(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.npy")
        np.save(partial, flat, allow_pickle=False)
        partial.replace(path)
