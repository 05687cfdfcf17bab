"""Image AUROC of the anomaly recipe on the magnetic-tile data, with default settings.

Protocol: DifferNet's published list of 761 good training images; all other images are the test part (191
good, 392 defective). The recipe sees no defective image before the test: memory, threshold and score come
from good training images alone. Settings are the recipe's defaults for every dataset; how they were chosen
stands in the package's README.

    python benchmarks/anomaly_magnetic_tile.py [--data FOLDER] [--seeds 0 1 2]

Scores are measured four ways on all test images: the training's own (features cached in half precision),
the torch model, and the exported ONNX file in ONNX Runtime (float32) and OpenVINO (bfloat16, where
installed). Writes ``results/anomaly_magnetic_tile.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xinfer.preproc import decode_image
from xtorch.export import OnnxModel
from xtorch.metrics import auroc
from xtorch.tasks.anomaly import load_model, run

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "examples"))
from layout_magnetic_tile import layout  # noqa: E402  (the example lays out the data)

DATA = Path(os.environ.get("IGNITION_TEST_DATA", HERE.parent.parent / "shared" / "data")) / "magnetic_tile"


def machine() -> dict[str, Any]:
    """The hardware line."""
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    packages = ("torch", "onnxruntime", "openvino", "numpy")
    return {
        "cpu": cpu,
        "num_cores": os.cpu_count(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
    }


def _scores(images: list[np.ndarray], predict: Any) -> np.ndarray:
    return np.array([float(predict(image[None])) for image in images])


def measure(data: Path, *, seed: int, cache: Path) -> dict[str, Any]:
    """Train once and score the test part in every way."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder)
        start = time.monotonic()
        result = run(data, output, name="magnetic-tile", seed=seed, cache_dir=cache)
        duration_s = time.monotonic() - start
        report = json.loads((output / "report.json").read_text())
        held_out = report["held_out"]
        labels = np.array([item["label"] for item in held_out])
        images = [decode_image((data / item["path"]).read_bytes(), min_side=256) for item in held_out]
        model = load_model(output)
        onnx = OnnxModel(output / "model.onnx")
        compiled = openvino.Core().compile_model(
            str(output / "model.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "bf16"}
        )
        with torch.inference_mode():
            torch_scores = _scores(images, lambda image: model(torch.from_numpy(image))[0][0])
        return {
            "seed": seed,
            "candidate": result["candidate"],
            "duration_s": round(duration_s, 1),
            "timings_s": report["timings_s"],
            "image_auroc": {
                "training": report["metrics"]["image_auroc"],
                "torch": auroc(labels, torch_scores),
                "onnxruntime_f32": auroc(labels, _scores(images, lambda image: onnx(image)[0][0])),
                "openvino_bf16": auroc(labels, _scores(images, lambda image: compiled(image)[0][0])),
            },
            "leaderboard_test": {
                entry["name"]: entry["test"]["image_auroc"] for entry in report["leaderboard"]
            },
            "confusion": report["confusion"]["matrix"],
            "operating_point": report["operating_point"],
        }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        print(
            "anomaly_magnetic_tile: the data is missing; give --data or IGNITION_TEST_DATA", file=sys.stderr
        )
        return 2
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        layout(arguments.data, data)
        # One cache: the first seed pays for the features, the others show what a repeated run costs.
        runs = [measure(data, seed=seed, cache=Path(folder) / "cache") for seed in arguments.seeds]
    for entry in runs:
        print(json.dumps(entry["image_auroc"]), f"{entry['duration_s']} s")
    out = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "protocol": "DifferNet's training list (761 ok), test 191 ok and 392 defective, default settings",
        "runs": runs,
    }
    (HERE / "results" / "anomaly_magnetic_tile.json").write_text(json.dumps(out, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
