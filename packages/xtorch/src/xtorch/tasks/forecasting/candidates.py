"""Who competes: baselines, statistical members, and members that learn from all series together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from xtorch.models.forecast_ensemble import MemberConfig, WindowScale
from xtorch.tasks.forecasting.fitting import fit_linear, fit_networks, fit_trees
from xtorch.tasks.forecasting.plan import Plan
from xtorch.tasks.forecasting.windows import Windows

Fit = Callable[[Windows, float, "int | None"], "tuple[MemberConfig, nn.Module, int]"]
"""(training windows, seconds that it may take, rounds of training; None: as many as there is time for) ->
what was fitted, and its rounds."""

Fitted = tuple[str, dict[str, Any], nn.Module, int]
"""A member's kind, configuration, module and rounds of training."""


@dataclass(kw_only=True)
class Candidate:
    """One that competes.

    Attributes:
        kind: "baseline" or "model".
        fit: None: nothing to learn.
        module: Fitted on what lies before validation, later on what lies before the test part.
        rounds: Trees or epochs that the first fit had time for; the second fit gets as many.
        validation, test: Points in the series' own unit, float64 [W,H].
        scores: Part -> metric -> value.
    """

    name: str
    title: str
    kind: str
    config: MemberConfig
    fit: Fit | None = None
    module: nn.Module | None = None
    rounds: int | None = None
    validation: np.ndarray | None = None
    test: np.ndarray | None = None
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    fit_s: float = 0.0
    note: str = ""

    def learn(self, windows: Windows, limit_s: float) -> None:
        """Fits it.

        Raises:
            TrainingError: The windows hold nothing that it can learn from.
        """
        assert self.fit is not None
        started = time.monotonic()
        self.config, self.module, self.rounds = self.fit(windows, limit_s, self.rounds)
        self.fit_s += time.monotonic() - started


def candidates(plan: Plan, wanted: Sequence[str], *, seed: int, num_seeds: int) -> list[Candidate]:
    """Baselines first, then from the cheapest to the dearest."""

    def fixed(name: str, title: str, member: str, *, baseline: bool = False, **config: Any) -> Candidate:
        return Candidate(
            name=name,
            title=title,
            kind="baseline" if baseline else "model",
            config=MemberConfig(name=name, kind=member, config=config),
        )

    found = [fixed("naive", "The last value", "seasonal_naive", baseline=True)]
    found += [
        fixed(f"seasonal_naive_{m}", f"The last season of {m}", "seasonal_naive", baseline=True, season=m)
        for m in sorted({*plan.seasons, plan.season} - {1})
    ]
    found.append(fixed("mean", "The mean", "mean", baseline=True))
    for m in (1, *plan.seasons):
        suffix, season = (f"_{m}", f", season {m}") if m > 1 else ("", "")
        if "theta" in wanted:
            found.append(fixed(f"theta{suffix}", f"Theta{season}", "theta", season=m))
        if "ets" in wanted:
            found.append(fixed(f"ets{suffix}", f"Exponential smoothing{season}", "ets", season=m))
        if "median" in wanted and plan.length >= 2 * m:
            title = "Median of the last seasons" if m > 1 else "Median of the last values"
            found.append(
                fixed(f"median{suffix}", f"{title}{season}", "seasonal_median", season=m, num_seasons=5)
            )
    if "intermittent" in wanted and plan.intermittent:
        found += [
            fixed("croston", "Croston (intermittent demand)", "croston"),
            fixed("tsb", "Teunter-Syntetos-Babai (intermittent demand)", "tsb"),
        ]
    return found + _learned(plan, wanted, seed=seed, num_seeds=num_seeds)


def _learned(plan: Plan, wanted: Sequence[str], *, seed: int, num_seeds: int) -> list[Candidate]:
    """Linear maps and trees on logarithms and on plain values, where both can be: they err differently."""
    first = plan.seasons[0] if plan.seasons else 1

    def add(
        name: str,
        title: str,
        fit: Callable[[WindowScale, dict[str, Any], Windows, float, int | None], Fitted],
        log: bool,
    ) -> None:
        common = {"length": plan.length, "centre": min(first, plan.length), "log": log}

        def fit_this(
            windows: Windows, limit_s: float, rounds: int | None
        ) -> tuple[MemberConfig, nn.Module, int]:
            scale = WindowScale(plan.length, centre=int(common["centre"]), log=log)
            kind, config, module, done = fit(scale, common, windows, limit_s, rounds)
            return MemberConfig(name=name, kind=kind, config=config), module, done

        unfitted = MemberConfig(name=name, kind="", config=common)
        found.append(Candidate(name=name, title=title, kind="model", config=unfitted, fit=fit_this))

    def linear(
        scale: WindowScale, common: dict[str, Any], windows: Windows, _limit_s: float, _rounds: int | None
    ) -> Fitted:
        config = {**common, "network": "nlinear", "num_seeds": 1}
        return "networks", config, fit_linear(scale, windows), 1

    def trees(
        scale: WindowScale, common: dict[str, Any], windows: Windows, limit_s: float, rounds: int | None
    ) -> Fitted:
        work: dict[str, Any] = {"limit_s": limit_s} if rounds is None else {"num_trees": rounds}
        module = fit_trees(scale, windows, seasons=plan.seasons, seed=seed, **work)
        num_trees = len(module.trees.root_T)
        sizes = [len(module.trees.value), num_trees, module.trees.depth]
        return "trees", {**common, "seasons": list(plan.seasons), "sizes": sizes}, module, num_trees

    def networks(
        scale: WindowScale, common: dict[str, Any], windows: Windows, limit_s: float, rounds: int | None
    ) -> Fitted:
        config = {**common, "network": "nhits", "num_seeds": num_seeds, **nhits_sizes(plan)}
        member = MemberConfig(name="networks", kind="networks", config=config)
        module, epochs = fit_networks(scale, windows, member, seed=seed, num_epochs=rounds, limit_s=limit_s)
        return "networks", config, module, epochs

    found: list[Candidate] = []
    for log in (True, False) if plan.log else (False,):
        suffix, what = ("_log", " on logarithms") if log else ("", "")
        if "linear" in wanted:
            add(f"linear{suffix}", f"Linear map of the past (NLinear){what}", linear, log)
    for log in (True, False) if plan.log else (False,):
        suffix, what = ("_log", " on logarithms") if log else ("", "")
        if "trees" in wanted:
            add(f"trees{suffix}", f"Boosted trees (LightGBM){what}", trees, log)
    if "networks" in wanted:
        seeds = f"{num_seeds} seed{'s' if num_seeds > 1 else ''}"
        add("networks", f"N-HiTS, {seeds}", networks, plan.log)
    return found


def nhits_sizes(plan: Plan) -> dict[str, list[int]]:
    """Pooling and knots that follow the season: a stack for slow movement, one between, one for the rest."""
    first = plan.seasons[0] if plan.seasons else 1
    coarse = max(1, min(first, plan.horizon) // 2)
    return {
        "pool_sizes": [min(8, max(2, plan.length // 60)), 2, 1],
        "downsampling": [max(1, min(coarse, plan.horizon)), max(1, coarse // 4), 1],
        "blocks": [1, 1, 1],
        "hidden": [256, 256],
    }
