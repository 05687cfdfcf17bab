"""What an anomaly engine is calibrated on and judged by."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from xtorch.data.layout import DEFECTIVE, OK
from xtorch.errors import DataError
from xtorch.metrics import auroc
from xtorch.picks import evenly
from xtorch.tasks.anomaly.files import load_model, naive_predict
from xtorch.tasks.anomaly.report import has_both
from xtorch.tasks.anomaly.selection import damaged_copies
from xtorch.tasks.images import ImageItems, alternating
from xtorch.tasks.recipe import BuildInputs, Feeds, read_json

CALIBRATION_IMAGES = 100
COMPARED_IMAGES = 24
TEST_BYTES = 1 << 30
"""Decoded test images are held in memory; of more than this, a part is measured."""
CALIBRATION_BYTES = 256 << 20
VALIDATION_BYTES = 512 << 20
_SEED = 0


def build_inputs(model_dir: str | Path, dataset_dir: str | Path) -> BuildInputs:
    """What `BuildInputs` says, from a trained model and its dataset.

    Engines are judged by the image AUROC of the test part. Without defective images there is none; then
    copies of the test images with drawn damage stand for them (``synthetic_auroc``). That says nothing about
    real defects, but an engine that answers otherwise than its source model shows; besides, the builder
    compares the verdicts on all of these images with the source model's.

    Args:
        model_dir: The outputs of `run`.
        dataset_dir: The dataset it was trained on.

    Raises:
        WeightsError: The outputs are incomplete.
        DataError: The test part has no good images.
    """
    model_dir = Path(model_dir)
    splits, task = read_json(model_dir / "splits.json"), read_json(model_dir / "task.json")
    input_name, min_side = task["input"]["name"], task["input"]["min_side"]
    images = ImageItems(Path(dataset_dir), input_name, min_side)
    test_items, test = images.take(alternating(splits["test"]), max_bytes=TEST_BYTES)
    truth_N = np.array([item["label"] for item in test_items])
    if not (truth_N == OK).any():
        raise DataError("The test part needs good images.", value=len(test_items))
    metric = "image_auroc"
    if not has_both(truth_N):
        metric = "synthetic_auroc"
        copies = damaged_copies([feeds[input_name][0] for feeds in test], seed=_SEED)
        test += [{input_name: image_HW3[None]} for image_HW3 in copies]
        truth_N = np.repeat([OK, DEFECTIVE], [len(test_items), len(copies)])
    _, calibration = images.take(
        alternating(splits["train"]), max_bytes=CALIBRATION_BYTES, max_num=CALIBRATION_IMAGES
    )
    _, validation = images.take(alternating(splits["validation"]), max_bytes=VALIDATION_BYTES)

    def area(outputs: Sequence[Feeds]) -> float:
        score = task["outputs"]["score"]
        return auroc(truth_N, np.array([float(output[score][0]) for output in outputs]))

    return BuildInputs(
        metric=metric,
        evaluate=area,
        test=test,
        calibration=calibration,
        validation=validation,
        peer=partial(naive_predict, load_model(model_dir)),
        peer_title="PIL + torch eager, fp32",
        payloads=images.encoded(evenly(test_items, COMPARED_IMAGES)),
    )
