"""Metrics of forecasts: of points, of quantiles, and of series against a naive forecast.

Shapes: N series (or windows), H values forecast, Q quantile levels. NaN in the truth marks a value that is
not known; it counts nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def smape(truth_NH: np.ndarray, forecast_NH: np.ndarray) -> np.ndarray:
    """Symmetric mean absolute percentage error of each series, 0..200, float64 [N]; 0/0 counts as right.

    Source: Makridakis, Spiliotis and Assimakopoulos, "The M4 Competition" (International Journal of
    Forecasting 2020), section 2.3.
    """
    total = np.abs(truth_NH) + np.abs(forecast_NH)
    error = np.abs(truth_NH - forecast_NH)
    return _mean(200 * np.divide(error, total, out=np.where(np.isnan(total), np.nan, 0.0), where=total > 0))


def mase(truth_NH: np.ndarray, forecast_NH: np.ndarray, scale_N: np.ndarray) -> np.ndarray:
    """Mean absolute scaled error of each series, float64 [N]; NaN where the scale is 0 or not known.

    Args:
        scale_N: of `seasonal_naive_error` on the past.

    Source: Hyndman and Koehler, "Another look at measures of forecast accuracy" (International Journal of
    Forecasting 2006), section 3.
    """
    scale = np.where(scale_N > 0, scale_N, np.nan)
    return _mean(np.abs(truth_NH - forecast_NH)) / scale


def seasonal_naive_error(past_S: np.ndarray, season: int) -> float:
    """Mean absolute change from one season to the next of one series; NaN where it is shorter than that."""
    change = np.abs(past_S[season:] - past_S[:-season]) if len(past_S) > season else np.empty(0)
    return float(np.nanmean(change)) if np.isfinite(change).any() else float("nan")


def owa(smape_: float, mase_: float, *, naive_smape: float, naive_mase: float) -> float:
    """Overall weighted average: sMAPE and MASE relative to a naive forecast (M4's: Naive 2), averaged.

    Source: Makridakis et al. (2020), section 2.3.
    """
    return 0.5 * (smape_ / naive_smape + mase_ / naive_mase)


def pinball(truth_NH: np.ndarray, forecast_NHQ: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """Quantile loss, float64 [N,H,Q].

    Source: Koenker and Bassett, "Regression Quantiles" (Econometrica 1978).
    """
    error_NHQ = truth_NH[:, :, None] - forecast_NHQ
    level_Q = np.asarray(levels, np.float64)
    loss: np.ndarray = np.maximum(level_Q * error_NHQ, (level_Q - 1) * error_NHQ)
    return loss


def wql(truth_NH: np.ndarray, forecast_NHQ: np.ndarray, levels: Sequence[float]) -> float:
    """Weighted quantile loss: twice the summed pinball loss over the summed absolute truth, mean over levels.

    NaN where the truth is all zeros.

    Source: Gasthaus et al., "Probabilistic Forecasting with Spline Quantile Function RNNs" (AISTATS 2019),
    section 4, as in the M5 and GluonTS definitions.
    """
    total = float(np.nansum(np.abs(truth_NH)))
    loss_Q = np.nansum(pinball(truth_NH, forecast_NHQ, levels), axis=(0, 1))
    return float(2 * loss_Q.mean() / total) if total > 0 else float("nan")


def coverage(truth_NH: np.ndarray, low_NH: np.ndarray, high_NH: np.ndarray) -> np.ndarray:
    """1 where the truth lies within the interval, 0 where not, NaN where it is not known; float64 [N,H]."""
    inside: np.ndarray = np.where(np.isnan(truth_NH), np.nan, (truth_NH >= low_NH) & (truth_NH <= high_NH))
    return inside


def mean_or_nan(values: np.ndarray) -> float:
    """The mean of what is finite; NaN of nothing."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")


def _mean(values_NH: np.ndarray) -> np.ndarray:
    """Row means over what is known; NaN where nothing is."""
    known = ~np.isnan(values_NH)
    count_N = known.sum(axis=1)
    total_N = np.where(known, values_NH, 0.0).sum(axis=1)
    return np.where(count_N > 0, total_N / np.maximum(count_N, 1), np.nan)
