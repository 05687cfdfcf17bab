"""Speed, measured interleaved: what disturbs the machine disturbs all candidates alike."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from xinfer.engine import percentiles
from xinfer.errors import InputError
from xinfer.manifest import Comparison, Latency
from xinfer.preproc import decode_image
from xinfer.tasks import ImageInput
from xinfer.tasks.text import TextInput

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from xinfer.engine import InferenceEngine


WARMUP = 3
"""Runs of each kind before the clock starts."""


@dataclass(kw_only=True)
class Contestant:
    """One thing to measure: a function for single items, and one that is called from several threads."""

    single: Callable[[Any], Any]
    concurrent: Callable[[Any], Any]
    latencies_ms: list[float] = field(default_factory=list)
    rates_per_s: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)

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


def warm_up(
    contestants: Mapping[str, Contestant], items: Sequence[Any], pool: ThreadPoolExecutor, num: int
) -> None:
    """Runs everything a few times without a clock."""
    for contestant in contestants.values():
        for item in _cycle(items, num):
            contestant.single(item)
        list(pool.map(contestant.concurrent, _cycle(items, num)))


def run_round(
    contestants: Mapping[str, Contestant],
    items: Sequence[Any],
    pool: ThreadPoolExecutor,
    *,
    num_single: int,
    num_concurrent: int,
) -> None:
    """One round: each contestant in turn, single items and then a burst; results are appended to them.

    Args:
        contestants: Who takes part.
        items: What they are called with, in a cycle.
        pool: As many threads as items at once.
        num_single: Single items for each.
        num_concurrent: Items of each burst.
    """
    for contestant in contestants.values():
        for item in _cycle(items, num_single):
            start = time.perf_counter()
            contestant.single(item)
            contestant.latencies_ms.append((time.perf_counter() - start) * 1e3)
    for contestant in contestants.values():
        burst = _cycle(items, num_concurrent)
        start, cpu_start = time.perf_counter(), time.process_time()
        for _ in pool.map(contestant.concurrent, burst):
            pass
        contestant.rates_per_s.append(num_concurrent / (time.perf_counter() - start))
        contestant.cpu_ms.append((time.process_time() - cpu_start) * 1e3 / num_concurrent)


def measure_pipeline(
    engine: InferenceEngine,
    payloads: Sequence[bytes],
    peer: Callable[[bytes], Any],
    *,
    peer_name: str = "peer",
    rounds: int = 5,
) -> Comparison:
    """From requests' bodies to results, against a peer, interleaved in this process.

    Args:
        engine: For images or texts. Its streams say how many requests run at once, for both sides.
        payloads: Image files, or texts in UTF-8; cycled through.
        peer: The other way from such a body to a result.
        peer_name: Stands in the receipt.
        rounds: Rounds after one that does not count.

    Returns:
        Latency of single requests (median), throughput and CPU time of concurrent ones (medians).

    Raises:
        InputError: The engine takes neither images nor texts.
    """
    pipeline = _pipeline(engine)
    sides = {
        "engine": Contestant(single=pipeline, concurrent=pipeline),
        "peer": Contestant(single=peer, concurrent=peer),
    }
    with ThreadPoolExecutor(engine.settings.num_streams, "xinfer-measure") as pool:
        warm_up(sides, payloads, pool, WARMUP)
        for _ in range(rounds):
            run_round(sides, payloads, pool, num_single=6, num_concurrent=12)
    ours, theirs = sides["engine"], sides["peer"]
    return Comparison(
        peer=peer_name,
        num_images=len(payloads),
        latency_ms=ours.latency_ms.p50,
        peer_latency_ms=theirs.latency_ms.p50,
        throughput_per_s=ours.throughput_per_s,
        peer_throughput_per_s=theirs.throughput_per_s,
        cpu_ms_per_item=ours.cpu_ms_per_item,
        peer_cpu_ms_per_item=theirs.cpu_ms_per_item,
        speedup=ours.throughput_per_s / theirs.throughput_per_s,
    )


def _cycle(items: Sequence[Any], num: int) -> list[Any]:
    return [items[index % len(items)] for index in range(num)]


def _pipeline(engine: InferenceEngine) -> Callable[[bytes], Any]:
    """From a request's body to what the engine says of it."""
    source = engine.task.input if engine.task else None
    if isinstance(source, ImageInput):
        name, min_side = source.name, source.min_side
        return lambda data: engine.infer({name: decode_image(data, min_side=min_side)[None]})
    if isinstance(source, TextInput):
        from xinfer.zoo.registry import runner_for

        assert engine.task is not None
        runner = runner_for(engine.task.task)(engine)
        return lambda data: runner.predict(data.decode("utf-8"))
    raise InputError(
        "only engines for images and texts have a pipeline to compare", value=source and source.kind
    )
