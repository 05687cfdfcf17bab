"""Splits images into training, validation and test parts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from xtorch.data.check import UsableImage
from xtorch.data.layout import DEFECTIVE, OK

#: Shares of training, validation and test where the layout gives none.
_SHARES = (0.55, 0.2, 0.25)
#: Fewer defective images than this are not worth splitting three ways: none is used for training.
_MIN_DEFECTIVE_TO_TRAIN = 24
#: Fewer than this all go into the test part.
_MIN_DEFECTIVE_TO_VALIDATE = 10
#: A part with less than this share of the good images that it ought to have was spoilt by large groups.
_MIN_FILLED = 0.5
#: Share of a given training part that is held back for validation.
_HELD_BACK = 0.2


@dataclass(frozen=True, kw_only=True)
class Split:
    """Three disjoint parts; near duplicates are never in two of them."""

    train: tuple[UsableImage, ...]
    validation: tuple[UsableImage, ...]
    test: tuple[UsableImage, ...]
    protocol: str
    """One sentence for the report: how the data was split and what was never touched."""

    @property
    def parts(self) -> dict[str, tuple[UsableImage, ...]]:
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def counts(self) -> dict[str, dict[str, int]]:
        """Number of ok and defective images in each part."""
        return {
            name: {
                "ok": sum(image.label == OK for image in part),
                "defective": sum(image.label == DEFECTIVE for image in part),
            }
            for name, part in self.parts.items()
        }


def _divide(
    images: Sequence[UsableImage], shares: Sequence[float], rng: np.random.Generator
) -> list[list[UsableImage]]:
    """Divide into parts of about these shares, whole groups each, every kind of defect in proportion.

    Groups are dealt in a random order, kind by kind; each goes to the part that is furthest behind.
    """
    groups: dict[int, list[UsableImage]] = defaultdict(list)
    for image in images:
        groups[image.group].append(image)
    keys = sorted(groups)
    ordered = [groups[keys[int(index)]] for index in rng.permutation(len(keys))]
    ordered.sort(key=lambda group: group[0].kind or "")
    parts: list[list[UsableImage]] = [[] for _ in shares]
    dealt = 0
    for group in ordered:
        dealt += len(group)
        behind = [
            share * dealt - len(part) if share > 0 else -np.inf
            for share, part in zip(shares, parts, strict=True)
        ]
        parts[int(np.argmax(behind))] += group
    return parts


def split(images: Sequence[UsableImage], *, seed: int) -> Split:
    """Split images; the same images and seed give the same split.

    Near duplicates stay together, unless nearly everything looks alike, as parts in a fixed set-up do: then
    images could not be divided, and are taken singly, which `Split.protocol` says.

    Args:
        images: usable images; where any says that it belongs to a test part, exactly those are the test.
        seed: decides who goes where.
    """
    images = sorted(images, key=lambda image: image.path)
    done = _split(images, seed=seed)
    if _is_filled(done):
        return done
    singly = _split([replace(image, group=index) for index, image in enumerate(images)], seed=seed)
    return replace(
        singly,
        protocol=f"{singly.protocol} Most images look alike, as photographs of one product do, so near "
        "duplicates were not kept together.",
    )


def _is_filled(done: Split) -> bool:
    """Whether every part has about its share of the good images."""
    given = any(image.part == "test" for image in done.test)
    shares = {"train": 1 - _HELD_BACK, "validation": _HELD_BACK}
    if not given:
        shares = dict(zip(("train", "validation", "test"), _SHARES, strict=True))
    num_ok = {part: counts["ok"] for part, counts in done.counts().items()}
    total = sum(num_ok[part] for part in shares)
    return all(num_ok[part] >= _MIN_FILLED * share * total for part, share in shares.items())


def _split(images: Sequence[UsableImage], *, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    test = [image for image in images if image.part == "test"]
    pool = [image for image in images if image.part != "test"]
    ok = [image for image in pool if image.label == OK]
    defective = [image for image in pool if image.label == DEFECTIVE]
    if test:
        train_ok, validation_ok = _divide(ok, (1 - _HELD_BACK, _HELD_BACK), rng)
        train_bad, validation_bad = _divide(defective, (0.6, 0.4), rng)
        protocol = (
            "The test part is exactly the given test folder and was used once, after everything was "
            f"decided; {_HELD_BACK:.0%} of the given training images were held back for decisions."
        )
    else:
        if len(defective) >= _MIN_DEFECTIVE_TO_TRAIN:
            shares = _SHARES
        elif len(defective) >= _MIN_DEFECTIVE_TO_VALIDATE:
            shares = (0.0, 0.5, 0.5)
        else:
            shares = (0.0, 0.0, 1.0)
        train_ok, validation_ok, test_ok = _divide(ok, _SHARES, rng)
        train_bad, validation_bad, test_bad = _divide(defective, shares, rng)
        test = test_ok + test_bad
        protocol = (
            "Images were divided at random, by kind of defect and with near duplicates kept together, into "
            "training, validation (for decisions) and test; the test part was used once, after everything "
            "was decided."
        )

    def ordered(part: Sequence[UsableImage]) -> tuple[UsableImage, ...]:
        return tuple(sorted(part, key=lambda image: image.path))

    return Split(
        train=ordered(train_ok + train_bad),
        validation=ordered(validation_ok + validation_bad),
        test=ordered(test),
        protocol=protocol,
    )
