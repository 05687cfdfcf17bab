"""Metrics of forecasts against utilsforecast's, and by hand where it has none."""

from __future__ import annotations

import numpy as np
import pytest

from xtorch.forecast_metrics import coverage, mase, owa, pinball, seasonal_naive_error, smape, wql

LEVELS = (0.1, 0.5, 0.9)


@pytest.fixture(scope="module")
def numbers() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Past [5,60], truth [5,8] and quantiles [5,8,3]."""
    rng = np.random.default_rng(0)
    past = rng.normal(10, 3, (5, 60))
    truth = rng.normal(10, 3, (5, 8))
    quantiles = np.sort(rng.normal(10, 3, (5, 8, 3)), axis=2)
    return past, truth, quantiles


def test_smape_mase_and_pinball_agree_with_utilsforecast(
    numbers: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    losses = pytest.importorskip("utilsforecast.losses", reason="utilsforecast is not installed")
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    past, truth, quantiles = numbers

    def frame(columns: dict[str, np.ndarray], width: int) -> object:
        given = {"unique_id": np.repeat(np.arange(5), width), "ds": np.tile(np.arange(width), 5)}
        return pd.DataFrame(given | {name: values.ravel() for name, values in columns.items()})

    names = {f"q{level}": quantiles[:, :, index] for index, level in enumerate(LEVELS)}
    future, history = frame({"y": truth, **names}, 8), frame({"y": past}, 60)
    points = quantiles[:, :, 1]
    scale = np.array([seasonal_naive_error(row, 7) for row in past])
    # utilsforecast's sMAPE is a share, M4's a percentage of half the sum.
    np.testing.assert_allclose(smape(truth, points) / 200, losses.smape(future, ["q0.5"])["q0.5"])
    expected = losses.mase(future, ["q0.5"], seasonality=7, train_df=history)["q0.5"]
    np.testing.assert_allclose(mase(truth, points, scale), expected)
    for index, level in enumerate(LEVELS):
        expected = losses.quantile_loss(future, {"m": f"q{level}"}, q=level)["m"]
        np.testing.assert_allclose(pinball(truth, quantiles, LEVELS)[:, :, index].mean(1), expected)


def test_wql_by_hand() -> None:
    truth, quantiles = np.array([[2.0, 4.0]]), np.array([[[1.0, 2.0, 4.0], [1.0, 5.0, 6.0]]])
    losses = [0.1 * 1 + 0.1 * 3, 0.0 + 0.5 * 1, 0.1 * 2 + 0.1 * 2]
    assert wql(truth, quantiles, LEVELS) == pytest.approx(2 * np.mean(losses) / 6)
    assert np.isnan(wql(np.zeros((1, 2)), quantiles, LEVELS))


def test_owa_of_the_naive_forecast_is_one() -> None:
    assert owa(18.383, 2.395, naive_smape=18.383, naive_mase=2.395) == 1
    # Smyl's figures of M4 Hourly, as published.
    assert owa(9.328, 0.893, naive_smape=18.383, naive_mase=2.395) == pytest.approx(0.440, abs=5e-4)


def test_unknown_truth_counts_nowhere() -> None:
    truth, points = np.array([[1.0, np.nan], [np.nan, np.nan]]), np.array([[3.0, 9.0], [1.0, 1.0]])
    assert smape(truth, points)[0] == 100
    assert mase(truth, points, np.array([2.0, 2.0]))[0] == 1
    assert np.isnan(smape(truth, points)[1])
    assert np.isnan(mase(truth, points, np.array([0.0, np.nan]))).all()
    inside = coverage(truth, points - 2, points)
    assert inside[0, 0] == 1
    assert np.isnan(inside[0, 1])


def test_nothing_sold_and_nothing_forecast_is_right() -> None:
    assert smape(np.zeros((1, 3)), np.zeros((1, 3)))[0] == 0
    assert np.isnan(seasonal_naive_error(np.arange(4.0), 7))
