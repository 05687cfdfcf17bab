"""Peak of this machine per precision: large matrix products and convolutions in the libraries at hand.

    .venv/bin/python benchmarks/peaks.py [--seconds 1.5] [--out benchmarks/results/peaks.json]

Every kernel runs on all cores, in rounds over all of them; a kernel's rate is that of its fastest call, a
precision's peak that of its fastest kernel. `backends.py` gives each engine's share of it.

Sizes: M rows, N columns, K inner length of a product; one multiplication with addition counts as two.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as ops

RESULT = Path(__file__).parent / "results" / "peaks.json"
PRECISIONS = ("fp32", "bf16", "int8")
GEMM_SIZES = ((1024, 1024, 1024), (2048, 2048, 2048), (512, 4096, 2048))
"""(M, N, K)"""
CONVOLUTIONS = ((256, 28), (512, 14))
"""(channels in and out, rows and columns) of a 3x3 convolution."""
ROUNDS = 3

Call = Callable[[], Any]


def cpu_name() -> str:
    """Of this machine, as its operating system says."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _fake_quantize(node: Any, low: float, high: float, levels: int) -> Any:
    bounds = [np.float32(low), np.float32(high)]
    return ops.fake_quantize(node, *bounds, *bounds, levels)


def _openvino(precision: str, x_shape: tuple[int, ...], weights: np.ndarray, *, convolution: bool) -> Call:
    x = ops.parameter(list(x_shape), np.float32)
    source: Any = x
    constant: Any = ops.constant(weights)
    if precision == "int8":
        # A ReLU keeps the activations unsigned, as between a network's layers.
        source = _fake_quantize(ops.relu(source), 0.0, 2.55, 256)
        constant = _fake_quantize(constant, -1.27, 1.27, 255)
    if convolution:
        node = ops.convolution(source, constant, [1, 1], [1, 1], [1, 1], [1, 1])
    else:
        node = ops.matmul(source, constant, False, False)
    if precision == "int8":
        node = _fake_quantize(ops.relu(node), 0.0, 255.0, 256)  # int8 out: stores do not decide
    # Little leaves the graph: what is measured is the product.
    total = ops.reduce_max(node, ops.constant(np.arange(len(x_shape), dtype=np.int64)), keep_dims=False)
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": os.cpu_count() or 1,
    }
    compiled = ov.Core().compile_model(ov.Model([total], [x], "peak"), "CPU", settings)
    request = compiled.create_infer_request()
    feeds = [np.random.default_rng(0).uniform(0, 1, x_shape).astype(np.float32)]
    return lambda: request.infer(feeds, share_inputs=True, share_outputs=True)


def _torch(precision: str, m: int, n: int, k: int) -> Call:
    if precision == "int8":
        left = torch.randint(-127, 127, (m, k), dtype=torch.int8)
        right = torch.randint(-127, 127, (k, n), dtype=torch.int8)
        return lambda: torch._int_mm(left, right)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    a, b = torch.randn(m, k, dtype=dtype), torch.randn(k, n, dtype=dtype)
    out = torch.empty(m, n, dtype=dtype)
    return lambda: torch.mm(a, b, out=out)


def kernels(precision: str) -> dict[str, tuple[Call, float]]:
    """Name -> (call, floating-point or integer operations of one call)."""
    found: dict[str, tuple[Call, float]] = {}
    rng = np.random.default_rng(0)
    for m, n, k in GEMM_SIZES:
        label = f"{m}x{n}x{k}"
        weights = rng.uniform(-1, 1, (k, n)).astype(np.float32)
        found[f"openvino matmul {label}"] = (
            _openvino(precision, (m, k), weights, convolution=False),
            2.0 * m * n * k,
        )
        found[f"torch matmul {label}"] = (_torch(precision, m, n, k), 2.0 * m * n * k)
    for channels, side in CONVOLUTIONS:
        weights = rng.uniform(-1, 1, (channels, channels, 3, 3)).astype(np.float32)
        found[f"openvino convolution 3x3 {channels}x{side}x{side}"] = (
            _openvino(precision, (1, channels, side, side), weights, convolution=True),
            2.0 * 9 * channels * channels * side * side,
        )
    return found


def measure(*, seconds: float) -> dict[str, Any]:
    """Peaks of all precisions.

    Args:
        seconds: how long each kernel runs in all.

    Returns:
        Precision -> ``gflops`` (billions of operations per second), ``kernel`` and the rate of every kernel.
    """
    torch.set_num_threads(os.cpu_count() or 1)
    result: dict[str, Any] = {}
    for precision in PRECISIONS:
        rates: dict[str, float] = {}
        calls = kernels(precision)
        for _ in range(ROUNDS):
            for name, (call, operations) in calls.items():
                call()
                end = time.perf_counter() + seconds / ROUNDS
                best_s = float("inf")
                while (start := time.perf_counter()) < end:
                    call()
                    best_s = min(best_s, time.perf_counter() - start)
                rates[name] = max(rates.get(name, 0.0), operations / best_s / 1e9)
        best = max(rates, key=lambda name: rates[name])
        result[precision] = {
            "gflops": round(rates[best], 1),
            "kernel": best,
            "kernels": {name: round(rate, 1) for name, rate in rates.items()},
        }
    return result


def document(*, seconds: float) -> dict[str, Any]:
    """`measure` with the machine and the versions, as it is kept in results."""
    return {
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpu": cpu_name(), "num_cores": os.cpu_count(), "os": platform.platform()},
        "versions": {name: version(name) for name in ("openvino", "torch", "numpy")},
        "seconds_per_kernel": seconds,
        "peaks": measure(seconds=seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.5, help="how long each kernel runs")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    found = document(seconds=options.seconds)
    for precision, peak in found["peaks"].items():
        print(f"{precision:5s} {peak['gflops']:8.0f} G operations/s  {peak['kernel']}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
