"""The builder's side of `builders.worker`: one subprocess per step, every end turned into a reason."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xinfer.backends import BACKENDS
from xinfer.builders.samples import read_outputs
from xinfer.builders.sensitivity import LayerSensitivity

if TYPE_CHECKING:
    import numpy as np

    from xinfer.backends import RuntimeSettings
    from xinfer.builders.candidates import Recipe


class StepError(Exception):
    """A step ended without a result; the message is the reason for the receipt."""


def prepare(
    recipe: Recipe,
    source: Path,
    samples_dir: Path,
    artifact_dir: Path,
    *,
    float_nodes: frozenset[str],
    reduce_range: bool,
    transformer: bool,
    program: Path | None,
    inputs: list[str],
    outputs: list[str],
    profiles: dict[str, Any],
    seed: int,
    timeout_s: float,
) -> None:
    """Quantises and converts into `artifact_dir`, which must not exist. Raises StepError."""
    _run(
        {
            "action": "prepare",
            "source": str(source),
            "samples": str(samples_dir),
            "artifact_dir": str(artifact_dir),
            "quantised": str(quantised_file(recipe, artifact_dir.parent)),
            "precision": recipe.precision,
            "transformer": transformer,
            "program": None if program is None else str(program),
            "format": BACKENDS[recipe.backend].format,
            "device": recipe.device,
            "inputs": inputs,
            "outputs": outputs,
            "profiles": profiles,
            "timing_cache": str(artifact_dir.parent / "timing.cache"),
            "quantiser": recipe.quantiser,
            "float_nodes": sorted(float_nodes),
            "reduce_range": reduce_range,
            "seed": seed,
        },
        timeout_s,
    )


def quantised_file(recipe: Recipe, artifacts: Path) -> Path:
    """Where `prepare` leaves the quantised ONNX file, for the other runtime that reads it."""
    return artifacts / f"{recipe.quantiser}-{recipe.scope}{'-mixed' * recipe.mixed}.onnx"


def rank(source: Path, quantised: Path, samples_dir: Path, *, timeout_s: float) -> list[LayerSensitivity]:
    """Ranks layers by what quantising them costs (`sensitivity.rank_layers`). Raises StepError."""
    job = {
        "action": "rank",
        "source": str(source),
        "quantised": str(quantised),
        "samples": str(samples_dir),
        "time_s": timeout_s / 2,
    }
    return [LayerSensitivity(**layer) for layer in _run(job, timeout_s)["layers"]]


def probe(
    backend: str,
    artifact_dir: Path,
    settings: RuntimeSettings,
    samples_dir: Path,
    outputs: Path,
    *,
    timeout_s: float,
) -> tuple[dict[str, Any], list[dict[str, np.ndarray]]]:
    """Loads an artifact in a fresh process and runs the samples.

    Args:
        outputs: Where to keep the outputs (`worker.read_outputs`); replaced if it is there.

    Returns:
        ``{"load_ms", "peak_memory_bytes", "executed"}`` and the outputs, one dict per sample.

    Raises:
        StepError: It failed, crashed or took too long.
    """
    result = _run(
        {
            "action": "probe",
            "backend": backend,
            "artifact_dir": str(artifact_dir),
            "settings": settings.to_json(),
            "samples": str(samples_dir),
            "outputs": str(outputs),
        },
        timeout_s,
    )
    return result, read_outputs(outputs)


def _run(job: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="xinfer-step-") as folder:
        root = Path(folder)
        (root / "job.json").write_text(json.dumps(job))
        with (root / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "xinfer.builders.worker", folder],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            try:
                code = process.wait(max(1.0, timeout_s))
            except subprocess.TimeoutExpired:
                raise StepError(f"took longer than {timeout_s:.0f} s") from None
            finally:
                process.kill()
                process.wait()
                if process.stdin:
                    process.stdin.close()
        try:
            result: dict[str, Any] = json.loads((root / "result.json").read_bytes())
        except FileNotFoundError:
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            tail = (root / "log").read_text(errors="replace").strip().splitlines()[-1:]
            raise StepError(f"the process ended without a result ({how}): {' '.join(tail)[:300]}") from None
    if "error" in result:
        raise StepError(result["error"])
    return result
