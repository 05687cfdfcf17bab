"""Frames and log-mel spectrograms against the formulas, one number at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xinfer.errors import InputError
from xinfer.preproc.audio import LogMel, frames


@given(size=st.integers(0, 40), length=st.integers(1, 12), step=st.integers(1, 15), pad_end=st.booleans())
def test_frames_are_the_slices_of_a_plain_loop(size: int, length: int, step: int, pad_end: bool) -> None:
    samples = np.arange(1, size + 1, dtype=np.float32)
    expected = []
    for start in range(0, max(size, 1), step):
        part = samples[start : start + length]
        covered = start + length - step >= size and start > 0
        if len(part) == length:
            expected.append(part)
        elif pad_end and len(part) and not covered:
            expected.append(np.pad(part, (0, length - len(part))))
    found = frames(samples, length, step, pad_end=pad_end)
    assert found.tolist() == np.array(expected).reshape(-1, length).tolist()


def mel(hz: float, scale: str) -> float:
    if scale == "htk":
        return 2595 * math.log10(1 + hz / 700)
    return hz / (200 / 3) if hz < 1000 else 15 + math.log(hz / 1000) / (math.log(6.4) / 27)


def plain_log_mel(samples: np.ndarray, p: LogMel) -> np.ndarray:
    size, high = p.fft_size or p.window, p.high_hz or p.sample_rate / 2
    half = size // 2
    x = [float(v) for v in samples]
    if p.center:
        x = x[half:0:-1] + x + x[-2 : -half - 2 : -1]
    lead = (size - p.window) // 2
    window = [0.0] * size
    for i in range(p.window):
        window[lead + i] = math.sin(math.pi * i / p.window) ** 2
    ends = [mel(p.low_hz, p.scale), mel(high, p.scale)]
    # The inverse of the scale by bisection: independent of the formula under test.
    edges = []
    for k in range(p.num_mels + 2):
        target, low, top = ends[0] + (ends[1] - ends[0]) * k / (p.num_mels + 1), 0.0, p.sample_rate
        for _ in range(80):
            middle = (low + top) / 2
            low, top = (middle, top) if mel(middle, p.scale) < target else (low, middle)
        edges.append(low)
    turn = np.exp(-2j * np.pi * np.outer(np.arange(half + 1), np.arange(size)) / size)
    columns = []
    for start in range(0, len(x) - size + 1, p.hop):
        spectrum = np.abs(turn @ (np.array(x[start : start + size]) * window)) ** p.power
        column = []
        for left, peak, right in zip(edges, edges[1:], edges[2:], strict=False):
            total = 0.0
            for k, value in enumerate(spectrum):
                hz = k * p.sample_rate / size
                weight = max(0.0, min((hz - left) / (peak - left), (right - hz) / (right - peak)))
                total += weight * value * (2 / (right - left) if p.area else 1)
            column.append(math.log(max(total, p.floor)) * {"ln": 1, "log10": 1, "db": 10}[p.log])
        columns.append(column)
    return np.array(columns).T / (1 if p.log == "ln" else math.log(10))


@pytest.mark.parametrize(
    "options",
    [{}, {"scale": "htk", "area": False}, {"power": 1, "log": "db"}, {"center": False, "log": "log10"},
     {"fft_size": 64, "low_hz": 50, "high_hz": 3000}, {"fft_size": 55}],
)  # fmt: skip
def test_log_mel_equals_the_formula(options: dict) -> None:
    processor = LogMel(sample_rate=8000, window=50, hop=20, num_mels=12, **options)
    rng = np.random.default_rng(0)
    samples = (np.sin(np.arange(300) * 0.4) + rng.normal(0, 0.1, 300)).astype(np.float32)
    found = processor(samples)
    expected = plain_log_mel(samples, processor)
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_a_tone_is_loudest_in_the_band_that_holds_it() -> None:
    processor = LogMel(num_mels=40)
    time = np.arange(16_000) / 16_000
    for hz in (300, 1000, 4000):
        spectrogram = processor(np.sin(2 * np.pi * hz * time).astype(np.float32))
        assert spectrogram.shape == (40, 101)
        edges = processor.filters_MF[spectrogram[:, 50].argmax()].nonzero()[0] * 16_000 / 400
        assert edges.min() <= hz <= edges.max()


def test_silence_stays_at_the_floor() -> None:
    assert np.unique(LogMel(floor=1e-6)(np.zeros(800))).tolist() == [np.float32(math.log(1e-6))]


@pytest.mark.parametrize(
    "options",
    [{"hop": 0}, {"fft_size": 10}, {"high_hz": 9000}, {"low_hz": 8000}, {"scale": "bark"}, {"log": "log2"},
     {"power": 3}, {"floor": 0}],
)  # fmt: skip
def test_fields_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(InputError):
        LogMel(**options)


def test_sound_that_does_not_fit_is_refused() -> None:
    for samples in (np.zeros((2, 4000)), np.zeros(200)):
        with pytest.raises(InputError):
            LogMel()(samples)
    for arguments in ((np.zeros((2, 2)), 1, 1), (np.zeros(4), 0, 1), (np.zeros(4), 1, 0)):
        with pytest.raises(InputError):
            frames(*arguments)
