"""Series as windows: the history that a model sees and the values that follow it.

What a window holds is exactly what the served engine is given (`xinfer.zoo.timeseries.prepare_series` with
gaps "last" and scaling "mean_abs"), many at once.

Shapes: N series, S values of all series one after another, W windows, L past values, H future values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Windows:
    """W windows, ready for a model.

    Attributes:
        history: float32 [W,L], without gaps, divided by `scale`.
        observed: float32 [W,L], 1 where a value was observed.
        future: float64 [W,H] in the series' own unit; NaN where not known.
        scale: float64 [W]: mean absolute value of what was observed.
        naive_error: float64 [W]: mean absolute change from season to season over all of the past; NaN: not
            known.
        series: int64 [W], the series' number.
    """

    history: np.ndarray
    observed: np.ndarray
    future: np.ndarray
    scale: np.ndarray
    naive_error: np.ndarray
    series: np.ndarray

    def __len__(self) -> int:
        return len(self.history)

    @property
    def scaled_future(self) -> np.ndarray:
        """float32 [W,H], as the model is to forecast it."""
        return (self.future / self.scale[:, None]).astype(np.float32)


class Panel:
    """Many series on one time grid each.

    Args:
        series: float64, oldest first; NaN where a value is missing.
        season: Values per season, for the naive error.
    """

    def __init__(self, series: Sequence[np.ndarray], season: int) -> None:
        self.sizes = np.array([len(values) for values in series], dtype=np.int64)
        self.begin = np.concatenate([[0], np.cumsum(self.sizes)])
        self.season = season
        self._values_S = (
            np.concatenate([np.asarray(v, np.float64) for v in series]) if series else np.empty(0)
        )
        known_S = ~np.isnan(self._values_S)
        place_S = np.arange(len(known_S))
        self._known_S = known_S
        self._num_known = np.concatenate([[0], np.cumsum(known_S)])
        # The latest known place at or before each, and the earliest at or after; windows check the borders.
        self._latest_S = np.maximum.accumulate(np.where(known_S, place_S, -1))
        self._earliest_S = np.minimum.accumulate(np.where(known_S, place_S, len(known_S))[::-1])[::-1]
        change_S = np.full(len(known_S), np.nan)
        if len(known_S) > season:
            change_S[season:] = np.abs(self._values_S[season:] - self._values_S[:-season])
        within_S = place_S - np.repeat(self.begin[:-1], self.sizes) >= season
        counts_S = within_S & ~np.isnan(change_S)
        self._change_sum = np.concatenate([[0.0], np.cumsum(np.where(counts_S, change_S, 0.0))])
        self._change_count = np.concatenate([[0], np.cumsum(counts_S)])

    def __len__(self) -> int:
        return len(self.sizes)

    def values(self, series: int) -> np.ndarray:
        """One series, float64, NaN where missing."""
        return self._values_S[self.begin[series] : self.begin[series + 1]]

    def num_known(self, series: np.ndarray, ends: np.ndarray, length: int) -> np.ndarray:
        """How many of the last `length` values before `ends` are known, int64 [W]."""
        begin = self.begin[series]
        first, last = begin + np.maximum(ends - length, 0), begin + np.maximum(ends, 0)
        counted: np.ndarray = self._num_known[last] - self._num_known[first]
        return counted

    def windows(self, series: np.ndarray, ends: np.ndarray, *, length: int, horizon: int) -> Windows:
        """Windows that end before value number `ends` of `series`; the future may lie beyond what is known.

        Args:
            series: int64 [W].
            ends: int64 [W]: how many values of the series are past.
            length: Values of a history. Each must hold a known one.
            horizon: Values of a future.
        """
        begin_W, end_W = self.begin[series], self.begin[series] + ends
        first_W1 = np.maximum(begin_W, end_W - length)[:, None]
        place_WL = end_W[:, None] + np.arange(-length, 0)
        inside_WL = place_WL >= first_W1
        place_WL = np.maximum(place_WL, first_W1)
        source_WL = self._latest_S[place_WL]
        source_WL = np.where(source_WL < first_W1, self._earliest_S[first_W1], source_WL)
        values_WL = self._values_S[source_WL]
        observed_WL = inside_WL & self._known_S[place_WL]
        count_W = observed_WL.sum(axis=1)
        scale_W = (np.abs(values_WL) * observed_WL).sum(axis=1) / np.maximum(count_W, 1)
        scale_W = np.where(scale_W > 0, scale_W, 1.0)
        ahead_WH = end_W[:, None] + np.arange(horizon)
        beyond_WH = ahead_WH >= self.begin[series + 1][:, None]
        future_WH = self._values_S[np.minimum(ahead_WH, len(self._values_S) - 1)]
        changes = self._change_sum[end_W] - self._change_sum[begin_W]
        num_changes = self._change_count[end_W] - self._change_count[begin_W]
        return Windows(
            history=(values_WL / scale_W[:, None]).astype(np.float32),
            observed=observed_WL.astype(np.float32),
            future=np.where(beyond_WH, np.nan, future_WH),
            scale=scale_W,
            naive_error=np.where(num_changes > 0, changes / np.maximum(num_changes, 1), np.nan),
            series=np.asarray(series, np.int64),
        )
