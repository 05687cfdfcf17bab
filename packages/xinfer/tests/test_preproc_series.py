"""Gaps, scaling and windows of series against plain loops."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xinfer.errors import InputError
from xinfer.postproc.forecast import denormalise
from xinfer.preproc.series import fill_gaps, fit_scaling, sliding_windows

SERIES = st.lists(st.one_of(st.just(math.nan), st.floats(-1e6, 1e6)), max_size=20)


def plain_fill(values: list[float], method: str) -> list[float]:
    known = [i for i, v in enumerate(values) if not math.isnan(v)]
    if not known:
        return [0.0] * len(values)
    filled = []
    for i, value in enumerate(values):
        before = max((k for k in known if k <= i), default=None)
        after = min((k for k in known if k >= i), default=None)
        if not math.isnan(value):
            filled.append(value)
        elif method == "mean":
            filled.append(statistics.fmean(values[k] for k in known))
        elif before is None or after is None:
            filled.append(values[known[0] if before is None else known[-1]])
        elif method == "last":
            filled.append(values[before])
        else:
            share = (i - before) / (after - before)
            filled.append(values[before] + (values[after] - values[before]) * share)
    return filled


@given(SERIES, st.sampled_from(["linear", "last", "mean"]))
def test_gaps_are_filled_as_a_plain_loop_fills_them(values: list[float], method: str) -> None:
    given_values = np.array(values)
    found = fill_gaps(given_values, method)
    np.testing.assert_allclose(found, plain_fill(values, method), rtol=1e-9, atol=1e-6)
    np.testing.assert_array_equal(given_values, np.array(values))


@given(SERIES, st.sampled_from(["none", "standard", "mean_abs", "robust"]))
def test_scaling_is_undone_by_denormalise(values: list[float], kind: str) -> None:
    scaling = fit_scaling(np.array(values), kind)
    back = denormalise(scaling.apply(np.array(values)), offset=scaling.offset, scale=scaling.scale)
    np.testing.assert_allclose(back, values, rtol=1e-9, atol=1e-5)


def test_scaling_follows_the_known_values() -> None:
    values = np.array([1, math.nan, 3, 5, -9])
    known = [1, 3, 5, -9]
    standard, mean_abs, robust = (fit_scaling(values, kind) for kind in ("standard", "mean_abs", "robust"))
    assert (standard.offset, standard.scale) == pytest.approx(
        (statistics.fmean(known), statistics.pstdev(known))
    )
    assert (mean_abs.offset, mean_abs.scale) == (0, 4.5)
    assert (robust.offset, robust.scale) == (2, 5.0)


def test_a_constant_or_unknown_series_is_not_divided_by_nothing() -> None:
    for values in ([0.1] * 7, [math.nan] * 3, [], [0.0, 0.0]):
        for kind in ("standard", "mean_abs", "robust"):
            scaled = fit_scaling(np.array(values), kind).apply(np.array(values))
            assert not np.isinf(scaled).any()
            assert np.isnan(scaled).sum() == np.isnan(values).sum()
    assert fit_scaling(np.full(7, 0.1)).scale == 1


@given(
    size=st.integers(0, 25), length=st.integers(1, 6), horizon=st.integers(0, 4), step=st.integers(1, 5),
    missing=st.sets(st.integers(0, 24)), share=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)  # fmt: skip
def test_windows_are_those_of_a_plain_loop(
    size: int, length: int, horizon: int, step: int, missing: set[int], share: float
) -> None:
    values = np.array([math.nan if i in missing else float(i) for i in range(size)])
    expected = []
    start = size - length - horizon
    while start >= 0:
        past, future = values[start : start + length], values[start + length : start + length + horizon]
        if np.isnan(past).sum() <= share * length and np.isnan(future).sum() <= share * horizon:
            expected.append((start, past, future))
        start -= step
    found = sliding_windows(values, length, horizon=horizon, step=step, max_missing_share=share)
    assert found.start.tolist() == [start for start, _, _ in expected[::-1]]
    assert found.past.shape == (len(expected), length)
    assert found.future.shape == (len(expected), horizon)
    for index, (_, past, future) in enumerate(expected[::-1]):
        np.testing.assert_array_equal(found.past[index], past)
        np.testing.assert_array_equal(found.future[index], future)


def test_what_is_no_series_is_refused() -> None:
    for call in (
        lambda: fill_gaps(np.zeros((2, 2))),
        lambda: fill_gaps(np.array([1, math.inf])),
        lambda: fill_gaps(np.zeros(2), "spline"),
        lambda: fit_scaling(np.zeros(2), "log"),
        lambda: sliding_windows(np.zeros(9), 0),
        lambda: sliding_windows(np.zeros(9), 2, step=0),
        lambda: sliding_windows(np.zeros(9), 2, horizon=-1),
        lambda: sliding_windows(np.zeros(9), 2, max_missing_share=1.5),
    ):
        with pytest.raises(InputError):
            call()
