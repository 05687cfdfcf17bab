"""Splits images that show several classes each into training, validation and test parts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from xtorch.data.annotations import Part
from xtorch.data.check_detection import UsableImage

_SHARES = (0.7, 0.15, 0.15)
"""Of training, validation and test where the dataset gives no parts."""
_HELD_BACK = 0.2
"""Share of a given training part that is held back where no validation part is given."""


class Labelled(Protocol):
    """An image with the classes that it shows, int64, one for each object or one for each class."""

    @property
    def path(self) -> str: ...
    @property
    def labels(self) -> np.ndarray: ...
    @property
    def part(self) -> Part | None: ...
    @property
    def group(self) -> int: ...


ImageT = TypeVar("ImageT", bound=Labelled)


@dataclass(frozen=True, kw_only=True)
class DetectionSplit:
    """Three disjoint parts; where they are ours, near duplicates are never in two of them."""

    train: tuple[UsableImage, ...]
    validation: tuple[UsableImage, ...]
    test: tuple[UsableImage, ...]
    protocol: str
    """A sentence for the report: how the data was split and what was never touched."""

    @property
    def parts(self) -> dict[str, tuple[UsableImage, ...]]:
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def counts(self, labels: Sequence[str]) -> dict[str, dict[str, int]]:
        """Part -> "images" and each label -> number; ignored objects do not count."""
        return {
            name: {"images": len(part)}
            | {
                label: sum(int((image.labels[~image.ignored] == index).sum()) for image in part)
                for index, label in enumerate(labels)
            }
            for name, part in self.parts.items()
        }


def split_detection(images: Sequence[UsableImage], *, num_classes: int, seed: int) -> DetectionSplit:
    """`split_images`, for images with boxes."""
    train, validation, test, protocol = split_images(images, num_classes=num_classes, seed=seed)
    return DetectionSplit(train=train, validation=validation, test=test, protocol=protocol)


def split_images(
    images: Sequence[ImageT], *, num_classes: int, seed: int
) -> tuple[tuple[ImageT, ...], tuple[ImageT, ...], tuple[ImageT, ...], str]:
    """Splits images; the same images and seed give the same split.

    Given parts are honoured. Where train and validation are given but no test, the given validation part is
    the test, and a part of train is held back for decisions. A single given part counts as none.

    Returns:
        Train, validation and test, each sorted by path; and a sentence about them for the report.
    """
    rng = np.random.default_rng(seed)
    images = sorted(images, key=lambda image: image.path)
    given: dict[str | None, list[ImageT]] = defaultdict(list)
    for image in images:
        given[image.part].append(image)
    named = [part for part in ("train", "validation", "test") if given[part]]
    once = "the test part was used once, after everything was decided."
    if len(named) < 2 or "train" not in named:
        train, validation, test = _divide(images, _SHARES, num_classes, rng)
        protocol = (
            "Images were divided at random into training, validation (for decisions) and test, classes in "
            f"proportion and near duplicates kept together; {once}"
        )
    else:
        # Images that the dataset puts nowhere are training images.
        train = given["train"] + given[None]
        if len(named) == 3:
            validation, test = given["validation"], given["test"]
            protocol = f"The dataset's own parts: trained on train, decided on validation; {once}"
        else:
            test = given["test"] or given["validation"]
            name = "test" if given["test"] else "validation"
            train, validation = _divide(train, (1 - _HELD_BACK, _HELD_BACK), num_classes, rng)
            protocol = (
                f"The test part is the dataset's own {name} part; {_HELD_BACK:.0%} of its training images "
                f"were held back for decisions; {once}"
            )

    def ordered(part: Sequence[ImageT]) -> tuple[ImageT, ...]:
        return tuple(sorted(part, key=lambda image: image.path))

    return ordered(train), ordered(validation), ordered(test), protocol


def _divide(
    images: Sequence[ImageT], shares: Sequence[float], num_classes: int, rng: np.random.Generator
) -> list[list[ImageT]]:
    """Divides into parts of these shares, whole groups each, the rarest class first.

    Source: Sechidis, Tsoumakas and Vlahavas, "On the Stratification of Multi-label Data" (ECML PKDD 2011),
    algorithm 1 (iterative stratification), on groups and with objects counted.
    """
    groups: dict[int, list[ImageT]] = defaultdict(list)
    for image in images:
        groups[image.group].append(image)
    keys = sorted(groups)
    members = [groups[keys[int(index)]] for index in rng.permutation(len(keys))]
    # Objects of each class, and in the last column the images themselves.
    amounts_GK = np.array(
        [
            sum(
                (np.append(np.bincount(image.labels, minlength=num_classes), 1) for image in group),
                start=np.zeros(num_classes + 1, np.int64),
            )
            for group in members
        ],
        float,
    ).reshape(-1, num_classes + 1)
    wanted_PK = np.asarray(shares)[:, None] * amounts_GK.sum(axis=0)
    parts: list[list[ImageT]] = [[] for _ in shares]
    left = list(range(len(members)))
    while left:
        remaining_K = amounts_GK[left].sum(axis=0)
        classes = np.flatnonzero(remaining_K[:-1])
        # The rarest class that is left; images without objects come last.
        column = int(classes[remaining_K[classes].argmin()]) if len(classes) else num_classes
        for index in [index for index in left if amounts_GK[index, column] > 0]:
            behind_P = wanted_PK[:, column]
            best = np.flatnonzero(behind_P == behind_P.max())
            part = int(best[wanted_PK[best, -1].argmax()])
            parts[part] += members[index]
            wanted_PK[part] -= amounts_GK[index]
            left.remove(index)
    return parts
