"""What all recipes share: a run's course, its progress, refusals, and features that are kept."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xtorch.data.findings import Finding, Findings, refuse
from xtorch.errors import DataError, LayoutError, SettingsError, TooFewImagesError
from xtorch.progress import Stages
from xtorch.tasks.feature_cache import FeatureCache
from xtorch.tasks.recipe import Run
from xtorch.tasks.report import parity


@dataclass(frozen=True, kw_only=True)
class Settings:
    depth: int = 3


FIGURES: dict[str, Any] = {
    "check": {},
    "protocol": "half and half",
    "counts": {"test": {"a": 4}},
    "metric": "accuracy",
    "metrics": {"accuracy": {"value": 0.75, "low": 0.3, "high": 0.95}},
    "leaderboard": [],
}


def train(output: Path, *, fail: bool = False, **changes: Any) -> tuple[dict[str, Any], list[Any]]:
    """A recipe in short, and what it told."""
    told: list[Any] = []
    asked: dict[str, Any] = {
        "name": "x",
        "budget_s": 60.0,
        "seed": 1,
        "settings": {"depth": 5},
        "progress": lambda stage, **details: told.append((stage, details["progress"], details["message"])),
        "cache_dir": None,
    }
    with Run[Settings].begin("trees", Settings, "data", output, **asked | changes) as this:
        this.stages = Stages(this.progress, {"Growing": 3, "Writing": 1}, min_interval_s=0)
        count = this.stages.counter("Growing", "trees")
        count(1, 2)
        (this.folder / "model.txt").write_text(f"depth {this.settings.depth}")
        if fail:
            raise KeyError
        assert 0 < this.left_s <= 60
        this.stages.report("Writing", 0.0)
        return this.finish(num_test=4, candidate="tree", **FIGURES), told


def test_run_writes_its_report_and_gives_the_result(tmp_path: Path) -> None:
    result, told = train(tmp_path / "out")
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert result == {
        "metric": "accuracy",
        "value": 0.75,
        "num_test": 4,
        "candidate": "tree",
        "duration_s": report["duration_s"],
    }
    assert {name: report[name] for name in FIGURES} == FIGURES
    assert (report["template"], report["name"], report["seed"]) == ("trees", "x", 1)
    assert list(report["timings_s"]) == ["Growing", "Writing"]
    assert (tmp_path / "out/model.txt").read_text() == "depth 5"
    assert told == [("Growing", 0.375, "1 of 2 trees"), ("Writing", 0.75, ""), ("Writing", 1.0, "")]


def test_run_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        train(tmp_path / "out", fail=True)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("settings", [{"width": 2}, {"depth": 1, "Depth": 2}])
def test_run_with_unknown_settings_does_not_begin(settings: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no setting"):
        train(tmp_path / "out", settings=settings)
    assert not (tmp_path / "out").exists()


def test_share_of_an_inner_function_becomes_one_of_its_stage() -> None:
    told: list[Any] = []
    stages = Stages(lambda *stage, **details: told.append((*stage, details)), {"One": 1, "Two": 3})
    inner = stages.within("Two")
    inner("whatever it calls this", progress=0.5, eta_s=3.0, message="half", metrics={"loss": 0.5})
    ((stage, details),) = told
    assert stage == "Two"
    assert details["progress"] == 0.25 + 0.5 * 0.75
    assert (details["message"], details["metrics"]) == ("half", {"loss": 0.5})


def test_stages_without_anything_to_count_are_done() -> None:
    told: list[float] = []
    stages = Stages(lambda *_, progress=None, **__: told.append(progress), {"One": 1})
    stages.counter("One", "images")(0, 0)
    assert told == [1.0]


# ------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("code", "kind"),
    [("layout.unknown", LayoutError), ("ok.too_few", TooFewImagesError), ("series.odd", DataError)],
)
def test_first_error_of_a_check_is_raised_as_what_it_is(code: str, kind: type[DataError]) -> None:
    findings = Findings()
    findings.add("file.not_image", "info", "{num} file{s} other than images", "Ignored.", ["a.txt"])
    findings.add(code, "error", "{num} thing{s} missing", "Add some.", num=7)
    findings.add("later", "error", "More", "More.", num=1)
    with pytest.raises(kind, match=r"^7 things missing\.$") as caught:
        refuse(findings.errors)
    assert type(caught.value) is kind
    assert (caught.value.value, caught.value.hint) == (7, "Add some.")


def test_without_errors_nothing_is_refused() -> None:
    errors: list[Finding] = []
    refuse(errors)


# ------------------------------------------------------------------------------------------- features


def square(chunk: Sequence[int]) -> np.ndarray:
    return np.array([[index, index**2] for index in chunk], dtype=np.float16)


def fill(cache: FeatureCache, num: int, batch_size: int) -> tuple[np.ndarray, list[list[int]], list[int]]:
    """Values, the batches that were computed, and how many were done at each report."""
    batches: list[list[int]] = []
    reports: list[int] = []

    def compute(chunk: Sequence[int]) -> np.ndarray:
        batches.append(list(chunk))
        return square(chunk)

    digests = [f"sha256:{index:064x}" for index in range(num)]
    values = cache.fill(
        digests, compute, batch_size=batch_size, report=lambda done, total: reports.append(done * 100 + total)
    )
    return values, batches, reports


def test_features_are_computed_once_and_batch_by_batch(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, {"version": 1}, (2,))
    values, batches, reports = fill(cache, 5, 2)
    assert np.array_equal(values, square(range(5)))
    assert batches == [[0, 1], [2, 3], [4]]
    assert reports == [5, 205, 405, 505]
    values, batches, reports = fill(cache, 7, 4)
    assert np.array_equal(values, square(range(7)))
    assert batches == [[5, 6]]
    assert reports == [507, 707]
    assert fill(FeatureCache(tmp_path, {"version": 2}, (2,)), 2, 2)[1] == [[0, 1]]


def test_features_that_do_not_fit_are_computed_again(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, {"version": 1}, (2,))
    fill(cache, 3, 8)
    files = {int(path.stem, 16): path for path in tmp_path.rglob("*.npy")}
    files[0].write_bytes(files[0].read_bytes()[:100])
    np.save(files[2], np.zeros(2, np.float32))
    values, batches, _ = fill(cache, 3, 8)
    assert np.array_equal(values, square(range(3)))
    assert batches == [[0, 2]]
    assert fill(cache, 3, 8)[1] == []


def test_use_of_features_is_seen_at_their_files(tmp_path: Path) -> None:
    """Whoever prunes the folder must not remove what is in use."""
    cache = FeatureCache(tmp_path, {"version": 1}, (2,))
    fill(cache, 2, 2)
    for path in tmp_path.rglob("*.npy"):
        os.utime(path, (0, 0))
    fill(cache, 1, 2)
    assert sorted(path.stat().st_mtime > 0 for path in tmp_path.rglob("*.npy")) == [False, True]


def test_without_a_folder_everything_is_computed() -> None:
    cache = FeatureCache(None, {"version": 1}, (2,))
    assert fill(cache, 3, 2)[1] == fill(cache, 3, 2)[1] == [[0, 1], [2]]


def test_parity_compares_a_metric_of_both() -> None:
    source = np.array([1.0, 2.0, 3.0])
    assert parity(source, source + np.array([0, 0, 0.5]), lambda values: float(values.max())) == {
        "num_samples": 3,
        "max_abs_diff": 0.5,
        "metric_source": 3.0,
        "metric_onnx": 3.5,
    }
