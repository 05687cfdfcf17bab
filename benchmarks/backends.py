"""Our built engine against every runtime's own best, on six families of models, on this machine.

    make bench-backends
    .venv/bin/python benchmarks/backends.py [--quick] [--models resnet50,minilm] [--rounds 7] [--seconds 3]

For each model two engines are built from its ONNX file, one for latency and one for throughput, saved, and
loaded again from their files. Each runtime then runs in a process of its own (`backend_peers.py`), which is
stopped (SIGSTOP) while another one is measured. Rounds go over all runtimes in turn; numbers are medians over
rounds, ratios medians of the ratios within a round. A peer counts where its answers are as good as the source
model's: within one point of the task's metric, or a mean cosine of at least 0.99 where there is no task.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import backend_models
import numpy as np
import peaks
import torch
from backend_models import Workload, centred_cosine, cosine
from backend_peers import ENGINE, PEERS, REFERENCE
from backend_report import MAX_DROP, MIN_COSINE, MODES, Row, fallback, summary, table

from xinfer import EngineBuilder, InferenceEngine
from xtorch import sources

RESULT = Path(__file__).parent / "results" / "backends.json"
VERSIONS = ("torch", "onnx", "onnxruntime", "openvino", "nncf", "numpy", "ignition-xinfer")
ANSWER_TIMEOUT_S = 1200.0


class WorkerError(Exception):
    """A peer could not do what it was asked."""


class Worker:
    """A peer's process; stopped unless it is asked something."""

    def __init__(self, peer: str, mode: str, folder: Path) -> None:
        self.peer = peer
        script = Path(__file__).parent / "backend_peers.py"
        self._log = (folder / f"{peer.replace(' ', '_')}_{mode}.log").open("w")
        self._process = subprocess.Popen(
            [sys.executable, str(script), peer, mode, str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
        )  # fmt: skip
        try:
            self.facts = self._answer()
        except BaseException:
            self.close()
            raise

    def ask(self, **request: Any) -> dict[str, Any]:
        """Sends a request and waits for its answer. Raises WorkerError."""
        assert self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerError(f"the process ended with {self._process.poll()}") from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], ANSWER_TIMEOUT_S)[0]:
            raise WorkerError(f"no answer within {ANSWER_TIMEOUT_S:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(f"the process ended with {self._process.wait(30)}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        self._process.send_signal(signal.SIGSTOP)
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()


# ------------------------------------------------------------------------------------------ prepare


def prepare(workload: Workload, folder: Path) -> None:
    """Writes what the workers read: the model as ONNX, the inputs, and facts."""
    loaded = sources.load(workload.reference)
    path = sources.export(workload.reference, folder)
    path.rename(folder / "model.onnx")
    for name, feeds in (("samples", workload.samples), ("calibration", workload.calibration)):
        stacks: dict[str, Any] = {key: np.stack([each[key] for each in feeds]) for key in loaded.input_names}
        np.savez(folder / f"{name}.npz", **stacks)
    facts = {
        "reference": workload.reference,
        "inputs": loaded.input_names,
        "transformer": workload.transformer,
    }
    (folder / "job.json").write_text(json.dumps(facts))


def build(workload: Workload, folder: Path, mode: str, *, seconds: float) -> dict[str, Any]:
    """Builds an engine for one objective; what its receipt says of the search."""
    evaluate = workload.evaluate
    started = time.monotonic()
    (
        EngineBuilder.from_onnx(folder / "model.onnx")
        .named(workload.name)
        .with_int8(workload.calibration, max_samples=len(workload.calibration))
        .with_accuracy_budget(
            metric=workload.metric,
            evaluate=None
            if evaluate is None
            else lambda outs: evaluate([next(iter(o.values())) for o in outs]),
            samples=workload.samples,
            max_drop=MAX_DROP,
        )
        .optimize_for("latency" if mode == "latency" else "throughput")
        .with_budget(seconds)
        .build_and_save(folder / f"{mode}.engine")
    )
    elapsed_s = time.monotonic() - started
    with InferenceEngine.load(folder / f"{mode}.engine", require_signature=False) as engine:
        receipt, selected = engine.receipt, engine.receipt.selected
        accuracy = receipt.accuracy
    candidates = [
        {
            "id": row.id,
            "backend": row.backend,
            "precision": row.precision_executed or row.precision_requested,
            "status": row.status,
            "reason": row.reason,
            "latency_ms": None if row.latency_ms is None else round(row.latency_ms.p50, 4),
            "throughput_per_s": row.throughput_per_s and round(row.throughput_per_s, 2),
            "accuracy": row.accuracy,
        }
        for row in receipt.candidates
    ]
    return {
        "selected": selected.id,
        "backend": selected.backend,
        "precision": selected.precision_executed,
        "build_s": round(elapsed_s, 1),
        "accuracy": None if accuracy is None else {
            "metric": accuracy.metric, "source": accuracy.source_value, "engine": accuracy.engine_value,
        },
        "fallback": fallback(candidates, selected.precision_executed or ""),
        "candidates": candidates,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------ measure


def measure(workload: Workload, folder: Path, mode: str, rows: dict[str, Row], options: Any) -> None:
    """Starts all peers of a mode, takes their answers, then runs the rounds."""
    workers: dict[str, Worker] = {}
    try:
        for name, row in rows.items():
            print(f"    {mode}: {name} ...", end="", flush=True)
            try:
                worker = Worker(name, mode, folder)
                workers[name] = worker
                row.notes[mode] = f"{worker.facts['note']}; ready in {worker.facts['load_s']} s"
                row.precision[mode] = worker.facts["precision"]
                judge(workload, folder, mode, row, worker)
                print(f" {worker.facts['precision']}, cosine {row.cosine[mode]:.4f}", flush=True)
            except Exception as error:
                row.errors[mode] = f"{type(error).__name__}: {error}"
                print(f" FAILED {error}", flush=True)
                if name in workers:
                    workers.pop(name).close()
        order = list(workers)
        for _ in range(options.rounds):
            random.shuffle(order)
            for name in list(order):
                try:
                    answer = workers[name].ask(do=mode, seconds=options.seconds)
                    rows[name].rounds.setdefault(mode, []).append(answer)
                except WorkerError as error:
                    rows[name].errors[mode] = str(error)
                    workers.pop(name).close()
                    order.remove(name)
    finally:
        for worker in workers.values():
            worker.close()


def judge(workload: Workload, folder: Path, mode: str, row: Row, worker: Worker) -> None:
    """Compares a peer's outputs with those of torch eager."""
    path = folder / f"outputs_{mode}.npy"
    worker.ask(do="outputs", path=str(path))
    found = np.load(path)
    reference = folder / "reference.npy"
    if row.name == REFERENCE and not reference.exists():
        shutil.copyfile(path, reference)
    expected = np.load(reference)
    row.cosine[mode] = cosine(list(found), list(expected))
    row.centred_cosine[mode] = centred_cosine(list(found), list(expected))
    if workload.evaluate is not None:
        row.metric[mode] = workload.evaluate(list(found))


# ---------------------------------------------------------------------------------------------- run


def run_model(name: str, folder: Path, options: Any, peak: Any) -> dict[str, Any]:
    """Everything for one model."""
    folder.mkdir(parents=True)
    torch.set_num_threads(1)
    print("    preparing ...", flush=True)
    workload = backend_models.WORKLOADS[name](folder, options.samples)
    prepare(workload, folder)
    engines: dict[str, Any] = {}
    rows = {
        peer: Row(peer)
        for peer in PEERS
        if (workload.transformer or peer != "onnxruntime int8 dynamic")
        and (peer in (REFERENCE, ENGINE) or any(part in peer for part in options.peers.split(",")))
    }
    for mode in MODES:
        print(f"    building for {mode} ...", end="", flush=True)
        try:
            engines[mode] = build(workload, folder, mode, seconds=options.build_seconds)
            print(f" {engines[mode]['selected']} in {engines[mode]['build_s']} s", flush=True)
        except Exception as error:
            traceback.print_exc()
            engines[mode] = {"error": f"{type(error).__name__}: {error}"}
    for mode in MODES:
        measure(workload, folder, mode, rows, options)
    return summary(workload, folder, rows, engines, peak)


def versions() -> dict[str, str]:
    found = {}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default=",".join(backend_models.WORKLOADS))
    parser.add_argument("--peers", default="", help="parts of names; the reference and our engine always run")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each peer in each round")
    parser.add_argument("--build-seconds", type=float, default=180.0, help="budget of each build")
    parser.add_argument("--samples", type=int, default=96, help="calibration and held-out inputs")
    parser.add_argument("--quick", action="store_true", help="a try-out: few samples, short rounds")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.build_seconds, options.samples = 2, 0.5, 25.0, 12
    random.seed(0)
    peak = peaks.document(seconds=0.3 if options.quick else 1.5)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_name(f"{options.out.stem}_peaks.json" if options.quick else "peaks.json").write_text(
        json.dumps(peak, indent=1) + "\n"
    )
    run = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpu": peaks.cpu_name(), "num_cores": os.cpu_count(), "os": platform.platform()},
        "versions": versions(),
        "protocol": {
            "rounds": options.rounds, "seconds": options.seconds, "build_seconds": options.build_seconds,
            "min_cosine": MIN_COSINE, "max_drop": MAX_DROP, "quick": options.quick,
        },
        "peaks": peak["peaks"],
    }  # fmt: skip
    # Models of other runs stay: each says itself when and how it was measured.
    result: dict[str, Any] = json.loads(options.out.read_text()) if options.out.is_file() else {"models": {}}
    for name in options.models.split(","):
        print(f"{name}", flush=True)
        with tempfile.TemporaryDirectory(prefix="backends-") as temporary:
            try:
                found = run_model(name, Path(temporary) / name, options, peak["peaks"])
                print(table(name, found), flush=True)
            except Exception as error:
                traceback.print_exc()
                found = {"error": f"{type(error).__name__}: {error}"}
        result["models"][name] = run | found
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    held = [
        f"{name} {mode}: {ratios['to_best_peer']}"
        for name, model in result["models"].items()
        for mode, ratios in model.get("ratios", {}).items()
        if not ratios["holds"]
    ]
    print("\nbelow the target:", "; ".join(held) or "none", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
