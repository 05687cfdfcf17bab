"""N-HiTS: forecasts by multi-rate sampling and hierarchical interpolation. State dicts are neuralforecast's.

Source: Challu et al., "NHITS: Neural Hierarchical Interpolation for Time Series Forecasting" (AAAI 2023),
sections 3.2 to 3.4; sizes are the defaults of its reference implementation (Nixtla/neuralforecast).

Shapes: N series, L past values, F future values, T coefficients of a block, K knots of its forecast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class NHiTSConfig:
    """Sizes of an `NHiTS`."""

    horizon: int = 24
    """Number of values to forecast."""
    input_length: int = 120
    """Number of past values that are seen."""
    pool_sizes: tuple[int, ...] = (2, 2, 1)
    """Max-pooling of each stack's input: large ones see slow movement only."""
    downsampling: tuple[int, ...] = (4, 2, 1)
    """Horizon over number of knots, for each stack."""
    blocks: tuple[int, ...] = (1, 1, 1)
    """Blocks of each stack."""
    hidden: Sequence[int] = (512, 512, 512)
    """Units of the hidden layers of each block."""


def interpolation_weights(num_knots: int, num_values: int) -> Tensor:
    """Linear interpolation as a matrix [K,F]: ``knots_NK @ weights_KF`` (the paper's equation 4).

    A matrix product runs the same everywhere and is quantised like any other, unlike ONNX `Resize`.

    Source: the convention of torch's `interpolate(mode="linear", align_corners=False)`.
    """
    return F.interpolate(torch.eye(num_knots)[:, None], size=num_values, mode="linear")[:, 0]


class Block(nn.Module):
    """Pools, and maps by an MLP to a backcast and to the knots of a forecast."""

    def __init__(self, config: NHiTSConfig, *, pool_size: int, downsampling: int) -> None:
        super().__init__()
        num_knots = max(config.horizon // downsampling, 1)
        self.pool_size = pool_size
        self.input_length = config.input_length
        # As published: the first layer is linear, an activation follows each of the others.
        widths = (config.hidden[0], *config.hidden)
        layers: list[nn.Module] = [nn.Linear(-(-config.input_length // pool_size), widths[0])]
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], config.input_length + num_knots))
        self.register_buffer("weights_KF", interpolation_weights(num_knots, config.horizon), persistent=False)
        self.weights_KF: Tensor

    def forward(self, past_NL: Tensor) -> tuple[Tensor, Tensor]:
        pooled = past_NL
        if self.pool_size > 1:
            pooled = F.max_pool1d(past_NL[:, None], self.pool_size, self.pool_size, ceil_mode=True)[:, 0]
        theta_NT = self.layers(pooled)
        backcast_NL, knots_NK = theta_NT[:, : self.input_length], theta_NT[:, self.input_length :]
        return backcast_NL, knots_NK @ self.weights_KF


class NHiTS(nn.Module):
    """N-HiTS for one target without covariates, randomly initialised."""

    def __init__(self, config: NHiTSConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or NHiTSConfig()
        if not len(config.pool_sizes) == len(config.downsampling) == len(config.blocks):
            raise ValueError("pool_sizes, downsampling and blocks must have one entry per stack")
        self.blocks = nn.ModuleList(
            Block(config, pool_size=pool_size, downsampling=downsampling)
            for pool_size, downsampling, number in zip(
                config.pool_sizes, config.downsampling, config.blocks, strict=True
            )
            for _ in range(number)
        )

    def forward(self, past_NL: Tensor) -> Tensor:
        """Forecast float32 [N,F] of past values float32 [N,L], oldest first; scale them before."""
        # The published weights see the latest value first.
        residual_NL = past_NL.flip(1)
        forecast_NF = past_NL[:, -1:]
        for block in self.blocks:
            backcast_NL, step_NF = block(residual_NL)
            residual_NL = residual_NL - backcast_NL
            forecast_NF = forecast_NF + step_NF
        return forecast_NF
