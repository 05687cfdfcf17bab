"""Series with gaps into windows that a model can take.

Legend: S values of a series, N windows, L values that the model sees, H values that follow them.
NaN marks a missing value everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from xinfer.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """What was done to a series: `(x - offset) / scale`. Undone by `xinfer.postproc.forecast.denormalise`."""

    offset: float
    scale: float

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Scaled values, float64."""
        return (np.asarray(values, np.float64) - self.offset) / self.scale


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Windows of one series.

    Attributes:
        past: float64 [N,L]; gaps stay NaN.
        future: float64 [N,H].
        start: int64 [N], where in the series each window begins.
    """

    past: np.ndarray
    future: np.ndarray
    start: np.ndarray


def fill_gaps(values_S: np.ndarray, method: Literal["linear", "last", "mean"] = "linear") -> np.ndarray:
    """A series without missing values.

    Args:
        values_S: float, NaN where missing.
        method: "linear" between neighbours; "last" value before; "mean" of what is known. At the ends
            "linear" and "last" repeat the nearest known value.

    Returns:
        float64 [S]; zeros where nothing is known at all.

    Raises:
        InputError: Not one series, infinite values or an unknown method.
    """
    values_S = _series(values_S)
    known_S = ~np.isnan(values_S)
    if method not in ("linear", "last", "mean"):
        raise InputError(f"{method!r} is none of linear, last, mean", value=method)
    if known_S.all():
        return values_S.copy()
    if not known_S.any():
        return np.zeros_like(values_S)
    places = np.arange(len(values_S))
    if method == "mean":
        return np.where(known_S, values_S, values_S[known_S].mean())
    if method == "linear":
        return np.interp(places, places[known_S], values_S[known_S])
    latest_S = np.maximum.accumulate(np.where(known_S, places, -1))
    return values_S[np.where(latest_S < 0, int(known_S.argmax()), latest_S)]


def fit_scaling(
    values_S: np.ndarray, kind: Literal["none", "standard", "mean_abs", "robust"] = "standard"
) -> Scaling:
    """How a series is brought to a common size, by its known values.

    Args:
        values_S: float, NaN where missing.
        kind: "standard": mean and standard deviation; "mean_abs": 0 and mean of absolute values; "robust":
            median and the quartiles' distance, which outliers do not move; "none".

    Returns:
        The scaling; its scale is 1 where the values give none, as for a constant series.

    Raises:
        InputError: Not one series, infinite values or an unknown kind.
    """
    values_S = _series(values_S)
    known = values_S[~np.isnan(values_S)]
    if kind not in ("none", "standard", "mean_abs", "robust"):
        raise InputError(f"{kind!r} is none of none, standard, mean_abs, robust", value=kind)
    if kind == "none" or not len(known):
        return Scaling(offset=0.0, scale=1.0)
    if kind == "standard":
        offset, scale = float(known.mean()), float(known.std())
    elif kind == "mean_abs":
        offset, scale = 0.0, float(np.abs(known).mean())
    else:
        low, offset, high = (float(value) for value in np.quantile(known, (0.25, 0.5, 0.75)))
        scale = high - low
    # A spread far below the values' own precision is rounding, and dividing by it makes noise of it.
    if scale <= 1e-12 * float(np.abs(known).max()):
        scale = 1.0
    return Scaling(offset=offset, scale=scale)


def sliding_windows(
    values_S: np.ndarray,
    length: int,
    *,
    horizon: int = 0,
    step: int = 1,
    max_missing_share: float = 1.0,
) -> Windows:
    """Past and future of every window of a series.

    Args:
        values_S: float, NaN where missing.
        length: L.
        horizon: H, 0 for windows without a future.
        step: Values between the starts of windows; the last window ends where the series does.
        max_missing_share: Windows with a larger share of missing values, in the past or in the future, are
            left out.

    Returns:
        The windows, in time; copies.

    Raises:
        InputError: Not one series, infinite values or lengths out of range.
    """
    values_S = _series(values_S)
    if length < 1 or horizon < 0 or step < 1 or not 0 <= max_missing_share <= 1:
        raise InputError(
            "length and step must be positive, horizon not negative, max_missing_share in 0..1", value=length
        )
    count = len(values_S) - length - horizon + 1
    # Counted from the end: the newest values matter most and are never left over.
    start_N = np.arange((count - 1) % step, count, step) if count > 0 else np.zeros(0, np.int64)
    rows_NL = values_S[start_N[:, None] + np.arange(length + horizon)]
    missing_NL = np.isnan(rows_NL)
    good_N = missing_NL[:, :length].mean(axis=1) <= max_missing_share
    if horizon:
        good_N &= missing_NL[:, length:].mean(axis=1) <= max_missing_share
    return Windows(past=rows_NL[good_N, :length], future=rows_NL[good_N, length:], start=start_N[good_N])


def _series(values_S: np.ndarray) -> np.ndarray:
    values_S = np.asarray(values_S, np.float64)
    if values_S.ndim != 1 or np.isinf(values_S).any():
        raise InputError(
            f"a series is [S] of finite values or NaN, not {list(values_S.shape)}", value=list(values_S.shape)
        )
    return values_S
