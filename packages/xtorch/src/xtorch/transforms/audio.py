"""Augmentations of sound: waveforms float32 [...,T] and spectrograms float32 [...,F,T].

Legend: T samples (waveform) or frames (spectrogram), F frequency bands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from xtorch.errors import DataError, SettingsError
from xtorch.transforms.base import DrawnTransform, draw_seed, interval, uniform


class Gain(DrawnTransform[np.ndarray]):
    """Makes a waveform louder or softer.

    Args:
        decibels: least and most gain.
    """

    def __init__(self, decibels: tuple[float, float] = (-6.0, 6.0)) -> None:
        self.decibels = interval("decibels", decibels, least=-120, most=120)

    def draw(self, sample: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:  # noqa: ARG002
        return {"decibels": uniform(rng, self.decibels)}

    def apply(self, sample: np.ndarray, parameters: Mapping[str, Any]) -> np.ndarray:
        return _floats(sample) * np.float32(10 ** (parameters["decibels"] / 20))


class Noise(DrawnTransform[np.ndarray]):
    """Adds white noise at a signal-to-noise ratio; silence stays silence.

    Args:
        snr_decibels: least and most ratio of the powers of signal and noise.
    """

    def __init__(self, snr_decibels: tuple[float, float] = (10.0, 40.0)) -> None:
        self.snr_decibels = interval("snr_decibels", snr_decibels, least=-60, most=200)

    def draw(self, sample: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:  # noqa: ARG002
        return {"snr_decibels": uniform(rng, self.snr_decibels), "seed": draw_seed(rng)}

    def apply(self, sample: np.ndarray, parameters: Mapping[str, Any]) -> np.ndarray:
        sample = _floats(sample)
        power = float(np.mean(np.square(sample, dtype=np.float64))) if sample.size else 0.0
        level = math.sqrt(power * 10 ** (-parameters["snr_decibels"] / 10))
        noise = np.random.default_rng(parameters["seed"]).standard_normal(sample.shape, dtype=np.float32)
        return sample + np.float32(level) * noise


class TimeShift(DrawnTransform[np.ndarray]):
    """Moves a waveform in time.

    Args:
        share: the shift lies in -share..share of the length.
        mode: what comes in: "zero", or "wrap": what went out on the other side.
    """

    def __init__(self, share: float = 0.1, *, mode: Literal["zero", "wrap"] = "zero") -> None:
        if mode not in ("zero", "wrap"):
            raise SettingsError("mode must be 'zero' or 'wrap'.", value=mode)
        self.share, self.mode = interval("share", (-share, share), least=-1, most=1), mode

    def draw(self, sample: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:  # noqa: ARG002
        return {"share": uniform(rng, self.share)}

    def apply(self, sample: np.ndarray, parameters: Mapping[str, Any]) -> np.ndarray:
        sample = _floats(sample)
        shift = round(parameters["share"] * sample.shape[-1])
        result = np.roll(sample, shift, axis=-1)
        if self.mode == "zero" and shift:
            result[..., slice(0, shift) if shift > 0 else slice(shift, None)] = 0
        return result


class _Mask(DrawnTransform[np.ndarray]):
    axis: int

    def __init__(self, longest: int, *, num: int = 1, fill: float = 0.0) -> None:
        if longest < 0 or num < 0:
            raise SettingsError("longest and num must not be negative.", value=(longest, num))
        self.longest, self.num, self.fill = longest, num, fill

    def draw(self, sample: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
        if sample.ndim < 2:
            raise DataError("A spectrogram must be [...,F,T].", value=list(sample.shape))
        size = sample.shape[self.axis]
        spans = []
        for _ in range(self.num):
            length = int(rng.integers(min(self.longest, size) + 1))
            start = int(rng.integers(size - length + 1))
            spans.append([start, start + length])
        return {"spans": spans}

    def apply(self, sample: np.ndarray, parameters: Mapping[str, Any]) -> np.ndarray:
        result = _floats(sample).copy()
        moved = np.moveaxis(result, self.axis, 0)
        for start, stop in parameters["spans"]:
            moved[start:stop] = self.fill
        return result


class TimeMask(_Mask):
    """Blanks stretches of time of a spectrogram.

    Args:
        longest: most frames of one.
        num: how many.
        fill: what stands there; 0 is the mean of a normalised spectrogram.

    Source: Park et al., "SpecAugment" (Interspeech 2019), section 2.
    """

    axis = -1


class FrequencyMask(_Mask):
    """Blanks frequency bands of a spectrogram. Arguments and source as in `TimeMask`."""

    axis = -2


def _floats(sample: np.ndarray) -> np.ndarray:
    if sample.dtype != np.float32 or sample.ndim < 1:
        raise DataError("Sound must be float32 [...,T].", value=f"{sample.dtype} {list(sample.shape)}")
    return sample
