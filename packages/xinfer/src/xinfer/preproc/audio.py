"""Sound as features: frames and log-mel spectrograms. Files and sample rates are `xinfer.preproc.sound`'s.

Legend: S samples, T frames, W samples of a frame, F frequencies, M mel bands.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from xinfer.errors import InputError


def frames(samples_S: np.ndarray, length: int, step: int, *, pad_end: bool = True) -> np.ndarray:
    """Sound cut into frames.

    Args:
        samples_S: One channel.
        length: Samples of a frame.
        step: Samples from one frame's start to the next one's.
        pad_end: Whether the last frame is filled with silence; else what is left over is dropped.

    Returns:
        [T,W]: a read-only view of the samples where nothing had to be filled.

    Raises:
        InputError: Not one channel, or lengths that are not positive.
    """
    samples_S = np.asarray(samples_S)
    if samples_S.ndim != 1 or length < 1 or step < 1:
        raise InputError(
            f"cannot cut {list(samples_S.shape)} into frames of {length}, {step} apart", value=length
        )
    if pad_end and len(samples_S):
        # As many frames as it takes to reach the end, as long as they start before it.
        last = min(-(-max(len(samples_S) - length, 0) // step), (len(samples_S) - 1) // step)
        missing = last * step + length - len(samples_S)
        if missing > 0:
            samples_S = np.concatenate([samples_S, np.zeros(missing, samples_S.dtype)])
    if len(samples_S) < length:
        return np.zeros((0, length), samples_S.dtype)
    return np.lib.stride_tricks.sliding_window_view(samples_S, length)[::step]


@dataclass(frozen=True, kw_only=True)
class LogMel:
    """Log-mel spectrogram, as speech and sound models take it. Immutable and thread-safe.

    Attributes:
        sample_rate: Samples per second of the sound.
        window: Samples under the window (Hann, periodic).
        hop: Samples between frames.
        fft_size: Points of the transform, at least `window`; None: `window`.
        num_mels: Bands.
        low_hz: Where the lowest band starts.
        high_hz: Where the highest band ends; None: half the sample rate.
        scale: "slaney" (linear up to 1 kHz, librosa's default) or "htk".
        area: Whether each band's filter is divided by its width in Hz ("slaney" normalisation).
        power: 2 for power, 1 for magnitude.
        center: Whether frames are centred on their time, the sound mirrored at both ends.
        floor: The least power that a logarithm is taken of.
        log: "ln", "log10" or "db" (10 log10).

    Raises:
        InputError: A field is out of range.

    Source: the scales as in M. Slaney, "Auditory Toolbox", 1998 (mfcc.m), and S. Young et al., "The HTK
    Book", section 5.4, equation 5.13.
    """

    sample_rate: int = 16_000
    window: int = 400
    hop: int = 160
    fft_size: int | None = None
    num_mels: int = 80
    low_hz: float = 0.0
    high_hz: float | None = None
    scale: Literal["slaney", "htk"] = "slaney"
    area: bool = True
    power: Literal[1, 2] = 2
    center: bool = True
    floor: float = 1e-10
    log: Literal["ln", "log10", "db"] = "ln"

    def __post_init__(self) -> None:
        if min(self.sample_rate, self.window, self.hop, self.num_mels) < 1:
            raise InputError("sample_rate, window, hop and num_mels must be positive", value=self.window)
        if self._fft_size < self.window:
            raise InputError(f"fft_size must be at least the window, {self.window}", value=self.fft_size)
        if not 0 <= self.low_hz < self._high_hz <= self.sample_rate / 2:
            raise InputError(
                f"bands must rise within 0..{self.sample_rate / 2:g} Hz", value=(self.low_hz, self.high_hz)
            )
        if self.scale not in ("slaney", "htk") or self.log not in ("ln", "log10", "db"):
            raise InputError("scale is 'slaney' or 'htk', log is 'ln', 'log10' or 'db'", value=self.scale)
        if self.power not in (1, 2) or not self.floor > 0:
            raise InputError("power is 1 or 2, and floor is positive", value=self.power)

    def __call__(self, samples_S: np.ndarray) -> np.ndarray:
        """The spectrogram.

        Args:
            samples_S: One channel at `sample_rate`.

        Returns:
            [M,T] float32; T is 1 + S // hop when centred, else the number of whole frames.

        Raises:
            InputError: Not one channel, or too short to be mirrored.
        """
        samples_S = np.asarray(samples_S, np.float32)
        if samples_S.ndim != 1:
            raise InputError(f"sound must be [S], not {list(samples_S.shape)}", value=list(samples_S.shape))
        half = self._fft_size // 2
        if self.center:
            if len(samples_S) <= half:
                raise InputError(
                    f"{len(samples_S)} samples are too few to be mirrored, {half + 1} are needed",
                    value=len(samples_S),
                )
            samples_S = np.pad(samples_S, half, mode="reflect")
        frames_TW = frames(samples_S, self._fft_size, self.hop, pad_end=False)
        spectrum_TF = np.abs(np.fft.rfft(frames_TW * self._window_W, axis=1))
        if self.power == 2:
            spectrum_TF **= 2
        mels_MT = self.filters_MF @ spectrum_TF.T
        mels_MT = np.log(np.maximum(mels_MT, self.floor))
        if self.log != "ln":
            mels_MT *= (10 if self.log == "db" else 1) / np.log(10)
        return mels_MT.astype(np.float32)

    @cached_property
    def filters_MF(self) -> np.ndarray:  # noqa: N802
        """The bands' triangular filters over the transform's frequencies."""
        edges_hz = self._to_hz(
            np.linspace(self._to_mel(self.low_hz), self._to_mel(self._high_hz), self.num_mels + 2)
        )
        frequencies_F = np.fft.rfftfreq(self._fft_size, 1 / self.sample_rate)
        left_M1, peak_M1, right_M1 = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
        rising_MF = (frequencies_F - left_M1) / (peak_M1 - left_M1)
        falling_MF = (right_M1 - frequencies_F) / (right_M1 - peak_M1)
        filters_MF = np.minimum(rising_MF, falling_MF).clip(0)
        if self.area:
            filters_MF *= 2 / (right_M1 - left_M1)
        return np.asarray(filters_MF)

    @property
    def _fft_size(self) -> int:
        return self.window if self.fft_size is None else self.fft_size

    @property
    def _high_hz(self) -> float:
        return self.sample_rate / 2 if self.high_hz is None else self.high_hz

    @cached_property
    def _window_W(self) -> np.ndarray:  # noqa: N802
        """Hann, periodic, in the middle of the transform."""
        hann_W = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.window) / self.window)
        before = (self._fft_size - self.window) // 2
        return np.pad(hann_W, (before, self._fft_size - self.window - before))

    def _to_mel(self, hz: float) -> float:
        if self.scale == "htk":
            return float(2595 * np.log10(1 + hz / 700))
        return hz * 3 / 200 if hz < 1000 else float(15 + 27 * np.log(hz / 1000) / np.log(6.4))

    def _to_hz(self, mels: np.ndarray) -> np.ndarray:
        if self.scale == "htk":
            return np.asarray(700 * (10 ** (mels / 2595) - 1))
        return np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * np.log(6.4) / 27))
