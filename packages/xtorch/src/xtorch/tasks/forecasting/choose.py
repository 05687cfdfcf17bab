"""Which members make the ensemble, and how wide its intervals are: decided by backtests.

Shapes: W windows, H values forecast, Q quantile levels, K members.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xtorch.forecast_metrics import mase, mean_or_nan, smape
from xtorch.tasks.forecasting.windows import Windows

_MIN_GAIN = 0.002
"""A further member must make the score this much better, as a share."""
_TAIL = 8
"""Errors that should lie beyond a quantile for it to be read off at one step ahead alone."""


def point_scores(windows: Windows, points_WH: np.ndarray) -> dict[str, float]:
    """``mase`` and ``smape``, means over windows; NaN where none can be measured."""
    return {
        "mase": mean_or_nan(mase(windows.future, points_WH, windows.naive_error)),
        "smape": mean_or_nan(smape(windows.future, points_WH)),
    }


class Judge:
    """Says how good points are on windows, relative to the naive forecast; lower is better, 1 is as good.

    MASE alone where values may be 0 (a percentage means nothing there), else its mean with sMAPE as in M4's
    OWA.

    Args:
        windows: With their futures.
        naive_WH: The seasonal naive forecast.
        positive: All values are above 0.
    """

    def __init__(self, windows: Windows, naive_WH: np.ndarray, *, positive: bool) -> None:
        self._windows, self._positive = windows, positive
        self._naive = point_scores(windows, naive_WH)

    def __call__(self, points_WH: np.ndarray) -> float:
        scores = point_scores(self._windows, points_WH)
        names = ("mase", "smape") if self._positive else ("mase",)
        parts = [scores[name] / self._naive[name] for name in names if self._naive[name] > 0]
        value = float(np.mean(parts)) if parts else scores["mase"]
        return value if np.isfinite(value) else float("inf")


def choose_members(points: Sequence[np.ndarray], judge: Judge, *, max_members: int = 7) -> list[int]:
    """Which members' median is best: starts with the best, adds whichever helps most, ends when none does.

    Source: forward selection as in Caruana et al., "Ensemble Selection from Libraries of Models" (ICML 2004),
    without replacement; the median as in Petropoulos and Svetunkov, "A simple combination of univariate
    models" (International Journal of Forecasting 2020).
    """
    scores = [judge(each) for each in points]
    chosen = [int(np.argmin(scores))]
    best = scores[chosen[0]]
    while len(chosen) < min(max_members, len(points)):
        trials = {
            index: judge(np.median([points[i] for i in (*chosen, index)], axis=0))
            for index in range(len(points))
            if index not in chosen
        }
        index = min(trials, key=lambda i: trials[i])
        # Two may be worse than one where three are better, so two further ones are tried together.
        if trials[index] > best * (1 - _MIN_GAIN):
            pairs = {
                (a, b): judge(np.median([points[i] for i in (*chosen, a, b)], axis=0))
                for a in trials
                for b in trials
                if a < b and len(chosen) + 2 <= max_members
            }
            pair = min(pairs, key=lambda i: pairs[i]) if pairs else None
            if pair is None or pairs[pair] > best * (1 - _MIN_GAIN):
                break
            chosen += pair
            best = pairs[pair]
        else:
            chosen.append(index)
            best = trials[index]
    return chosen


def conformal_offsets(error_WH: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """Offsets of quantiles from the point forecast, in units of the spread, float32 [H,Q].

    Each step ahead by itself where there are errors enough; else errors of all steps, each divided by its
    usual size, which grows with the steps. The sample is a finite one, so outer quantiles are moved outwards
    as conformal prediction asks.

    Args:
        error_WH: (truth - forecast) / spread on validation; NaN where the truth is not known.
        levels: Quantiles, ascending; at 0.5 the offset is 0: the point forecast itself.

    Source: Stankeviciute, Alaa and van der Schaar, "Conformal Time-series Forecasting" (NeurIPS 2021),
    section 3.
    """
    horizon = error_WH.shape[1]
    size_H = np.array([_typical(error_WH[:, step]) for step in range(horizon)])
    if not np.isfinite(size_H).any():
        return np.zeros((horizon, len(levels)), np.float32)
    size_H = _growing(size_H)
    pooled = (error_WH / size_H)[np.isfinite(error_WH)]
    offsets_HQ = np.zeros((horizon, len(levels)), np.float32)
    for column, level in enumerate(levels):
        if level == 0.5:
            continue
        for step in range(horizon):
            own = error_WH[np.isfinite(error_WH[:, step]), step]
            if len(own) * min(level, 1 - level) >= _TAIL:
                offsets_HQ[step, column] = _outer_quantile(own, level)
            else:
                offsets_HQ[step, column] = _outer_quantile(pooled, level) * size_H[step]
        # Above the median no quantile lies below the forecast, and the other way round.
        bound = np.maximum if level > 0.5 else np.minimum
        offsets_HQ[:, column] = bound(offsets_HQ[:, column], 0.0)
    return np.sort(offsets_HQ, axis=1)


def _outer_quantile(values: np.ndarray, level: float) -> float:
    """The order statistic number ``level * (n + 1)``: a new value lies below it with just that chance."""
    return float(np.quantile(values, level, method="weibull"))


def _typical(values: np.ndarray) -> float:
    known = np.abs(values[np.isfinite(values)])
    return float(known.mean()) if len(known) else float("nan")


def _growing(size_H: np.ndarray) -> np.ndarray:
    """Sizes that never fall with the steps ahead, by pooling neighbours.

    Source: isotonic regression by pool-adjacent-violators: Barlow et al. (1972).
    """
    from sklearn.isotonic import isotonic_regression

    known = np.isfinite(size_H)
    filled = np.interp(np.arange(len(size_H)), np.flatnonzero(known), size_H[known])
    grown: np.ndarray = isotonic_regression(filled, increasing=True)
    return np.maximum(grown, 1e-9)
