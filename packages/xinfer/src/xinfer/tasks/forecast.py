"""Forecasting: the recent past of a series in, quantiles of its future out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from xinfer.tasks.spec import InputSpec, TaskSpec


@InputSpec.VARIANTS.add("series")
@dataclass(frozen=True, kw_only=True)
class SeriesInput(InputSpec):
    """The last `length` values of N series, oldest first: float32 [N,length].

    Attributes:
        length: Values that the model sees. Longer histories are cut, shorter ones filled in front.
        mask: The tensor that is 1 where a value was observed and 0 where it was filled; None where the model
            has none.
        gaps: How missing values (NaN) are filled: linearly between neighbours, with the last one before, or
            with the mean of the observed ones (0 once scaled).
        scaling: What is done to each series before and undone after: nothing (the graph does it), subtract
            mean and divide by standard deviation, or divide by the mean of absolute values.
        min_observed: Fewer observed values than this are refused.
    """

    kind: Literal["series"] = "series"
    length: int
    mask: str | None = None
    gaps: Literal["linear", "last", "mean"] = "linear"
    scaling: Literal["graph", "standard", "mean_abs"] = "graph"
    min_observed: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.min_observed <= self.length:
            raise ValueError(f"min_observed must be within 1..{self.length}, not {self.min_observed}")

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the model's inputs that it feeds."""
        return (self.name,) if self.mask is None else (self.name, self.mask)


@TaskSpec.VARIANTS.add("forecast")
@dataclass(frozen=True, kw_only=True)
class Forecasting(TaskSpec):
    """How a series goes on. `outputs.forecast` is [N,horizon,Q], or [N,horizon] of a single quantile.

    Attributes:
        horizon: Values forecast.
        quantiles: What the outputs are, ascending; a point forecast is its median, 0.5.
        lower, upper: Bounds that no value can leave, such as 0 for demand.
    """

    task: Literal["forecast"] = "forecast"
    input: SeriesInput
    horizon: int
    quantiles: tuple[float, ...] = (0.5,)
    lower: float | None = None
    upper: float | None = None
    metric: Literal["cosine", "negative_mase"] = "cosine"

    def __post_init__(self) -> None:
        self.require_outputs("forecast")
        if self.horizon < 1:
            raise ValueError(f"horizon must be positive, not {self.horizon}")
        if list(self.quantiles) != sorted(set(self.quantiles)) or not all(0 < q < 1 for q in self.quantiles):
            raise ValueError(f"quantiles must ascend within 0..1, found {list(self.quantiles)}")
        if 0.5 not in self.quantiles:
            raise ValueError("quantiles must hold the median, 0.5")
        if self.lower is not None and self.upper is not None and self.lower >= self.upper:
            raise ValueError("lower must be less than upper")
