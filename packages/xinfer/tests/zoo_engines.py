"""Engines around tiny ONNX models, for the tests of typed tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from xinfer import EnginePackage, InferenceEngine, parse_task
from xinfer.backends import RuntimeSettings, get_backend
from xinfer.package import Golden, stage

from .conftest import make_documents

Shape = Sequence[int | str]


def save_onnx(
    path: Path,
    nodes: Iterable[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, Shape]],
    outputs: Mapping[str, Shape],
    constants: Mapping[str, np.ndarray],
) -> Path:
    """Writes a model; `inputs` give element type and shape, `outputs` are float."""
    graph = helper.make_graph(
        list(nodes),
        "tiny",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    return path


def make_engine(
    folder: Path,
    model: Path,
    task: dict[str, Any],
    golden: dict[str, np.ndarray],
    assets: Mapping[str, bytes] | None = None,
) -> InferenceEngine:
    """An unsigned engine of ONNX Runtime around a model, loaded.

    Args:
        folder: An empty folder.
        model: The ONNX file, alone in its own folder.
        task: The task's document.
        golden: Feeds that fit.
        assets: Files that travel with it.
    """
    artifact = {"model.onnx": model}
    for name, content in (assets or {}).items():
        path = model.parent / "assets" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        artifact[f"assets/{name}"] = path
    spec = parse_task({"version": 1, **task})
    manifest, receipt = make_documents(model.parent, spec)
    compiled = get_backend("onnxruntime").load(model.parent, RuntimeSettings(num_threads=1, num_streams=1))
    outputs = compiled.infer(golden)
    compiled.close()
    (folder / "unpacked").mkdir(parents=True)
    stage(
        folder / "unpacked",
        manifest=manifest,
        receipt=receipt,
        labels=spec.labels,
        golden=Golden(inputs=golden, outputs=outputs),
        artifact=artifact,
    )
    package = EnginePackage.write(folder / "tiny.engine", folder / "unpacked")
    return InferenceEngine.load(package, require_signature=False, num_streams=2, num_threads=2)
