"""ARIMA, for the leaderboard: it is fitted to each series anew, so it cannot be served as one graph."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass

import numpy as np

from xtorch.forecast_metrics import mase, mean_or_nan, smape
from xtorch.tasks.forecasting.windows import Panel, Windows

_MAX_VALUES = 400
"""Of a series' history: fitting takes longer than linearly."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a method that is not served gave on a part of the test windows.

    Attributes:
        num_series: How many series there was time for.
        scores: Metric -> value, on these.
        ensemble_scores: Of the ensemble on the same ones.
    """

    num_series: int
    scores: dict[str, float]
    ensemble_scores: dict[str, float]
    fit_s: float


def arima(
    panel: Panel,
    test: Windows,
    ensemble_WH: np.ndarray,
    ends: np.ndarray,
    *,
    season: int,
    limit_s: float,
    seed: int,
) -> Reference | None:
    """AutoARIMA on series in random order until time is up; None where there was time for none.

    Args:
        panel: All series.
        test: The test windows.
        ensemble_WH: What the ensemble gave for them.
        ends: Where their histories end.
        season: Values per season; above 24 ARIMA gets too slow and goes without.
        limit_s: Seconds.

    Source: Hyndman and Khandakar, "Automatic Time Series Forecasting: The forecast Package for R" (Journal of
    Statistical Software 2008), section 3, as implemented by statsforecast.
    """
    started = time.monotonic()
    try:
        from statsforecast.models import AutoARIMA
    except ImportError:
        return None
    horizon = test.future.shape[1]
    model = AutoARIMA(season_length=season if season <= 24 else 1, approximation=True)
    order = np.random.default_rng(seed).permutation(len(test))
    done: list[int] = []
    points: list[np.ndarray] = []
    for index in order.tolist():
        if time.monotonic() - started > limit_s:
            break
        past = panel.values(int(test.series[index]))[: ends[index]][-_MAX_VALUES:]
        known = np.isfinite(past)
        filled = np.interp(np.arange(len(past)), np.flatnonzero(known), past[known])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                answer = model.forecast(y=filled, h=horizon)["mean"]
            except Exception:  # noqa: S112 - a row of the leaderboard is not worth a run
                continue
        if np.isfinite(answer).all():
            done.append(index)
            points.append(np.asarray(answer, np.float64))
    if not done:
        return None

    def scores(forecast_WH: np.ndarray) -> dict[str, float]:
        return {
            "mase": mean_or_nan(mase(test.future[done], forecast_WH, test.naive_error[done])),
            "smape": mean_or_nan(smape(test.future[done], forecast_WH)),
        }

    return Reference(
        num_series=len(done),
        scores=scores(np.stack(points)),
        ensemble_scores=scores(ensemble_WH[done]),
        fit_s=time.monotonic() - started,
    )
