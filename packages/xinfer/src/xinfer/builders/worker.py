"""One step for one candidate in a process of its own: ``python -m xinfer.builders.worker FOLDER``.

A crash of a quantiser or a compiler then costs one candidate, not the build, and memory is measured
without the builder's own. The folder holds ``job.json`` (written by `builders.steps`); ``result.json``
is written last. The process ends when its stdin closes, because the builder ended.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from xinfer.errors import XInferError


def main(folder: Path) -> None:
    """Does the job in `folder`."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    job = json.loads((folder / "job.json").read_bytes())
    step = {"prepare": _prepare, "probe": _probe}[job["action"]]
    try:
        result = step(job)
    except Exception as error:
        # Whatever a quantiser or runtime throws becomes this candidate's reason in the receipt.
        lines = (error.message if isinstance(error, XInferError) else str(error)).strip().splitlines()
        result = {"error": f"{type(error).__name__}: {lines[-1] if lines else 'no message'}"[:500]}
    (folder / "result.tmp").write_text(json.dumps(result))
    (folder / "result.tmp").rename(folder / "result.json")


def _prepare(job: dict[str, Any]) -> dict[str, Any]:
    """Makes one artifact; a quantised ONNX file is kept for the other runtime that reads it."""
    from xinfer.backends import onnxruntime as ort
    from xinfer.builders import openvino_ir, quantise

    source, out, quantised = Path(job["source"]), Path(job["artifact_dir"]), Path(job["quantised"])
    out.mkdir(parents=True)
    quantiser, seed = job["quantiser"], job["seed"]
    model = source if quantiser == "none" else quantised
    if not model.exists() or quantiser == "nncf-openvino":
        samples, float_nodes = read_samples(Path(job["samples"])), job["float_nodes"]
        fresh = quantised.with_suffix(".new")
        match quantiser:
            case "ort-qdq":
                quantise.onnxruntime_qdq(
                    source, fresh, samples, float_nodes, reduce_range=job["reduce_range"]
                )
            case "nncf-onnx":
                quantise.nncf_on_onnx(source, fresh, samples, float_nodes, seed=seed)
            case "nncf-openvino":
                quantise.nncf_on_openvino(source, out, samples, float_nodes, seed=seed)
                return {}
        fresh.rename(quantised)
    if job["format"] == "openvino-ir":
        openvino_ir.convert(model, out)
    else:
        shutil.copyfile(model, out / ort.MODEL_FILE)
    return {}


def _probe(job: dict[str, Any]) -> dict[str, Any]:
    """Loads one artifact and runs every sample."""
    from xinfer.backends import RuntimeSettings, get_backend

    backend = get_backend(job["backend"])
    start = time.perf_counter()
    model = backend.load(Path(job["artifact_dir"]), RuntimeSettings.from_json(job["settings"]))
    load_ms = (time.perf_counter() - start) * 1e3
    samples = read_samples(Path(job["samples"]))
    with ThreadPoolExecutor(job["settings"]["num_streams"]) as pool:
        arrays = {
            f"{index}.{name}": array
            for index, outputs in enumerate(pool.map(model.infer, samples))
            for name, array in outputs.items()
        }
    peak_memory_bytes = _peak_memory_bytes()
    np.savez(job["outputs"], **arrays)  # type: ignore[arg-type]
    return {
        "load_ms": load_ms,
        "peak_memory_bytes": peak_memory_bytes,
        "executed": model.executed_precision(),
    }


def write_samples(folder: Path, samples: list[dict[str, np.ndarray]]) -> None:
    """Writes feeds where `read_samples` finds them."""
    folder.mkdir(parents=True)
    for index, feeds in enumerate(samples):
        np.savez(folder / f"{index:06}.npz", **feeds)  # type: ignore[arg-type]


def read_samples(folder: Path) -> list[dict[str, np.ndarray]]:
    """Reads what `write_samples` wrote, in order."""
    samples = []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as file:
            samples.append({name: file[name] for name in file.files})
    return samples


def _peak_memory_bytes() -> int | None:
    """The most memory that this process has had resident, None where the system does not say."""
    # Not getrusage: its maximum includes the parent's memory at the fork.
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    peak = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM:")), None)
    return int(peak.split()[1]) * 1024 if peak else None


def _end_with_parent() -> None:
    # Not sys.stdin: its lock, held here, would make the interpreter abort at exit.
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
