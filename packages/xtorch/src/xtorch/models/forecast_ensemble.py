"""A forecaster as one graph: members of every kind, their median, and intervals around it.

Shapes: N series, L past values, H future values, Q quantile levels, K members, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from xtorch.models.linear_forecasters import NLinear
from xtorch.models.nhits import NHiTS, NHiTSConfig
from xtorch.models.seasonality import started
from xtorch.models.statistical import (
    TSB,
    Croston,
    ExponentialSmoothing,
    Mean,
    SeasonalMedian,
    SeasonalNaive,
    Theta,
    median,
)
from xtorch.models.trees import Trees

_LOWEST = 1e-3
"""Of values on the logarithmic scale; histories are divided by their mean."""


class WindowScale(nn.Module):
    """What learned members see: the last values of a history, centred, and of spread one.

    Args:
        length: Values kept.
        centre: How many of the last values are averaged for the centre.
        log: Whether values are positive and change by factors.
    """

    def __init__(self, length: int, *, centre: int, log: bool) -> None:
        super().__init__()
        self.length, self.centre, self.log = length, centre, log

    def forward(self, history_NL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled values [N,length], centre [N,1] and spread [N,1]."""
        past_NL = history_NL[:, -self.length :]
        if self.log:
            past_NL = torch.log(past_NL.clamp(min=_LOWEST))
        centre_N1 = past_NL[:, -self.centre :].mean(1, keepdim=True)
        moved_NL = past_NL - centre_N1
        # A floor, so that a constant series is not blown up.
        spread_N1 = moved_NL.abs().mean(1, keepdim=True).clamp(min=1e-3)
        return moved_NL / spread_N1, centre_N1, spread_N1

    def scale(self, values_NH: Tensor, centre_N1: Tensor, spread_N1: Tensor) -> Tensor:
        """Future values as a learned member is to forecast them."""
        if self.log:
            values_NH = torch.log(values_NH.clamp(min=_LOWEST))
        return (values_NH - centre_N1) / spread_N1

    def undo(self, scaled_NH: Tensor, centre_N1: Tensor, spread_N1: Tensor) -> Tensor:
        values_NH = scaled_NH * spread_N1 + centre_N1
        # No forecast of a positive series is more than e^6 times its history's mean.
        return torch.exp(values_NH.clamp(max=6.0)) if self.log else values_NH


class ScaledNetworks(nn.Module):
    """The median of networks [N,length] -> [N,H] on scaled windows.

    Args:
        scale: What they see.
        networks: Alike but for the seed.
    """

    def __init__(self, scale: WindowScale, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.scale, self.networks = scale, nn.ModuleList(networks)

    def forward(self, history_NL: Tensor, observed_NL: Tensor) -> Tensor:  # noqa: ARG002
        past_NL, centre_N1, spread_N1 = self.scale(history_NL)
        outputs = [network(past_NL) for network in self.networks]
        forecast_NH = outputs[0] if len(outputs) == 1 else median(torch.stack(outputs), dim=0)
        return self.scale.undo(forecast_NH, centre_N1, spread_N1)


class LagFeatures(nn.Module):
    """Features of every step ahead: values some seasons before it, the last values, means, the step.

    All but the step are linear in the window, so they are one matrix product.

    Args:
        length: Values of the scaled window.
        horizon: Values forecast.
        seasons: Lengths of the seasons, the shortest first.
    """

    def __init__(self, length: int, horizon: int, seasons: Sequence[int]) -> None:
        super().__init__()
        self.horizon = horizon
        columns: list[list[Tensor]] = []
        for step in range(horizon):
            columns.append(self._columns(length, step, [m for m in seasons if 1 < m <= length]))
        self.num_features = len(columns[0]) + 1
        weights_LHF = torch.stack([torch.stack(row, 1) for row in columns], 1)
        self.register_buffer("weights", weights_LHF.flatten(1).contiguous(), persistent=False)
        step_H1 = (torch.arange(horizon)[:, None] + 1.0) / horizon
        self.register_buffer("step_H1", step_H1, persistent=False)
        self.weights: Tensor
        self.step_H1: Tensor

    @staticmethod
    def _columns(length: int, step: int, seasons: Sequence[int]) -> list[Tensor]:
        """For one step ahead, the weights [L] of each feature; the forecast starts from the first."""

        def mean_of(places: Sequence[int]) -> Tensor:
            weights_L = torch.zeros(length)
            kept = [place for place in places if 0 <= place < length] or [0]
            for place in kept:
                weights_L[place] += 1 / len(kept)
            return weights_L

        columns = []
        for season in reversed(seasons):
            latest = length + step - season * (step // season + 1)
            same = [latest - season * cycle for cycle in range(4)]
            columns += [mean_of([place]) for place in same]
            columns += [
                mean_of(range(latest % season, length, season)),
                mean_of([latest - 1]),
                mean_of([latest + 1]),
            ]
            # How the last value stood to the one a season before it.
            columns.append(mean_of([length - 1]) - mean_of([length - 1 - season]))
        columns += [mean_of([length - 1 - lag]) for lag in range(min(8, length))]
        spans = {span for span in (2, 4, 8, *seasons, *(2 * m for m in seasons), length) if span <= length}
        columns += [mean_of(range(length - span, length)) for span in sorted(spans)]
        return columns

    def forward(self, past_NL: Tensor) -> Tensor:
        """float32 [N,H,F]."""
        linear_NHF = (past_NL @ self.weights).reshape(-1, self.horizon, self.num_features - 1)
        step_NH1 = torch.zeros_like(linear_NHF[:, :, :1]) + self.step_H1
        return torch.cat([linear_NHF, step_NH1], dim=2)


class LagTrees(nn.Module):
    """Boosted trees on lag features, one row per step ahead; they say what to add to the first feature."""

    def __init__(self, scale: WindowScale, features: LagFeatures, trees: Trees) -> None:
        super().__init__()
        self.scale, self.features, self.trees = scale, features, trees

    def forward(self, history_NL: Tensor, observed_NL: Tensor) -> Tensor:  # noqa: ARG002
        past_NL, centre_N1, spread_N1 = self.scale(history_NL)
        features_NHF = self.features(past_NL)
        change_R = self.trees(features_NHF.flatten(0, 1))
        forecast_NH = features_NHF[:, :, 0] + change_R.reshape(-1, self.features.horizon)
        return self.scale.undo(forecast_NH, centre_N1, spread_N1)


# ------------------------------------------------------------------------------------------------- members


def _networks(length: int, horizon: int, config: Mapping[str, Any]) -> ScaledNetworks:
    seen = min(int(config["length"]), length)
    scale = WindowScale(seen, centre=min(int(config["centre"]), seen), log=bool(config["log"]))
    if config["network"] == "nlinear":
        make: Callable[[], nn.Module] = lambda: NLinear(seen, horizon)  # noqa: E731
    else:
        sizes = {key: tuple(config[key]) for key in ("pool_sizes", "downsampling", "blocks", "hidden")}
        make = lambda: NHiTS(NHiTSConfig(horizon=horizon, input_length=seen, **sizes))  # noqa: E731
    return ScaledNetworks(scale, [make() for _ in range(int(config["num_seeds"]))])


def _trees(length: int, horizon: int, config: Mapping[str, Any]) -> LagTrees:
    seen = min(int(config["length"]), length)
    scale = WindowScale(seen, centre=min(int(config["centre"]), seen), log=bool(config["log"]))
    return LagTrees(
        scale, LagFeatures(seen, horizon, config["seasons"]), Trees(*(int(size) for size in config["sizes"]))
    )


MEMBERS: dict[str, Callable[[int, int, Mapping[str, Any]], nn.Module]] = {
    "seasonal_naive": lambda length, horizon, config: SeasonalNaive(length, horizon, **config),
    "mean": lambda length, horizon, config: Mean(length, horizon, **config),
    "seasonal_median": lambda length, horizon, config: SeasonalMedian(length, horizon, **config),
    "ets": lambda length, horizon, config: ExponentialSmoothing(length, horizon, **config),
    "theta": lambda length, horizon, config: Theta(length, horizon, **config),
    "croston": lambda length, horizon, config: Croston(length, horizon, **config),
    "tsb": lambda length, horizon, config: TSB(length, horizon, **config),
    "networks": _networks,
    "trees": _trees,
}
"""Kind of member -> how it is made of (past values, future values, configuration)."""


@dataclass(frozen=True, kw_only=True)
class MemberConfig:
    """One member.

    Attributes:
        name: Among the members.
        kind: A key of `MEMBERS`.
        config: What that takes; plain values.
    """

    name: str
    kind: str
    config: Mapping[str, Any] = field(default_factory=dict)

    def build(self, length: int, horizon: int) -> nn.Module:
        return MEMBERS[self.kind](length, horizon, self.config)


@dataclass(frozen=True, kw_only=True)
class EnsembleConfig:
    """An ensemble.

    Attributes:
        length: Past values seen.
        horizon: Values forecast.
        season: Values per season, for the width of intervals.
        quantiles: Levels, ascending.
        lower: No quantile lies below; None: no bound.
    """

    length: int
    horizon: int
    season: int
    quantiles: tuple[float, ...]
    members: tuple[MemberConfig, ...]
    lower: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EnsembleConfig:
        members = tuple(MemberConfig(**member) for member in values["members"])
        return cls(**{**values, "members": members, "quantiles": tuple(values["quantiles"])})


class Spread(nn.Module):
    """How hard a series is to forecast: its mean absolute change from value to value and season to season.

    Source: the scale of MASE: Hyndman and Koehler, "Another look at measures of forecast accuracy"
    (International Journal of Forecasting 2006), section 3.
    """

    def __init__(self, season: int) -> None:
        super().__init__()
        self.lags = (1,) if season == 1 else (1, season)

    def forward(self, history_NL: Tensor, observed_NL: Tensor) -> Tensor:
        """float32 [N,1], above 0."""
        begun_NL = started(observed_NL)
        parts = []
        for lag in self.lags:
            if lag >= history_NL.shape[1]:
                continue
            both_NL = begun_NL[:, :-lag]
            change_NL = (history_NL[:, lag:] - history_NL[:, :-lag]).abs() * both_NL
            parts.append(change_NL.sum(1, keepdim=True) / both_NL.sum(1, keepdim=True).clamp(min=1))
        return (torch.stack(parts).mean(0) + 1e-3).clamp(max=1e3)


class ForecastEnsemble(nn.Module):
    """The median of members and conformal intervals: a quantile is the median plus spread times offset.

    The offsets are quantiles of past errors over spread, for each step ahead by itself.

    Source: Stankeviciute, Alaa and van der Schaar, "Conformal Time-series Forecasting" (NeurIPS 2021),
    section 3; the division by a measure of difficulty: Lei et al., "Distribution-Free Predictive Inference
    for Regression" (Journal of the American Statistical Association 2018), section 5.2.
    """

    def __init__(self, config: EnsembleConfig) -> None:
        super().__init__()
        self.config = config
        self.members = nn.ModuleDict(
            {member.name: member.build(config.length, config.horizon) for member in config.members}
        )
        self.spread = Spread(config.season)
        self.register_buffer("offsets_HQ", torch.zeros(config.horizon, len(config.quantiles)))
        self.offsets_HQ: Tensor

    def points(self, history_NL: Tensor, observed_NL: Tensor) -> Tensor:
        """The median of the members, float32 [N,H]."""
        forecasts = [member(history_NL, observed_NL) for member in self.members.values()]
        return forecasts[0] if len(forecasts) == 1 else median(torch.stack(forecasts), dim=0)

    def forward(self, history_NL: Tensor, observed_NL: Tensor) -> Tensor:
        """Quantiles float32 [N,H,Q].

        Args:
            history_NL: float32, oldest first, divided by the mean absolute value of what was observed; gaps
                hold the value before them, and what lies before the first value holds that.
            observed_NL: 1 where a value was observed, 0 where it was filled.
        """
        points_NH = self.points(history_NL, observed_NL)
        spread_N1 = self.spread(history_NL, observed_NL)
        quantiles_NHQ = points_NH[:, :, None] + spread_N1[:, :, None] * self.offsets_HQ
        lower = self.config.lower
        return quantiles_NHQ if lower is None else quantiles_NHQ.clamp(min=lower)
