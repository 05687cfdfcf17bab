"""What a forecasting engine is calibrated on and judged by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xtorch.data.check_series import inspect_series, refuse
from xtorch.errors import DataError
from xtorch.forecast_metrics import mase, mean_or_nan, smape
from xtorch.tasks.forecasting.windows import Panel, Windows
from xtorch.tasks.recipe import BuildInputs, Feeds, read_json

CALIBRATION_WINDOWS = 200
TEST_WINDOWS = 1000


def build_inputs(model_dir: str | Path, dataset_dir: str | Path) -> BuildInputs:
    """
    The engine's points are judged by MASE on the test part, as in training. The statistical members and trees
    stay in
    float: their matrices and thresholds are exact numbers, not weights that were learned with noise.

    Args:
        model_dir: The outputs of `run`.
        dataset_dir: The dataset it was trained on.

    Raises:
        WeightsError: The outputs are incomplete.
        DataError: The dataset is not the one that was trained on.
    """
    model_dir = Path(model_dir)
    splits, task = read_json(model_dir / "splits.json"), read_json(model_dir / "task.json")
    config = read_json(model_dir / "model.json")["config"]
    protocol = splits["protocol"]
    inspection = inspect_series(dataset_dir, roles=protocol["roles"], gaps=protocol["gaps"])
    refuse(inspection)
    assert inspection.series is not None
    by_name = {name: number for number, name in enumerate(inspection.series.names)}
    items = [*splits["test"], *splits["train"]]
    if missing := [item["series"] for item in items if item["series"] not in by_name]:
        raise DataError(
            "The dataset lacks a series that was trained on.",
            value=missing[0],
            hint="build with the dataset that the model was trained on",
        )
    panel = Panel(inspection.series.values, protocol["season"])
    name, mask = task["input"]["name"], task["input"]["mask"]

    def windows(part: str, limit: int) -> Windows:
        chosen = splits[part][:: max(1, len(splits[part]) // limit)][:limit]
        return panel.windows(
            np.array([by_name[item["series"]] for item in chosen], np.int64),
            np.array([item["end"] for item in chosen], np.int64),
            length=config["length"],
            horizon=config["horizon"],
        )

    def feeds(given: Windows) -> list[Feeds]:
        return [
            {name: given.history[index : index + 1], mask: given.observed[index : index + 1]}
            for index in range(len(given))
        ]

    test = windows("test", TEST_WINDOWS)
    middle = list(config["quantiles"]).index(0.5)
    output = task["outputs"]["forecast"]

    def negative_mase(outputs: Sequence[Feeds]) -> float:
        points_WH = np.concatenate([each[output][:, :, middle] for each in outputs]).astype(np.float64)
        points_WH *= test.scale[:, None]
        value = mean_or_nan(mase(test.future, points_WH, test.naive_error))
        # Series that never changed have no MASE; percentages then are what is left.
        return -value if np.isfinite(value) else -mean_or_nan(smape(test.future, points_WH)) / 100

    return BuildInputs(
        metric=task["metric"],
        evaluate=negative_mase,
        test=feeds(test),
        calibration=feeds(windows("train", CALIBRATION_WINDOWS)),
        float_nodes=[
            f"members/{member['name']}*"
            for member in config["members"]
            if member["config"].get("network") != "nhits"
        ]
        + ["spread*", "graph*"],
    )
