"""Which workers are fastest here, for this dataset: measured, and said."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from xtorch.data.loading.fetch import Fetcher, Task
from xtorch.data.loading.sources import InlineSource, Kind, Source, open_source
from xtorch.errors import SettingsError, WorkerError

_log = logging.getLogger(__name__)

NEAR = 0.9
"""Fewer and simpler workers are taken when they reach this share of the best rate."""
_MAX_WORKERS = 16
_BATCH_S = 0.05
"""Measured batches are cut to about this long, so that each worker gets several."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The workers that were chosen, and why."""

    kind: Kind
    num_workers: int
    rates: Mapping[str, float]
    """Samples per second of every candidate that was measured, such as "threads x 2"; empty if none was."""
    excluded: Mapping[str, str]
    """Candidates that cannot be used, and why."""
    reason: str

    def __str__(self) -> str:
        rates = ", ".join(f"{name} {rate:,.0f}/s" for name, rate in self.rates.items())
        return f"{label(self.kind, self.num_workers)}: {self.reason}" + (f" ({rates})" if rates else "")


def label(kind: Kind, num_workers: int) -> str:
    """A candidate's name."""
    return "none" if kind == "none" else f"{kind} x {num_workers}"


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose(
    fetcher: Fetcher,
    *,
    batch_size: int,
    kind: Kind | Literal["auto"],
    workers: int | Literal["auto"],
    prefetch: int,
    measure_s: float,
) -> Choice:
    """Takes what was asked for, or measures what was left open.

    Every candidate makes the same batches of the first samples, twice, in turns; the better time counts,
    since disturbances only make slower. A measured batch is shorter than a real one where that would take
    long.

    Args:
        fetcher: makes batches; without a cache, which the first candidate would fill for the others.
        batch_size: samples.
        kind, workers: what to use, or "auto".
        prefetch: batches ahead, for each worker.
        measure_s: about how long measuring may take in all, seconds.

    Returns:
        The choice. "none" is taken only where handing batches over costs more than it gives.
    """
    if kind == "none" or workers == 0:
        return Choice(kind="none", num_workers=0, rates={}, excluded={}, reason="as asked")
    if kind != "auto" and workers != "auto":
        return Choice(kind=kind, num_workers=workers, rates={}, excluded={}, reason="as asked")
    cores = min(num_cores(), _MAX_WORKERS)
    counts = sorted({max(1, cores // 2), cores}) if workers == "auto" else [workers]
    kinds: tuple[Kind, ...] = ("threads", "processes") if kind == "auto" else (kind,)
    candidates: list[tuple[Kind, int]] = [(one, count) for one in kinds for count in counts]
    if kind == "auto" and workers == "auto":
        candidates.append(("none", 0))
    plain = replace(fetcher, on_error="skip", pin=False)
    tasks = _tasks(plain, batch_size, max(counts), measure_s / (2 * len(candidates)))
    rates, excluded = _rates(plain, candidates, tasks, prefetch)
    if not rates:
        name, reason = next(iter(excluded.items()))
        raise SettingsError(f"{name} cannot be used: {reason}", value=name)
    best = max(rates.values())
    if rates.get("none", 0.0) >= best:
        chosen: tuple[Kind, int] = ("none", 0)
        reason = "handing over costs more than it gives"
    else:
        chosen = next(c for c in candidates if rates.get(label(*c), 0.0) >= NEAR * best and c[0] != "none")
        reason = f"the simplest within {1 - NEAR:.0%} of the fastest"
    choice = Choice(kind=chosen[0], num_workers=chosen[1], rates=rates, excluded=excluded, reason=reason)
    _log.info("Loading with %s", choice)
    return choice


def _tasks(fetcher: Fetcher, batch_size: int, workers: int, budget_s: float) -> list[Task]:
    """Tasks that take one worker about `budget_s`, at least one for each worker."""
    num_samples = len(fetcher.dataset)
    source = InlineSource(fetcher)
    _time(source, [Task(epoch=0, number=0, indices=(0,))])  # opens files, imports what is imported late
    probe = Task(epoch=0, number=0, indices=tuple(range(min(4, num_samples))))
    sample_s = max(_time(source, [probe]) / len(probe.indices), 1e-7)
    size = max(1, min(batch_size, round(_BATCH_S / sample_s)))
    number = min(max(workers, math.ceil(budget_s / (size * sample_s))), 256)
    number = math.ceil(number / workers) * workers
    return [
        Task(
            epoch=0,
            number=index,
            indices=tuple((index * size + offset) % num_samples for offset in range(size)),
        )
        for index in range(number)
    ]


def _rates(
    fetcher: Fetcher, candidates: Sequence[tuple[Kind, int]], tasks: Sequence[Task], prefetch: int
) -> tuple[dict[str, float], dict[str, str]]:
    """Samples per second of the candidates that work; why the others do not."""
    num_samples = sum(len(task.indices) for task in tasks)
    rates: dict[str, float] = {}
    excluded: dict[str, str] = {}
    sources: dict[str, Source] = {}
    try:
        for kind, count in candidates:
            name = label(kind, count)
            try:
                source = open_source(kind, fetcher, num_workers=count, prefetch=prefetch)
                # Starts the workers; the start happens once in a training and does not count.
                _time(source, tasks[:count] if count else tasks[:1])
            except (SettingsError, WorkerError) as error:
                excluded[name] = error.message
            else:
                sources[name] = source
        for _ in range(2):
            for name, source in sources.items():
                rates[name] = max(rates.get(name, 0.0), num_samples / _time(source, tasks))
    finally:
        for source in sources.values():
            source.close()
    return rates, excluded


def _time(source: Source, tasks: Sequence[Task], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds until all tasks are done."""
    start_s = clock()
    for _ in source.batches(tasks):
        pass
    return clock() - start_s
