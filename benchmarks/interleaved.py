"""Times of several ways to do one thing, taken in turns, so that the machine's moods strike all of them."""

from __future__ import annotations

import gc
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Call = Callable[[], Any]


def measure(calls: dict[str, Call], *, seconds: float, warm_up: int = 3) -> dict[str, dict[str, float]]:
    """Runs the calls in turns until the time is up.

    Args:
        calls: Name -> what to time.
        seconds: For all of them together.
        warm_up: Rounds that do not count.

    Returns:
        Name -> median, quartiles and least time in ms, and how often it ran.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    names, order = list(calls), random.Random(0)
    gc.collect()
    gc.disable()
    try:
        for _ in range(warm_up):
            for call in calls.values():
                call()
        end = time.perf_counter() + seconds
        rounds = 0
        while time.perf_counter() < end or rounds < 5:
            rounds += 1
            # In another order each time: who comes first finds its input outside of the caches.
            order.shuffle(names)
            for name in names:
                call = calls[name]
                started = time.perf_counter()
                call()
                times[name].append((time.perf_counter() - started) * 1e3)
    finally:
        gc.enable()
    return {name: _summary(values) for name, values in times.items()}


def _summary(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median_ms": middle, "p25_ms": low, "p75_ms": high, "min_ms": min(values), "runs": len(values)}


def machine(*packages: str) -> dict[str, Any]:
    """The hardware line, with the versions of what was measured."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "cpu": names[0] if names else platform.processor(),
        "num_cores": os.cpu_count(),
        # Of others: near 0 on a machine that was left alone.
        "load_average_before": [round(load, 2) for load in os.getloadavg()],
        "os": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
    }


def gpu_or_reason() -> tuple[str | None, str]:
    """The GPU's name, or None and why there are no rows for it."""
    try:
        import torch
        import triton  # noqa: F401
    except ImportError as error:
        return None, f"not measured: {error}"
    if not torch.cuda.is_available():
        return None, "not measured: no GPU"
    name = torch.cuda.get_device_name()
    return name, name


def report(result: dict[str, Any], out: Path, *, ours: str) -> None:
    """Writes the raw result and prints every row's times and their ratio to ours."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(
        json.dumps({"at": datetime.now(UTC).isoformat(timespec="seconds"), **result}, indent=1) + "\n"
    )
    for row, times in result["rows"].items():
        print(row)
        for name, values in times.items():
            ratio = values["median_ms"] / times[ours]["median_ms"]
            print(f"  {name:<44} {values['median_ms']:>9.3f} ms   x{ratio:.2f}")
    print(f"raw results in {out}")
