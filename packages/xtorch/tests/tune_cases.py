"""A small search that the tuning tests share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from xtorch.space import Choice, Float, Int, Parameter, Params
from xtorch.tune import Trial, TuneResult

SPACE: dict[str, Parameter] = {
    "model": Choice(options=("linear", "tree")),
    "rate": Float(low=1e-4, high=1.0, log=True, when=("model", ("linear",))),
    "depth": Int(low=1, high=9, step=2, when=("model", ("tree",))),
    "flip": Choice(options=(True, False)),
}
PORTFOLIO: list[Params] = [
    {"model": "tree", "depth": 3, "flip": True},
    {"model": "linear", "rate": 0.5, "flip": False},
    {"model": "linear", "rate": 1e-3, "flip": False},
]


def objective(trial: Trial) -> float:
    """Best is the linear model at a rate of 1e-2: 1."""
    params: Any = trial.params
    if params["model"] == "tree":
        return float(0.5 - 0.02 * abs(params["depth"] - 5))
    return float(1.0 - 0.2 * abs(np.log10(params["rate"]) + 2) - 0.05 * params["flip"])


def rows(result: TuneResult) -> list[tuple[Any, ...]]:
    """All of the trials but their durations."""
    return [(row.number, dict(row.params), row.state, row.value, list(row.reports)) for row in result.trials]


class Clock:
    """Stands still until told to go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        monkeypatch.setattr("xtorch.tune.time.monotonic", lambda: self.now_s)
