"""What a transform is, and the appliers that put transforms together.

A transform draws parameters from an explicit generator and applies them. The drawn parameters are plain
JSON values (arrays of noise are drawn again from a recorded seed), so whatever was done to one sample can be
stored and done again to another: the `replay` of every transform.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from xtorch.errors import SettingsError

Sample = TypeVar("Sample")
Record = Any
"""What a transform drew, as JSON values."""


class Transform(ABC, Generic[Sample]):
    """Changes a sample at random; samples are never changed in place."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The sample, transformed with what `rng` draws."""
        return self.run(sample, rng)[0]

    @abstractmethod
    def run(self, sample: Sample, rng: np.random.Generator) -> tuple[Sample, Record]:
        """The sample transformed, and the record of what was drawn."""

    @abstractmethod
    def replay(self, sample: Sample, record: Record) -> Sample:
        """Does to a sample what `run` did when it gave this record."""


class DrawnTransform(Transform[Sample]):
    """A transform in two steps: parameters are drawn, then applied."""

    @abstractmethod
    def draw(self, sample: Sample, rng: np.random.Generator) -> dict[str, Any]:
        """Parameters for this sample, as JSON values."""

    @abstractmethod
    def apply(self, sample: Sample, parameters: Mapping[str, Any]) -> Sample:
        """The sample, transformed with these parameters; draws nothing."""

    def run(self, sample: Sample, rng: np.random.Generator) -> tuple[Sample, Record]:
        parameters = self.draw(sample, rng)
        return self.apply(sample, parameters), parameters

    def replay(self, sample: Sample, record: Record) -> Sample:
        return self.apply(sample, record)


class Compose(Transform[Sample]):
    """One transform after the other."""

    def __init__(self, transforms: Sequence[Transform[Sample]]) -> None:
        self.transforms = tuple(transforms)

    def run(self, sample: Sample, rng: np.random.Generator) -> tuple[Sample, Record]:
        records = []
        for transform in self.transforms:
            sample, record = transform.run(sample, rng)
            records.append(record)
        return sample, records

    def replay(self, sample: Sample, record: Record) -> Sample:
        for transform, part in zip(self.transforms, record, strict=True):
            sample = transform.replay(sample, part)
        return sample


class OneOf(Transform[Sample]):
    """One of several transforms.

    Args:
        transforms: at least one.
        weights: how likely each is, not negative; None: all alike.

    Raises:
        SettingsError: no transforms, or weights that do not fit them.
    """

    def __init__(
        self, transforms: Sequence[Transform[Sample]], *, weights: Sequence[float] | None = None
    ) -> None:
        self.transforms = _at_least_one(transforms)
        shares = np.ones(len(transforms)) if weights is None else np.asarray(weights, dtype=np.float64)
        if shares.shape != (len(transforms),) or (shares < 0).any() or not 0 < shares.sum() < np.inf:
            raise SettingsError(
                f"{len(transforms)} transforms need as many weights, none negative, not all zero.",
                value=weights,
            )
        self._shares = shares / shares.sum()

    def run(self, sample: Sample, rng: np.random.Generator) -> tuple[Sample, Record]:
        index = int(rng.choice(len(self.transforms), p=self._shares))
        sample, record = self.transforms[index].run(sample, rng)
        return sample, {"index": index, "record": record}

    def replay(self, sample: Sample, record: Record) -> Sample:
        return self.transforms[record["index"]].replay(sample, record["record"])


class SomeOf(Transform[Sample]):
    """Several of some transforms, each at most once, in the order in which they were given.

    Args:
        transforms: at least one.
        num: how many, or the least and the most.

    Raises:
        SettingsError: no transforms, or fewer than `num`.
    """

    def __init__(self, transforms: Sequence[Transform[Sample]], num: int | tuple[int, int]) -> None:
        self.transforms = _at_least_one(transforms)
        self.least, self.most = (num, num) if isinstance(num, int) else num
        if not 0 <= self.least <= self.most <= len(transforms):
            raise SettingsError(f"num must lie in 0..{len(transforms)}, the number of transforms.", value=num)

    def run(self, sample: Sample, rng: np.random.Generator) -> tuple[Sample, Record]:
        num = int(rng.integers(self.least, self.most + 1))
        chosen = sorted(int(i) for i in rng.choice(len(self.transforms), size=num, replace=False))
        records = []
        for index in chosen:
            sample, record = self.transforms[index].run(sample, rng)
            records.append({"index": index, "record": record})
        return sample, records

    def replay(self, sample: Sample, record: Record) -> Sample:
        for part in record:
            sample = self.transforms[part["index"]].replay(sample, part["record"])
        return sample


class RandomApply(Transform[Sample]):
    """A transform, or nothing.

    Args:
        transform: what may happen.
        p: how likely it is, 0..1.

    Raises:
        SettingsError: `p` is no probability.
    """

    def __init__(self, transform: Transform[Sample], p: float) -> None:
        self.transform, self.p = transform, probability("p", p)

    def run(self, sample: Sample, rng: np.random.Generator) -> tuple[Sample, Record]:
        if rng.random() >= self.p:
            return sample, {"applied": False}
        sample, record = self.transform.run(sample, rng)
        return sample, {"applied": True, "record": record}

    def replay(self, sample: Sample, record: Record) -> Sample:
        return self.transform.replay(sample, record["record"]) if record["applied"] else sample


@dataclass(frozen=True, kw_only=True)
class Replayed(Generic[Sample]):
    """A transformed sample with the record that repeats what was done to it."""

    sample: Sample
    record: Record


class ReplayCompose(Generic[Sample]):
    """`Compose` that hands out the record with every sample.

    >>> result = augment(first, rng)            # doctest: +SKIP
    >>> same = augment.replay(second, result.record)  # doctest: +SKIP
    """

    def __init__(self, transforms: Sequence[Transform[Sample]]) -> None:
        self._compose = Compose(transforms)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Replayed[Sample]:
        """The sample transformed, with its record: JSON values."""
        result, record = self._compose.run(sample, rng)
        return Replayed(sample=result, record=record)

    def replay(self, sample: Sample, record: Record) -> Sample:
        """Does to a sample what was done to another one."""
        return self._compose.replay(sample, record)


def probability(name: str, value: float) -> float:
    """`value` if it lies in 0..1, else a `SettingsError`."""
    if not 0 <= value <= 1:
        raise SettingsError(f"{name} must lie in 0..1.", value=value)
    return value


def interval(
    name: str, value: tuple[float, float], *, least: float = -np.inf, most: float = np.inf
) -> tuple[float, float]:
    """`value` as (low, high) if low <= high and both lie in `least`..`most`, else a `SettingsError`."""
    low, high = value
    if not least <= low <= high <= most:
        raise SettingsError(f"{name} must be (low, high) within {least:g}..{most:g}.", value=value)
    return float(low), float(high)


def uniform(rng: np.random.Generator, limits: tuple[float, float]) -> float:
    """A float between two limits."""
    return float(rng.uniform(*limits))


def draw_seed(rng: np.random.Generator) -> int:
    """A seed for noise that a record can hold in place of the noise itself."""
    return int(rng.integers(2**53))


def _at_least_one(transforms: Sequence[Transform[Sample]]) -> tuple[Transform[Sample], ...]:
    if not transforms:
        raise SettingsError("There must be at least one transform.", value=0)
    return tuple(transforms)
