"""mAP of the detection recipe and of the engine that is built from it, on BCCD (blood cells, three classes).

Protocol: the dataset's own lists in ``ImageSets/Main``: trained on ``train`` (205 images), everything decided
on ``val`` (87), scored once on ``test`` (72). The recipe starts from COCO weights of YOLOX-nano with its
default settings, save for ``--epochs``; the engine is built as the `build` job builds it. COCO mAP by
faster-coco-eval, down to scores of 0.01, 100 detections for each image and class. The published figures that
this is held against (YOLOv8n, mAP50 90.4 to 92.4) are of other divisions of these images, mostly Roboflow's
765 augmented training images: near, not the same.

    XINFER_WEIGHTS=FOLDER python benchmarks/bccd.py [--data FOLDER] [--seeds 0 1 2] [--budget S] [--epochs N]

An interrupted run goes on where it was when it is started again with the same ``--cache``. Writes
``results/bccd.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from interleaved import machine

from xinfer import EngineBuilder, InferenceEngine, parse_task
from xinfer.tasks import ObjectDetection
from xtorch.detection_metrics import coco_metrics
from xtorch.tasks.detection import build_inputs, run
from xtorch.tasks.detection.judge import HeldOutImages
from xtorch.tasks.recipe import read_json

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("IGNITION_TEST_DATA", HERE.parent.parent / "shared" / "data")) / "bccd" / "BCCD"
PACKAGES = ("torch", "onnxruntime", "openvino", "nncf", "numpy", "faster-coco-eval")


def cpu_s() -> float:
    """Processor seconds of this process and its children: what other work on the machine does not stretch."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def build(model: Path, data: Path, path: Path, *, budget_s: float) -> dict[str, Any]:
    """Builds the engine as a `build` job does, and scores the re-loaded file on the test part."""
    given = build_inputs(model, data)
    task = parse_task(model / "task.json")
    assert isinstance(task, ObjectDetection)
    start_s, start_cpu_s = time.monotonic(), cpu_s()
    package = (
        EngineBuilder.from_onnx(model / "model.onnx")
        .named("bccd", 1)
        .with_task(task)
        .with_int8(given.calibration)
        .with_float_nodes(*given.float_nodes)
        .with_accuracy_budget(metric=given.metric, evaluate=given.evaluate, samples=given.test, max_drop=0.01)
        .with_budget(budget_s)
        .build_and_save(path)
    )
    duration_s, build_cpu_s = time.monotonic() - start_s, cpu_s() - start_cpu_s
    test = HeldOutImages(data, task, read_json(model / "splits.json")["test"])
    with InferenceEngine.load(path, require_signature=False) as engine:
        found = test.found([engine.infer(feeds) for feeds in test.feeds])
    scored = coco_metrics(found, test.truth, len(task.labels))
    best = package.receipt.selected
    return {
        "backend": package.manifest.backend,
        "precision": package.manifest.precision.executed,
        "duration_s": round(duration_s, 1),
        "cpu_s": round(build_cpu_s, 1),
        "test": scored.overall,
        "by_class": {task.labels[index]: values for index, values in scored.by_class.items()},
        "latency_ms_p50": best.latency_ms.p50 if best.latency_ms else None,
        "throughput_per_s": best.throughput_per_s,
        "candidates": [
            {"id": row.id, "status": row.status, "map50": row.accuracy, "reason": row.reason}
            for row in package.receipt.candidates
        ],
    }


def measure(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Trains once, builds once."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "model"
        start_s, start_cpu_s = time.monotonic(), cpu_s()
        settings = {} if options.epochs is None else {"epochs": options.epochs}
        run(
            options.data,
            output,
            name="bccd",
            budget_s=options.budget,
            seed=seed,
            settings=settings,
            cache_dir=options.cache,
        )
        duration_s, train_cpu_s = time.monotonic() - start_s, cpu_s() - start_cpu_s
        report = json.loads((output / "report.json").read_text())
        return {
            "seed": seed,
            "duration_s": round(duration_s, 1),
            "cpu_s": round(train_cpu_s, 1),
            "timings_s": report["timings_s"],
            "metrics": report["metrics"],
            "leaderboard": [
                {name: row[name] for name in ("name", "validation", "test", "settings", "note")}
                for row in report["leaderboard"]
            ],
            "by_class": report["tables"][0]["rows"],
            "parity": report["parity"],
            "engine": build(
                output, options.data, Path(folder) / "bccd.engine", budget_s=options.build_budget
            ),
        }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--budget", type=float, default=420.0, help="of the training, in seconds")
    parser.add_argument("--epochs", type=int, help="instead of as many as the budget holds")
    parser.add_argument("--build-budget", type=float, default=120.0)
    parser.add_argument("--cache", type=Path, help="keeps checkpoints; default: nothing is kept")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "bccd.json")
    options = parser.parse_args()
    if not options.data.is_dir():
        print("bccd: the data is missing; give --data or IGNITION_TEST_DATA", file=sys.stderr)
        return 2
    hardware = machine(*PACKAGES)
    runs = []
    for seed in options.seeds:
        runs.append(measure(options, seed))
        engine = runs[-1]["engine"]
        print(f"seed {seed}: engine ({engine['precision']}) mAP50 {engine['test']['map50']:.4f}", flush=True)
        document = {
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": hardware,
            "protocol": "BCCD's own lists: train (205), decisions on val (87), scored once on test (72)",
            "budget_s": options.budget if options.epochs is None else None,
            "epochs": options.epochs,
            "runs": runs,
        }
        # After each seed: a run that is stopped leaves what it measured.
        options.out.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
