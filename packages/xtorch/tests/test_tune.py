"""Tuning: what is tried, when it stops and what is found."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xtorch.errors import SettingsError, TrainingError, TuningError
from xtorch.space import Choice, Float, Int, Parameter, Params, active, check_params, check_space
from xtorch.tune import Outcome, Search, Trial, TrialPruned, Tuner, tune

from .tune_cases import PORTFOLIO, SPACE, Clock, objective, rows

# ---------------------------------------------------------------------------------------------- space


def test_only_parameters_that_matter_have_values() -> None:
    assert active(SPACE, {"model": "tree"}) == ["model", "depth", "flip"]
    result = tune(objective, Search(space=SPACE, max_trials=30, seed=1))
    for row in result.trials:
        assert check_params(SPACE, row.params) == row.params
        assert ("rate" in row.params) == (row.params["model"] == "linear")
    assert {row.params["model"] for row in result.trials} == {"linear", "tree"}


@pytest.mark.parametrize(
    "params",
    [
        {"model": "tree", "depth": 3},
        {"model": "tree", "depth": 4, "flip": True},
        {"model": "tree", "depth": 11, "flip": True},
        {"model": "tree", "depth": True, "flip": True},
        {"model": "tree", "depth": 3, "flip": 1},
        {"model": "tree", "depth": 3, "flip": True, "rate": 0.1},
        {"model": "linear", "rate": 2.0, "flip": True},
        {"model": "linear", "rate": float("nan"), "flip": True},
        {"model": "linear", "rate": "0.1", "flip": True},
        {"model": "forest", "flip": True},
        {"modle": "tree"},
    ],
)
def test_portfolio_is_refused_when_a_value_is_missing_wrong_or_does_not_matter(params: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        tune(objective, Search(space=SPACE, portfolio=[params]))
    assert caught.value.code == "settings.invalid"


def test_spaces_that_make_no_sense_are_refused() -> None:
    with pytest.raises(SettingsError):
        check_space({})
    with pytest.raises(SettingsError):
        check_space({"rate": SPACE["rate"], "model": SPACE["model"]})
    with pytest.raises(SettingsError):
        check_space({"model": SPACE["model"], "x": Float(low=0, high=1, when=("model", ("forest",)))})
    for broken in (
        lambda: Float(low=1, high=1),
        lambda: Float(low=0, high=1, log=True),
        lambda: Float(low=0, high=float("inf")),
        lambda: Int(low=0, high=5, step=2),
        lambda: Int(low=1, high=5, step=2, log=True),
        lambda: Choice(options=()),
        lambda: Choice(options=(1, 1)),
    ):
        with pytest.raises(SettingsError):
            broken()


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_trials": 0},
        {"budget_s": 0},
        {"budget_s": float("nan")},
        {"patience": 0},
        {"min_delta": -1.0},
        {"direction": "up"},
        {"constraints": {"latency_ms": float("nan")}},
    ],
)
def test_arguments_are_refused_when_out_of_range(arguments: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        tune(objective, Search(space=SPACE, **arguments))


# --------------------------------------------------------------------------------------------- search


def test_portfolio_comes_first_in_its_order() -> None:
    result = tune(objective, Search(space=SPACE, portfolio=PORTFOLIO, max_trials=5))
    assert [row.params for row in result.trials[:3]] == PORTFOLIO
    assert [row.source for row in result.trials] == ["portfolio"] * 3 + ["search"] * 2
    assert result.stop_reason == "trials"
    short = tune(objective, Search(space=SPACE, portfolio=PORTFOLIO, max_trials=2))
    assert [row.params for row in short.trials] == PORTFOLIO[:2]


def test_search_is_the_same_with_the_same_seed_and_another_with_another() -> None:
    first, again, other = (
        tune(objective, Search(space=SPACE, portfolio=PORTFOLIO, max_trials=12, seed=seed))
        for seed in (3, 3, 4)
    )
    assert rows(first) == rows(again)
    assert rows(first) != rows(other)


def test_search_learns_from_trials() -> None:
    space: dict[str, Parameter] = {name: Float(low=-1, high=1) for name in "abcd"}
    goal = {"a": 0.3, "b": -0.6, "c": 0.1, "d": 0.8}

    def distance(trial: Trial) -> float:
        return sum((float(trial.params[name] or 0) - goal[name]) ** 2 for name in goal)

    found = [
        tune(distance, Search(space=space, max_trials=40, direction="minimize", seed=seed))
        for seed in range(5)
    ]
    drawn = np.random.default_rng(0).uniform(-1, 1, (5, 400, 40, 4))
    random = ((drawn - np.array(list(goal.values()))) ** 2).sum(-1).min(-1).mean(1)
    assert np.mean([result.best.value for result in found if result.best and result.best.value]) < 0.7 * (
        random.mean()
    )
    for result in found:
        assert result.best is not None
        assert result.best.value == min(row.value for row in result.trials if row.value is not None)


def test_nothing_is_tried_twice_and_the_search_ends_when_all_is_tried() -> None:
    space = {"a": Choice(options=("x", "y", "z")), "b": Int(low=0, high=1)}
    result = tune(lambda trial: float(trial.params["a"] == "y"), Search(space=space, max_trials=50))
    assert result.stop_reason == "exhausted"
    assert len({json.dumps(dict(row.params)) for row in result.trials}) == len(result.trials) == 6


def test_patience_counts_from_the_portfolio_on() -> None:
    values = iter([0.9, 0.1, 0.1, 0.5, 0.95, 0.2, 0.949, 0.2, 0.99])
    result = tune(lambda _: next(values), Search(space=SPACE, portfolio=PORTFOLIO, max_trials=50, patience=3))
    assert result.stop_reason == "plateau"
    assert len(result.trials) == 8
    assert result.best is not None
    assert result.best.value == 0.95


def test_small_gains_are_no_progress() -> None:
    values = iter(np.linspace(0.9, 0.909, 40).tolist())
    result = tune(
        lambda _: next(values),
        Search(space=SPACE, portfolio=PORTFOLIO, max_trials=40, patience=4, min_delta=0.01),
    )
    assert (result.stop_reason, len(result.trials)) == ("plateau", 7)


def test_no_trial_begins_that_would_not_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def slow(trial: Trial) -> float:
        clock.now_s += 10
        return objective(trial)

    result = tune(slow, Search(space=SPACE, budget_s=45))
    assert (result.stop_reason, len(result.trials)) == ("time", 4)
    assert result.duration_s == 40
    assert [row.duration_s for row in result.trials] == [10] * 4


def test_first_trial_always_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def slow(trial: Trial) -> float:
        clock.now_s += 100
        return objective(trial)

    result = tune(slow, Search(space=SPACE, portfolio=PORTFOLIO, budget_s=1e-6))
    assert [row.params for row in result.trials] == PORTFOLIO[:1]
    assert result.stop_reason == "time"


def test_best_meets_every_constraint() -> None:
    def measured(trial: Trial) -> Outcome:
        value = objective(trial)
        return Outcome(value=value, measured={"latency_ms": 10 * value, "other": 1.0}, facts={"epochs": 3})

    result = tune(
        measured,
        Search(space=SPACE, portfolio=PORTFOLIO, max_trials=25, constraints={"latency_ms": 6.0}, seed=2),
    )
    assert result.best is not None
    assert result.best.value == max(row.value for row in result.trials if row.feasible and row.value)
    assert result.best.measured["latency_ms"] <= 6.0
    assert result.best.facts == {"epochs": 3}
    assert [row.feasible for row in result.trials] == [
        row.measured["latency_ms"] <= 6.0 for row in result.trials
    ]

    # The search keeps away from what is too slow, though it scores higher.
    def share(limit: float) -> float:
        found = [
            tune(
                measured,
                Search(space=SPACE, portfolio=PORTFOLIO, constraints={"latency_ms": limit}, seed=seed),
            )
            for seed in range(3)
        ]
        return float(np.mean([row.measured["latency_ms"] <= 6 for run in found for row in run.trials]))

    assert share(6.0) > share(100.0) + 0.1

    nothing = tune(measured, Search(space=SPACE, max_trials=4, constraints={"latency_ms": 0.0}))
    assert nothing.best is None
    with pytest.raises(SettingsError, match="latency_s"):
        tune(measured, Search(space=SPACE, constraints={"latency_s": 1.0}))


def test_trials_that_fall_behind_are_ended_early() -> None:
    space = {"level": Float(low=0, high=1)}
    portfolio: list[Params] = [{"level": level} for level in (0.5, 0.6, 0.7, 0.55, 0.1, 0.9)]
    steps: dict[int, int] = {}

    def curve(trial: Trial) -> float:
        level = float(trial.params["level"] or 0)
        for step in range(4):
            steps[trial.number] = step
            trial.report(level * (step + 1) / 4, step=step)
        return level

    result = tune(curve, Search(space=space, portfolio=portfolio, max_trials=6, warmup_steps=1))
    assert [row.state for row in result.trials] == ["complete"] * 4 + ["pruned", "complete"]
    assert steps[4] == 1
    assert result.trials[4].value == pytest.approx(0.05)
    assert not result.trials[4].feasible
    assert result.best is not None
    assert result.best.params == {"level": 0.9}


def test_steps_must_rise() -> None:
    with Tuner(Search(space=SPACE)) as tuner:
        trial = tuner.ask()
        assert trial is not None
        trial.report(0.5, step=0)
        for step in (0, -1):
            with pytest.raises(SettingsError):
                trial.report(0.5, step=step)


# ------------------------------------------------------------------------------------------- failures


def test_search_goes_on_when_a_trial_fails() -> None:
    def moody(trial: Trial) -> float:
        if trial.params["model"] == "tree":
            raise TrainingError("The loss is nan in epoch 0.")
        return float("nan") if trial.params["flip"] else objective(trial)

    result = tune(moody, Search(space=SPACE, portfolio=PORTFOLIO, max_trials=25, seed=1))
    states = {row.state for row in result.trials}
    assert states == {"complete", "failed"}
    assert result.trials[0].note == "TrainingError: The loss is nan in epoch 0."
    assert all(row.value is None and not row.feasible for row in result.trials if row.state == "failed")
    assert any("nan" in row.note for row in result.trials if row.params.get("rate") and row.params["flip"])
    # What fails is kept away from.
    assert np.mean([row.state == "failed" for row in result.trials[10:]]) < 0.5


def test_search_gives_up_when_nothing_but_failures_come() -> None:
    calls: list[int] = []

    def broken(trial: Trial) -> float:
        calls.append(trial.number)
        raise KeyError("column")

    with pytest.raises(TuningError, match="KeyError") as caught:
        tune(broken, Search(space=SPACE, portfolio=PORTFOLIO, max_trials=20))
    assert len(calls) == 3
    assert caught.value.code == "tuning.failed"
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(TuningError):
        tune(broken, Search(space=SPACE, max_trials=1))


def test_facts_that_are_no_json_are_refused() -> None:
    with pytest.raises(SettingsError, match="JSON"):
        tune(lambda _: Outcome(value=1.0, facts={"path": Path()}), Search(space=SPACE))


# ----------------------------------------------------------------------------------------- ask and tell


def test_trials_may_run_side_by_side() -> None:
    told: list[int] = []
    with Tuner(
        Search(space=SPACE, portfolio=PORTFOLIO, max_trials=24), on_trial=lambda row: told.append(row.number)
    ) as tuner:
        gate = threading.Barrier(4)

        def work(_: int) -> None:
            gate.wait()
            while (trial := tuner.ask()) is not None:
                tuner.tell(trial.number, objective(trial))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        result = tuner.result()
    assert sorted(told) == [row.number for row in result.trials] == list(range(24))
    assert len({json.dumps(dict(row.params)) for row in result.trials}) == 24


def test_trials_that_run_elsewhere_report_by_number() -> None:
    with Tuner(Search(space=SPACE, portfolio=PORTFOLIO)) as tuner:
        asked = [tuner.ask() for _ in range(4)]
        assert [trial.number for trial in asked if trial] == [0, 1, 2, 3]
        assert tuner.report(1, 0.5, 0) is False
        assert tuner.prune(1).value == 0.5
        assert tuner.fail(0, "the machine went away").note == "the machine went away"
        assert tuner.tell(3, 0.7).state == "complete"
        with pytest.raises(SettingsError, match="not running"):
            tuner.tell(3, 0.7)
        result = tuner.result()
    assert [row.state for row in result.trials] == ["failed", "pruned", "complete"]
    assert result.stop_reason is None


def test_pruned_passes_through_broad_handlers_of_errors_only() -> None:
    assert issubclass(TrialPruned, Exception)
    with Tuner(Search(space=SPACE, portfolio=PORTFOLIO)) as tuner:
        for _ in range(4):
            trial = tuner.ask()
            assert trial is not None
            trial.report(1.0, step=0)
            tuner.tell(trial.number, 1.0)
        trial = tuner.ask()
        assert trial is not None
        with pytest.raises(TrialPruned):
            trial.report(0.0, step=0)
