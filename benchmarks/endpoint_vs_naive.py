"""Our gateway against the stack most people deploy: same weights, same images, same machine.

    make bench                                                      # trains and builds on sample images
    .venv/bin/python benchmarks/endpoint_vs_naive.py --model DIR --engine FILE --images DIR

Peer: FastAPI on uvicorn (one process, a plain `def` endpoint), Pillow, torch eager in fp32, with the
better of 1 and 2 torch threads. Both servers stay up; rounds alternate between them, each round a fresh
`wrk` run of keep-alive connections that POST JPEG files in turn. Medians over rounds of requests/s, p50,
p99 and CPU seconds per request of the server's process tree; peak resident memory; agreement of verdicts.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
from fastapi import Body, FastAPI

ROOT = Path(__file__).parent.parent
RESULT = Path(__file__).parent / "results" / "endpoint_vs_naive.json"
KEY = "benchmark"
CONNECTIONS = (1, 4, 16)
METRICS = ("requests_per_s", "p50_ms", "p99_ms", "cpu_s_per_request")
VERSIONS = ("openvino", "onnxruntime", "torch", "fastapi", "uvicorn", "pillow", "simplejpeg", "numpy")

WRK_SCRIPT = """
local bodies, index = {}, 0
for path in io.lines(os.getenv("BENCH_LIST")) do
  local file = io.open(path, "rb")
  bodies[#bodies + 1] = file:read("*a")
  file:close()
end
local path = os.getenv("BENCH_PATH")
local headers = { ["X-API-Key"] = os.getenv("BENCH_KEY"), ["Content-Type"] = "image/jpeg" }
function request()
  index = index % #bodies + 1
  return wrk.format("POST", path, headers, bodies[index])
end
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    "RESULT %d %d %d %.3f %.3f\\n", summary.requests, summary.duration,
    errors.status + errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
"""


@dataclass
class Server:
    """A running server and what was measured of it, by number of connections."""

    name: str
    path: str
    port: int
    process: psutil.Process

    def cpu_s(self) -> float:
        """CPU seconds of the process tree so far."""
        times = [process.cpu_times() for process in self._tree()]
        return sum(time.user + time.system for time in times)

    def peak_memory_bytes(self) -> int:
        """Sum of the processes' largest resident sets (VmHWM)."""
        total = 0
        for process in self._tree():
            status = Path(f"/proc/{process.pid}/status").read_text()
            total += (
                int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024
            )
        return total

    def ask(self, body: bytes) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST", self.path, body, {"X-API-Key": KEY, "Content-Type": "image/jpeg"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        if response.status != 200:
            raise RuntimeError(f"{self.name} answered {response.status}: {answer}")
        return dict(answer)

    def load(self, listing: Path, script: Path, *, num_connections: int, duration_s: int) -> dict[str, float]:
        """One round of wrk."""
        cpu_s = self.cpu_s()
        output = subprocess.run(
            ["wrk", "-t1", f"-c{num_connections}", f"-d{duration_s}s", "--timeout", "30s",
             "-s", str(script), f"http://127.0.0.1:{self.port}"],
            env={**os.environ, "BENCH_LIST": str(listing), "BENCH_PATH": self.path, "BENCH_KEY": KEY},
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        cpu_s = self.cpu_s() - cpu_s
        line = next(line for line in output.splitlines() if line.startswith("RESULT "))
        num_requests, duration_us, num_errors, p50_ms, p99_ms = map(float, line.split()[1:])
        if num_errors or not num_requests:
            raise RuntimeError(f"{self.name}: {num_errors:.0f} errors in {num_requests:.0f} requests")
        return {
            "requests_per_s": num_requests / duration_us * 1e6,
            "p50_ms": p50_ms,
            "p99_ms": p99_ms,
            "cpu_s_per_request": cpu_s / num_requests,
        }

    def _tree(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]


@contextmanager
def running(name: str, path: str, command: list[str]) -> Iterator[Server]:
    """Start a server that prints its address when it listens."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if "http://" not in line:
            raise RuntimeError(f"{name} does not start: {' '.join(command)}")
        yield Server(name, path, int(line.rsplit(":", 1)[1]), psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(timeout=30)
        if process.stdout:
            process.stdout.close()


def serve_naive(model_dir: Path, num_threads: int, threshold: float) -> None:
    """The peer: what a model's first web service usually looks like."""
    import torch
    import uvicorn

    from xtorch.tasks.anomaly import load_model, naive_predict

    torch.set_num_threads(num_threads)
    model = load_model(model_dir)
    app = FastAPI()

    @app.post("/predict")
    def predict(image: Annotated[bytes, Body(media_type="image/jpeg")]) -> dict[str, Any]:
        score, _ = naive_predict(model, image)
        return {"verdict": "defective" if score >= threshold else "ok", "score": score}

    listener = socket.create_server(("127.0.0.1", 0))
    print(f"naive on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


def gateway_command(engine: Path, key_file: Path) -> list[str]:
    return [sys.executable, "-m", "xinfer.serve", str(engine), "--name", "bench", "--key-file", str(key_file),
            "--port", "0"]  # fmt: skip


def naive_command(model_dir: Path, num_threads: int, threshold: float) -> list[str]:
    return [sys.executable, str(Path(__file__).resolve()), "--naive-server", str(num_threads),
            "--threshold", str(threshold), "--model", str(model_dir)]  # fmt: skip


def prepare(folder: Path) -> tuple[Path, Path, Path]:
    """Train and build on sample images; what is there from an earlier call is kept.

    Returns:
        The folder of images, the model's folder, the engine's file.
    """
    from xinfer.builders import EngineBuilder
    from xinfer.preproc import decode_image
    from xinfer.tasks import parse_task
    from xinfer.verify import image_auroc
    from xtorch.tasks import anomaly

    images, model, engine = folder / "images", folder / "model", folder / "bench.engine"
    if not images.exists():
        subprocess.run([sys.executable, str(ROOT / "examples/make_samples.py"), str(images)], check=True)
    if not (model / "model.onnx").exists():
        print("training ...")
        anomaly.run(images, model, name="bench", cache_dir=folder / "cache")
    if not engine.exists():
        print("building ...")
        task = parse_task(model / "task.json")
        splits = json.loads((model / "splits.json").read_text())

        def samples(part: str) -> list[dict[str, np.ndarray]]:
            paths = [images / item["path"] for item in splits[part]]
            return [
                {task.input.name: decode_image(path.read_bytes(), min_side=task.input.min_side)[None]}
                for path in paths
            ]

        labels = np.array([item["label"] for item in splits["test"]])

        def evaluate(outputs: Any) -> float:
            scores = [float(output[task.outputs["score"]][0]) for output in outputs]
            return float(image_auroc(np.array(scores), labels))

        (
            EngineBuilder.from_onnx(model / "model.onnx")
            .named("default/bench")
            .with_task(task)
            .with_int8(samples("train"))
            .with_accuracy_budget(metric=task.metric, evaluate=evaluate, samples=samples("test"))
            .build_and_save(engine)
        )
    return images, model, engine


def choose_threads(
    model: Path, threshold: float, listing: Path, script: Path
) -> tuple[int, dict[str, float]]:
    """The peer's better number of torch threads, by requests/s at 4 connections."""
    tried = {}
    for num_threads in (1, os.cpu_count() or 2):
        with running("naive", "/predict", naive_command(model, num_threads, threshold)) as server:
            server.load(listing, script, num_connections=4, duration_s=3)
            rates = [
                server.load(listing, script, num_connections=4, duration_s=4)["requests_per_s"]
                for _ in range(2)
            ]
            tried[str(num_threads)] = statistics.median(rates)
    return int(max(tried, key=lambda key: tried[key])), tried


def compare(
    model: Path, engine: Path, images: Path, folder: Path, *, num_rounds: int, duration_s: int
) -> dict[str, Any]:
    from xinfer import EnginePackage

    task = json.loads((model / "task.json").read_text())
    threshold = task["threshold"]
    paths = sorted(path for path in images.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    chosen = paths[:: max(1, len(paths) // 96)]
    listing, script, key_file = folder / "bodies.txt", folder / "post.lua", folder / "keys"
    listing.write_text("".join(f"{path.resolve()}\n" for path in chosen))
    script.write_text(WRK_SCRIPT)
    key_file.write_text(KEY)
    load_average = os.getloadavg()
    num_threads, threads_tried = choose_threads(model, threshold, listing, script)
    gateway_path = "/v1/endpoints/bench/predict"
    rounds: list[dict[str, Any]] = []
    with (
        running("gateway", gateway_path, gateway_command(engine, key_file)) as gateway,
        running("naive", "/predict", naive_command(model, num_threads, threshold)) as naive,
    ):
        servers = (gateway, naive)
        answers = {server.name: [server.ask(path.read_bytes()) for path in chosen] for server in servers}
        for num_connections in CONNECTIONS:
            for server in servers:
                server.load(listing, script, num_connections=num_connections, duration_s=2)
            for number in range(num_rounds):
                for server in servers:
                    measured = server.load(
                        listing, script, num_connections=num_connections, duration_s=duration_s
                    )
                    rounds.append(
                        {"server": server.name, "connections": num_connections, "round": number, **measured}
                    )
        memory = {server.name: server.peak_memory_bytes() for server in servers}
    pairs = list(zip(answers["gateway"], answers["naive"], strict=True))
    package = EnginePackage.open(engine)
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": package.receipt.machine.cpu,
            "num_cores": os.cpu_count(),
            # Of others: near 0 on a machine that was left alone.
            "load_average_before": [round(value, 2) for value in load_average],
            "os": platform.platform(),
            "python": platform.python_version(),
            "versions": {name: version(name) for name in VERSIONS},
        },
        "engine": {
            "backend": package.manifest.backend,
            "precision": package.manifest.precision.executed,
            "size_bytes": engine.stat().st_size,
        },
        "images": {
            "num": len(chosen),
            "mean_size_bytes": round(statistics.mean(p.stat().st_size for p in chosen)),
        },
        "protocol": {
            "generator": "wrk -t1, keep-alive, on the same machine",
            "rounds": num_rounds,
            "round_s": duration_s,
            "peer": "FastAPI + uvicorn + Pillow + torch eager fp32",
            "peer_torch_threads": num_threads,
            "peer_threads_tried_requests_per_s": threads_tried,
        },
        "agreement": {
            "same_verdict": sum(a["verdict"] == b["verdict"] for a, b in pairs) / len(pairs),
            "max_abs_score_difference": max(abs(a["score"] - b["score"]) for a, b in pairs),
        },
        "peak_memory_bytes": memory,
        "summary": [summarise(rounds, num_connections) for num_connections in CONNECTIONS],
        "rounds": rounds,
    }


def summarise(rounds: list[dict[str, Any]], num_connections: int) -> dict[str, Any]:
    """Medians over rounds, and the ratios that are published."""

    def medians(name: str) -> dict[str, float]:
        chosen = [r for r in rounds if r["server"] == name and r["connections"] == num_connections]
        return {metric: statistics.median(r[metric] for r in chosen) for metric in METRICS}

    ours, peer = medians("gateway"), medians("naive")
    return {
        "connections": num_connections,
        "gateway": ours,
        "naive": peer,
        "speedup": ours["requests_per_s"] / peer["requests_per_s"],
        "cpu_ratio": ours["cpu_s_per_request"] / peer["cpu_s_per_request"],
    }


def show(result: dict[str, Any]) -> None:
    print(f"{result['machine']['cpu']}, {result['machine']['num_cores']} cores; {result['engine']}")
    print(f"{'conn.':>5} {'server':>8} {'req/s':>8} {'p50 ms':>8} {'p99 ms':>8} {'CPU ms/req':>11}")
    for row in result["summary"]:
        for name in ("gateway", "naive"):
            m = row[name]
            print(
                f"{row['connections']:>5} {name:>8} {m['requests_per_s']:>8.1f} {m['p50_ms']:>8.2f} "
                f"{m['p99_ms']:>8.2f} {m['cpu_s_per_request'] * 1e3:>11.2f}"
            )
        print(f"      requests/s x{row['speedup']:.1f}, CPU per request x{row['cpu_ratio']:.3f}")
    memory = {name: f"{value / 2**20:.0f} MiB" for name, value in result["peak_memory_bytes"].items()}
    print(f"agreement {result['agreement']}, peak memory {memory}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a trained model's folder (ARCHITECTURE 10.3)")
    parser.add_argument("--engine", type=Path, help="the engine built from it")
    parser.add_argument("--images", type=Path, help="JPEG files to send, in folders")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--round-s", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument(
        "--work", type=Path, help="keeps what is trained and built; default: a temporary folder"
    )
    parser.add_argument("--naive-server", type=int, metavar="THREADS", help=argparse.SUPPRESS)
    parser.add_argument("--threshold", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.naive_server:
        serve_naive(options.model, options.naive_server, options.threshold)
        return 0
    given = [options.model, options.engine, options.images]
    if any(given) and not all(given):
        parser.error("give --model, --engine and --images, or none of them")
    started_s = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        model, engine, images = given
        if not all(given):
            images, model, engine = prepare(folder)
        result = compare(
            model, engine, images, Path(temporary), num_rounds=options.rounds, duration_s=options.round_s
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    show(result)
    print(f"{time.perf_counter() - started_s:.0f} s; raw results in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
