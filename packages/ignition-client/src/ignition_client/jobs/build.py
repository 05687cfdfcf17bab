"""The `build` job: from a trained model to the fastest signed engine within the accuracy budget."""

from __future__ import annotations

import json
import socket
import time
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ignition_client.errors import InputError
from ignition_client.jobs.runner import JobContext
from ignition_client.jobs.train import recipe_module
from ignition_client.wire import BuildResult, BuildSpec

PEER = "PIL + torch eager, fp32"
CALIBRATION_IMAGES = 100
COMPARED_IMAGES = 24
TEST_BYTES = 1 << 30
"""Decoded test images are held in memory; of more than this, a part is measured."""
CALIBRATION_BYTES = 256 << 20
VALIDATION_BYTES = 512 << 20
_SETTINGS = frozenset({"objective"})

Item = dict[str, Any]
"""``{"path", "label"}`` of splits.json; label 0 = ok, 1 = defective."""


def run(context: JobContext) -> dict[str, Any]:
    """
    Returns:
        A `wire.BuildResult`.

    Raises:
        InputError: The inputs are incomplete, or a setting is unknown.
        xinfer.XInferError: No engine stays within the budget; nothing was written.
    """
    from xinfer import EngineBuilder, HardwareTarget, parse_task
    from xinfer.tasks import AnomalyDetection
    from xtorch.metrics import auroc

    started_s = time.monotonic()
    spec = BuildSpec.model_validate(context.job.spec)
    if unknown := sorted(set(spec.settings) - _SETTINGS):
        raise InputError("The build has no such setting.", code="job.unknown_setting", value=unknown[0])
    model_dir, dataset_dir = context.inputs / "model", context.inputs / "dataset"
    splits: dict[str, list[Item]] = _read_json(model_dir / "splits.json")
    task = parse_task(model_dir / "task.json")
    labels: list[str] = _read_json(model_dir / "labels.json")
    if not isinstance(task, AnomalyDetection):
        raise InputError("The build has no way to judge this task.", code="job.unknown_task", value=task.task)
    images = _Images(dataset_dir, task.input.name, task.input.min_side)

    context.progress("Decoding held-out images", 0.0)
    test_items, test_feeds = images.take(_alternating(splits["test"]), max_bytes=TEST_BYTES)
    truth_N = np.array([item["label"] for item in test_items])
    if len(set(truth_N.tolist())) < 2:
        raise InputError(
            "The test part needs good and defective images.", code="job.one_sided_test", value=len(test_items)
        )
    _, calibration = images.take(
        _alternating(splits["train"]), max_bytes=CALIBRATION_BYTES, max_num=CALIBRATION_IMAGES
    )
    _, validation = images.take(_alternating(splits["validation"]), max_bytes=VALIDATION_BYTES)
    print(f"{len(test_feeds)} of {len(splits['test'])} test images, {len(calibration)} for calibration")

    def image_auroc(outputs: Sequence[dict[str, np.ndarray]]) -> float:
        return auroc(truth_N, np.array([float(output[task.outputs["score"]][0]) for output in outputs]))

    recipe = recipe_module(spec.template)
    peer = partial(recipe.naive_predict, recipe.load_model(model_dir))
    engine_file = f"{spec.name}.engine"
    package = (
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
        .with_int8(calibration, max_samples=CALIBRATION_IMAGES)
        .with_accuracy_budget(
            metric=task.metric, evaluate=image_auroc, samples=test_feeds, max_drop=spec.max_drop
        )
        .with_operating_point(validation)
        .with_comparison(PEER, peer, images.encoded(_every(test_items, COMPARED_IMAGES)))
        .optimize_for(spec.settings.get("objective", "throughput"))
        .with_budget(spec.budget_s)
        .on_progress(context.progress)
        .build_and_save(context.outputs / engine_file, signing_key=context.job.signing_key)
    )
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


class _Images:
    """The dataset's images, decoded as they will be when the engine serves."""

    def __init__(self, root: Path, input_name: str, min_side: int) -> None:
        self._root = root
        self._input_name = input_name
        self._min_side = min_side

    def take(
        self, items: Sequence[Item], *, max_bytes: int, max_num: int | None = None
    ) -> tuple[list[Item], list[dict[str, np.ndarray]]]:
        """Decodes items in order until there is enough.

        Returns:
            The items taken, and for each the model's input ``{name: uint8 [1,H,W,3]}``.
        """
        from xinfer.preproc import decode_image

        taken: list[Item] = []
        feeds: list[dict[str, np.ndarray]] = []
        for item in items[:max_num]:
            data = (self._root / item["path"]).read_bytes()
            image_HW3 = decode_image(data, min_side=self._min_side)
            max_bytes -= image_HW3.nbytes
            if taken and max_bytes < 0:
                break
            taken.append(item)
            feeds.append({self._input_name: image_HW3[None]})
        return taken, feeds

    def encoded(self, items: Sequence[Item]) -> list[bytes]:
        return [(self._root / item["path"]).read_bytes() for item in items]


def _alternating(items: Sequence[Item]) -> list[Item]:
    """All items, such that every beginning of the list has the labels in about the whole's shares."""
    by_label: dict[int, list[Item]] = {}
    for item in items:
        by_label.setdefault(item["label"], []).append(item)
    placed = [
        ((index + 0.5) / len(group), label, item)
        for label, group in by_label.items()
        for index, item in enumerate(group)
    ]
    return [item for _, _, item in sorted(placed, key=lambda entry: entry[:2])]


def _every(items: Sequence[Item], num: int) -> list[Item]:
    """About `num` items, evenly spread."""
    return list(items[:: max(1, len(items) // num)][:num])


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(
            "A file of the trained model is missing or damaged.", code="job.bad_model", value=path.name
        ) from error
