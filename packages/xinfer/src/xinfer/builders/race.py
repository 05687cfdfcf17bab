"""The race: candidates in processes of their own, measured in turns until it is clear who is fastest.

Each candidate is loaded by its own `builders.worker`, so that a crash costs one row and no thread pool
disturbs another's; only one runs at a time. A round gives each a turn, so what disturbs the machine disturbs
all alike; rivals are compared within rounds.
"""

from __future__ import annotations

import json
import math
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from xinfer.builders.steps import StepError
from xinfer.engine import percentiles

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xinfer.backends import RuntimeSettings
    from xinfer.builders.candidates import Mode
    from xinfer.manifest import Latency

MIN_ROUNDS, MAX_ROUNDS = 3, 12
TIGHT = 0.02
"""Rivals closer than this share, with an interval as narrow, are as fast as one another."""
LOSER_FACTOR = 1.5
"""A candidate this many times slower than the best after two rounds leaves the race."""
LAP_S = 0.12
"""About how long a turn of single inferences takes, and one of concurrent ones."""
MIN_LAP, MAX_LAP = 8, 400
LOAD_TIMEOUT_S, LAP_TIMEOUT_S = 300.0, 60.0


@dataclass(kw_only=True)
class Runner:
    """One candidate, loaded in a process of its own.

    Args:
        name: The candidate's.
        job: What `builders.worker` is told to load.
    """

    name: str
    job: dict[str, Any]
    latencies_ms: list[float] = field(default_factory=list)
    rounds_ms: list[float] = field(default_factory=list)
    """Median latency of each round."""
    rates_per_s: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)
    _log: IO[bytes] | None = field(default=None, init=False, repr=False)
    _answers: queue.Queue[bytes] = field(default_factory=queue.Queue, init=False, repr=False)

    def start(self) -> None:
        """Loads the candidate and warms it up. Raises StepError."""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `stop`)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "xinfer.builders.worker", "--race"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        threading.Thread(target=self._listen, daemon=True).start()
        first = self._ask(self.job, LOAD_TIMEOUT_S)
        self._num_single = _lap(first["latency_s"])
        self._num_burst = _lap(first["latency_s"] / max(1, self.job["throughput"]["num_streams"]))

    def turn(self) -> None:
        """Runs one turn: single inferences, then concurrent ones. Raises StepError."""
        single = self._ask({"single": self._num_single}, LAP_TIMEOUT_S)
        self.latencies_ms += single["latencies_ms"]
        self.rounds_ms.append(float(np.median(single["latencies_ms"])))
        burst = self._ask({"burst": self._num_burst}, LAP_TIMEOUT_S)
        self.rates_per_s.append(burst["rate_per_s"])
        self.cpu_ms.append(burst["cpu_ms"])

    def stop(self) -> None:
        """Ends the process, if there is one."""
        if self._process is None or self._log is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            if pipe is not None:
                pipe.close()

    @property
    def latency_ms(self) -> Latency:
        """Percentiles over all rounds."""
        return percentiles(self.latencies_ms)

    @property
    def throughput_per_s(self) -> float:
        """Median over the rounds."""
        return float(np.median(self.rates_per_s))

    @property
    def cpu_ms_per_item(self) -> float:
        """Median over the rounds."""
        return float(np.median(self.cpu_ms))

    def costs(self, objective: Mode) -> np.ndarray:
        """What each round came to, float64 [rounds]; lower is better."""
        return np.array(self.rounds_ms) if objective == "latency" else 1 / np.array(self.rates_per_s)

    def cost(self, objective: Mode) -> float:
        """Lower is better."""
        return float(np.median(self.costs(objective)))

    def _listen(self) -> None:
        assert self._process is not None
        stdout = self._process.stdout
        assert stdout is not None
        try:
            for line in stdout:
                self._answers.put(line)
        except ValueError:
            pass  # closed by `stop`
        self._answers.put(b"")

    def _ask(self, command: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        assert self._process is not None
        assert self._log is not None
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps(command).encode() + b"\n")
            stdin.flush()
            line = self._answers.get(timeout=timeout_s)
        except BrokenPipeError:
            line = b""
        except queue.Empty:
            raise StepError(f"gave no answer for {timeout_s:.0f} s") from None
        if not line:
            code = self._process.wait()
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            self._log.seek(0)
            tail = self._log.read().decode(errors="replace").strip().splitlines()[-1:]
            raise StepError(f"the process ended while it was measured ({how}): {' '.join(tail)[:300]}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise StepError(answer["error"])
        return answer


def run_race(
    runners: Mapping[str, Runner],
    objective: Mode,
    *,
    deadline_s: float,
    lost: Callable[[str, str, str], None],
    progress: Callable[[int, int], None],
) -> dict[str, Runner]:
    """Measures until the fastest is clear, the rounds are used up, or the time is.

    Args:
        runners: Candidates by name, started.
        objective: What fastest means.
        deadline_s: `time.monotonic()` after which no further round begins; two always run.
        lost: Called with name, status (``failed`` or ``dropped``) and reason of who leaves the race.
        progress: Called with the round and the greatest number of rounds.

    Returns:
        Who is still in the race, the fastest first.
    """
    racing = dict(runners)
    for index in range(MAX_ROUNDS):
        progress(index, MAX_ROUNDS)
        started_s = time.monotonic()
        for name in list(racing):
            try:
                racing[name].turn()
            except StepError as error:
                lost(name, "failed", str(error))
                del racing[name]
        if not racing:
            break
        costs = {name: runner.cost(objective) for name, runner in racing.items()}
        best = min(costs, key=lambda name: costs[name])
        # One round may have met another's work on this machine; two seldom do.
        if index:
            for name, cost in costs.items():
                if cost > LOSER_FACTOR * costs[best]:
                    lost(name, "dropped", f"{cost / costs[best]:.1f}x slower")
                    del racing[name]
        if index + 1 >= MIN_ROUNDS and all(
            decided(racing[name].costs(objective), racing[best].costs(objective))
            for name in racing
            if name != best
        ):
            break
        if index and time.monotonic() + (time.monotonic() - started_s) > deadline_s:
            break
    return dict(sorted(racing.items(), key=lambda item: item[1].cost(objective)))


def decided(costs: np.ndarray, best: np.ndarray) -> bool:
    """Whether more rounds would change who of two is faster, or by how much it matters.

    Args:
        costs, best: What each round came to, float64 [rounds], of one candidate and of the best one.

    Returns:
        True when the interval of their ratio excludes 1 or lies within `TIGHT` of it.

    Source: paired comparison by the t interval of log-ratios; Georges, Buytaert and Eeckhout, "Statistically
    Rigorous Java Performance Evaluation" (OOPSLA 2007), section 3.
    """
    middle, half = log_ratio(costs, best)
    return abs(middle) > half or abs(middle) + half < TIGHT


def log_ratio(costs: np.ndarray, best: np.ndarray) -> tuple[float, float]:
    """Mean of the rounds' log-ratios and half its 95 % interval (about; 2 standard errors)."""
    ratios = np.log(costs / best)
    if len(ratios) < 2:
        return float(ratios.mean()), math.inf
    # The median resists a round that met another's work; the interval stays that of the mean.
    return float(np.median(ratios)), 2 * float(ratios.std(ddof=1)) / math.sqrt(len(ratios))


def uncertainty(costs: np.ndarray) -> float | None:
    """Half the 95 % interval of the mean of some rounds, as a share of their median; None for one round."""
    if len(costs) < 2:
        return None
    return float(2 * costs.std(ddof=1) / math.sqrt(len(costs)) / np.median(costs))


def race_job(
    backend: str,
    artifact_dir: Path,
    settings: Mapping[Mode, RuntimeSettings],
    samples_dir: Path,
    outputs: Path | None,
    *,
    batch: int,
) -> dict[str, Any]:
    """What a `Runner` loads.

    Args:
        settings: For single inferences ("latency") and concurrent ones ("throughput").
        samples_dir: Held-out inputs.
        outputs: What the candidate answered to them when its accuracy was gated; compared after loading.
        batch: Samples in one inference.
    """
    return {
        "backend": backend,
        "artifact_dir": str(artifact_dir),
        "latency": settings["latency"].to_json(),
        "throughput": settings["throughput"].to_json(),
        "samples": str(samples_dir),
        "outputs": None if outputs is None else str(outputs),
        "batch": batch,
    }


def _lap(seconds: float) -> int:
    return max(MIN_LAP, min(MAX_LAP, math.ceil(LAP_S / max(seconds, 1e-6))))
