"""The gate of the export: the ONNX file answers as the torch model does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xtorch.detection_metrics import coco_metrics
from xtorch.errors import ParityError
from xtorch.export import OnnxModel
from xtorch.tasks.detection.judge import HeldOutImages, detections
from xtorch.tasks.recipe import Feeds

_IMAGES = 48
_MAX_SCORE, _MAX_BOX_PX, _MAX_MAP50 = 1e-3, 0.5, 0.005
"""Largest accepted differences between torch and ONNX."""
_COUNTS = 0.1
"""Boxes of weaker candidates may differ: nobody sees them."""


def check_parity(path: Path, images: HeldOutImages, outputs: Sequence[Feeds]) -> dict[str, Any]:
    """Compares the ONNX file with the torch model on held-out images.

    Args:
        outputs: of the torch model.

    Returns:
        `Report.parity`.

    Raises:
        ParityError: scores, boxes of candidates that count, or mAP50 differ.
    """
    exported = OnnxModel(path)
    name = images.task.input.name
    boxes, scores = images.task.outputs["boxes"], images.task.outputs["scores"]
    score_diff = box_diff = 0.0
    onnx_outputs = []
    for feeds, source in list(zip(images.feeds, outputs, strict=True))[:_IMAGES]:
        found_boxes, found_scores = exported(feeds[name])
        onnx_outputs.append({boxes: found_boxes, scores: found_scores})
        score_diff = max(score_diff, float(np.abs(found_scores - source[scores]).max()))
        counts = source[scores].max(axis=2) >= _COUNTS
        if counts.any():
            box_diff = max(box_diff, float(np.abs(found_boxes - source[boxes])[counts].max()))
    num = len(onnx_outputs)

    def map50(each: Sequence[Feeds]) -> float:
        pairs = zip(each, images.geometries[:num], strict=True)
        found = [detections(images.task, output, geometry) for output, geometry in pairs]
        return coco_metrics(found, images.truth[:num], len(images.task.labels)).map50

    source_value, onnx_value = map50(outputs[:num]), map50(onnx_outputs)
    # A NaN must not pass.
    same = score_diff <= _MAX_SCORE and box_diff <= _MAX_BOX_PX
    if not same or not abs(source_value - onnx_value) <= _MAX_MAP50:
        raise ParityError(
            f"The exported model differs from its source: scores by up to {score_diff:.2g}, boxes by up to "
            f"{box_diff:.2g} pixels, mAP50 {source_value:.4f} against {onnx_value:.4f}.",
            value=score_diff,
            hint="this is a defect of the export: report it with the versions of torch and onnxscript",
        )
    return {
        "num_samples": num,
        "metric_source": source_value,
        "metric_onnx": onnx_value,
        "max_abs_diff": score_diff,
        "max_box_diff_px": box_diff,
    }
