"""What the detection recipe keeps for after a kill, and what it holds of the held-out parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xtorch.data.check_detection import inspect_detection
from xtorch.data.splits_detection import split_detection
from xtorch.execution import Execution
from xtorch.models.detector import DetectorConfig
from xtorch.models.yolox import NANO, Yolox
from xtorch.tasks.detection.files import detection_task
from xtorch.tasks.detection.fitting import checkpoint_folder
from xtorch.tasks.detection.items import split_items
from xtorch.tasks.detection.judge import HeldOutImages
from xtorch.tasks.detection.settings import DetectionSettings
from xtorch.tasks.detection.weights import Published
from xtorch.tasks.planning import TrainingPlan, keep_plan, kept_plan
from xtorch.tasks.recipe import Run

from .detection_data import pictures, write_voc


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_voc(tmp_path_factory.mktemp("voc"), pictures(32))


def test_checkpoints_belong_to_data_settings_seed_and_weights(dataset: Path, tmp_path: Path) -> None:
    split = split_detection(inspect_detection(dataset).usable, num_classes=2, seed=0)
    config = DetectorConfig(architecture="nano", height=64, width=64, num_classes=2)
    torch.manual_seed(0)
    given = Published(network=Yolox(NANO).eval(), labels=("a",) * 80, source="test")

    def folder(given: Published | None = None, **changed: Any) -> Path | None:
        asked = {"budget_s": 60.0, "seed": 0, "settings": {}, "cache_dir": tmp_path / "cache"} | changed
        begun = Run.begin(
            "object-detection", DetectionSettings, dataset, tmp_path / "out", name="x", progress=None, **asked
        )
        with begun as this:
            return checkpoint_folder(this, split, config, ("disc", "square"), given)

    assert folder() == folder()
    assert folder(cache_dir=None) is None
    changes: list[dict[str, Any]] = [
        {},
        {"seed": 1},
        {"budget_s": 61.0},
        {"settings": {"epochs": 3}},
        {"settings": {"mosaic": 0.25}},
        {"given": given},
    ]
    assert len({folder(**change) for change in changes}) == len(changes)
    # Where the number of epochs is given, time decides nothing.
    assert folder(settings={"epochs": 3}) == folder(settings={"epochs": 3}, budget_s=600.0)


def test_of_more_images_than_memory_holds_some_of_everywhere_are_taken(dataset: Path) -> None:
    usable = inspect_detection(dataset).usable
    config = DetectorConfig(architecture="nano", height=64, width=64, num_classes=2)
    task, items = detection_task(config, ("disc", "square")), split_items(usable)
    whole = HeldOutImages(dataset, task, items)
    assert whole.items == items
    some = HeldOutImages(dataset, task, items, max_bytes=9 * whole.feeds[0]["image"].nbytes)
    picks = [items.index(dict(item)) for item in some.items]
    assert len(picks) == len(some.feeds) == len(some.truth) == 9
    assert picks == sorted(picks)
    assert np.diff([-1, *picks, len(items)]).max() <= 2 * len(items) / 9
    np.testing.assert_array_equal(some.feeds[3]["image"], whole.feeds[picks[3]]["image"])


def test_plans_are_kept_whole(tmp_path: Path) -> None:
    made = TrainingPlan(epochs=7, execution=Execution(precision="bf16", channels_last=True), step_s=0.4)
    assert kept_plan(tmp_path / "x", TrainingPlan) is None
    keep_plan(tmp_path / "x", made)
    assert kept_plan(tmp_path / "x", TrainingPlan) == made
    (tmp_path / "x/plan.json").write_text("{")
    assert kept_plan(tmp_path / "x", TrainingPlan) is None
