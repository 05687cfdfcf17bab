"""Builds that were made before: an identical build answers at once.

Identical means: the same source, samples, settings, machine and tool versions. What `evaluate` computes is a
function that cannot be compared, so a build with one is only kept when the caller gives it a name
(`EngineBuilder.with_cache(evaluation=...)`). Entries are unsigned engine files named by their key; a hit is
signed anew, with the caller's key.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xinfer import schema
from xinfer.builders.samples import samples_digest
from xinfer.errors import PackageError
from xinfer.package import EnginePackage, file_digest
from xinfer.targets import installed_version

if TYPE_CHECKING:
    from xinfer.builders.builder import BuildPlan

TOOLS = ("ignition-xinfer", "openvino", "onnxruntime", "nncf", "onnx", "numpy", "torch")


def build_key(plan: BuildPlan) -> str | None:
    """What names an identical build, None where nothing can.

    Args:
        plan: Everything the build is told.

    Returns:
        64 hexadecimal digits.
    """
    if plan.evaluate is not None and not plan.evaluation:
        return None
    described: dict[str, Any] = {
        "source": file_digest(plan.source),
        "program": None if plan.program is None else file_digest(plan.program),
        "assets": {name: file_digest(path) for name, path in plan.assets},
        "calibration": samples_digest(plan.calibration),
        "samples": samples_digest(plan.samples),
        "validation": samples_digest(plan.validation),
        "task": None if plan.task is None else plan.task.to_json(),
        "tools": {name: installed_version(name) for name in TOOLS},
        "target": json.loads(schema.dumps(plan.target)),
        "shapes": {name: asdict(profile) for name, profile in plan.profiles},
        "comparison": plan.comparison and plan.comparison[0],
    }
    plain = (
        "precisions", "backends", "float_nodes", "metric", "max_drop", "source_value", "min_agreement",
        "objective", "batches", "budget_s", "seed", "name", "version", "run_id", "dataset_digest", "licences",
        "agent", "labels", "evaluation",
    )  # fmt: skip
    for name in plain:
        value = getattr(plan, name)
        described[name] = sorted(value) if isinstance(value, frozenset) else value
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def find(folder: Path, key: str) -> EnginePackage | None:
    """The engine that an identical build made, None where there is none (or a damaged one)."""
    path = folder / f"{key}.engine"
    try:
        package = EnginePackage.open(path)
    except PackageError:
        path.unlink(missing_ok=True)
        return None
    path.touch()  # the least recently used go first
    return package
