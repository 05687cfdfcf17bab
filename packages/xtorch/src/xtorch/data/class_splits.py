"""Splits images of classes into training, validation and test parts, and training data into folds."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from xtorch.data.check import UsableImage

_SHARES = (0.6, 0.15, 0.25)
"""Of training, validation and test where none is given."""
_GIVEN_SHARES = (0.8, 0.2, 0.0)
_MAX_GROUP_SHARE = 0.5
"""A group of near duplicates with more than this share of its class is no group."""


@dataclass(frozen=True, kw_only=True)
class ClassSplit:
    """Three disjoint parts; near duplicates are never in two of them.

    Attributes:
        protocol: One sentence for the report: how the data was split and what was never touched.
    """

    train: tuple[UsableImage, ...]
    validation: tuple[UsableImage, ...]
    test: tuple[UsableImage, ...]
    protocol: str

    @property
    def parts(self) -> dict[str, tuple[UsableImage, ...]]:
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def counts(self, labels: Sequence[str]) -> dict[str, dict[str, int]]:
        """Part -> label -> number of images."""
        return {
            part: {
                label: sum(image.label == number for image in images) for number, label in enumerate(labels)
            }
            for part, images in self.parts.items()
        }


def split_classes(images: Sequence[UsableImage], *, seed: int) -> ClassSplit:
    """Splits images; the same images and seed give the same split.

    Args:
        images: Usable images; where any says that it belongs to a test part, exactly those are the test.
        seed: Decides who goes where.
    """
    images, undone = ungrouped(images)
    given = [image for image in images if image.part == "test"]
    pool = [image for image in images if image.part != "test"]
    train, validation, test = _deal(pool, _GIVEN_SHARES if given else _SHARES, np.random.default_rng(seed))
    if given:
        protocol = (
            "The test part is exactly the given one and was used once, after everything was decided; "
            f"{_GIVEN_SHARES[1]:.0%} of the given training images were held back for decisions."
        )
    else:
        protocol = (
            "Images were divided at random, class by class, near duplicates kept together, into "
            "training, validation (for decisions) and test; the test part was used once, after everything "
            "was decided."
        )
    if undone:
        protocol += f" Near duplicates of {undone} classes were divided: most of their images look alike."
    return ClassSplit(
        train=_ordered(train),
        validation=_ordered(validation),
        test=_ordered(given or test),
        protocol=protocol,
    )


def ungrouped(images: Sequence[UsableImage]) -> tuple[list[UsableImage], int]:
    """The images, without groups that hold most of a class, and of how many classes groups were undone.

    Pictures of a fixed set-up look alike without being the same; in one group they could not be divided.
    """
    sizes = Counter(image.label for image in images)
    largest: dict[int, int] = defaultdict(int)
    for (label, _), num in Counter((image.label, image.group) for image in images).items():
        largest[label] = max(largest[label], num)
    undone = {label for label, num in largest.items() if num > _MAX_GROUP_SHARE * sizes[label]}
    return [
        replace(image, group=-1 - index) if image.label in undone else image
        for index, image in enumerate(images)
    ], len(undone)


def folds(images: Sequence[UsableImage], num: int, *, seed: int) -> np.ndarray:
    """The fold of each image, int64 [N]: near duplicates share one, classes are spread evenly."""
    shares = (1 / num,) * num
    dealt = _deal(images, shares, np.random.default_rng(seed))
    number = {image.path: fold for fold, part in enumerate(dealt) for image in part}
    return np.array([number[image.path] for image in images], dtype=np.int64)


def _deal(
    images: Sequence[UsableImage], shares: Sequence[float], rng: np.random.Generator
) -> list[list[UsableImage]]:
    """Divides each class into parts of about these shares, whole groups of near duplicates each.

    Groups of a class are dealt in a random order, the largest first, each to the part that is furthest
    behind; the largest thus goes to the part with the largest share, and small classes reach every part.
    """
    by_class: dict[int, dict[int, list[UsableImage]]] = defaultdict(lambda: defaultdict(list))
    for image in sorted(images, key=lambda image: image.path):
        by_class[image.label][image.group].append(image)
    parts: list[list[UsableImage]] = [[] for _ in shares]
    for label in sorted(by_class):
        groups = by_class[label]
        keys = sorted(groups)
        shuffled = [groups[keys[int(index)]] for index in rng.permutation(len(keys))]
        shuffled.sort(key=len, reverse=True)
        total = sum(map(len, shuffled))
        counts = Counter[int]()
        for group in shuffled:
            behind = [
                share * total - counts[part] if share > 0 else -np.inf for part, share in enumerate(shares)
            ]
            part = int(np.argmax(behind))
            counts[part] += len(group)
            parts[part] += group
    return parts


def _ordered(images: Sequence[UsableImage]) -> tuple[UsableImage, ...]:
    return tuple(sorted(images, key=lambda image: image.path))
