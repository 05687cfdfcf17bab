"""NLinear and DLinear: one linear layer from past to future, which is hard to beat.

Source: Zeng et al., "Are Transformers Effective for Time Series Forecasting?" (AAAI 2023), section 4;
parameters are named as in the reference implementation (cure-lab/LTSF-Linear) with `individual=False` and one
channel.

Shapes: N series, L past values, H future values.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class NLinear(nn.Module):
    """Subtracts the last value, maps linearly, adds it again.

    Args:
        length: Past values seen.
        horizon: Values forecast.
    """

    def __init__(self, length: int, horizon: int) -> None:
        super().__init__()
        self.Linear = nn.Linear(length, horizon)

    def forward(self, past_NL: Tensor) -> Tensor:
        """Forecast float32 [N,H] of past values float32 [N,L], oldest first."""
        last_N1 = past_NL[:, -1:]
        forecast_NH: Tensor = self.Linear(past_NL - last_N1) + last_N1
        return forecast_NH


class DLinear(nn.Module):
    """Splits into a moving average and the rest, maps each linearly, and adds.

    Args:
        length: Past values seen.
        horizon: Values forecast.
        window: Values of the moving average, odd; ends are repeated.
    """

    def __init__(self, length: int, horizon: int, window: int = 25) -> None:
        super().__init__()
        if window % 2 == 0:
            raise ValueError(f"window must be odd, not {window}")
        self.Linear_Seasonal = nn.Linear(length, horizon)
        self.Linear_Trend = nn.Linear(length, horizon)
        place_LW = torch.arange(length)[:, None] + torch.arange(window)[None] - window // 2
        average_LL = torch.zeros(length, length)
        average_LL.index_put_(
            (place_LW.clamp(0, length - 1).flatten(), torch.arange(length).repeat_interleave(window)),
            torch.tensor(1.0 / window),
            accumulate=True,
        )
        self.register_buffer("average_LL", average_LL, persistent=False)
        self.average_LL: Tensor

    def forward(self, past_NL: Tensor) -> Tensor:
        """Forecast float32 [N,H] of past values float32 [N,L], oldest first."""
        trend_NL = past_NL @ self.average_LL
        forecast_NH: Tensor = self.Linear_Seasonal(past_NL - trend_NL) + self.Linear_Trend(trend_NL)
        return forecast_NH
