"""Augmentations of series: float32 [T,C], or [T] for one variable.

Legend: T time steps, C variables.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from xtorch.errors import DataError, SettingsError
from xtorch.transforms.base import DrawnTransform, draw_seed, interval, probability, uniform


class Jitter(DrawnTransform[np.ndarray]):
    """Adds Gaussian noise.

    Args:
        std: least and most standard deviation, in standard deviations of each variable.

    Source: Um et al., "Data Augmentation of Wearable Sensor Data for Parkinson's Disease Monitoring ..."
    (ICMI 2017), section 3; so is `Scale`.
    """

    def __init__(self, std: tuple[float, float] = (0.01, 0.05)) -> None:
        self.std = interval("std", std, least=0, most=100)

    def draw(self, sample: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:  # noqa: ARG002
        return {"std": uniform(rng, self.std), "seed": draw_seed(rng)}

    def apply(self, sample: np.ndarray, parameters: Mapping[str, Any]) -> np.ndarray:
        sample = _series(sample)
        noise = np.random.default_rng(parameters["seed"]).standard_normal(sample.shape, dtype=np.float32)
        return sample + noise * np.float32(parameters["std"]) * np.nanstd(sample, axis=0, keepdims=True)


class Scale(DrawnTransform[np.ndarray]):
    """Multiplies all values by one factor.

    Args:
        factor: least and most, positive; half and double are as likely as each other.
    """

    def __init__(self, factor: tuple[float, float] = (0.8, 1.25)) -> None:
        self.factor = interval("factor", factor, least=1e-6, most=1e6)

    def draw(self, sample: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:  # noqa: ARG002
        low, high = (math.log(value) for value in self.factor)
        return {"factor": math.exp(uniform(rng, (low, high)))}

    def apply(self, sample: np.ndarray, parameters: Mapping[str, Any]) -> np.ndarray:
        return _series(sample) * np.float32(parameters["factor"])


class Window(DrawnTransform[np.ndarray]):
    """A stretch of the series.

    Args:
        length: time steps; a series must have as many.
    """

    def __init__(self, length: int) -> None:
        if length < 1:
            raise SettingsError("length must be at least 1.", value=length)
        self.length = length

    def draw(self, sample: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
        if len(sample) < self.length:
            raise DataError(f"A series must have {self.length} time steps.", value=len(sample))
        return {"start": int(rng.integers(len(sample) - self.length + 1))}

    def apply(self, sample: np.ndarray, parameters: Mapping[str, Any]) -> np.ndarray:
        start = parameters["start"]
        return _series(sample)[start : start + self.length].copy()


class Mask(DrawnTransform[np.ndarray]):
    """Blanks single time steps, in all variables.

    Args:
        share: how likely each time step is blanked.
        fill: what stands there, such as NaN for a model that knows missing values.
    """

    def __init__(self, share: float = 0.1, *, fill: float = 0.0) -> None:
        self.share, self.fill = probability("share", share), fill

    def draw(self, sample: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:  # noqa: ARG002
        return {"seed": draw_seed(rng)}

    def apply(self, sample: np.ndarray, parameters: Mapping[str, Any]) -> np.ndarray:
        result = _series(sample).copy()
        result[np.random.default_rng(parameters["seed"]).random(len(result)) < self.share] = self.fill
        return result


def _series(sample: np.ndarray) -> np.ndarray:
    if sample.dtype != np.float32 or sample.ndim not in (1, 2):
        raise DataError(
            "A series must be float32 [T] or [T,C].", value=f"{sample.dtype} {list(sample.shape)}"
        )
    return sample
