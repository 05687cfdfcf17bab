"""A search's journal: what is left when the process is killed, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from xtorch.errors import TuningStorageError
from xtorch.tune import Search, Trial, Tuner, tune

from .tune_cases import PORTFOLIO, SPACE, Clock, objective, rows


class Interrupted(BaseException):
    """Stands for SIGTERM's exception."""


@pytest.mark.parametrize("at", [0, 2, 3, 7])
def test_interrupted_search_ends_as_if_nothing_had_happened(tmp_path: Path, at: int) -> None:
    search = Search(space=SPACE, portfolio=PORTFOLIO, max_trials=10, seed=5)

    def curve(trial: Trial) -> float:
        value = objective(trial)
        for step in range(3):
            trial.report(value * (step + 1), step=step)
        return value

    def interrupted(trial: Trial) -> float:
        if trial.number == at:
            trial.report(10.0, step=0)
            raise Interrupted
        return curve(trial)

    path = tmp_path / "search.jsonl"
    with pytest.raises(Interrupted):
        tune(interrupted, search, storage=path)
    ran: list[int] = []

    def counted(trial: Trial) -> float:
        ran.append(trial.number)
        return curve(trial)

    again = tune(counted, search, storage=path)
    assert ran == list(range(at, 10))
    assert rows(again) == rows(tune(curve, search))

    # All is there already.
    assert rows(tune(lambda _: pytest.fail("ran again"), search, storage=path)) == rows(again)
    # A larger search goes on from there.
    longer = replace(search, max_trials=12)
    assert rows(tune(curve, longer, storage=path)) == rows(tune(curve, longer))


def test_time_of_interrupted_runs_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def slow(trial: Trial) -> float:
        clock.now_s += 10
        if clock.now_s == 130 and trial.number == 2:
            raise Interrupted
        return objective(trial)

    path = tmp_path / "search.jsonl"
    search = Search(space=SPACE, budget_s=45)
    with pytest.raises(Interrupted):
        tune(slow, search, storage=path)
    result = tune(slow, search, storage=path)
    assert (result.stop_reason, len(result.trials), result.duration_s) == ("time", 4, 40)


@pytest.mark.faults
def test_killed_search_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    script = tmp_path / "search.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, signal, sys
            from xtorch.tune import Float, Int, Search, tune

            SPACE = {"x": Float(low=0, high=1), "n": Int(low=0, high=3)}

            def objective(trial):
                if sys.argv[2] == str(trial.number):
                    os.kill(os.getpid(), signal.SIGKILL)
                return (trial.params["x"] - 0.3) ** 2 + trial.params["n"]

            search = Search(
                space=SPACE, portfolio=[{"x": 0.9, "n": 3}, {"x": 0.1, "n": 1}],
                direction="minimize", max_trials=9, seed=11,
            )
            result = tune(objective, search, storage=sys.argv[1])
            print([(row.number, dict(row.params), row.value) for row in result.trials])
            """
        )
    )

    def run(log: str, kill: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(script), str(tmp_path / log), str(kill)],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONWARNINGS": "error"},
        )

    whole = run("whole.jsonl", -1)
    assert whole.returncode == 0, whole.stderr
    for kill in (1, 6):
        assert run("killed.jsonl", kill).returncode == -signal.SIGKILL
    again = run("killed.jsonl", -1)
    assert again.returncode == 0, again.stderr
    assert again.stdout == whole.stdout
    assert whole.stdout.count("'x'") == 9


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_unfinished_line_is_dropped(tmp_path: Path, cut: int) -> None:
    search = Search(space=SPACE, portfolio=PORTFOLIO, max_trials=6, seed=2)
    path = tmp_path / "search.jsonl"
    whole = tune(objective, search, storage=path)
    data = path.read_bytes()
    path.write_bytes(data[:-cut])
    assert rows(tune(objective, search, storage=path)) == rows(whole)
    assert all(json.loads(line) for line in path.read_bytes().splitlines())


@pytest.mark.parametrize(
    "change",
    [{"seed": 3}, {"identity": "other data"}, {"direction": "minimize"}, {"portfolio": PORTFOLIO[:1]}],
)
def test_journal_of_another_search_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "search.jsonl"
    search = Search(space=SPACE, max_trials=2)
    tune(objective, search, storage=path)
    before = path.read_bytes()
    with pytest.raises(TuningStorageError, match="another search"):
        tune(objective, replace(search, **change), storage=path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"{}\n", b"[1]\n", b"no json\n", b'{"kind": "search", "version": 9}\n'])
def test_damaged_journal_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "search.jsonl"
    path.write_bytes(content)
    with pytest.raises(TuningStorageError, match="damaged") as caught:
        tune(objective, Search(space=SPACE), storage=path)
    assert caught.value.code == "tuning.storage"
    assert path.read_bytes() == content


def test_journal_that_is_in_use_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"
    search = Search(space=SPACE)
    with Tuner(search, storage=path), pytest.raises(TuningStorageError, match="Another process"):
        Tuner(search, storage=path)
    Tuner(search, storage=path).close()
