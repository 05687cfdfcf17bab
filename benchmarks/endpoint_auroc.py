"""Image AUROC of a deployed engine, measured through its endpoint on the run's held-out images.

    make demo DATA=FOLDER NAME=tiles DETACH=1
    .venv/bin/python benchmarks/endpoint_auroc.py tiles FOLDER --out benchmarks/results/NAME.json

Every held-out image of the run's report is sent as its file's bytes to the endpoint; the scores that come
back give the AUROC of what is really served: decoding, engine and all. Beside it stands the AUROC of the
torch model on the same images, from the report. The endpoint's key is replaced by a new one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from sklearn.metrics import roc_auc_score

from ignition_client import Ignition


def measure(hub: Ignition, name: str, folder: Path) -> dict[str, Any]:
    """Send all held-out images of endpoint `name` and compare with the training report.

    Returns:
        ``engine_auroc``, ``torch_auroc`` (fractions), ``num_images``, ``verdict_accuracy`` and the scores.
    """
    endpoint = hub.endpoints.show(name)
    report = hub.runs.report(endpoint.run_id)
    key = hub.endpoints.create_key(name).key
    held_out = report["held_out"]
    with httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:

        def score(item: dict[str, Any]) -> dict[str, Any]:
            answer = client.post(endpoint.url, content=(folder / item["path"]).read_bytes())
            answer.raise_for_status()
            return dict(answer.json())

        started = time.perf_counter()
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(score, held_out))
        duration_s = time.perf_counter() - started
    labels = [item["label"] for item in held_out]
    verdicts = [answer["verdict"] == "defective" for answer in answers]
    engine = hub.engines.show(endpoint.engine_id)
    return {
        "endpoint": name,
        "num_images": len(held_out),
        "num_defective": sum(labels),
        "engine_auroc": float(roc_auc_score(labels, [answer["score"] for answer in answers])),
        "torch_auroc": float(roc_auc_score(labels, [item["score"] for item in held_out])),
        "verdict_accuracy": sum(v == bool(y) for v, y in zip(verdicts, labels, strict=True)) / len(labels),
        "engine": {"backend": engine.backend, "precision": engine.precision, "target": engine.target},
        "candidate": next(row["name"] for row in report["leaderboard"] if row["kept"]),
        "protocol": report["protocol"],
        "duration_s": round(duration_s, 2),
        "machine": {
            "cpu": engine.receipt["machine"]["cpu"],
            "num_cores": os.cpu_count(),
            "os": platform.platform(),
        },
        "scores": [
            {"path": item["path"], "label": item["label"], "torch": item["score"], "engine": answer["score"]}
            for item, answer in zip(held_out, answers, strict=True)
        ],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("endpoint")
    parser.add_argument("folder", type=Path, help="the dataset's folder, as it was uploaded")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    result = measure(Ignition(), arguments.endpoint, arguments.folder)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(
        f"{result['num_images']} held-out images: engine {result['engine_auroc']:.4f}, "
        f"torch {result['torch_auroc']:.4f} ({result['engine']['backend']} {result['engine']['precision']})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
