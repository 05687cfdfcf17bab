"""Transforms of sound and series, and of whole batches."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xtorch.data.loader import ExtendedDataLoader
from xtorch.errors import DataError, SettingsError
from xtorch.transforms import Compose, ImageSample, Transform, audio, series
from xtorch.transforms.batch import BatchCutMix, BatchMixUp

SOUND: dict[str, Callable[[], Transform[np.ndarray]]] = {
    "gain": audio.Gain,
    "noise": audio.Noise,
    "shift": lambda: audio.TimeShift(0.4),
    "shift, wrapped": lambda: audio.TimeShift(0.4, mode="wrap"),
    "time mask": lambda: audio.TimeMask(20, num=2),
    "frequency mask": lambda: audio.FrequencyMask(3, num=2),
}
SERIES: dict[str, Callable[[], Transform[np.ndarray]]] = {
    "jitter": series.Jitter,
    "scale": series.Scale,
    "window": lambda: series.Window(30),
    "mask": lambda: series.Mask(0.3, fill=float("nan")),
}


def wave(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("name", "shape"), [*((n, (8, 60)) for n in SOUND), *((n, (60, 3)) for n in SERIES)])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_seed_shape_type_and_record(name: str, shape: tuple[int, ...], seed: int) -> None:
    transform = Compose([(SOUND | SERIES)[name]()])
    sample = wave(*shape)
    before = sample.copy()
    result, record = transform.run(sample, np.random.default_rng(seed))
    again = transform(sample, np.random.default_rng(seed))
    replayed = transform.replay(sample, json.loads(json.dumps(record)))
    for other in (again, replayed):
        assert np.array_equal(result, other, equal_nan=True)
    assert result.dtype == np.float32
    assert result.shape == ((30, 3) if name == "window" else shape)
    assert np.array_equal(sample, before)


@pytest.mark.parametrize("name", [*SOUND, *SERIES])
def test_other_seeds_give_other_results(name: str) -> None:
    transform = (SOUND | SERIES)[name]()
    sample = wave(60, 60)
    results = {transform(sample, np.random.default_rng(seed)).tobytes() for seed in range(12)}
    assert len(results) > 4


def test_noise_has_the_ratio_that_was_asked_for() -> None:
    sample = wave(20_000) * 3
    noisy = audio.Noise((20, 20))(sample, np.random.default_rng(0))
    ratio = np.mean(sample**2) / np.mean((noisy - sample) ** 2)
    assert 10 * np.log10(ratio) == pytest.approx(20, abs=0.2)
    silence = np.zeros(100, np.float32)
    assert np.array_equal(audio.Noise()(silence, np.random.default_rng(0)), silence)


def test_gain_is_in_decibels_of_the_amplitude() -> None:
    louder = audio.Gain((20, 20))(np.ones(3, np.float32), np.random.default_rng(0))
    assert louder.tolist() == pytest.approx([10, 10, 10])


def test_shift_moves_and_fills() -> None:
    sample = np.arange(1, 6, dtype=np.float32)
    assert audio.TimeShift().apply(sample, {"share": 0.4}).tolist() == [0, 0, 1, 2, 3]
    assert audio.TimeShift().apply(sample, {"share": -0.4}).tolist() == [3, 4, 5, 0, 0]
    assert audio.TimeShift(mode="wrap").apply(sample, {"share": -0.4}).tolist() == [3, 4, 5, 1, 2]
    assert audio.TimeShift().apply(sample, {"share": 0.0}).tolist() == sample.tolist()


@pytest.mark.parametrize(
    ("mask", "axis"), [(audio.TimeMask(9, fill=-1), 1), (audio.FrequencyMask(9, fill=-1), 0)]
)
def test_masks_blank_whole_frames_or_bands_in_one_stretch(mask: Any, axis: int) -> None:
    blanked_seen = 0
    for seed in range(10):
        blank = mask(np.ones((12, 20), np.float32), np.random.default_rng(seed)) == -1
        lines = blank.all(axis=1 - axis)
        assert np.array_equal(lines, blank.any(axis=1 - axis))
        assert lines.sum() <= 9
        assert np.abs(np.diff(lines.astype(int))).sum() <= 2
        blanked_seen += int(lines.any())
    assert blanked_seen > 5


def test_series_transforms_mean_what_they_say() -> None:
    sample = wave(5000, 2) * np.float32([1, 100])
    rng = np.random.default_rng(0)
    moved = series.Jitter((0.1, 0.1))(sample, rng) - sample
    assert (moved.std(axis=0) / sample.std(axis=0)).tolist() == pytest.approx([0.1, 0.1], rel=0.05)
    factor = series.Scale((2, 3))(sample, rng) / sample
    assert 2 <= factor.min() <= factor.max() <= 3.001
    assert np.ptp(factor) < 1e-3
    blank = np.isnan(series.Mask(0.3, fill=float("nan"))(sample, rng))
    assert blank[:, 0].mean() == pytest.approx(0.3, abs=0.03)
    assert np.array_equal(blank[:, 0], blank[:, 1])
    window = series.Window(7)(np.arange(50, dtype=np.float32), rng)
    assert np.array_equal(np.diff(window), np.ones(6))


def test_wrong_settings_and_samples_are_refused() -> None:
    rng = np.random.default_rng(0)
    for build in (
        lambda: audio.TimeShift(2.0),
        lambda: audio.TimeShift(mode="mirror"),  # type: ignore[arg-type]
        lambda: audio.TimeMask(-1),
        lambda: series.Window(0),
        lambda: series.Scale((0.0, 1.0)),
        lambda: series.Mask(1.5),
        lambda: BatchMixUp(0),
        lambda: BatchCutMix(3, alpha=0.0),
    ):
        with pytest.raises(SettingsError):
            build()
    for call in (
        lambda: audio.Gain()(np.zeros(4), rng),
        lambda: audio.TimeMask(3)(np.zeros(4, np.float32), rng),
        lambda: series.Window(9)(np.zeros(4, np.float32), rng),
        lambda: series.Jitter()(np.zeros((2, 2, 2), np.float32), rng),
    ):
        with pytest.raises(DataError):
            call()


def batch() -> dict[str, Any]:
    """Image i is of level 50 * i and of class i: what is mixed in can be read off."""
    levels = torch.arange(4, dtype=torch.uint8) * 50
    return {"image_NHWC": levels[:, None, None, None].expand(4, 20, 30, 3).clone(), "target": torch.arange(4)}


@pytest.mark.parametrize("mix", [BatchMixUp(4, alpha=1.0), BatchCutMix(4)])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_targets_are_the_shares_of_the_pixels(mix: Any, seed: int) -> None:
    given_batch = batch()
    mixed = mix(given_batch, np.random.default_rng(seed))
    assert mixed["image_NHWC"].dtype == torch.uint8
    assert mixed["target"].sum(dim=1).tolist() == pytest.approx([1] * 4)
    means = mixed["image_NHWC"].float().mean(dim=(1, 2, 3))
    expected = mixed["target"] @ (torch.arange(4.0) * 50)
    assert torch.allclose(means, expected, atol=0.51)  # levels are rounded
    assert torch.equal(given_batch["image_NHWC"], batch()["image_NHWC"])


def test_mixing_works_as_the_loaders_batch_transform() -> None:
    class Images:
        def __len__(self) -> int:
            return 8

        def sample(self, index: int, rng: np.random.Generator) -> ImageSample:
            return ImageSample(image_HWC=np.full((6, 6, 3), index, np.uint8), target=index % 3)

    results = []
    for kind in ("none", "threads"):
        with ExtendedDataLoader(
            Images(),
            4,
            kind=kind,
            workers=2,
            batch_transform=BatchMixUp(3),  # type: ignore[arg-type]
        ) as loader:
            results.append([each["target"].tolist() for each in loader])
    assert results[0] == results[1]
    assert results[0][0] != results[0][1]
    with pytest.raises(DataError):
        BatchMixUp(5)({**batch(), "target": torch.zeros(4, 3)}, np.random.default_rng(0))
