"""Statistical forecasters that need no training, as modules: served in one graph with learned ones.

All take ``(history_NL, observed_NL)``, float32, oldest first: history without gaps (filled ones are copies),
divided by its mean absolute value; observed is 1 where a value was given and 0 where it was filled. All give
[N,H].

Shapes: N series, L past values, H future values, M places of the season.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xtorch.models.filters import LEVEL_GRID, holt_bank, ses_bank
from xtorch.models.seasonality import Seasonality, hold_front, started

_TINY = 1e-12
_HOLT_LEVELS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
_HOLT_TRENDS = (0.02, 0.05, 0.1, 0.2, 0.4)
_HOLT_DAMPING = (0.8, 0.9, 0.98)


class SeasonalNaive(nn.Module):
    """The last season again and again; `season` 1 repeats the last value."""

    def __init__(self, length: int, horizon: int, season: int = 1) -> None:
        super().__init__()
        season = min(season, length)
        self.register_buffer("place_H", length - season + torch.arange(horizon) % season, persistent=False)
        self.place_H: Tensor

    def forward(self, history_NL: Tensor, observed_NL: Tensor) -> Tensor:  # noqa: ARG002
        return history_NL[:, self.place_H]


class Mean(nn.Module):
    """The mean of the observed values."""

    def __init__(self, length: int, horizon: int) -> None:  # noqa: ARG002
        super().__init__()
        self.horizon = horizon

    def forward(self, history_NL: Tensor, observed_NL: Tensor) -> Tensor:
        count_N1 = observed_NL.sum(1, keepdim=True).clamp(min=1)
        return ((history_NL * observed_NL).sum(1, keepdim=True) / count_N1).expand(-1, self.horizon)


class SeasonalMedian(nn.Module):
    """The median of the same place in the last seasons: steady where single values are not."""

    def __init__(self, length: int, horizon: int, season: int = 1, num_seasons: int = 3) -> None:
        super().__init__()
        season = min(season, length)
        number = max(1, min(num_seasons, length // season))
        place_H = length - season + torch.arange(horizon) % season
        self.register_buffer(
            "place_HK", place_H[:, None] - season * torch.arange(number)[None], persistent=False
        )
        self.place_HK: Tensor

    def forward(self, history_NL: Tensor, observed_NL: Tensor) -> Tensor:  # noqa: ARG002
        horizon, number = self.place_HK.shape
        values_NHK = history_NL[:, self.place_HK.flatten()].reshape(-1, horizon, number)
        return median(values_NHK, dim=2)


class ExponentialSmoothing(nn.Module):
    """ETS: level and damped trend, with the season taken out before and put back after.

    Args:
        length, horizon: Values given and forecast.
        season: Values per season.
        fit_length: The last values that the constants are fitted on.
    """

    def __init__(self, length: int, horizon: int, season: int = 1, fit_length: int = 104) -> None:
        super().__init__()
        self.fit_length = min(fit_length, length)
        self.seasonality = Seasonality(length, horizon, season)
        self.bank = holt_bank(
            self.fit_length, horizon, levels=_HOLT_LEVELS, trends=_HOLT_TRENDS, damping=_HOLT_DAMPING
        )

    def forward(self, history_NL: Tensor, observed_NL: Tensor) -> Tensor:
        started_NL = started(observed_NL)
        adjusted_NL, factor_NH, term_NH = self.seasonality(history_NL, started_NL)
        recent = slice(-self.fit_length, None)
        forecast_NH = self.bank(adjusted_NL[:, recent], started_NL[:, recent])
        return forecast_NH * factor_NH + term_NH


class Theta(nn.Module):
    """The Theta method: the mean of a straight line and of the series bent away from it, smoothed.

    Source: Assimakopoulos and Nikolopoulos, "The theta model: a decomposition approach to forecasting"
    (International Journal of Forecasting 2000), sections 2 and 3; other values of `theta` weigh the lines as
    in Fiorucci et al., "Models for optimising the theta method" (same journal, 2016), equation 5.

    Args:
        length, horizon: Values given and forecast.
        season: Values per season.
        theta: How far the second line is bent away; 2 is the method as published.
        fit_length: The last values that line and smoothing are fitted on.
    """

    def __init__(
        self, length: int, horizon: int, season: int = 1, theta: float = 2.0, fit_length: int = 208
    ) -> None:
        super().__init__()
        self.theta, self.fit_length = theta, min(fit_length, length)
        self.seasonality = Seasonality(length, horizon, season)
        self.bank = ses_bank(self.fit_length, horizon, LEVEL_GRID)
        # Centred and of order one, for sums in float32.
        time = (torch.arange(self.fit_length + horizon) - self.fit_length + 1.0) / self.fit_length
        self.register_buffer("time", time, persistent=False)
        self.time: Tensor

    def forward(self, history_NL: Tensor, observed_NL: Tensor) -> Tensor:
        started_NL = started(observed_NL)
        adjusted_NL, factor_NH, term_NH = self.seasonality(history_NL, started_NL)
        y_NL, begun_NL = adjusted_NL[:, -self.fit_length :], started_NL[:, -self.fit_length :]
        past_L, future_H = self.time[: self.fit_length], self.time[self.fit_length :]
        num_N1 = begun_NL.sum(1, keepdim=True).clamp(min=1)
        mean_time_N1 = (begun_NL * past_L).sum(1, keepdim=True) / num_N1
        mean_N1 = (begun_NL * y_NL).sum(1, keepdim=True) / num_N1
        moved_NL = (past_L - mean_time_N1) * begun_NL
        slope_N1 = (moved_NL * y_NL).sum(1, keepdim=True) / (moved_NL**2).sum(1, keepdim=True).clamp(
            min=_TINY
        )
        line_NL = mean_N1 + slope_N1 * (past_L - mean_time_N1)
        line_NH = mean_N1 + slope_N1 * (future_H - mean_time_N1)
        bent_NL = hold_front(self.theta * y_NL + (1 - self.theta) * line_NL, begun_NL)
        smoothed_NH = self.bank(bent_NL, begun_NL)
        forecast_NH = smoothed_NH / self.theta + (1 - 1 / self.theta) * line_NH
        return forecast_NH * factor_NH + term_NH


class Croston(nn.Module):
    """Intermittent demand: the size of a demand over the time between two, both smoothed.

    The recursions only move when there is a demand, so a demand's weight follows from how many came after it;
    the intervals are summed by parts.

    Source: Croston, "Forecasting and Stock Control for Intermittent Demands" (Operational Research Quarterly
    1972).
    """

    def __init__(self, length: int, horizon: int, alpha: float = 0.1) -> None:
        super().__init__()
        self.horizon, self.alpha = horizon, alpha
        self.register_buffer("time_L", torch.arange(1.0, length + 1), persistent=False)
        self.time_L: Tensor

    def forward(self, history_NL: Tensor, observed_NL: Tensor) -> Tensor:
        demand_NL, after_NL, first_NL = demands(history_NL, started(observed_NL))
        keep = 1 - self.alpha
        share_NL = demand_NL * torch.where(first_NL > 0, 1.0, self.alpha) * keep**after_NL
        next_NL = demand_NL * torch.where(after_NL >= 1, self.alpha * keep ** (after_NL - 1), 0.0)
        size_N1 = (share_NL * history_NL).sum(1, keepdim=True)
        begin_N1 = history_NL.shape[1] - started(observed_NL).sum(1, keepdim=True)
        first_share_N1 = (share_NL * first_NL).sum(1, keepdim=True)
        interval_N1 = ((share_NL - next_NL) * self.time_L).sum(1, keepdim=True) - first_share_N1 * begin_N1
        return (size_N1 / interval_N1.clamp(min=1)).expand(-1, self.horizon)


class TSB(nn.Module):
    """Intermittent demand that may end: the size of a demand times its probability, both smoothed.

    Source: Teunter, Syntetos and Babai, "Intermittent demand: Linking forecasting to inventory obsolescence"
    (European Journal of Operational Research 2011), section 2.
    """

    def __init__(self, length: int, horizon: int, alpha: float = 0.2, beta: float = 0.1) -> None:
        super().__init__()
        self.horizon, self.alpha, self.beta = horizon, alpha, beta
        self.register_buffer("age_L", torch.arange(length - 1.0, -1.0, -1.0), persistent=False)
        self.age_L: Tensor

    def forward(self, history_NL: Tensor, observed_NL: Tensor) -> Tensor:
        started_NL = started(observed_NL)
        demand_NL, after_NL, first_NL = demands(history_NL, started_NL)
        share_NL = demand_NL * torch.where(first_NL > 0, 1.0, self.alpha) * (1 - self.alpha) ** after_NL
        size_N1 = (share_NL * history_NL).sum(1, keepdim=True)
        # The probability begins with the mean over what is known, so short histories have no bias to zero.
        num_N1 = started_NL.sum(1, keepdim=True).clamp(min=1)
        mean_N1 = demand_NL.sum(1, keepdim=True) / num_N1
        weight_NL = started_NL * self.beta * (1 - self.beta) ** self.age_L
        chance_N1 = (weight_NL * demand_NL).sum(1, keepdim=True) + (1 - self.beta) ** num_N1 * mean_N1
        return (size_N1 * chance_N1).expand(-1, self.horizon)


def demands(history_NL: Tensor, started_NL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where a demand is, how many follow it, and which is the first; 0/1, counts and 0/1, [N,L] each."""
    demand_NL = (history_NL.abs() > 1e-9).to(history_NL.dtype) * started_NL
    count_NL = demand_NL.cumsum(1)
    return demand_NL, count_NL[:, -1:] - count_NL, demand_NL * (count_NL == 1).to(history_NL.dtype)


def median(values: Tensor, dim: int) -> Tensor:
    """The median; of an even number, the mean of the two in the middle."""
    number = values.shape[dim]
    ordered = torch.sort(values, dim=dim).values
    return (ordered.select(dim, (number - 1) // 2) + ordered.select(dim, number // 2)) / 2
