"""Exponential smoothing without a loop: banks of linear filters as matrices, combined by how well each fits.

A recursion such as Holt's is linear in the series once its constants are given. Run once on unit impulses it
becomes a matrix of one-step-ahead predictions and a matrix of forecasts; a grid of constants becomes a bank
of such matrices, and fitting a series is one product and a softmax. So statistical models run wherever a
graph runs.

Shapes: N series, L past values (oldest first), H future values, G filters of a bank.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

LEVEL_GRID = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)
"""Smoothing constants of simple exponential smoothing."""
_TINY = 1e-12


class FilterBank(nn.Module):
    """Forecasts of G linear filters, averaged with Akaike weights of their one-step-ahead errors.

    Args:
        step_GLL: ``series @ step_GLL[g]`` are the filter's one-step-ahead predictions.
        forecast_GLH: ``series @ forecast_GLH[g]`` is its forecast.

    Source: Kolassa, "Combining exponential smoothing forecasts using Akaike weights" (International Journal
    of Forecasting 2011), section 2.2; the filters of a bank have equally many parameters.
    """

    def __init__(self, step_GLL: Tensor, forecast_GLH: Tensor) -> None:
        super().__init__()
        self.num_filters, self.length, self.horizon = forecast_GLH.shape
        # As [L, G*L] both are plain products with a batch of series.
        self.register_buffer("steps", step_GLL.permute(1, 0, 2).flatten(1).contiguous(), persistent=False)
        self.register_buffer(
            "forecasts", forecast_GLH.permute(1, 0, 2).flatten(1).contiguous(), persistent=False
        )
        self.steps: Tensor
        self.forecasts: Tensor

    def forward(self, series_NL: Tensor, counted_NL: Tensor) -> Tensor:
        """Forecast float32 [N,H].

        Args:
            series_NL: float32, without gaps.
            counted_NL: 1 where a value counts for the fit, else 0.
        """
        predicted_NGL = (series_NL @ self.steps).reshape(-1, self.num_filters, self.length)
        error_NGL = (series_NL[:, None] - predicted_NGL) * counted_NL[:, None]
        sse_NG = (error_NGL * error_NGL).sum(2)
        num_N1 = counted_NL.sum(1, keepdim=True)
        weight_NG = torch.softmax(-0.5 * num_N1 * torch.log(sse_NG + _TINY), dim=1)
        forecast_NGH = (series_NL @ self.forecasts).reshape(-1, self.num_filters, self.horizon)
        return (weight_NG[:, :, None] * forecast_NGH).sum(1)


def holt_bank(
    length: int, horizon: int, *, levels: Sequence[float], trends: Sequence[float], damping: Sequence[float]
) -> FilterBank:
    """Simple exponential smoothing and Holt's damped trend over a grid of constants, additive errors.

    The state begins with the first value and no trend, so a constant filling in front changes nothing.

    Args:
        length: Values of a series.
        horizon: Values forecast.
        levels: alpha, 0..1.
        trends: beta as a share of alpha, 0..1; 0 is simple exponential smoothing.
        damping: phi, 0..1, for trends above 0.

    Source: Hyndman, Koehler, Ord and Snyder, "Forecasting with Exponential Smoothing" (2008), table 2.2,
    ETS(A,N,N) and ETS(A,Ad,N); damping is Gardner and McKenzie (Management Science 1985).
    """
    grid = [(alpha, 0.0, 1.0) for alpha in levels]
    grid += [(alpha, share, phi) for alpha in levels for share in trends if share > 0 for phi in damping]
    alpha_G1, share_G1, phi_G1 = torch.tensor(grid, dtype=torch.float64).T[:, :, None]
    impulses_LL = torch.eye(length, dtype=torch.float64)
    # The state of every filter [G,L]: how much each value of the series weighs in it.
    level_GL = impulses_LL[0].repeat(len(grid), 1)
    trend_GL = torch.zeros_like(level_GL)
    steps = []
    for value_L in impulses_LL:
        predicted_GL = level_GL + phi_G1 * trend_GL
        error_GL = value_L - predicted_GL
        steps.append(predicted_GL)
        level_GL = predicted_GL + alpha_G1 * error_GL
        trend_GL = phi_G1 * trend_GL + alpha_G1 * share_G1 * error_GL
    forecasts, reach_G1 = [], torch.zeros_like(phi_G1)
    for step in range(1, horizon + 1):
        reach_G1 = reach_G1 + phi_G1**step
        forecasts.append(level_GL + reach_G1 * trend_GL)
    return FilterBank(torch.stack(steps, 2).float(), torch.stack(forecasts, 2).float())


def ses_bank(length: int, horizon: int, levels: Sequence[float] = LEVEL_GRID) -> FilterBank:
    """Simple exponential smoothing over a grid of constants; see `holt_bank`."""
    return holt_bank(length, horizon, levels=levels, trends=(), damping=())
