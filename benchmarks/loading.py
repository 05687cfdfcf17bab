"""Loading engines: cold against the compiled-blob cache, and what is left of 200 loads and unloads.

    .venv/bin/python benchmarks/loading.py --engine FILE [--loads 200] [--out benchmarks/results/loading.json]
    .venv/bin/python benchmarks/loading.py     # builds the fastest OpenVINO engine of ResNet-50 first

Each load is a fresh process that loads and runs one inference, as a server does after a restart. Timed is
`InferenceEngine.load`, golden pair included, imports excluded. With and without a cache alternate; medians.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import backend_models
import numpy as np

from xinfer import EngineBuilder, EnginePackage, HardwareTarget
from xtorch import sources

RESULT = Path(__file__).parent / "results" / "loading.json"

ONE_LOAD = """
import sys, time
import numpy, xinfer.backends
from xinfer import InferenceEngine
xinfer.backends.get_backend(sys.argv[2])
__import__(sys.argv[2])
cache = sys.argv[3] or None
start = time.perf_counter()
engine = InferenceEngine.load(sys.argv[1], require_signature=False, cache_dir=cache)
print(time.perf_counter() - start)
engine.infer(engine.golden.inputs)
"""

MANY_LOADS = """
import json, sys
import psutil
from xinfer import InferenceEngine
resident = []
for _ in range(int(sys.argv[2])):
    with InferenceEngine.load(sys.argv[1], require_signature=False) as engine:
        engine.infer(engine.golden.inputs)
    resident.append(psutil.Process().memory_info().rss / 2**20)
print(json.dumps(resident))
"""


def run(script: str, *arguments: str) -> str:
    """What a fresh process prints."""
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def build(folder: Path) -> Path:
    """The fastest OpenVINO engine of ResNet-50 on the inputs of `backends.py`."""
    workload = backend_models.resnet50(folder, 48)
    path = folder / "model.engine"
    (
        EngineBuilder.from_onnx(sources.export(workload.reference, folder))
        .named(workload.name)
        .with_backends("openvino")
        .with_int8(workload.calibration)
        .with_accuracy_budget(metric=workload.metric, samples=workload.samples)
        .on_progress(lambda stage, share, message: print(f"{share:4.0%} {stage} {message}", file=sys.stderr))
        .build_and_save(path)
    )
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--loads", type=int, default=200)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = options.engine or build(folder)
        package = EnginePackage.open(path)
        backend = package.manifest.backend
        engine_mib = round(path.stat().st_size / 2**20, 1)
        cache = str(folder / "cache")
        run(ONE_LOAD, str(path), backend, cache)  # fills the cache
        cold_s, cached_s = [], []
        for _ in range(options.rounds):
            cold_s.append(float(run(ONE_LOAD, str(path), backend, "")))
            cached_s.append(float(run(ONE_LOAD, str(path), backend, cache)))
        resident_mib = json.loads(run(MANY_LOADS, str(path), str(options.loads)))
    target = HardwareTarget.detect()
    settled = resident_mib[len(resident_mib) // 4 :]
    slope = float(np.polyfit(np.arange(len(settled)), settled, 1)[0])
    result = {
        "engine": package.manifest.identity.name,
        "backend": backend,
        "precision_executed": package.manifest.precision.executed,
        "engine_mib": engine_mib,
        "cold_s": [round(value, 4) for value in cold_s],
        "cached_s": [round(value, 4) for value in cached_s],
        "cold_median_s": round(statistics.median(cold_s), 4),
        "cached_median_s": round(statistics.median(cached_s), 4),
        "cached_over_cold": round(statistics.median(cached_s) / statistics.median(cold_s), 3),
        "loads": options.loads,
        "resident_mib_every_tenth": [round(value, 1) for value in resident_mib[::10]],
        "resident_mib_per_load_after_the_first_quarter": round(slope, 4),
        "machine": f"{target.cpu}, {target.num_cores} cores, {', '.join(target.isa)}, {platform.platform()}",
        "versions": {name: version(name) for name in ("openvino", "onnxruntime", "numpy")},
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(
        f"cold {result['cold_median_s']} s, from the cache {result['cached_median_s']} s: "
        f"{result['cached_over_cold']}; {slope:+.4f} MiB per load"
    )


if __name__ == "__main__":
    main()
