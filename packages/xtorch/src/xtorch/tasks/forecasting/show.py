"""What the training report shows of a forecaster: figures with intervals, tables, and series drawn (10.6).

Shapes: W windows, H values forecast, Q quantile levels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from xtorch.data.series import SeriesSet
from xtorch.forecast_metrics import coverage, mase, mean_or_nan, pinball, smape, wql
from xtorch.tasks.forecasting.plan import Plan
from xtorch.tasks.forecasting.windows import Windows
from xtorch.tasks.report import Chart, Series, Table

_RESAMPLES = 500
_MAX_ROWS = 200
_FEW_SERIES = 5


def bands(levels: Sequence[float]) -> list[tuple[float, int, int]]:
    """Central intervals among quantiles: share within, columns of lower and upper end; the widest last."""
    found = []
    for low, level in enumerate(levels):
        for high, other in enumerate(levels):
            if level < 0.5 and abs(level + other - 1) < 1e-9:
                found.append((round(other - level, 6), low, high))
    return sorted(found)


def metrics(
    windows: Windows, quantiles_WHQ: np.ndarray, levels: Sequence[float], *, seed: int
) -> dict[str, dict[str, float]]:
    """`Report.metrics`: with 95 % bootstrap intervals over series; of fewer than 5 series, over steps ahead.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), section 13.3.
    """
    points_WH = quantiles_WHQ[:, :, list(levels).index(0.5)]
    error_WH = np.abs(windows.future - points_WH)
    total_WH = np.abs(windows.future) + np.abs(points_WH)
    percent_WH = np.where(total_WH > 0, 200 * error_WH / np.where(total_WH > 0, total_WH, 1), 0.0)
    figures = {
        "mase": _mean(error_WH / np.where(windows.naive_error > 0, windows.naive_error, np.nan)[:, None]),
        "smape": _mean(np.where(np.isnan(windows.future), np.nan, percent_WH)),
        "wql": _ratio(
            2 * pinball(windows.future, quantiles_WHQ, levels).mean(axis=2), np.abs(windows.future)
        ),
    }
    for share, low, high in bands(levels):
        inside_WH = coverage(windows.future, quantiles_WHQ[:, :, low], quantiles_WHQ[:, :, high])
        figures[f"coverage_{100 * share:g}"] = _mean(inside_WH)
    found = {}
    for name, figure in figures.items():
        value = figure(np.ones(error_WH.shape[0]), np.ones(error_WH.shape[1]))
        if np.isfinite(value):
            found[name] = {"value": value, **_bootstrap(figure, error_WH.shape, value, seed=seed)}
    return found


Figure = Callable[[np.ndarray, np.ndarray], float]
"""(how often each window counts [W], how often each step [H]) -> a figure; NaN where nothing is known."""


def _bootstrap(figure: Figure, shape: tuple[int, ...], value: float, *, seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)

    def resampled(number: int) -> np.ndarray:
        return np.bincount(rng.integers(number, size=number), minlength=number).astype(np.float64)

    num_windows, num_steps = shape
    drawn = [value]
    for _ in range(_RESAMPLES):
        if num_windows >= _FEW_SERIES:
            drawn.append(figure(resampled(num_windows), np.ones(num_steps)))
        else:
            drawn.append(figure(np.ones(num_windows), resampled(num_steps)))
    low, high = np.quantile([each for each in drawn if np.isfinite(each)], [0.025, 0.975])
    return {"low": float(min(low, value)), "high": float(max(high, value))}


def _mean(values_WH: np.ndarray) -> Figure:
    """The mean over windows of their means over steps, without what is not known."""
    known_WH = np.isfinite(values_WH).astype(np.float64)
    filled_WH = np.where(known_WH > 0, values_WH, 0.0)

    def figure(weight_W: np.ndarray, weight_H: np.ndarray) -> float:
        count_W = known_WH @ weight_H
        known_W = count_W > 0
        total = weight_W[known_W].sum()
        means = (filled_WH @ weight_H)[known_W] / count_W[known_W]
        return float(means @ weight_W[known_W] / total) if total > 0 else float("nan")

    return figure


def _ratio(above_WH: np.ndarray, below_WH: np.ndarray) -> Figure:
    """The sum of one over the sum of the other, where both are known."""
    known_WH = np.isfinite(above_WH) & np.isfinite(below_WH)
    above_WH, below_WH = np.where(known_WH, above_WH, 0.0), np.where(known_WH, below_WH, 0.0)

    def figure(weight_W: np.ndarray, weight_H: np.ndarray) -> float:
        total = float(weight_W @ below_WH @ weight_H)
        return float(weight_W @ above_WH @ weight_H) / total if total > 0 else float("nan")

    return figure


def horizon_table(windows: Windows, quantiles_WHQ: np.ndarray, levels: Sequence[float]) -> Table:
    """Figures of each step ahead."""
    points_WH = quantiles_WHQ[:, :, list(levels).index(0.5)]
    spans = bands(levels)
    rows: list[list[str | int | float | None]] = []
    for step in range(points_WH.shape[1]):
        truth, points = windows.future[:, step : step + 1], points_WH[:, step : step + 1]
        row: list[str | int | float | None] = [
            step + 1,
            _none(mean_or_nan(mase(truth, points, windows.naive_error))),
            _none(mean_or_nan(smape(truth, points))),
            _none(wql(truth, quantiles_WHQ[:, step : step + 1], levels)),
        ]
        for _, low, high in spans:
            inside = coverage(
                truth, quantiles_WHQ[:, step : step + 1, low], quantiles_WHQ[:, step : step + 1, high]
            )
            row.append(_none(mean_or_nan(inside)))
        rows.append(row)
    return Table(
        id="horizon",
        title="Each step ahead",
        columns=[
            "Step",
            "MASE",
            "sMAPE",
            "WQL",
            *(f"Within the {100 * share:g} % interval" for share, _, _ in spans),
        ],
        rows=rows,
        note="On the test part.",
    )


def series_table(
    names: Sequence[str], windows: Windows, quantiles_WHQ: np.ndarray, levels: Sequence[float]
) -> Table:
    """Figures of each series, the hardest first."""
    points_WH = quantiles_WHQ[:, :, list(levels).index(0.5)]
    errors, percents = mase(windows.future, points_WH, windows.naive_error), smape(windows.future, points_WH)
    spans = bands(levels)
    order = np.argsort(-np.nan_to_num(errors, nan=-1.0), kind="stable")[:_MAX_ROWS]
    rows: list[list[str | int | float | None]] = []
    for index in order.tolist():
        quantiles = quantiles_WHQ[index : index + 1]
        truth = windows.future[index : index + 1]
        row: list[str | int | float | None] = [
            names[int(windows.series[index])],
            _none(float(errors[index])),
            _none(float(percents[index])),
            _none(wql(truth, quantiles, levels)),
        ]
        row += [
            _none(mean_or_nan(coverage(truth, quantiles[:, :, low], quantiles[:, :, high])))
            for _, low, high in spans
        ]
        rows.append(row)
    shown = f"The {_MAX_ROWS} hardest of {len(errors)}." if len(errors) > _MAX_ROWS else "The hardest first."
    return Table(
        id="series",
        title="Each series",
        columns=[
            "Series",
            "MASE",
            "sMAPE",
            "WQL",
            *(f"Within the {100 * share:g} % interval" for share, _, _ in spans),
        ],
        rows=rows,
        note=shown,
    )


def coverage_chart(windows: Windows, quantiles_WHQ: np.ndarray, levels: Sequence[float]) -> Chart | None:
    """How often the truth lay within each interval, against how often it should."""
    spans = bands(levels)
    if not spans:
        return None
    observed = [
        mean_or_nan(coverage(windows.future, quantiles_WHQ[:, :, low], quantiles_WHQ[:, :, high]))
        for _, low, high in spans
    ]
    shares = [0.0, *(share for share, _, _ in spans), 1.0]
    return Chart(
        id="coverage",
        title="Are the intervals honest?",
        kind="lines",
        x_title="Share of values that an interval should hold",
        y_title="Share that it held on the test part",
        x=shares,
        series=[
            Series(name="test part", y=[0.0, *(_none(value) for value in observed), 1.0]),
            Series(name="ideal", y=shares),
        ],
    )


def coverage_by_step(windows: Windows, quantiles_WHQ: np.ndarray, levels: Sequence[float]) -> Chart | None:
    """How often the truth lay within, step by step."""
    spans = bands(levels)[-2:]
    if not spans or quantiles_WHQ.shape[1] < 2:
        return None
    lines = []
    for share, low, high in spans:
        inside_WH = coverage(windows.future, quantiles_WHQ[:, :, low], quantiles_WHQ[:, :, high])
        observed = [_none(mean_or_nan(inside_WH[:, step])) for step in range(inside_WH.shape[1])]
        lines.append(Series(name=f"{100 * share:g} % interval", y=observed))
    return Chart(
        id="coverage_by_step",
        title="Intervals at each step ahead",
        kind="lines",
        x_title="Steps ahead",
        y_title="Share of values within",
        x=[float(step + 1) for step in range(quantiles_WHQ.shape[1])],
        series=lines,
    )


def drawn_series(
    series: SeriesSet,
    usable: Sequence[int],
    plan: Plan,
    windows: Windows,
    quantiles_WHQ: np.ndarray,
    levels: Sequence[float],
) -> list[Chart]:
    """History, truth and forecast of the series that are forecast best, in the middle, and worst."""
    points_WH = quantiles_WHQ[:, :, list(levels).index(0.5)]
    errors = mase(windows.future, points_WH, windows.naive_error)
    known = np.flatnonzero(np.isfinite(errors))
    if not len(known):
        known = np.arange(min(1, len(windows)))
    order = known[np.argsort(errors[known], kind="stable")]
    places = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
    if len(order) > 8:
        places = {
            "best": order[0],
            "good": order[len(order) // 4],
            "median": order[len(order) // 2],
            "bad": order[3 * len(order) // 4],
            "worst": order[-1],
        }
    charts = []
    seen: set[int] = set()
    for word, index in places.items():
        if int(index) not in seen:
            seen.add(int(index))
            charts.append(
                _drawn(word, int(index), series, usable, plan, windows, quantiles_WHQ, levels, errors)
            )
    return charts


def _drawn(
    word: str,
    index: int,
    series: SeriesSet,
    usable: Sequence[int],
    plan: Plan,
    windows: Windows,
    quantiles_WHQ: np.ndarray,
    levels: Sequence[float],
    errors: np.ndarray,
) -> Chart:
    number = usable[int(windows.series[index])]
    values = series.values[number]
    horizon = plan.horizon
    shown = min(len(values) - horizon, max(3 * horizon, 2 * max(plan.seasons, default=1)), 400)
    past = values[len(values) - horizon - shown : len(values) - horizon]
    start = float(series.starts[number]) + len(values) - horizon - shown
    x = [float(series.frequency.time(start + step)) for step in range(shown + horizon)]
    middle = list(levels).index(0.5)
    spans = bands(levels)
    none: list[float | None] = [None] * shown
    forecast: list[float | None] = [*none, *(float(v) for v in quantiles_WHQ[index, :, middle])]
    low = high = None
    label = "forecast"
    if spans:
        share, first, last = spans[-1]
        low = [*none, *(float(v) for v in quantiles_WHQ[index, :, first])]
        high = [*none, *(float(v) for v in quantiles_WHQ[index, :, last])]
        label = f"forecast and {100 * share:g} % interval"
    truth = [_none(float(v)) for v in [*past, *windows.future[index]]]
    error = float(errors[index])
    return Chart(
        id=f"series_{word}",
        title=f"{series.names[number]} ({word})",
        kind="lines",
        x_title="time" if series.frequency.unit != "numbers" else "step",
        y_title=series.roles.target or "value",
        x=x,
        series=[Series(name="observed", y=truth), Series(name=label, y=forecast, low=low, high=high)],
        x_is_time=series.frequency.unit != "numbers",
        note=f"MASE {error:.2f} on the test part." if np.isfinite(error) else "",
    )


def _none(value: float) -> float | None:
    return value if np.isfinite(value) else None
