"""Classical decomposition as a tensor program, with the test that decides whether there is a season at all.

Shapes: N series, L past values (oldest first), H future values, M places of the season, C centred averages.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_TINY = 1e-12


def started(observed_NL: Tensor) -> Tensor:
    """1 from the first observed value on, 0 for the filling in front of it."""
    return (observed_NL.cumsum(1) > 0).to(observed_NL.dtype)


class Seasonality(nn.Module):
    """Takes the season out of a series and says how to put it back: times a factor, plus a term.

    Multiplicative where all values are positive, else additive. A series without a season by the test, or
    shorter than two seasons, stays as it is. `season` 1 does nothing.

    Source: ratio to the 2xM moving average: Makridakis, Wheelwright and Hyndman, "Forecasting" (1998),
    section 3/4; the 90 % test on the autocorrelation at lag M: Assimakopoulos and Nikolopoulos (International
    Journal of Forecasting 2000), section 3, as in the M4 competition's benchmarks.

    Args:
        length: Past values.
        horizon: Future values.
        season: Values per season.
    """

    def __init__(self, length: int, horizon: int, season: int) -> None:
        super().__init__()
        self.season, self.active = season, season > 1 and length >= 2 * season
        if not self.active:
            return
        half = season // 2
        kernel = torch.full((2 * half + 1,), 1.0 / season)
        if season % 2 == 0:
            kernel[0] = kernel[-1] = 0.5 / season
        centres_C = torch.arange(half, length - half)
        average_LC = torch.zeros(length, len(centres_C))
        for column, centre in enumerate(centres_C.tolist()):
            average_LC[centre - half : centre + half + 1, column] = kernel
        # Places are counted from the first future value backwards, whatever the length.
        place_L = (torch.arange(length) - length) % season
        self.first, self.last = half, length - half
        lag_L = torch.arange(length)[None] - torch.arange(1, season + 1)[:, None]
        self.constant("average_LC", average_LC)
        self.constant("member_CM", nn.functional.one_hot(place_L[centres_C], season).float())
        self.constant("place_L", place_L)
        self.constant("place_H", torch.arange(horizon) % season)
        self.constant("lag", lag_L.clamp(min=0).flatten())
        self.constant("has_lag", (lag_L >= 0).float())
        self.average_LC: Tensor
        self.member_CM: Tensor
        self.place_L: Tensor
        self.place_H: Tensor
        self.lag: Tensor
        self.has_lag: Tensor

    def constant(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value, persistent=False)

    def forward(self, series_NL: Tensor, started_NL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The series without its season, and factor and term [N,H] that give a forecast its season.

        Args:
            series_NL: float32, without gaps.
            started_NL: 0 for filling in front, else 1.
        """
        if not self.active:
            one = torch.ones_like(series_NL[:, :1])
            return series_NL, one, torch.zeros_like(one)
        positive_N1 = (series_NL > 0).all(1, keepdim=True)
        known_NC = started_NL[:, : self.last - self.first]  # a centre counts once its whole window has begun
        trend_NC = series_NL @ self.average_LC
        centre_NC = series_NL[:, self.first : self.last]
        detrended_NC = torch.where(
            positive_N1, centre_NC / trend_NC.clamp(min=_TINY), 1 + centre_NC - trend_NC
        )
        counts_NM = known_NC @ self.member_CM
        index_NM = (known_NC * detrended_NC) @ self.member_CM / counts_NM.clamp(min=1)
        mean_N1 = index_NM.mean(1, keepdim=True)
        index_NM = torch.where(positive_N1, index_NM / mean_N1.clamp(min=_TINY), 1 + index_NM - mean_N1)
        seasonal_N1 = (counts_NM.min(1, keepdim=True).values >= 1) & self.test(series_NL, started_NL)
        factor_NM = torch.where(
            seasonal_N1 & positive_N1, index_NM.clamp(min=1e-3), torch.ones_like(index_NM)
        )
        term_NM = torch.where(seasonal_N1 & ~positive_N1, index_NM - 1, torch.zeros_like(index_NM))
        adjusted_NL = (series_NL - term_NM[:, self.place_L]) / factor_NM[:, self.place_L]
        # Filling in front is constant and must stay so.
        adjusted_NL = hold_front(adjusted_NL, started_NL)
        return adjusted_NL, factor_NM[:, self.place_H], term_NM[:, self.place_H]

    def test(self, series_NL: Tensor, started_NL: Tensor) -> Tensor:
        """Whether the autocorrelation at lag M is significant, bool [N,1]."""
        num_N1 = started_NL.sum(1, keepdim=True)
        mean_N1 = (series_NL * started_NL).sum(1, keepdim=True) / num_N1
        moved_NL = (series_NL - mean_N1) * started_NL
        lagged_NML = moved_NL[:, self.lag].reshape(-1, self.season, series_NL.shape[1]) * self.has_lag
        variance_N1 = (moved_NL * moved_NL).sum(1, keepdim=True).clamp(min=_TINY)
        correlation_NM = (lagged_NML * moved_NL[:, None]).sum(2) / variance_N1
        before_N1 = (correlation_NM[:, :-1] ** 2).sum(1, keepdim=True)
        limit_N1 = 1.645 * torch.sqrt((1 + 2 * before_N1) / num_N1)
        return (correlation_NM[:, -1:].abs() > limit_N1) & (num_N1 >= 2 * self.season)


def hold_front(series_NL: Tensor, started_NL: Tensor) -> Tensor:
    """The series with its first started value in all places before it."""
    first_NL = started_NL * (1 - nn.functional.pad(started_NL, (1, 0))[:, :-1])
    value_N1 = (series_NL * first_NL).sum(1, keepdim=True)
    return torch.where(started_NL > 0, series_NL, value_N1)
