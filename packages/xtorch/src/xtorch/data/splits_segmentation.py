"""Splits images with masks into training, validation and test parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from xtorch.data.check_segmentation import UsableImage
from xtorch.data.splits_detection import split_images

_MAX_GROUP_SHARE = 0.3
"""A group of near duplicates with more than this share of the images is no group."""


@dataclass(frozen=True, kw_only=True)
class SegmentationSplit:
    """Three disjoint parts; where they are ours, near duplicates are never in two of them.

    Attributes:
        protocol: A sentence for the report: how the data was split and what was never touched.
    """

    train: tuple[UsableImage, ...]
    validation: tuple[UsableImage, ...]
    test: tuple[UsableImage, ...]
    protocol: str

    @property
    def parts(self) -> dict[str, tuple[UsableImage, ...]]:
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def counts(self, labels: Sequence[str]) -> dict[str, dict[str, int]]:
        """Part -> "images", and each label -> number of images that show it."""
        return {
            name: {"images": len(part)}
            | {label: sum(bool(image.pixels[k]) for image in part) for k, label in enumerate(labels)}
            for name, part in self.parts.items()
        }


def split_segmentation(images: Sequence[UsableImage], *, num_classes: int, seed: int) -> SegmentationSplit:
    """Splits images as `split_images` does; the same images and seed give the same split.

    Pictures of a fixed set-up look alike without being the same; in one group they could not be divided, so
    very large groups are undone, and the protocol says so.
    """
    sizes = Counter(image.group for image in images)
    large = {group for group, num in sizes.items() if num > max(1, _MAX_GROUP_SHARE * len(images))}
    divided = [
        replace(image, group=-1 - place) if image.group in large else image
        for place, image in enumerate(images)
    ]
    train, validation, test, protocol = split_images(divided, num_classes=num_classes, seed=seed)
    if large:
        undone = sum(sizes[group] for group in large)
        protocol += f" {undone} images look alike, as of a fixed camera: they were divided too."
    return SegmentationSplit(train=train, validation=validation, test=test, protocol=protocol)
