"""The catalogue's models: the source in ONNX Runtime at fp32 against the engine, built and loaded again.

    .venv/bin/python benchmarks/catalogue.py [--entries ID,ID] [--budget 60] [--samples 200]
        [--out benchmarks/results/catalogue.json]

Each entry whose files can be had here is built with an accuracy budget of one point on held-out inputs,
saved, and loaded from its file. Then source and engine see the same inputs: metric against the truth where
there is one, and agreement with the source on all. Results are written entry by entry into the file; those
of other entries stay. How fast engines are is the business of `backends.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
from catalogue_workloads import WORKLOADS, Workload
from interleaved import machine

from xinfer import EngineBuilder, InferenceEngine, catalogue
from xinfer.errors import FetchError, XInferError
from xinfer.preproc.text import Tokenizer
from xinfer.tasks.text import TextInput
from xinfer.verify import cosine_agreement
from xinfer.zoo.base import BuildInput, TaskRunner
from xinfer.zoo.registry import runner_for

MAX_DROP = 0.01


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--entries", help="ids, comma between; default: all that can be had")
    parser.add_argument("--budget", type=float, default=60, help="seconds of each search (60)")
    parser.add_argument("--samples", type=int, default=200, help="inputs of each entry (200)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/catalogue.json"))
    options = parser.parse_args()
    data = Path(os.environ.get("IGNITION_TEST_DATA", "../shared/data"))
    os.environ.setdefault("XINFER_WEIGHTS", str((data / "weights").resolve()))
    chosen = options.entries.split(",") if options.entries else list(catalogue.load())
    for entry_id in chosen:
        entry = catalogue.get(entry_id)
        if entry.parts:
            continue
        print(f"{entry_id} ...", flush=True)
        started = time.perf_counter()
        try:
            row = measure_entry(entry, data, options)
        except FetchError as error:
            print(f"  left out: {error.message}: {error.hint}", flush=True)
            continue
        except XInferError as error:
            row = {"error": {"code": error.code, "message": error.message}}
        row |= {
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "duration_s": round(time.perf_counter() - started, 1),
            "machine": machine("openvino", "onnxruntime", "nncf"),
        }
        # Read anew: another run may have written other entries.
        document = json.loads(options.out.read_text()) if options.out.is_file() else {"entries": {}}
        document["entries"][entry_id] = row
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
        print("  " + summary(row), flush=True)


def summary(row: dict[str, Any]) -> str:
    """One line for people."""
    if "error" in row:
        return f"failed: {row['error']['message']}"
    metric = (
        f"{row['metric']} {row['source_value']:.4f} -> {row['engine_value']:.4f}, " if row["metric"] else ""
    )
    engine = row["engine"]
    return (
        f"{engine['backend']} {engine['precision']}: {metric}agreement {row['agreement']:.4f} on "
        f"{row['num_samples']}"
    )


def measure_entry(entry: catalogue.Entry, data: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Builds one entry, loads the file and compares it with its source."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        given = runner_for(entry.task).build_input(entry, folder)
        make = WORKLOADS.get(entry.id)
        work = None if make is None else make(data, options.samples)
        if work is not None and work.settings:
            given = replace(given, task=replace(given.task, **work.settings))
        builder = EngineBuilder.from_onnx(given.onnx).named(entry.id, licences=(entry.licence,))
        builder = builder.with_task(given.task).with_budget(options.budget)
        if given.assets:
            builder = builder.with_assets(given.assets)
        builder = (
            builder.with_accuracy_budget(metric=given.metric, samples=given.samples, max_drop=given.max_drop)
            if work is None
            else gated(builder, runner_for(entry.task), given, work)
        )
        path = folder / "built.engine"
        package = builder.build_and_save(path)
        session = source_session(given.onnx)
        with InferenceEngine.load(path, require_signature=False) as engine:
            if work is None:
                row = compare_tensors(engine, session, given.samples)
            else:
                row = compare_results(runner_for(entry.task)(engine), session, work)
        manifest = package.manifest
        return row | {
            "budget": MAX_DROP,
            "engine": {
                "backend": manifest.backend,
                "precision": manifest.precision.executed,
                "size_bytes": path.stat().st_size,
                "settings": manifest.recipe.settings.get("runtime", {}),
            },
            "source_size_bytes": given.onnx.stat().st_size,
            "candidates": [
                {"id": c.id, "status": c.status, "accuracy": c.accuracy, "reason": c.reason}
                for c in package.receipt.candidates
            ],
        }


def gated(builder: EngineBuilder, runner: Any, given: Any, work: Workload) -> EngineBuilder:
    """The builder with the workload's metric as its accuracy budget, or agreement where there is no truth."""
    reader = offline(runner, given)
    prepared = [reader.prepare(x) for x in work.inputs[: work.num_labelled or None]]
    samples = [feeds for feeds, _ in prepared]

    def results(outputs: Any) -> list[Any]:
        return [reader.interpret(each, context) for each, (_, context) in zip(outputs, prepared, strict=True)]

    if work.score is not None and work.metric is not None:
        score = work.score
        name, evaluate = work.metric, lambda outputs: score(results(outputs))
    else:
        run = source_session(given.onnx)
        wanted = results([run(feeds) for feeds in samples])
        name, evaluate = "agreement", lambda outputs: work.agreement(results(outputs), wanted)
    builder = builder.with_accuracy_budget(metric=name, evaluate=evaluate, samples=samples, max_drop=MAX_DROP)
    if work.calibration:
        calibration = [reader.prepare(x)[0] for x in work.calibration]
        builder = builder.with_int8(calibration).with_float_nodes(*given.float_nodes)
    return builder


def offline(runner: type[TaskRunner[Any, Any]], given: BuildInput) -> TaskRunner[Any, Any]:
    """A runner's pre- and postprocessing without an engine."""
    bare: Any = runner.__new__(runner)
    bare.task = given.task
    if isinstance(given.task.input, TextInput):
        text = given.task.input
        data = given.assets[text.tokenizer].read_bytes()
        bare.tokenizer = Tokenizer.from_bytes(data, max_length=text.max_length, padding=text.pad)
    return cast("TaskRunner[Any, Any]", bare)


def source_session(path: Path) -> Any:
    """The source model in ONNX Runtime at fp32, its best settings."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = len(os.sched_getaffinity(0))
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, feeds), strict=True))


def compare_results(runner: TaskRunner[Any, Any], session: Any, work: Workload) -> dict[str, Any]:
    """Metric and agreement of the re-loaded engine, on all inputs."""
    engine, source = [], []
    for x in work.inputs:
        feeds, context = runner.prepare(x)
        engine.append(runner.interpret(runner.engine.infer(feeds), context))
        source.append(runner.interpret(session(feeds), context))
    row: dict[str, Any] = {
        "num_samples": len(work.inputs),
        "agreement": work.agreement(engine, source),
        "metric": work.metric,
    }
    if work.score is None:
        return row | {"verdict": "pass" if row["agreement"] >= 1 - MAX_DROP else "over budget"}
    values = [work.score(results[: work.num_labelled]) for results in (source, engine)]
    return row | {
        "num_labelled": work.num_labelled,
        "source_value": values[0],
        "engine_value": values[1],
        "verdict": "pass" if values[0] - values[1] <= MAX_DROP else "over budget",
    }


def compare_tensors(engine: InferenceEngine, session: Any, samples: Any) -> dict[str, Any]:
    """The lowest cosine over the outputs, mean over the samples."""
    cosines = []
    for feeds in samples:
        found, wanted = engine.infer(feeds), session(feeds)
        cosines.append(min(cosine_agreement(found[name], wanted[name]) for name in wanted))
    agreement = float(np.mean(cosines))
    return {
        "num_samples": len(cosines),
        "agreement": agreement,
        "metric": None,
        "verdict": "pass" if agreement >= 1 - MAX_DROP else "over budget",
    }


if __name__ == "__main__":
    main()
