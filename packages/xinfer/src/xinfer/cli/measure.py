"""``xinfer benchmark`` and ``xinfer profile``: how fast an engine is here, and where its time goes."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from xinfer.cli import output
from xinfer.cli.command import Command, UsageError, add_json, duration_s, positive
from xinfer.cli.loading import add_trust_options, load_engine
from xinfer.engine import InferenceEngine
from xinfer.zoo import resolve

Feeds = dict[str, np.ndarray]

MAX_REPEATS = 100_000


def configure_benchmark(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("file", metavar="FILE.engine", help="or a catalogue id that was built")
    parser.add_argument(
        "--seconds", type=duration_s, default=5.0, help="about how long to measure; default: 5"
    )
    parser.add_argument(
        "--warmup", type=positive, default=5, metavar="N", help="inferences before; default: 5"
    )
    parser.add_argument("--streams", type=positive, metavar="N", help="inferences at once; default: as built")
    parser.add_argument("--threads", type=positive, metavar="N", help="threads in all; default: all cores")
    parser.add_argument("--batch", type=positive, default=1, metavar="N", help="samples in one inference")
    add_trust_options(parser)
    add_json(parser)


def run_benchmark(arguments: argparse.Namespace) -> int:
    """Measures."""
    options = {"num_streams": arguments.streams, "num_threads": arguments.threads, "cache_dir": cache_dir()}
    engine, _ = load_engine(arguments, **options)
    with engine:
        feeds = batched(engine, arguments.batch)
        repeats = repeats_for(engine, feeds, arguments.seconds, arguments.warmup)
        measured = engine.benchmark(feeds, warmup=arguments.warmup, repeats=repeats)
        executed = engine.executed_precision()
        name = engine.manifest.identity.name
    batch = arguments.batch
    per_s, cpu_ms = measured.throughput_per_s * batch, measured.cpu_ms_per_item / batch
    if arguments.json:
        output.print_json(
            {
                "engine": name,
                "executed": executed,
                "batch": batch,
                "repeats": repeats,
                "num_streams": measured.num_streams,
                "num_threads": measured.num_threads,
                "latency_ms": measured.latency_ms,
                "throughput_per_s": per_s,
                "cpu_ms_per_item": cpu_ms,
            }
        )
        return 0
    latency = measured.latency_ms
    output.print_pairs(
        {
            "engine": f"{name}, executes {executed}",
            "latency": f"{latency.p50:.3g} ms median, {latency.p95:.3g} ms p95, {latency.p99:.3g} ms p99"
            + (f" for a batch of {batch}" if batch > 1 else ""),
            "throughput": f"{per_s:,.1f} samples per s",
            "CPU": f"{cpu_ms:.3g} ms per sample",
            "measured": f"{repeats} inferences one by one, then {repeats} on {measured.num_streams} streams "
            f"and {measured.num_threads} threads",
        }
    )
    return 0


def configure_profile(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("file", metavar="FILE.engine", help="or a catalogue id that was built")
    parser.add_argument("--top", type=positive, default=20, metavar="N", help="layers to show; default: 20")
    parser.add_argument("--repeats", type=positive, default=20, metavar="N", help="inferences; default: 20")
    add_trust_options(parser)
    add_json(parser, "all layers as JSON")


def run_profile(arguments: argparse.Namespace) -> int:
    """Profiles."""
    engine, _ = load_engine(arguments, num_streams=1, cache_dir=cache_dir())
    with engine:
        layers = sorted(
            engine.profile(repeats=arguments.repeats), key=lambda layer: layer.time_ms, reverse=True
        )
    if arguments.json:
        output.print_json(layers)
        return 0
    shown = layers[: arguments.top]
    output.print_table(
        ["layer", "type", "executes", "ms", "share"],
        [
            [_short(layer.name), layer.type, layer.precision, f"{layer.time_ms:.4f}", f"{layer.share:.1%}"]
            for layer in shown
        ],
        left=3,
    )
    rest = layers[len(shown) :]
    if rest:
        print(f"and {len(rest)} more with {sum(layer.share for layer in rest):.1%}")
    return 0


def batched(engine: InferenceEngine, batch: int) -> Feeds:
    """The golden inputs, as often as the batch has samples.

    Raises:
        UsageError: The model takes no batches.
    """
    feeds = engine.golden.inputs
    if batch == 1:
        return feeds
    fixed = [spec.name for spec in engine.manifest.io.inputs if not spec.shape or spec.shape[0] != -1]
    if fixed:
        raise UsageError(
            f"the model takes no batches: the first axis of {fixed[0]!r} is fixed", value=fixed,
            hint="export it with a free first axis",
        )  # fmt: skip
    return {name: np.concatenate([array[:1]] * batch) for name, array in feeds.items()}


def repeats_for(engine: InferenceEngine, feeds: Mapping[str, np.ndarray], seconds: float, warmup: int) -> int:
    """How often to run within a time: half of it goes to single inferences, half to concurrent ones."""
    times_s = []
    for _ in range(max(1, warmup)):
        start = time.perf_counter()
        engine.infer(feeds)
        times_s.append(time.perf_counter() - start)
    return int(np.clip(seconds / 2 / max(min(times_s), 1e-7), 3, MAX_REPEATS))


def cache_dir() -> Path:
    """Where engines stay unpacked and compiled between commands."""
    return resolve.home() / "loaded"


def _short(name: str, width: int = 60) -> str:
    return name if len(name) <= width else name[: width // 2 - 1] + "…" + name[-width // 2 :]


COMMANDS = (
    Command(
        name="benchmark",
        help="measure an engine here: latency, throughput, CPU time",
        configure=configure_benchmark,
        run=run_benchmark,
    ),
    Command(
        name="profile",
        help="show which layers an engine spends its time in, and what executes them",
        configure=configure_profile,
        run=run_profile,
    ),
)
