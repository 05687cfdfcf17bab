"""What an anomaly engine is calibrated on and judged by."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from xtorch.errors import DataError
from xtorch.metrics import auroc
from xtorch.tasks.anomaly.files import load_model, naive_predict
from xtorch.tasks.images import ImageItems, alternating, every
from xtorch.tasks.recipe import BuildInputs, Feeds, read_json

CALIBRATION_IMAGES = 100
COMPARED_IMAGES = 24
TEST_BYTES = 1 << 30
"""Decoded test images are held in memory; of more than this, a part is measured."""
CALIBRATION_BYTES = 256 << 20
VALIDATION_BYTES = 512 << 20


def build_inputs(model_dir: str | Path, dataset_dir: str | Path) -> BuildInputs:
    """
    Args:
        model_dir: The outputs of `run`.
        dataset_dir: The dataset it was trained on.

    Raises:
        WeightsError: The outputs are incomplete.
        DataError: The test part has good or defective images only.
    """
    model_dir = Path(model_dir)
    splits, task = read_json(model_dir / "splits.json"), read_json(model_dir / "task.json")
    images = ImageItems(Path(dataset_dir), task["input"]["name"], task["input"]["min_side"])
    test_items, test = images.take(alternating(splits["test"]), max_bytes=TEST_BYTES)
    truth_N = np.array([item["label"] for item in test_items])
    if len(set(truth_N.tolist())) < 2:
        raise DataError("The test part needs good and defective images.", value=len(test_items))
    _, calibration = images.take(
        alternating(splits["train"]), max_bytes=CALIBRATION_BYTES, max_num=CALIBRATION_IMAGES
    )
    _, validation = images.take(alternating(splits["validation"]), max_bytes=VALIDATION_BYTES)

    def image_auroc(outputs: Sequence[Feeds]) -> float:
        score = task["outputs"]["score"]
        return auroc(truth_N, np.array([float(output[score][0]) for output in outputs]))

    return BuildInputs(
        metric=task["metric"],
        evaluate=image_auroc,
        test=test,
        calibration=calibration,
        validation=validation,
        peer=partial(naive_predict, load_model(model_dir)),
        peer_title="PIL + torch eager, fp32",
        payloads=images.encoded(every(test_items, COMPARED_IMAGES)),
    )
