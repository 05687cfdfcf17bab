"""What a classification engine is calibrated on and judged by."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from xtorch.errors import DataError
from xtorch.picks import evenly
from xtorch.tasks.classification.files import load_model, naive_predict
from xtorch.tasks.images import ImageItems, alternating
from xtorch.tasks.recipe import BuildInputs, Feeds, read_json

CALIBRATION_IMAGES = 200
COMPARED_IMAGES = 24
TEST_BYTES = 1 << 30
"""Decoded test images are held in memory; of more than this, a part is measured."""
CALIBRATION_BYTES = 256 << 20


def build_inputs(model_dir: str | Path, dataset_dir: str | Path) -> BuildInputs:
    """
    Args:
        model_dir: The outputs of `run`.
        dataset_dir: The dataset it was trained on.

    Raises:
        WeightsError: The outputs are incomplete.
        DataError: There is no test part.
    """
    model_dir = Path(model_dir)
    splits, task = read_json(model_dir / "splits.json"), read_json(model_dir / "task.json")
    images = ImageItems(Path(dataset_dir), task["input"]["name"], task["input"]["min_side"])
    test_items, test = images.take(alternating(splits["test"]), max_bytes=TEST_BYTES)
    if not test_items:
        raise DataError("There are no test images to judge engines by.", value=0)
    truth_N = np.array([item["label"] for item in test_items])
    _, calibration = images.take(
        alternating(splits["train"]), max_bytes=CALIBRATION_BYTES, max_num=CALIBRATION_IMAGES
    )
    scores = task["outputs"]["scores"]

    def top1(outputs: Sequence[Feeds]) -> float:
        answers_N = np.array([int(output[scores][0].argmax()) for output in outputs])
        return float((answers_N == truth_N).mean())

    return BuildInputs(
        metric=task["metric"],
        evaluate=top1,
        test=test,
        calibration=calibration,
        peer=partial(naive_predict, load_model(model_dir)),
        peer_title="PIL + torch eager, fp32",
        payloads=images.encoded(evenly(test_items, COMPARED_IMAGES)),
    )
