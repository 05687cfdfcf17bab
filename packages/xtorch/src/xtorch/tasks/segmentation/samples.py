"""Images with masks as training sees them: scaled once, kept in memory, augmented anew each time.

Shapes: N images, S and T rows and columns of the network's input, H and W of any other size, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from xtorch.data.check_segmentation import UsableImage
from xtorch.data.label_masks import IGNORED, MaskLegend, resized_mask, stored_orientation, upright_mask
from xtorch.errors import DataError
from xtorch.models.resize import resize
from xtorch.tasks.images import read_pixels
from xtorch.transforms import (
    Affine,
    ColorJitter,
    Compose,
    HorizontalFlip,
    ImageSample,
    OneOf,
    RandomResizedCrop,
    Transform,
    VerticalFlip,
)
from xtorch.transforms.geometry import PAD_LEVEL

CACHE_BYTES = 1 << 30
"""Scaled images are kept up to this; further ones are decoded again each time."""
_OFTEN = 0.5
"""A class that fewer of the images show than this is shown more often than it occurs."""
_SMALLEST_CROP = 0.5
"""Share of the image's area."""


class Masks:
    """Reads masks as class numbers.

    Args:
        root: The dataset's folder.
        legend: What their values mean.
        background: The class of images without a mask.
    """

    def __init__(self, root: Path, legend: MaskLegend, background: int | None) -> None:
        self._root, self._legend, self._background = root, legend, background

    def read(self, item: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
        """The mask of an entry of ``splits.json``, upright and scaled to (H, W): uint8.

        Raises:
            DataError: It cannot be read, or its shape is not the image's.
        """
        if item["mask"] is None:
            assert self._background is not None, "the check leaves such images out"
            return np.full(size, self._background, np.uint8)
        labels_HW = self._legend.read(self._root / item["mask"])
        upright_HW = upright_mask(
            labels_HW,
            width=item["width"],
            height=item["height"],
            orientation=stored_orientation(self._root / item["path"]),
        )
        if upright_HW is None:
            raise DataError("The mask's shape is not its image's.", value=item["mask"])
        return resized_mask(upright_HW, *size)


def split_items(images: Sequence[UsableImage]) -> list[dict[str, Any]]:
    """Images for ``splits.json``."""
    return [
        {"path": image.path, "mask": image.mask, "width": image.width, "height": image.height}
        for image in images
    ]


class TrainingImages:
    """Scaled images of a dataset, and augmented samples of them.

    Args:
        root: The dataset's folder.
        masks: Reads its masks.
        images: N.
        size: (S, T).
        cache_bytes: Memory that scaled images may take.
    """

    def __init__(
        self,
        root: Path,
        masks: Masks,
        images: Sequence[UsableImage],
        size: tuple[int, int],
        *,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.images, self.size = images, size
        self._root, self._masks, self._items = root, masks, split_items(images)
        self._kept: dict[int, ImageSample] = {}
        self._left_bytes = cache_bytes

    def __len__(self) -> int:
        return len(self._items)

    def sample(self, index: int) -> ImageSample:
        """One image as the engine will see it, scaled by its kernel and rounded to 8 bits; and its mask."""
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        item = self._items[index]
        pixels_HW3 = read_pixels(self._root, item["path"], min(self.size))
        with torch.inference_mode():
            x_13HW = torch.from_numpy(pixels_HW3).permute(2, 0, 1)[None].float()
            scaled = resize(x_13HW, *self.size)[0].round().clamp(0, 255).to(torch.uint8)
        found = ImageSample(
            image_HWC=np.ascontiguousarray(scaled.permute(1, 2, 0).numpy()),
            mask_HW=self._masks.read(item, self.size),
        )
        num_bytes = 4 * self.size[0] * self.size[1]
        if self._left_bytes >= num_bytes:
            self._left_bytes -= num_bytes
            self._kept[index] = found
        return found


class Batch(NamedTuple):
    """Images float32 [N,3,S,T] in 0..255, and their masks int64 [N,S,T]."""

    images: Tensor
    masks: Tensor


def collate(samples: Sequence[ImageSample]) -> Batch:
    """Samples as one batch."""
    images_NHW3 = torch.from_numpy(np.stack([sample.image_HWC for sample in samples]))
    masks = np.stack([sample.mask_HW for sample in samples if sample.mask_HW is not None])
    return Batch(
        images=images_NHW3.permute(0, 3, 1, 2).float().contiguous(),
        masks=torch.from_numpy(masks.astype(np.int64)),
    )


def augmentation(size: tuple[int, int], *, any_direction: bool) -> Transform[ImageSample]:
    """How training images vary; masks go with them, and what comes in from outside is ignored.

    Args:
        size: (S, T).
        any_direction: Whether they may stand upside down.
    """
    ratio = size[1] / size[0]
    crop = RandomResizedCrop(*size, scale=(_SMALLEST_CROP, 1.0), ratio=(0.8 * ratio, 1.25 * ratio))
    turn = Affine(
        degrees=30.0 if any_direction else 10.0,
        scale=(0.8, 1.25),
        translate=0.1,
        fill=PAD_LEVEL,
        mask_fill=IGNORED,
    )
    flips: list[Transform[ImageSample]] = [HorizontalFlip()]
    if any_direction:
        flips.append(VerticalFlip())
    return Compose([*flips, OneOf([crop, turn]), ColorJitter()])


def frequencies(images: Sequence[UsableImage], num_classes: int) -> np.ndarray:
    """How often each image is shown, compared with the others: float64 [N].

    Images of rare classes are shown more often; those of nothing but the most frequent class, all together,
    not more often than all others.

    Source: repeat factors: Gupta, Dollar and Girshick, "LVIS" (CVPR 2019), section 4.
    """
    shown_NK = np.array([image.pixels > 0 for image in images]).reshape(-1, num_classes)
    pixels_K = np.sum([image.pixels for image in images], axis=0)
    common = int(pixels_K.argmax())
    plain_N = ~np.delete(shown_NK, common, axis=1).any(axis=1)
    telling = max(1, int((~plain_N).sum()))
    share_K = shown_NK[~plain_N].sum(axis=0) / telling
    factor_K = np.sqrt(np.maximum(1.0, _OFTEN / np.maximum(share_K, 1 / telling)))
    weight_N = np.where(shown_NK, factor_K, 1.0).max(axis=1)
    if plain_N.any() and not plain_N.all():
        weight_N[plain_N] = min(1.0, float(weight_N[~plain_N].sum()) / int(plain_N.sum()))
    return weight_N


class Scenes:
    """Augmented batches, different in each epoch, the same for the same seed.

    Args:
        images: To draw from.
        weights: How often each is drawn, compared with the others.
        transform: What is done to them.
        steps: Batches of an epoch.
        seed: Decides the order and every sample.
    """

    def __init__(
        self,
        images: TrainingImages,
        weights: np.ndarray,
        transform: Transform[ImageSample],
        *,
        batch_size: int,
        steps: int,
        seed: int,
    ) -> None:
        self.images, self.transform, self.batch_size, self.steps = images, transform, batch_size, steps
        self.seed = seed
        self._share_N = weights / weights.sum()
        self._epoch = 0

    def __len__(self) -> int:
        return self.steps

    def set_epoch(self, epoch: int) -> None:
        """Which epoch comes next, from 0."""
        self._epoch = epoch

    def order(self, epoch: int) -> np.ndarray:
        """The images of an epoch, int64 [steps * batch_size].

        Each is drawn as often as its share says, rounded up or down at random: systematic sampling.
        """
        rng = np.random.default_rng([self.seed, epoch])
        total = self.steps * self.batch_size
        shuffled = rng.permutation(len(self._share_N))
        ends = np.cumsum(self._share_N[shuffled])
        points = (np.arange(total) + rng.random()) / total
        drawn = shuffled[np.minimum(np.searchsorted(ends, points, side="right"), len(ends) - 1)]
        return np.asarray(rng.permutation(drawn))

    def __iter__(self) -> Iterator[Batch]:
        order = self.order(self._epoch)
        for step in range(self.steps):
            places = range(step * self.batch_size, (step + 1) * self.batch_size)
            yield collate(
                [
                    self.transform(
                        self.images.sample(int(order[place])),
                        np.random.default_rng([self.seed, self._epoch, place]),
                    )
                    for place in places
                ]
            )
