"""The public API is what it was; a change shows here."""

from __future__ import annotations

import inspect
import subprocess
import sys

import xtorch
from xtorch import errors
from xtorch.tasks import anomaly


def test_names_are_exactly_these() -> None:
    assert xtorch.__all__ == [
        "EMA",
        "Callback",
        "CheckpointError",
        "Checkpointing",
        "ConsoleLogger",
        "DataError",
        "DecodeCache",
        "EarlyStopping",
        "ExportError",
        "ExtendedDataLoader",
        "FeatureCache",
        "ForeignCheckpointError",
        "ImageFiles",
        "JSONLinesLogger",
        "KeepBest",
        "LayoutError",
        "ParityError",
        "SampleError",
        "SettingsError",
        "StepOutput",
        "TensorBoardLogger",
        "TimeLimit",
        "TooFewImagesError",
        "Trainer",
        "TrainerConfig",
        "TrainingError",
        "WeightsError",
        "WorkerError",
        "XTorchError",
        "__version__",
        "check_image_folder",
    ]
    assert all(getattr(xtorch, name) is not None for name in xtorch.__all__)
    assert anomaly.__all__ == [
        *("TEMPLATE", "AnomalySettings", "build_inputs", "check", "load_model", "naive_predict", "run")
    ]


def test_signatures_are_what_jobs_call() -> None:
    assert list(inspect.signature(anomaly.run).parameters) == [
        "dataset_dir",
        "output_dir",
        "name",
        "budget_s",
        "seed",
        "settings",
        "progress",
        "cache_dir",
    ]
    assert list(inspect.signature(anomaly.load_model).parameters) == ["folder"]
    assert list(inspect.signature(anomaly.naive_predict).parameters) == ["model", "data"]
    assert list(inspect.signature(xtorch.check_image_folder).parameters) == ["root", "progress"]


def test_data_check_imports_no_torch() -> None:
    code = (
        "import sys, xtorch, xtorch.data.check, xtorch.data.splits, xtorch.tasks.anomaly; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_error_has_its_own_code_and_stands_in_the_tree() -> None:
    found = [
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and issubclass(value, errors.XTorchError)
    ]
    codes = [error.code for error in found]
    assert len(set(codes)) == len(codes)
    for error in found:
        assert error.__name__ in (errors.__doc__ or "")
        assert error is errors.XTorchError or error.code in (errors.__doc__ or "")
    shown = errors.DataError("no", value=3, hint="more")
    assert (str(shown), shown.value, shown.hint) == ("no", 3, "more")
