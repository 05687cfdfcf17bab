"""Engines on an NVIDIA GPU against torch eager and torch.compile there; `make gpu` runs it.

    .venv/bin/python benchmarks/gpu.py [--models resnet50,minilm,...] [--out benchmarks/results/gpu.json]

Where there is no GPU it says so and does nothing. The engine is searched for among TensorRT, ONNX Runtime and
AOTInductor x fp32, bf16, fp16 and INT8 (cosine to the source model of at least 0.99), loaded from its file,
and measured in turns with its peers, inputs and outputs in the host's memory for all of them.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from interleaved import measure

from xinfer import EngineBuilder, HardwareTarget, InferenceEngine
from xinfer.errors import XInferError

RESULT = Path(__file__).parent / "results" / "gpu.json"
MODELS = ("resnet50", "efficientnet_lite0", "yolox_nano", "minilm", "unet", "nhits")
NUM_SAMPLES = 24


def torch_peer(model: Any, example: tuple[Any, ...]) -> Callable[[], Any]:
    """One inference from host memory to host memory."""
    import torch

    inputs = [tensor.pin_memory() for tensor in example]

    def run() -> Any:
        with torch.inference_mode():
            answer = model(*(tensor.cuda(non_blocking=True) for tensor in inputs))
            first = answer[0] if isinstance(answer, (tuple, list)) else answer
            return first.cpu()

    return run


def run_model(name: str, target: str, folder: Path, seconds: float) -> dict[str, Any]:
    """Builds and measures one model."""
    import torch

    from xtorch import sources

    source = sources.load(name)
    rng = np.random.default_rng(0)

    def feeds() -> dict[str, np.ndarray]:
        arrays = {}
        for key, tensor in zip(source.input_names, source.example, strict=True):
            shape = tuple(tensor.shape)
            if tensor.dtype.is_floating_point:
                arrays[key] = rng.normal(0, 1, shape).astype(np.float32)
            elif "mask" in key:
                arrays[key] = np.ones(shape, np.int64)
            else:
                arrays[key] = rng.integers(1000, 20_000, shape)
        return arrays

    samples = [feeds() for _ in range(NUM_SAMPLES)]
    path = folder / f"{name}.engine"
    package = (
        EngineBuilder.from_torch(
            source.model, source.example, input_names=source.input_names, output_names=source.output_names
        )
        .for_target(target)
        .with_precision("fp32", "bf16", "fp16")
        .with_int8(samples[: NUM_SAMPLES // 2])
        .with_accuracy_budget(metric="cosine", samples=samples[NUM_SAMPLES // 2 :])
        .optimize_for("latency")
        .with_budget(300)
        .on_progress(lambda stage, share, text: print(f"{share:4.0%} {stage} {text}", file=sys.stderr))
        .build_and_save(path)
    )
    model = source.model.cuda().eval()
    with InferenceEngine.load(package, require_signature=False) as engine:
        times = measure(
            {
                "engine": lambda: engine.infer(samples[0]),
                "torch eager fp32": torch_peer(model, source.example),
                "torch.compile fp32": torch_peer(torch.compile(model), source.example),
                "torch.compile bf16": torch_peer(
                    torch.compile(torch.autocast("cuda", torch.bfloat16)(model)), source.example
                ),
            },
            seconds=seconds,
        )
    return {
        "weights": source.weights,
        "engine": package.receipt.selected.id,
        "accuracy": package.receipt.accuracy and package.receipt.accuracy.engine_value,
        "times_ms": times,
        "candidates": [
            {
                "id": row.id,
                "status": row.status,
                "reason": row.reason,
                "p50_ms": row.latency_ms and row.latency_ms.p50,
            }
            for row in package.receipt.candidates
        ],
    }


def installed() -> dict[str, str]:
    """Versions of what took part."""
    found = {}
    for name in ("torch", "tensorrt", "onnxruntime-gpu", "onnxruntime", "triton", "ignition-xinfer"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    gpu = next((gpu for gpu in HardwareTarget.detect().gpus if gpu.device == "cuda"), None)
    if gpu is None:
        print("skipped: there is no NVIDIA GPU on this machine")
        return 0
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models.split(","):
            try:
                results[name] = run_model(name, gpu.target, Path(folder), options.seconds)
            except XInferError as error:
                results[name] = {"failed": error.message}
            print(name, json.dumps(results[name].get("times_ms", results[name])))
    options.out.write_text(
        json.dumps(
            {
                "gpu": f"{gpu.name}, driver {gpu.driver}, {gpu.target}",
                "machine": platform.platform(),
                "versions": installed(),
                "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "models": results,
            },
            indent=1,
        )
        + "\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
