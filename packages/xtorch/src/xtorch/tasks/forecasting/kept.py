"""Finished fits of a run, kept so that one that was killed goes on from there when it is run again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

from xtorch.errors import WeightsError
from xtorch.models.forecast_ensemble import EnsembleConfig, ForecastEnsemble
from xtorch.tasks.forecasting.candidates import Candidate
from xtorch.tasks.forecasting.files import load_model
from xtorch.tasks.forecasting.plan import ForecastSettings, Plan
from xtorch.tasks.forecasting.windows import Panel
from xtorch.tasks.recipe import read_json
from xtorch.tasks.saved import save_weights

_VERSION = 1
"""Changes when a member of the same settings is fitted in another way."""


class KeptFits:
    """Fits by name, each in a folder of its own: a forecaster of one member.

    Args:
        folder: None: nothing is kept.
        plan: Of the run.
    """

    def __init__(self, folder: Path | None, plan: Plan) -> None:
        self.folder, self.plan = folder, plan

    def restore(self, row: Candidate, stage: str) -> bool:
        """Gives a candidate what was fitted before; False where there is nothing, or it cannot be read."""
        if self.folder is None:
            return False
        folder = self.folder / f"{stage}-{row.name}"
        try:
            model, described = load_model(folder), read_json(folder / "model.json")
            module, rounds, fit_s = model.members[row.name], int(described["rounds"]), described["fit_s"]
        except (WeightsError, KeyError):
            return False
        row.config, row.module, row.rounds = model.config.members[0], module, rounds
        row.fit_s += fit_s
        return True

    def keep(self, row: Candidate, stage: str, fit_s: float) -> None:
        """Writes a fitted candidate, whole or not at all."""
        if self.folder is None:
            return
        assert row.module is not None
        config = EnsembleConfig(
            length=self.plan.length,
            horizon=self.plan.horizon,
            season=self.plan.season,
            quantiles=(0.5,),
            members=(row.config,),
        )
        model = ForecastEnsemble(config)
        model.members[row.name] = row.module
        folder = self.folder / f"{stage}-{row.name}"
        partial = self.folder / f".{folder.name}.{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_weights(model, partial, config.to_dict(), rounds=row.rounds, fit_s=fit_s)
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)


def kept_fits(
    cache_dir: Path | None,
    panel: Panel,
    plan: Plan,
    settings: ForecastSettings,
    *,
    seed: int,
    budget_s: float,
) -> KeptFits:
    """Those of runs with the same series, settings, seed and time."""
    if cache_dir is None:
        return KeptFits(None, plan)
    told = [_VERSION, plan.to_dict(), asdict(settings), seed, budget_s, panel.sizes.tolist()]
    digest = hashlib.sha256(json.dumps(told).encode())
    for number in range(len(panel)):
        digest.update(panel.values(number).tobytes())
    return KeptFits(cache_dir / "forecasting" / digest.hexdigest()[:24], plan)
