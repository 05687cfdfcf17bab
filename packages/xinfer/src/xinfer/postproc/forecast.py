"""A forecaster's numbers as quantiles in the series' own unit.

Legend: H horizon, Q quantile levels; leading axes are kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xinfer.errors import InputError


def sort_quantiles(values_HQ: np.ndarray) -> np.ndarray:
    """Quantiles that do not cross: a higher level never has a lower value.

    Sorting never moves a quantile further from the true one.

    Args:
        values_HQ: Rising levels along the last axis.

    Returns:
        The same values, rising along the last axis.

    Source: V. Chernozhukov et al., "Quantile and Probability Curves Without Crossing", Econometrica 2010.
    """
    return np.sort(values_HQ, axis=-1)


def denormalise(
    values: np.ndarray,
    *,
    offset: float | np.ndarray,
    scale: float | np.ndarray,
    lower: float | None = None,
    upper: float | None = None,
) -> np.ndarray:
    """Undoes `(x - offset) / scale`, and keeps to bounds that the series cannot leave.

    Args:
        values: What the model gave.
        offset: What was subtracted; broadcasts over leading axes.
        scale: What was divided by.
        lower: Such as 0 for demand.
        upper: Such as capacity.

    Returns:
        float64, of the values' shape.
    """
    result = np.asarray(values, np.float64) * scale + offset
    return result.clip(-np.inf if lower is None else lower, np.inf if upper is None else upper)


def quantile_at(values_HQ: np.ndarray, levels: Sequence[float], level: float) -> np.ndarray:
    """A quantile between the forecast ones, linear in the level.

    Args:
        values_HQ: Forecast quantiles, not crossing.
        levels: Their levels, rising, in 0..1.
        level: Between the first and the last of them: beyond, nothing is known.

    Returns:
        [..., H].

    Raises:
        InputError: The level lies outside, or the levels do not fit.
    """
    values_HQ, known = np.asarray(values_HQ), np.asarray(levels, np.float64)
    if known.shape != values_HQ.shape[-1:] or (np.diff(known) <= 0).any():
        raise InputError(
            f"levels must rise and fit {list(values_HQ.shape)}, not {list(levels)}", value=list(levels)
        )
    if not known[0] <= level <= known[-1]:
        raise InputError(f"the level {level} lies outside of {known[0]:g}..{known[-1]:g}", value=level)
    upper = int(np.searchsorted(known, level))
    if known[upper] == level:
        return np.asarray(values_HQ[..., upper])
    share = (level - known[upper - 1]) / (known[upper] - known[upper - 1])
    return np.asarray(values_HQ[..., upper - 1] * (1 - share) + values_HQ[..., upper] * share)


def interval(
    values_HQ: np.ndarray, levels: Sequence[float], coverage: float
) -> tuple[np.ndarray, np.ndarray]:
    """The central interval that should cover this share of the futures.

    Args:
        values_HQ: As in `quantile_at`.
        levels: As in `quantile_at`.
        coverage: Such as 0.8 for the 10 % and 90 % quantiles.

    Returns:
        Lower and upper end, [..., H] each.

    Raises:
        InputError: The model did not forecast that far out.
    """
    if not 0 <= coverage <= 1:
        raise InputError(f"coverage must lie in 0..1, not {coverage}", value=coverage)
    # Rounded, so that 0.8 asks for the level 0.1 and not for 0.09999999999999998.
    tail = round((1 - coverage) / 2, 12)
    return quantile_at(values_HQ, levels, tail), quantile_at(values_HQ, levels, round(1 - tail, 12))
