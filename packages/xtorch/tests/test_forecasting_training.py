"""Training of the forecasting recipe: members that fail, fits that are repeated, runs that were killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from xtorch.tasks.forecasting.candidates import Candidate, candidates
from xtorch.tasks.forecasting.kept import kept_fits
from xtorch.tasks.forecasting.plan import ForecastSettings, training_part
from xtorch.tasks.forecasting.training import train, windows_of
from xtorch.tasks.forecasting.windows import Panel

from .series_data import quiet, sales_panel


def test_member_that_fails_is_left_out_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    from xtorch.tasks.forecasting import fitting

    panel, plan = sales_panel()
    gappy = [panel.values(number).copy() for number in range(len(panel))]
    for values in gappy:
        values[::5] = np.nan  # every future of seven values has a gap
    settings = ForecastSettings(candidates=("linear", "theta"))
    rows = train(Panel(gappy, 7), plan, settings, seed=0, deadline=1e12, told=quiet).rows
    notes = {row.name: row.note for row in rows}
    assert notes["linear"] == "Left out: A value is missing in every future."
    assert notes["theta"] == ""

    fit = fitting.fit_linear

    def broken(*given: Any, **more: Any) -> nn.Module:
        module = fit(*given, **more)
        next(module.parameters()).fill_(float("nan"))
        return module

    monkeypatch.setattr("xtorch.tasks.forecasting.candidates.fit_linear", broken)
    outcome = train(panel, plan, settings, seed=0, deadline=1e12, told=quiet)
    notes = {row.name: row.note for row in outcome.rows}
    assert notes["linear"] == "Left out: it forecast values that are not finite."
    assert "linear" not in outcome.kept
    assert np.isfinite(outcome.quantiles).all()


def test_second_fit_trains_as_long_as_the_first() -> None:
    panel, plan = sales_panel()
    part = training_part(panel, plan, held_back=plan.horizon, max_windows=200, seed=0)
    windows = windows_of(panel, plan, part)
    by_name: dict[str, Candidate] = {
        row.name: row for row in candidates(plan, ("trees", "networks"), seed=0, num_seeds=1)
    }
    for name, most in (("trees", 300), ("networks", 20)):
        row = by_name[name]
        row.learn(windows, 0.0)
        assert row.rounds == 1
        row.rounds = 3
        row.learn(windows, 0.0)
        assert row.rounds == 3 < most
        first = row.module
        row.learn(windows, 0.0)
        assert first is not None
        assert row.module is not None
        for name_, value in first.state_dict().items():
            assert (row.module.state_dict()[name_] == value).all()


def test_killed_training_ends_as_an_uninterrupted_one_when_it_runs_again(tmp_path: Path) -> None:
    panel, plan = sales_panel()
    np.save(tmp_path / "values.npy", np.stack([panel.values(number) for number in range(len(panel))]))
    script = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        import numpy as np
        from xtorch.tasks.forecasting import candidates
        from xtorch.tasks.forecasting.kept import kept_fits
        from xtorch.tasks.forecasting.plan import ForecastSettings, make_plan
        from xtorch.tasks.forecasting.training import train
        from xtorch.tasks.forecasting.windows import Panel

        fit, calls = candidates.fit_trees, []
        def counted(*given, **more):
            calls.append(more)
            if len(calls) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return fit(*given, **more)
        candidates.fit_trees = counted
        folder = Path(sys.argv[1])
        values = list(np.load(folder / "values.npy"))
        panel = Panel(values, 7)
        plan = make_plan(values, season=7, seasons=(7,), horizon=7, usual_horizon=7)
        settings = ForecastSettings(candidates=("theta", "linear", "trees"))
        kept = kept_fits(folder / "cache", panel, plan, settings, seed=3, budget_s=60)
        train(panel, plan, settings, seed=3, deadline=1e12, told=lambda done, what: None, kept=kept)
        """
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    files = sorted((tmp_path / "cache").rglob("model.safetensors"))
    assert [path.parent.name for path in files] == ["early-linear", "early-linear_log", "early-trees_log"]
    times = {path: path.stat().st_mtime_ns for path in files}
    settings = ForecastSettings(candidates=("theta", "linear", "trees"))
    kept = kept_fits(tmp_path / "cache", panel, plan, settings, seed=3, budget_s=60)
    given: dict[str, Any] = {"seed": 3, "deadline": 1e12, "told": quiet}
    again = train(panel, plan, settings, kept=kept, **given)
    whole = train(panel, plan, settings, **given)
    assert {path: path.stat().st_mtime_ns for path in files} == times  # used, not made again
    assert again.kept == whole.kept
    np.testing.assert_array_equal(again.quantiles, whole.quantiles)


def test_kept_fit_that_is_damaged_is_made_again(tmp_path: Path) -> None:
    panel, plan = sales_panel()
    settings = ForecastSettings(candidates=("linear",))
    kept = kept_fits(tmp_path, panel, plan, settings, seed=0, budget_s=60)
    whole = train(panel, plan, settings, seed=0, deadline=1e12, told=quiet, kept=kept)
    (damaged,) = tmp_path.rglob("early-linear/model.safetensors")
    damaged.write_bytes(damaged.read_bytes()[:100])
    again = train(panel, plan, settings, seed=0, deadline=1e12, told=quiet, kept=kept)
    np.testing.assert_array_equal(again.quantiles, whole.quantiles)
    assert len(damaged.read_bytes()) > 100
    for other in (
        kept_fits(tmp_path, panel, plan, settings, seed=1, budget_s=60),
        kept_fits(tmp_path, panel, replace(plan, horizon=6), settings, seed=0, budget_s=60),
        kept_fits(tmp_path, sales_panel(3)[0], plan, settings, seed=0, budget_s=60),
    ):
        assert other.folder != kept.folder
