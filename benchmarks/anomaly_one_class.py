"""Magnetic tile, one class: image AUROC of the served engine when no defective image decided anything.

Protocol: DifferNet's published list of 761 good training images; all other images are the test part (191
good, 392 defective of five kinds). For each seed:

1. The recipe, with default settings, sees the 761 images: 80 % make the model, 20 % (good images with drawn
   damage, `xtorch.tasks.anomaly.synthetic`) choose the candidate and how patches are pooled; their scores
   give the threshold, for at most 5 % false alarms.
2. `EngineBuilder` calibrates on training images and gates candidates by the held-back good images and their
   damaged copies. The published test part is not among its inputs.
3. The engine's file is loaded again and scores the published test part, once. So does the torch model.

    python benchmarks/anomaly_one_class.py [--data FOLDER] [--seeds 0 1 2] [--build-s 120] [--cache FOLDER]

Writes ``results/anomaly_one_class.json``; runs of other seeds that are there already stay, each with its own
machine and time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xinfer import EngineBuilder, HardwareTarget, InferenceEngine, parse_task
from xinfer.preproc import decode_image
from xinfer.tasks.anomaly import AnomalyDetection
from xtorch.metrics import auroc, auroc_interval, confusion
from xtorch.tasks.anomaly import build_inputs, load_model, run

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "examples"))
from layout_magnetic_tile import layout  # noqa: E402  (the example lays out the data)

DATA = Path(os.environ.get("IGNITION_TEST_DATA", HERE.parent.parent / "shared" / "data")) / "magnetic_tile"
RESULT = HERE / "results" / "anomaly_one_class.json"


def machine() -> dict[str, Any]:
    """The hardware line, with how busy the machine is."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": cpu or platform.processor(),
        "num_cores": os.cpu_count(),
        "load_average": os.getloadavg(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("torch", "onnxruntime", "openvino", "nncf", "numpy")},
    }


def without_test_part(model_dir: Path, folder: Path) -> Path:
    """A copy of a training output whose test part is the held-back good images."""
    shutil.copytree(model_dir, folder)
    splits = json.loads((folder / "splits.json").read_text())
    splits["test"] = splits["validation"]
    assert {item["label"] for item in splits["test"]} == {0}
    assert not any(item["path"].startswith("test/") for part in splits.values() for item in part)
    (folder / "splits.json").write_text(json.dumps(splits))
    return folder


def build(model_dir: Path, data: Path, path: Path, *, budget_s: float) -> None:
    """The engine, as the job `build` makes it, except that the test part is not shown."""
    given = build_inputs(model_dir, data)
    (
        EngineBuilder.from_onnx(model_dir / "model.onnx")
        .for_target(HardwareTarget.detect())
        .named("magnetic-tile", 1)
        .with_task(parse_task(model_dir / "task.json"), json.loads((model_dir / "labels.json").read_text()))
        .with_int8(given.calibration)
        .with_accuracy_budget(metric=given.metric, evaluate=given.evaluate, samples=given.test)
        .with_operating_point(given.validation)
        .with_budget(budget_s)
        .build_and_save(path)
    )


def measure(data: Path, *, seed: int, cache: Path, budget_s: float) -> dict[str, Any]:
    """Train, build, load the engine again, and score the test part."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        start = time.monotonic()
        run(data, folder / "model", name="magnetic-tile", seed=seed, cache_dir=cache, budget_s=3600)
        train_s = time.monotonic() - start
        report = json.loads((folder / "model/report.json").read_text())
        start = time.monotonic()
        blind = without_test_part(folder / "model", folder / "blind")
        build(blind, data, folder / "tile.engine", budget_s=budget_s)
        build_s = time.monotonic() - start
        items = report["held_out"]
        labels = np.array([item["label"] for item in items])
        model = load_model(folder / "model")
        engine_scores, torch_scores = [], []
        with InferenceEngine.load(folder / "tile.engine", require_signature=False) as engine:
            manifest, receipt = engine.manifest, engine.receipt
            assert isinstance(manifest.task, AnomalyDetection)
            threshold = manifest.task.threshold
            for item in items:
                image_1HW3 = decode_image((data / item["path"]).read_bytes(), min_side=256)[None]
                engine_scores.append(float(engine.infer({"image": image_1HW3})["score"][0]))
                with torch.inference_mode():
                    torch_scores.append(float(model(torch.from_numpy(image_1HW3))[0]))
        scores = np.array(engine_scores)
        tn, fp, fn, tp = confusion(labels, scores, threshold)
        kept = next(row for row in report["leaderboard"] if row["kept"])
        assert receipt.accuracy is not None
        return {
            "seed": seed,
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "counts": report["counts"],
            "candidate": kept["name"],
            "settings": kept["settings"],
            "chosen_by": kept["validation"],
            "leaderboard_test": {row["name"]: row["test"] for row in report["leaderboard"]},
            "engine": {"backend": manifest.backend, "precision": manifest.precision.executed},
            "engine_gate": {
                "metric": receipt.accuracy.metric,
                "source": receipt.accuracy.source_value,
                "engine": receipt.accuracy.engine_value,
            },
            "engine_auroc": auroc_interval(labels, scores, seed=0).to_dict(),
            "torch_auroc": auroc(labels, np.array(torch_scores)),
            "promised": report["operating_point"]["promised"],
            "engine_false_alarm_rate": fp / (fp + tn),
            "engine_miss_rate": fn / (fn + tp),
            "train_s": round(train_s, 1),
            "build_s": round(build_s, 1),
            "scores": [
                {"path": item["path"], "engine": e, "torch": t}
                for item, e, t in zip(items, engine_scores, torch_scores, strict=True)
            ],
        }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--build-s", type=float, default=120.0)
    parser.add_argument("--cache", type=Path, help="keeps features between runs of this script")
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        print("anomaly_one_class: the data is missing; give --data or IGNITION_TEST_DATA", file=sys.stderr)
        return 2
    known = json.loads(RESULT.read_text())["runs"] if RESULT.exists() else []
    runs: list[dict[str, Any]] = [each for each in known if each["seed"] not in arguments.seeds]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        layout(arguments.data, data)
        for seed in arguments.seeds:
            cache = arguments.cache or Path(folder) / "cache"
            new = measure(data, seed=seed, cache=cache, budget_s=arguments.build_s)
            runs = sorted([*runs, new], key=lambda each: each["seed"])
            values = [each["engine_auroc"]["value"] for each in runs]
            out = {
                "protocol": "one class: 761 listed good images decide all, test 191 good and 392 defective",
                "engine_auroc_mean": float(np.mean(values)),
                "engine_auroc_std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
                "torch_auroc_mean": float(np.mean([each["torch_auroc"] for each in runs])),
                "runs": runs,
            }
            RESULT.write_text(json.dumps(out, indent=1) + "\n")
            shown = {name: value for name, value in new.items() if name != "scores"}
            print(json.dumps(shown), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
