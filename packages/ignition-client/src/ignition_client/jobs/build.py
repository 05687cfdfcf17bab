"""The `build` job: from a trained model to the fastest signed engine within the accuracy budget."""

from __future__ import annotations

import json
import socket
import time
import zipfile
from typing import Any

from ignition_client.errors import InputError
from ignition_client.jobs.runner import JobContext
from ignition_client.jobs.train import recipe_module
from ignition_client.wire import BuildResult, BuildSpec

_SETTINGS = frozenset({"objective"})


def run(context: JobContext) -> dict[str, Any]:
    """
    Returns:
        A `wire.BuildResult`.

    Raises:
        InputError: A setting is unknown.
        XTorchError: The inputs are incomplete.
        xinfer.XInferError: No engine stays within the budget; nothing was written.
    """
    from xinfer import EngineBuilder, HardwareTarget, parse_task

    started_s = time.monotonic()
    spec = BuildSpec.model_validate(context.job.spec)
    if unknown := sorted(set(spec.settings) - _SETTINGS):
        raise InputError("The build has no such setting.", code="job.unknown_setting", value=unknown[0])
    model_dir = context.inputs / "model"
    context.progress("Reading held-out data", 0.0)
    given = recipe_module(spec.template).build_inputs(model_dir, context.inputs / "dataset")
    task = parse_task(model_dir / "task.json")
    labels: list[str] = json.loads((model_dir / "labels.json").read_bytes())
    print(f"{len(given.test)} held-out samples, {len(given.calibration)} for calibration")

    engine_file = f"{spec.name}.engine"
    builder = (
        EngineBuilder.from_onnx(model_dir / "model.onnx")
        .for_target(HardwareTarget.detect())
        .named(
            spec.name,
            spec.version,
            run_id=spec.run_id,
            dataset_digest=spec.dataset_digest,
            agent=socket.gethostname(),
        )
        .with_task(task, labels)
        .with_assets(given.assets)
        .with_int8(given.calibration)
        .with_float_nodes(*given.float_nodes)
        .with_accuracy_budget(
            metric=given.metric, evaluate=given.evaluate, samples=given.test, max_drop=spec.max_drop
        )
        .optimize_for(spec.settings.get("objective", "throughput"))
        .with_budget(spec.budget_s)
        .on_progress(context.progress)
    )
    if given.validation:
        builder = builder.with_operating_point(given.validation)
    if given.peer is not None:
        builder = builder.with_comparison(given.peer_title, given.peer, given.payloads)
    package = builder.build_and_save(context.outputs / engine_file, signing_key=context.job.signing_key)
    with zipfile.ZipFile(package.path) as archive:
        (context.outputs / "receipt.json").write_bytes(archive.read("receipt.json"))
    receipt = package.receipt
    best = receipt.selected
    assert receipt.accuracy is not None, "the builder publishes nothing unmeasured"
    assert best.latency_ms is not None
    assert best.throughput_per_s is not None
    result = BuildResult(
        engine_file=engine_file,
        engine_digest=package.digest,
        target=package.manifest.compatibility.target,
        backend=package.manifest.backend,
        precision=package.manifest.precision.executed,
        metric=receipt.accuracy.metric,
        source_value=receipt.accuracy.source_value,
        engine_value=receipt.accuracy.engine_value,
        latency_ms=best.latency_ms.p50,
        throughput_per_s=best.throughput_per_s,
        num_candidates=len(receipt.candidates),
        speedup=receipt.comparison.speedup if receipt.comparison else None,
        duration_s=time.monotonic() - started_s,
    )
    return result.model_dump(mode="json")
