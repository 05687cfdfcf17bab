"""Forecasting: how a series goes on.

Legend: N series, L values that the model sees, H values forecast, Q quantiles.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xinfer.errors import InputError, TaskSpecError
from xinfer.tasks.forecast import Forecasting, SeriesInput
from xinfer.zoo.base import BuildInput, Feeds, Outputs, TaskRunner
from xinfer.zoo.svg import Chart

if TYPE_CHECKING:
    from xinfer.catalogue import Entry

Series = Sequence[float | None] | np.ndarray

MAX_BATCH = 64
"""Series of one inference, where the model takes many: small models gain an order of magnitude."""

MAX_VALUE = 1e30
"""Squares of larger values do not fit the float32 that models compute in."""


@dataclass(frozen=True, kw_only=True)
class ForecastResult:
    """How a series goes on.

    Attributes:
        values: [H,Q] float64, ascending along Q.
        quantiles: What the columns are.
        history: The values that were given, as the model saw them in time: NaN where missing.
    """

    values: np.ndarray = field(repr=False, compare=False)
    quantiles: tuple[float, ...]
    history: np.ndarray = field(repr=False, compare=False)

    @property
    def median(self) -> np.ndarray:
        """[H] float64: half of the possible futures lie below."""
        return self.quantile(0.5)

    def quantile(self, quantile: float) -> np.ndarray:
        """[H] float64: this share of the possible futures lies below.

        Raises:
            InputError: The model does not forecast this quantile.
        """
        if quantile not in self.quantiles:
            raise InputError(
                f"the model forecasts the quantiles {list(self.quantiles)}, not {quantile}", value=quantile
            )
        column: np.ndarray = self.values[:, self.quantiles.index(quantile)]
        return column

    def to_json(self) -> dict[str, Any]:
        """The horizon, and the values of each quantile."""
        return {
            "horizon": len(self.values),
            "quantiles": {f"{q:g}": self.quantile(q).tolist() for q in self.quantiles},
        }

    def draw(self) -> str:
        """History, median and the widest interval, as an SVG document."""
        past, future = np.arange(1 - len(self.history), 1), np.arange(1, len(self.values) + 1)
        everything = np.concatenate([self.history[np.isfinite(self.history)], self.values.ravel()])
        margin = 0.05 * float(np.ptp(everything)) or 1.0
        chart = Chart(
            title=f"Forecast of {len(self.values)} steps",
            x_range=(float(past[0]), float(future[-1])),
            y_range=(float(everything.min()) - margin, float(everything.max()) + margin),
            x_label="steps from now",
        )
        if len(self.quantiles) > 1:
            chart.band(future, self.values[:, 0], self.values[:, -1], "#d2691e")
        chart.line(past, self.history, "#1f4e9c")
        # From the last value on, so that the eye follows; where that is missing the line starts by itself.
        last = self.history[-1:]
        joined = np.concatenate([last[np.isfinite(last)], self.median])
        chart.line(np.arange(len(self.median) + 1)[-len(joined) :], joined, "#d2691e")
        return chart.render()


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """What undoes the scaling of one series, and its values."""

    history: np.ndarray
    offset: float
    scale: float


class Forecaster(TaskRunner[Forecasting, ForecastResult]):
    """Forecasts series; missing values are NaN or None."""

    SPEC = Forecasting

    def setup(self) -> None:
        """Checks that the model's outputs are what the task says."""
        task = self.task
        shapes = {spec.name: spec.shape for spec in self.engine.manifest.io.outputs}
        shape = shapes.get(task.outputs["forecast"])
        wanted = (-1, task.horizon, len(task.quantiles))
        fits = (
            shape is not None
            and len(shape) in (2, 3)
            and (len(shape) == 3 or len(task.quantiles) == 1)
            and all(size in (-1, want) for size, want in zip(shape[1:], wanted[1:], strict=False))
        )
        if not fits:
            raise TaskSpecError(
                f"the model forecasts {None if shape is None else list(shape)}, the task says "
                f"{task.horizon} values of {len(task.quantiles)} quantiles",
                value=shape,
            )

    def prepare(self, x: Series) -> tuple[Feeds, Scaled]:
        """One series as feeds.

        Args:
            x: The past, oldest first; NaN or None where a value is missing.

        Raises:
            InputError: Not numbers, infinite, or too few observed values among the last ones.
        """
        filled_L, mask_L, scaled = prepare_series(x, self.task.input)
        feeds = {self.task.input.name: filled_L[None]}
        if self.task.input.mask is not None:
            feeds[self.task.input.mask] = mask_L[None]
        return feeds, scaled

    def interpret(self, outputs: Outputs, context: Scaled) -> ForecastResult:
        """The first series' forecast in the series' own units."""
        return self._result(outputs[self.task.outputs["forecast"]][0], context)

    def predict_batch(self, xs: Iterable[Series]) -> list[ForecastResult]:
        """The forecasts of many series, in order; many in one inference where the model takes many."""
        shape = next(s.shape for s in self.engine.manifest.io.inputs if s.name == self.task.input.name)
        if shape[0] != -1:
            return super().predict_batch(xs)
        remaining = iter(xs)
        results: list[ForecastResult] = []
        waiting: deque[tuple[Any, list[Scaled]]] = deque()

        def finish() -> None:
            future, contexts = waiting.popleft()
            forecast = future.result()[self.task.outputs["forecast"]]
            results.extend(self._result(row, scaled) for row, scaled in zip(forecast, contexts, strict=True))

        while prepared := [self.prepare(x) for x in islice(remaining, MAX_BATCH)]:
            feeds = {name: np.concatenate([feeds[name] for feeds, _ in prepared]) for name in prepared[0][0]}
            waiting.append((self.engine.infer_async(feeds), [scaled for _, scaled in prepared]))
            if len(waiting) > 2 * self.engine.settings.num_streams:
                finish()
        while waiting:
            finish()
        return results

    def _result(self, forecast: np.ndarray, scaled: Scaled) -> ForecastResult:
        """A row [H] or [H,Q] of the outputs.

        Crossing quantiles are put in order. Source: Chernozhukov, Fernandez-Val and Galichon, "Quantile and
        Probability Curves Without Crossing" (Econometrica 2010), section 2: rearrangement never fits worse.
        """
        task = self.task
        values_HQ = forecast.astype(np.float64).reshape(task.horizon, len(task.quantiles))
        values_HQ = np.sort(values_HQ * scaled.scale + scaled.offset, axis=1)
        if task.lower is not None or task.upper is not None:
            values_HQ = np.clip(values_HQ, task.lower, task.upper)
        return ForecastResult(values=values_HQ, quantiles=task.quantiles, history=scaled.history)

    @classmethod
    def build_input(cls, entry: Entry, folder: Path) -> BuildInput:
        """The model, measured on synthesised seasonal series."""
        from xinfer.zoo.held_out import series_build_input

        return series_build_input(entry, folder)


def prepare_series(x: Series, spec: SeriesInput) -> tuple[np.ndarray, np.ndarray, Scaled]:
    """Cuts, scales and fills one series.

    Args:
        x: The past, oldest first; NaN or None where a value is missing.
        spec: Length, gaps and scaling.

    Returns:
        Values [L] float32, the mask [L] float32 (1 observed, 0 filled), and what undoes the scaling.

    Raises:
        InputError: Not numbers, infinite, or too few observed values among the last `length`.
    """
    try:
        given = np.asarray(x, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError("a series is a list of numbers; None or NaN where one is missing") from error
    if given.ndim != 1:
        raise InputError(
            f"a series has one dimension, given was {list(given.shape)}", value=list(given.shape)
        )
    recent = given[-spec.length :]
    if np.isinf(recent).any():
        raise InputError("the series holds infinite values")
    observed = ~np.isnan(recent)
    if observed.sum() < spec.min_observed:
        raise InputError(
            f"{observed.sum()} of the last {spec.length} values are known, {spec.min_observed} are needed",
            value=int(observed.sum()),
        )
    known = recent[observed]
    if np.abs(known).max() > MAX_VALUE:
        raise InputError(f"values beyond {MAX_VALUE:g} cannot be forecast", value=float(np.abs(known).max()))
    offset, scale = _scaling(known, spec.scaling)
    # In float64 until here: a cast before scaling would lose small changes of large values.
    filled_L = ((_filled(recent, spec) - offset) / scale).astype(np.float32)
    mask_L = np.concatenate([np.zeros(spec.length - len(recent)), observed]).astype(np.float32)
    return filled_L, mask_L, Scaled(history=recent, offset=offset, scale=scale)


def _scaling(known: np.ndarray, kind: str) -> tuple[float, float]:
    """Offset and scale; a constant series is only moved."""
    if kind == "standard":
        # Differences that are rounding are not spread.
        spread = float(known.std())
        return float(known.mean()), spread if spread > 1e-12 * float(np.abs(known).max()) else 1.0
    if kind == "mean_abs":
        return 0.0, float(np.abs(known).mean()) or 1.0
    return 0.0, 1.0


def _filled(recent: np.ndarray, spec: SeriesInput) -> np.ndarray:
    """[L] float64 without gaps, filled in front where the history is short."""
    padded = np.concatenate([np.full(spec.length - len(recent), np.nan), recent])
    places, known = np.arange(spec.length), ~np.isnan(padded)
    values = padded[known]
    if spec.gaps == "mean":
        return np.where(known, padded, values.mean())
    if spec.gaps == "linear":
        return np.interp(places, places[known], values)
    return values[np.clip(np.cumsum(known) - 1, 0, None)]
