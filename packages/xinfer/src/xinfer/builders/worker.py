"""One candidate in a process of its own.

A crash of a quantiser or a compiler then costs one candidate, not the build, and memory is measured
without the builder's own. Two ways to run:

- ``python -m xinfer.builders.worker FOLDER`` does one step: the folder holds ``job.json`` (written by
  `builders.steps`); ``result.json`` is written last.
- ``python -m xinfer.builders.worker --race`` loads what the first line on stdin says and then runs it as
  further lines tell it to (`builders.race`), answering each with a line on stdout.

The process ends when its stdin closes, because the builder ended.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xinfer.builders.samples import read_outputs, read_samples
from xinfer.errors import XInferError

if TYPE_CHECKING:
    from xinfer.backends import CompiledModel, RuntimeSettings

WARMUP = 3
"""Runs of each kind before the clock starts."""
MAX_RACE_SAMPLES = 8


def main(folder: Path) -> None:
    """Does the job in `folder`."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    job = json.loads((folder / "job.json").read_bytes())
    step = {"prepare": _prepare, "probe": _probe, "rank": _rank}[job["action"]]
    try:
        result = step(job)
    except Exception as error:
        result = {"error": _reason(error)}
    (folder / "result.tmp").write_text(json.dumps(result))
    (folder / "result.tmp").rename(folder / "result.json")


def _reason(error: Exception) -> str:
    """Whatever a quantiser or runtime throws becomes this candidate's reason in the receipt."""
    lines = (error.message if isinstance(error, XInferError) else str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1] if lines else 'no message'}"[:500]


def race() -> None:
    """Serves `builders.race.Runner`."""
    # Libraries print to stdout too: what they print goes to stderr, the answers to a copy of the real one.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    commands: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_read_commands, args=(commands,), daemon=True).start()
    candidate: _Candidate | None = None
    while True:
        command = commands.get()
        try:
            if candidate is None:
                candidate = _Candidate(command)
                answer = candidate.warm_up()
            elif "single" in command:
                answer = candidate.single(command["single"])
            else:
                answer = candidate.burst(command["burst"])
        except Exception as error:
            answer = {"error": _reason(error)}
        answers.write(json.dumps(answer) + "\n")


def _read_commands(commands: queue.Queue[dict[str, Any]]) -> None:
    # In a thread of its own: the end of the builder must be noticed in the middle of an inference too.
    rest = b""
    while chunk := os.read(0, 1 << 16):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            commands.put(json.loads(line))
    os._exit(1)


class _Candidate:
    """A loaded candidate: one model for single inferences, one for concurrent ones."""

    def __init__(self, job: dict[str, Any]) -> None:
        from xinfer.backends import RuntimeSettings

        samples = read_samples(Path(job["samples"]), limit=MAX_RACE_SAMPLES)
        outputs = None if job["outputs"] is None else read_outputs(Path(job["outputs"]))[: len(samples)]
        settings = {mode: RuntimeSettings.from_json(job[mode]) for mode in ("latency", "throughput")}
        self.batch = job["batch"]
        self.single_model = _load_checked(job, "latency", settings["latency"], samples, outputs)
        self.burst_model = (
            self.single_model
            if settings["throughput"] == settings["latency"]
            else _load_checked(job, "throughput", settings["throughput"], samples, outputs)
        )
        self.pool = ThreadPoolExecutor(settings["throughput"].num_streams, "xinfer-race")
        self.samples = samples
        self.batches = samples if self.batch == 1 else [_stacked(samples, self.batch)]

    def warm_up(self) -> dict[str, Any]:
        for sample in _cycle(self.samples, WARMUP):
            self.single_model.infer(sample)
        list(self.pool.map(self.burst_model.infer, _cycle(self.batches, WARMUP * 2)))
        return {"latency_s": self.single(3)["latencies_ms"][-1] / 1e3 * self.batch}

    def single(self, num: int) -> dict[str, Any]:
        latencies_ms = []
        for sample in _cycle(self.samples, num):
            start = time.perf_counter()
            self.single_model.infer(sample)
            latencies_ms.append((time.perf_counter() - start) * 1e3)
        return {"latencies_ms": latencies_ms}

    def burst(self, num: int) -> dict[str, Any]:
        work = _cycle(self.batches, num)
        start, cpu_start = time.perf_counter(), time.process_time()
        for _ in self.pool.map(self.burst_model.infer, work):
            pass
        elapsed_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu_start
        num_items = num * self.batch
        return {"rate_per_s": num_items / elapsed_s, "cpu_ms": cpu_s * 1e3 / num_items}


def _load_checked(
    job: dict[str, Any],
    mode: str,
    settings: RuntimeSettings,
    samples: list[dict[str, np.ndarray]],
    outputs: list[dict[str, np.ndarray]] | None,
) -> CompiledModel:
    """A model that answers as the candidate did when its accuracy was measured."""
    from xinfer.backends import get_backend
    from xinfer.engine import LOAD_ATTEMPTS
    from xinfer.errors import BackendError, VerificationError
    from xinfer.verify import compare_outputs

    for attempt in range(1, LOAD_ATTEMPTS + 1):
        model = get_backend(job["backend"]).load(Path(job["artifact_dir"]), settings)
        if outputs is None:
            return model
        try:
            with ThreadPoolExecutor(settings.num_streams) as pool:
                for found, gated in zip(pool.map(model.infer, samples), outputs, strict=True):
                    compare_outputs(found, gated)
            return model
        except (BackendError, VerificationError) as error:
            model.close()
            if attempt == LOAD_ATTEMPTS:
                raise BackendError(f"in {mode} mode: {error.message}") from error
    raise AssertionError("the last attempt returns or raises")


def _stacked(samples: list[dict[str, np.ndarray]], batch: int) -> dict[str, np.ndarray]:
    same = [sample for sample in samples if all(sample[k].shape == samples[0][k].shape for k in sample)]
    return {name: np.concatenate([item[name] for item in _cycle(same, batch)]) for name in samples[0]}


def _cycle(items: list[Any], num: int) -> list[Any]:
    return [items[index % len(items)] for index in range(num)]


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
        transformer, reduce_range = job["transformer"], job["reduce_range"]
        smoothed = source
        if quantiser.startswith("smooth-"):
            smoothed = quantised.with_suffix(".smooth")
            quantise.smooth(source, smoothed, samples)
        match quantiser:
            case "ort-qdq" | "ort-qdq-inputs" | "smooth-ort-qdq":
                quantise.onnxruntime_qdq(
                    smoothed, fresh, samples, float_nodes, reduce_range=reduce_range,
                    transformer=transformer, inputs_only=quantiser == "ort-qdq-inputs",
                )  # fmt: skip
            case "portable" | "smooth-portable":
                quantise.portable_qdq(smoothed, fresh, samples, float_nodes, transformer=transformer)
            case "smooth-dynamic":
                quantise.onnxruntime_dynamic(smoothed, fresh, float_nodes, reduce_range=reduce_range)
            case "nncf-onnx" | "nncf-onnx-symmetric":
                quantise.nncf_on_onnx(
                    source, fresh, samples, float_nodes, seed=seed,
                    transformer=transformer, symmetric=quantiser == "nncf-onnx-symmetric",
                )  # fmt: skip
            case "nncf-openvino":
                quantise.nncf_on_openvino(
                    source, out, samples, float_nodes, seed=seed, transformer=transformer
                )
                return {}
        fresh.rename(quantised)
    if job["format"] == "pt2":
        from xinfer.backends import inductor

        inductor.compile_exported(
            Path(job["program"]), out, precision=job["precision"], device=job["device"],
            input_names=job["inputs"], output_names=job["outputs"],
        )  # fmt: skip
    elif job["format"] == "tensorrt-engine":
        _build_tensorrt(model, out, job)
    elif job["format"] == "openvino-ir":
        openvino_ir.convert(model, out)
    else:
        shutil.copyfile(model, out / ort.MODEL_FILE)
    return {}


def _build_tensorrt(model: Path, out: Path, job: dict[str, Any]) -> None:
    """Strongly typed: the precision is the graph's."""
    from xinfer._extras import require
    from xinfer.backends import tensorrt_build, tensorrt_graph

    if job["precision"] in ("bf16", "fp16"):
        typed = out.with_suffix(".onnx")
        tensorrt_graph.convert_file(model, typed, job["precision"])
        model = typed
    tensorrt_graph.check_quantisation(require("onnx", "build").load(str(model)))
    profiles = {
        name: tensorrt_build.ShapeProfile(**{key: tuple(shape) for key, shape in sizes.items()})
        for name, sizes in job["profiles"].items()
    }
    tensorrt_build.build(model, out, profiles=profiles, timing_cache=Path(job["timing_cache"]))


def _rank(job: dict[str, Any]) -> dict[str, Any]:
    """Ranks the layers of a quantised model."""
    from xinfer.builders import sensitivity

    layers = sensitivity.rank_layers(
        Path(job["source"]),
        Path(job["quantised"]),
        read_samples(Path(job["samples"]), limit=MAX_RACE_SAMPLES),
        deadline=time.monotonic() + job["time_s"],
    )
    return {"layers": [asdict(layer) for layer in layers]}


def _probe(job: dict[str, Any]) -> dict[str, Any]:
    """Loads one artifact and runs every sample."""
    from xinfer.backends import RuntimeSettings, get_backend

    backend = get_backend(job["backend"])
    start = time.perf_counter()
    model = backend.load(Path(job["artifact_dir"]), RuntimeSettings.from_json(job["settings"]))
    load_ms = (time.perf_counter() - start) * 1e3
    arrays: dict[str, np.ndarray] = {}
    times_ms = []
    for index, feeds in enumerate(read_samples(Path(job["samples"]))):
        start = time.perf_counter()
        outputs = model.infer(feeds)
        times_ms.append((time.perf_counter() - start) * 1e3)
        arrays |= {f"{index}.{name}": array for name, array in outputs.items()}
    peak_memory_bytes = _peak_memory_bytes()
    np.savez(job["outputs"], **arrays)  # type: ignore[arg-type]
    return {
        "load_ms": load_ms,
        "infer_ms": float(np.median(times_ms)),
        "peak_memory_bytes": peak_memory_bytes,
        "executed": model.executed_precision(),
    }


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
    if sys.argv[1] == "--race":
        race()
    main(Path(sys.argv[1]))
