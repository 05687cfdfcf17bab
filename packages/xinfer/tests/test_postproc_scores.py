"""Probabilities, quantiles and heat against plain formulas."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from xinfer.errors import InputError
from xinfer.postproc import forecast, heatmap, sigmoid, softmax, top_k

LEVELS = (0.1, 0.25, 0.5, 0.9)


@given(
    npst.arrays(np.float32, (3, 5), elements=st.floats(-80, 80, width=32)), st.sampled_from([0.5, 1.0, 3.0])
)
def test_softmax_is_the_formula(logits: np.ndarray, temperature: float) -> None:
    found = softmax(logits, temperature=temperature)
    for row, probabilities in zip(logits.astype(float), found, strict=True):
        powers = [math.exp((x - max(row)) / temperature) for x in row]
        np.testing.assert_allclose(probabilities, np.array(powers) / sum(powers), rtol=2e-5, atol=1e-30)


def test_softmax_and_sigmoid_stand_large_numbers() -> None:
    assert softmax([1e30, 0, -1e30]).tolist() == [1, 0, 0]
    assert sigmoid([-1e30, -1000, 0, 1000, 1e30]).tolist() == [0, 0, 0.5, 1, 1]
    np.testing.assert_allclose(sigmoid([-3, 2]), [1 / (1 + math.exp(3)), 1 / (1 + math.exp(-2))], rtol=1e-6)


@given(npst.arrays(np.float32, (2, 6), elements=st.integers(-2, 2).map(float)), st.integers(1, 8))
def test_top_k_is_the_head_of_a_stable_sort(scores: np.ndarray, k: int) -> None:
    indices, values = top_k(scores, k)
    for row, order, best in zip(scores, indices, values, strict=True):
        expected = sorted(range(6), key=lambda i: (-row[i], i))[:k]
        assert order.tolist() == expected
        assert best.tolist() == [row[i] for i in expected]


def test_classes_that_are_missing_are_refused() -> None:
    for call in (
        lambda: softmax(np.zeros((2, 0))),
        lambda: softmax([1, 2], temperature=0),
        lambda: top_k([1], 0),
        lambda: top_k(np.zeros((2, 0)), 1),
    ):
        with pytest.raises(InputError):
            call()


@given(npst.arrays(np.float64, (3, 4), elements=st.floats(-1e6, 1e6)))
def test_sorted_quantiles_never_cross_and_keep_their_values(values: np.ndarray) -> None:
    found = forecast.sort_quantiles(values)
    assert (np.diff(found, axis=-1) >= 0).all()
    assert sorted(found.ravel().tolist()) == sorted(values.ravel().tolist())


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3), npst.arrays(np.float64, 5, elements=st.floats(-1e3, 1e3)))
def test_denormalise_undoes_scaling(offset: float, scale: float, values: np.ndarray) -> None:
    found = forecast.denormalise((values - offset) / scale, offset=offset, scale=scale)
    np.testing.assert_allclose(found, values, atol=1e-6)


def test_denormalise_keeps_to_bounds() -> None:
    found = forecast.denormalise(np.array([-2.0, 0.5, 9.0]), offset=1, scale=2, lower=0, upper=10)
    assert found.tolist() == [0, 2, 10]
    assert forecast.denormalise(np.array([-2.0]), offset=1, scale=2, lower=0).tolist() == [0]


def test_quantiles_between_are_linear_in_the_level() -> None:
    values = np.array([[1.0, 2.0, 4.0, 8.0], [0, 0, 1, 1]])
    assert forecast.quantile_at(values, LEVELS, 0.5).tolist() == [4, 1]
    assert forecast.quantile_at(values, LEVELS, 0.7).tolist() == pytest.approx([6, 1])
    low, high = forecast.interval(values, LEVELS, 0.8)
    assert low.tolist() == [1, 0]
    assert high.tolist() == [8, 1]


@pytest.mark.parametrize(
    ("levels", "level"), [(LEVELS, 0.05), (LEVELS, 0.95), ((0.5, 0.1, 0.2, 0.3), 0.2), ((0.5,), 0.5)]
)
def test_levels_that_were_not_forecast_are_refused(levels: tuple[float, ...], level: float) -> None:
    with pytest.raises(InputError):
        forecast.quantile_at(np.zeros((2, 4)), levels, level)


def test_coverage_beyond_the_forecast_is_refused() -> None:
    for coverage in (0.95, 1.5, -0.1):
        with pytest.raises(InputError):
            forecast.interval(np.zeros((2, 4)), LEVELS, coverage)


def test_heat_is_half_at_the_middle_and_stays_in_range() -> None:
    heat = heatmap.scale_heat(np.array([[-5, 0, 1, 2, 6, 10, 99]]), (0, 10), middle=2)
    np.testing.assert_allclose(heat, [[0, 0, 0.25, 0.5, 0.75, 1, 1]])
    np.testing.assert_allclose(heatmap.scale_heat(np.array([5.0]), (0, 10), middle=20), [0.5])
    with pytest.raises(InputError):
        heatmap.scale_heat(np.zeros(2), (1, 1))


def test_overlay_leaves_cold_places_and_colours_hot_ones() -> None:
    image = np.full((20, 30, 3), 90, np.uint8)
    heat = np.zeros((20, 30), np.float32)
    heat[:, 15:] = 1
    drawn = heatmap.overlay_heat(image, heat, max_alpha=0.5)
    assert (drawn[:, :15] == 90).all()
    hottest = cv2.applyColorMap(np.array([[255]], np.uint8), cv2.COLORMAP_TURBO)[0, 0, ::-1]
    assert drawn[0, 20].tolist() == np.round(90 * 0.5 + hottest * 0.5).astype(int).tolist()
    assert (image == 90).all()
    assert heatmap.overlay_heat(image, np.ones((2, 3))).shape == image.shape
    for wrong in (image[:, :, 0], image.astype(float)):
        with pytest.raises(InputError):
            heatmap.overlay_heat(wrong, heat)


def test_outlines_surround_what_reaches_the_threshold() -> None:
    scores = np.zeros((10, 12))
    scores[2:5, 3:8] = 0.7
    (outline,) = heatmap.outlines(scores, 0.7)
    assert outline.min(axis=0).tolist() == [3, 2]
    assert outline.max(axis=0).tolist() == [7, 4]
    assert heatmap.outlines(scores, 0.8) == []
