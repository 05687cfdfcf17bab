"""Who competes: baselines, statistical members, and members that learn from all series together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from xtorch.callbacks import Callback
from xtorch.models.forecast_ensemble import MemberConfig, WindowScale
from xtorch.tasks.forecasting.fitting import fit_linear, fit_networks, fit_trees
from xtorch.tasks.forecasting.plan import Plan
from xtorch.tasks.forecasting.windows import Windows

Fit = Callable[[Windows, float], "tuple[MemberConfig, nn.Module]"]
"""(training windows, seconds that it may take) -> what was fitted."""


Fitted = tuple[str, dict[str, Any], nn.Module]
"""A member's kind, configuration and module."""


@dataclass(kw_only=True)
class Candidate:
    """One that competes.

    Attributes:
        kind: "baseline" or "model".
        fit: None: nothing to learn.
        module: Fitted on what lies before validation, later on what lies before the test part.
        validation, test: Points in the series' own unit, float64 [W,H].
        scores: Part -> metric -> value.
    """

    name: str
    title: str
    kind: str
    config: MemberConfig
    fit: Fit | None = None
    module: nn.Module | None = None
    validation: np.ndarray | None = None
    test: np.ndarray | None = None
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    fit_s: float = 0.0
    note: str = ""

    def prepare(self, plan: Plan, windows: Windows, limit_s: float) -> None:
        """Fits it, or builds it where there is nothing to learn."""
        started = time.monotonic()
        if self.fit is None:
            self.module = self.config.build(plan.length, plan.horizon).eval()
        else:
            self.config, self.module = self.fit(windows, limit_s)
        self.fit_s += time.monotonic() - started


def candidates(
    plan: Plan, wanted: Sequence[str], *, seed: int, num_seeds: int, callbacks: Sequence[Callback] = ()
) -> list[Candidate]:
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
    return found + _learned(plan, wanted, seed=seed, num_seeds=num_seeds, callbacks=callbacks)


def _learned(
    plan: Plan, wanted: Sequence[str], *, seed: int, num_seeds: int, callbacks: Sequence[Callback]
) -> list[Candidate]:
    """Linear maps and trees on logarithms and on plain values, where both can be: they err differently."""
    first = plan.seasons[0] if plan.seasons else 1

    def add(
        name: str, title: str, fit: Callable[[WindowScale, dict[str, Any], Windows, float], Fitted], log: bool
    ) -> None:
        common = {"length": plan.length, "centre": min(first, plan.length), "log": log}

        def fit_this(windows: Windows, limit_s: float) -> tuple[MemberConfig, nn.Module]:
            scale = WindowScale(plan.length, centre=int(common["centre"]), log=log)
            kind, config, module = fit(scale, common, windows, limit_s)
            return MemberConfig(name=name, kind=kind, config=config), module

        unfitted = MemberConfig(name=name, kind="", config=common)
        found.append(Candidate(name=name, title=title, kind="model", config=unfitted, fit=fit_this))

    def linear(scale: WindowScale, common: dict[str, Any], windows: Windows, _: float) -> Fitted:
        return "networks", {**common, "network": "nlinear", "num_seeds": 1}, fit_linear(scale, windows)

    def trees(scale: WindowScale, common: dict[str, Any], windows: Windows, limit_s: float) -> Fitted:
        module = fit_trees(scale, windows, seasons=plan.seasons, seed=seed, limit_s=limit_s)
        sizes = [len(module.trees.value), len(module.trees.root_T), module.trees.depth]
        return "trees", {**common, "seasons": list(plan.seasons), "sizes": sizes}, module

    def networks(scale: WindowScale, common: dict[str, Any], windows: Windows, limit_s: float) -> Fitted:
        config = {**common, "network": "nhits", "num_seeds": num_seeds, **nhits_sizes(plan)}
        member = MemberConfig(name="networks", kind="networks", config=config)
        module = fit_networks(
            scale,
            windows,
            member,
            seed=seed,
            epochs=20,
            steps_per_epoch=40,
            limit_s=limit_s,
            callbacks=callbacks,
        )
        return "networks", config, module

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
