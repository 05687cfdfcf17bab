"""The forecasting recipe from a table to everything that a build needs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xinfer.tasks import parse_task
from xinfer.tasks.forecast import SeriesInput
from xinfer.zoo.timeseries import prepare_series
from xtorch.data.check_series import inspect_series
from xtorch.errors import DataError, ParityError, SettingsError, TrainingError, WeightsError
from xtorch.forecast_metrics import mase
from xtorch.tasks.forecasting import build_inputs, load_model, run
from xtorch.tasks.forecasting.choose import Judge, choose_members, conformal_offsets
from xtorch.tasks.forecasting.plan import (
    ForecastSettings,
    Plan,
    make_plan,
    plan_for,
    test_part,
    training_part,
    validation_parts,
)
from xtorch.tasks.forecasting.training import Outcome, run_ensemble, train
from xtorch.tasks.forecasting.windows import Panel, Windows
from xtorch.tasks.recipe import parse_settings

from .series_data import HORIZON, NUM_DAYS, NUM_SERIES, quiet, usual_sales, write_sales

test_part.__test__ = False  # type: ignore[attr-defined]

FILES = {
    "model.onnx",
    "model.safetensors",
    "model.json",
    "task.json",
    "labels.json",
    "splits.json",
    "report.json",
}


@dataclass
class Trained:
    data: Path
    folder: Path
    result: dict[str, Any]
    stages: list[str]

    def read(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    base = tmp_path_factory.mktemp("forecasting")
    stages: list[str] = []
    result = run(
        write_sales(base / "data"),
        base / "out",
        name="stores",
        budget_s=3600,
        settings={"horizon": HORIZON, "num_seeds": 1, "candidates": ["theta", "ets", "linear", "trees"]},
        progress=lambda stage, **details: stages.append(stage),
        cache_dir=base / "cache",
    )
    return Trained(base / "data", base / "out", result, stages)


def test_run_writes_every_file_and_nothing_else(trained: Trained) -> None:
    assert {path.name for path in trained.folder.iterdir()} == FILES
    assert trained.stages[0] == "Checking series"
    kept = {path.parent.name for path in (trained.folder.parent / "cache").rglob("model.safetensors")}
    assert {"early-linear", "early-trees"} <= kept


def oracle_mase(data: Path) -> float:
    """MASE on the test part of a forecaster that knows everything but the noise: what can be reached."""
    lines = [line.split(",") for line in (data / "sales.csv").read_text().split("\n")[1:]]
    errors = []
    for store in range(NUM_SERIES):
        sales = np.full(NUM_DAYS, np.nan)
        for day, name, value in lines:
            if name == f"S{store}":
                sales[(np.datetime64(day) - np.datetime64("2024-01-01")).astype(int)] = float(value)
        past = sales[:-HORIZON]
        naive = np.nanmean(np.abs(past[7:] - past[:-7]))
        errors.append(np.abs(sales - usual_sales(store))[-HORIZON:].mean() / naive)
    return float(np.mean(errors))


def test_run_comes_close_to_what_can_be_reached(trained: Trained) -> None:
    rows = {row["name"]: row for row in trained.read("report.json")["leaderboard"]}
    baselines = {row["name"]: row for row in rows.values() if row["kind"] == "baseline"}
    assert set(baselines) == {"naive", "seasonal_naive_7", "mean"}
    assert (
        rows["ensemble"]["validation"]["relative"]
        < 0.9 * baselines["seasonal_naive_7"]["validation"]["relative"]
    )
    assert trained.result["value"] < 1.2 * oracle_mase(trained.data)
    assert 1.2 * oracle_mase(trained.data) < 0.5 * baselines["mean"]["test"]["mase"]
    assert rows["ensemble"]["test"]["mase"] == pytest.approx(trained.result["value"], rel=1e-12)
    kept = {name for name, row in rows.items() if row["kept"]} - {"ensemble"}
    assert kept == set(rows["ensemble"]["settings"]["members"])
    assert trained.result["candidate"].split(" + ") == rows["ensemble"]["settings"]["members"]


def test_result_and_check_are_wire_models(trained: Trained) -> None:
    wire = pytest.importorskip("ignition_client.wire", reason="the client is not installed")
    assert wire.TrainResult.model_validate(trained.result).num_test == NUM_SERIES
    report = trained.read("report.json")
    assert wire.CheckReport.model_validate(report["check"]).num_items == NUM_SERIES
    assert report["schema_version"] == 2
    assert report["template"] == "sales-forecasting"


def test_report_shows_each_step_each_series_and_intervals(trained: Trained) -> None:
    report = trained.read("report.json")
    tables = {table["id"]: table for table in report["tables"]}
    assert len(tables["horizon"]["rows"]) == HORIZON
    assert len(tables["series"]["rows"]) == NUM_SERIES
    errors = [row[1] for row in tables["series"]["rows"]]
    assert errors == sorted(errors, reverse=True)
    assert np.mean(errors) == pytest.approx(report["metrics"]["mase"]["value"])
    charts = {chart["id"]: chart for chart in report["charts"]}
    assert {"series_best", "series_median", "series_worst", "coverage", "coverage_by_step"} <= set(charts)
    drawn = charts["series_worst"]
    truth, forecast = drawn["series"]
    assert len(drawn["x"]) == len(truth["y"]) == len(forecast["low"])
    assert forecast["y"][:-HORIZON] == [None] * (len(drawn["x"]) - HORIZON)
    for low, middle, high in zip(forecast["low"], forecast["y"], forecast["high"], strict=True):
        assert middle is None or low <= middle <= high
    for metric in report["metrics"].values():
        assert metric["low"] <= metric["value"] <= metric["high"]
    assert 0.5 < report["metrics"]["coverage_80"]["value"] <= 1
    assert len(report["held_out"]) == NUM_SERIES


def test_build_judges_the_exported_file_as_training_did(trained: Trained) -> None:
    import onnxruntime

    given = build_inputs(trained.folder, trained.data)
    session = onnxruntime.InferenceSession(trained.folder / "model.onnx", providers=["CPUExecutionProvider"])
    outputs = [{"forecast": session.run(None, dict(feed))[0]} for feed in given.test]
    assert given.metric == "negative_mase"
    assert given.evaluate(outputs) == pytest.approx(-trained.result["value"], abs=1e-4)
    worse = [{"forecast": output["forecast"] + 0.5} for output in outputs]
    assert given.evaluate(worse) < given.evaluate(outputs)
    assert given.calibration
    parity = trained.read("report.json")["parity"]
    assert parity["max_abs_diff"] < 1e-3
    names = [node for node in given.float_nodes if node.startswith("members/")]
    assert names


def test_calibration_never_reaches_into_the_test_part(trained: Trained) -> None:
    splits = trained.read("splits.json")
    ends = {item["series"]: item["end"] for item in splits["test"]}
    assert all(item["end"] + HORIZON <= ends[item["series"]] for item in splits["train"])


def test_loaded_model_is_the_one_that_was_measured(trained: Trained) -> None:
    import torch

    model = load_model(trained.folder)
    given = build_inputs(trained.folder, trained.data)
    with torch.inference_mode():
        outputs = [
            {"forecast": model(*(torch.from_numpy(feed[name]) for name in ("history", "observed"))).numpy()}
            for feed in given.test
        ]
    assert given.evaluate(outputs) == pytest.approx(-trained.result["value"], abs=1e-4)


def test_served_input_is_what_training_saw(trained: Trained) -> None:
    task = parse_task(trained.folder / "task.json")
    assert isinstance(task.input, SeriesInput)
    rng = np.random.default_rng(0)
    values = rng.normal(5, 2, 200)
    values[[3, 150, 151, 199]] = np.nan
    panel = Panel([values[:30], values], 7)
    for series, end in ((0, 30), (1, 200), (1, 152), (1, 20)):
        windows = panel.windows(np.array([series]), np.array([end]), length=task.input.length, horizon=2)
        past = values[: min(end, 30)] if series == 0 else values[:end]
        filled, observed, scaled = prepare_series(past, task.input)
        np.testing.assert_allclose(windows.history[0], filled, rtol=1e-6)
        np.testing.assert_array_equal(windows.observed[0], observed)
        assert windows.scale[0] == pytest.approx(scaled.scale)


def test_damaged_output_is_refused(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(WeightsError):
        load_model(tmp_path)
    (tmp_path / "model.json").write_text('{"architecture": "another", "config": {}}')
    with pytest.raises(WeightsError):
        load_model(tmp_path)
    with pytest.raises(WeightsError):
        build_inputs(tmp_path, trained.data)


def test_build_with_another_dataset_is_refused(trained: Trained, tmp_path: Path) -> None:
    other = write_sales(tmp_path / "other")
    text = (other / "sales.csv").read_text().replace("S5", "S9")
    (other / "sales.csv").write_text(text)
    with pytest.raises(DataError, match="lacks a series"):
        build_inputs(trained.folder, other)


@pytest.mark.parametrize(
    "settings",
    [
        {"horizon": 0},
        {"horizon": 2.5},
        {"horizon": "a week"},
        {"horizon": float("nan")},
        {"season": True},
        {"num_seeds": 1.5},
        {"time": 3},
        {"ids": [1, 2]},
        {"ids": 4},
        {"season": 5000},
        {"levels": [0.9, 0.1, 0.5]},
        {"levels": [0.1, 0.9]},
        {"candidates": ["prophet"]},
        {"num_seeds": 0},
        {"gaps": "guess"},
        {"colour": "red"},
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        parse_settings(ForecastSettings, settings)


def test_column_and_whole_numbers_may_be_written_as_people_do() -> None:
    chosen = parse_settings(ForecastSettings, {"ids": "store", "horizon": 14.0, "candidates": "ets"})
    assert chosen.roles == {"ids": ["store"]}
    assert chosen.candidates == ("ets",)
    assert chosen.horizon == 14
    assert isinstance(chosen.horizon, int)


def test_failed_run_leaves_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "sales.csv").write_text("date,sales\n2024-01-01,1\n2024-01-02,2\n")
    with pytest.raises(DataError):
        run(data, tmp_path / "out", name="x")
    assert not list((tmp_path / "out").iterdir())


# ---------------------------------------------------------------------------------------------------- plan


def plan_of(lengths: list[int], **changes: Any) -> Plan:
    rng = np.random.default_rng(0)
    values = [rng.normal(10, 1, length) for length in lengths]
    given: dict[str, Any] = {"season": 7, "seasons": (7,), "horizon": None, "usual_horizon": 28}
    return make_plan(values, **{**given, **changes})


def test_plan_follows_the_data() -> None:
    usual = plan_of([400] * 10)
    assert (usual.horizon, usual.season, usual.seasons, usual.log) == (28, 7, (7,), True)
    short = plan_of([24] * 10)
    assert short.horizon == 6
    assert short.num_origins == 1
    tiny = plan_of([5])
    assert (tiny.horizon, tiny.season, tiny.seasons) == (1, 1, ())
    with pytest.raises(DataError) as raised:
        plan_of([30], horizon=20)
    assert raised.value.hint
    zeros = make_plan([np.tile([0.0, 0, 3], 40)], season=7, seasons=(7,), horizon=None, usual_horizon=7)
    assert zeros.intermittent
    assert not zeros.log
    assert zeros.non_negative


def test_parts_never_overlap() -> None:
    rng = np.random.default_rng(0)
    panel = Panel([rng.normal(size=size) for size in (400, 250, 90)], 7)
    plan = plan_of([400, 250, 90])
    test = test_part(panel, plan)
    begin = dict(zip(test.series.tolist(), test.ends.tolist(), strict=True))
    validation = validation_parts(panel, plan, max_windows=1000, seed=0)
    for series, end in zip(validation.series.tolist(), validation.ends.tolist(), strict=True):
        assert end + plan.horizon <= begin[series]
    held_back = plan.horizon + plan.validation_span
    training = training_part(panel, plan, held_back=held_back, max_windows=10_000, seed=0)
    first = {n: validation.ends[validation.series == n].min(initial=10**6) for n in range(3)}
    for series, end in zip(training.series.tolist(), training.ends.tolist(), strict=True):
        assert end + plan.horizon <= min(first[series], begin[series])
        assert end >= plan.min_history
    sample = training_part(panel, plan, held_back=held_back, max_windows=50, seed=0)
    assert len(sample.ends) == 50


def test_short_series_are_learned_from_only_where_a_whole_future_fits() -> None:
    """Horizon and validation leave too little: then nothing is learned, rather than from the future."""
    panel = Panel([np.arange(20.0) + 1], 1)
    plan = make_plan([panel.values(0)], season=1, seasons=(), horizon=6, usual_horizon=6)
    held_back = plan.horizon + plan.validation_span
    assert not len(training_part(panel, plan, held_back=held_back, max_windows=100, seed=0).ends)
    late = training_part(panel, plan, held_back=plan.horizon, max_windows=100, seed=0)
    assert len(late.ends)
    assert late.ends.max() + plan.horizon == 20 - plan.horizon
    outcome = train(panel, plan, ForecastSettings(), seed=0, deadline=1e12, told=quiet)
    notes = {row.name: row.note for row in outcome.rows if row.fit is not None}
    assert notes
    assert set(notes.values()) == {"Left out: series are too short."}


def test_the_test_part_decides_nothing_of_the_plan() -> None:
    values = [np.arange(50.0) + 1, np.arange(80.0) + 5]
    changed = [value.copy() for value in values]
    for value in changed:
        value[-4:] = [-1e6, 0, 0, 0]
    usual, other = (
        make_plan(each, season=1, seasons=(), horizon=4, usual_horizon=4) for each in (values, changed)
    )
    assert usual == other
    assert usual.log
    with pytest.raises(DataError, match="before its last 4"):
        make_plan([np.r_[np.full(26, np.nan), 1, 2]], season=1, seasons=(), horizon=4, usual_horizon=4)


def test_season_that_was_asked_for_overrules_the_frequency(trained: Trained) -> None:
    inspection = inspect_series(trained.data)
    series = inspection.series
    assert series is not None

    def seasons(season: int | None) -> tuple[int, tuple[int, ...]]:
        plan = plan_for(series, inspection.usable, ForecastSettings(season=season))
        return plan.season, plan.seasons

    assert seasons(None) == (7, (7,))
    assert seasons(1) == (1, ())
    assert seasons(5) == (5, (5,))


def test_naive_error_is_that_of_the_past_alone() -> None:
    values = np.arange(40.0) ** 2
    values[5] = np.nan
    windows = Panel([np.ones(10), values], 3).windows(np.array([1]), np.array([20]), length=8, horizon=4)
    past = values[:20]
    change = np.abs(past[3:] - past[:-3])
    assert windows.naive_error[0] == pytest.approx(np.nanmean(change))
    np.testing.assert_array_equal(windows.future[0], values[20:24])
    beyond = Panel([values], 3).windows(np.array([0]), np.array([38]), length=8, horizon=4)
    assert np.isnan(beyond.future[0, 2:]).all()


# -------------------------------------------------------------------------------------------------- choice


def windows_for(truth_WH: np.ndarray) -> Windows:
    number = len(truth_WH)
    return Windows(
        history=np.ones((number, 4), np.float32),
        observed=np.ones((number, 4), np.float32),
        future=truth_WH,
        scale=np.ones(number),
        naive_error=np.ones(number),
        series=np.arange(number),
    )


def test_choice_takes_members_that_help_each_other() -> None:
    rng = np.random.default_rng(0)
    truth = np.full((60, 5), 10.0)
    noisy = [truth + rng.normal(0, 1, truth.shape) for _ in range(5)]
    wrong = truth + 50
    judge = Judge(windows_for(truth), truth + 2, positive=True)
    points = [wrong, *noisy]
    chosen = choose_members(points, judge)
    assert 0 not in chosen
    assert len(chosen) >= 3
    together = judge(np.median([points[i] for i in chosen], axis=0))
    assert together < 0.8 * min(judge(each) for each in noisy)
    assert judge(truth + 2) == 1


def test_conformal_intervals_cover_what_they_say() -> None:
    rng = np.random.default_rng(0)
    growth = np.sqrt(np.arange(1, 9))
    levels = (0.025, 0.1, 0.5, 0.9, 0.975)
    for number in (2000, 30):
        offsets = conformal_offsets(rng.standard_t(4, (number, 8)) * growth, levels)
        fresh = rng.standard_t(4, (20_000, 8)) * growth
        for low, high, nominal in ((0, 4, 0.95), (1, 3, 0.8)):
            inside = ((fresh >= offsets[:, low]) & (fresh <= offsets[:, high])).mean()
            assert inside == pytest.approx(nominal, abs=0.015 if number == 2000 else 0.06)
        assert (offsets[:, 2] == 0).all()
        assert (np.diff(offsets, axis=1) >= 0).all()
    assert not conformal_offsets(np.full((3, 8), np.nan), levels).any()


def test_export_that_answers_otherwise_is_refused(trained: Trained) -> None:
    from xtorch.tasks.forecasting.recipe import parity

    given = build_inputs(trained.folder, trained.data)
    model = load_model(trained.folder)
    test = windows_for(np.full((len(given.test), HORIZON), 1.0))
    test = Windows(
        **{
            **vars(test),
            "history": np.concatenate([feed["history"] for feed in given.test]),
            "observed": np.concatenate([feed["observed"] for feed in given.test]),
        }
    )
    quantiles = run_ensemble(model, test)
    outcome = Outcome(
        ensemble=model,
        rows=[],
        kept=(),
        validation=test,
        test=test,
        quantiles=quantiles,
        validation_score={},
        test_score={},
        fit_s=0.0,
    )
    assert parity(trained.folder / "model.onnx", outcome)["num_samples"] == len(given.test)
    outcome.quantiles = quantiles + 0.1
    with pytest.raises(ParityError):
        parity(trained.folder / "model.onnx", outcome)


def test_series_that_cannot_be_measured_end_in_a_typed_error() -> None:
    values = [np.concatenate([[1.0, 2.0], np.full(28, np.nan), [3.0]])]
    plan = make_plan(values, season=1, seasons=(), horizon=5, usual_horizon=5)
    with pytest.raises(TrainingError) as raised:
        train(Panel(values, 1), plan, ForecastSettings(), seed=0, deadline=0.0, told=quiet)
    assert raised.value.hint


# ------------------------------------------------------------------------------------------------ real data


def test_seasonal_naive_is_the_official_sheets() -> None:
    import csv
    import os

    root = (
        Path(os.environ.get("IGNITION_TEST_DATA", Path(__file__).parents[3].parent / "shared" / "data"))
        / "m4"
    )
    if not root.is_dir():
        pytest.skip(f"no M4 data under {root}; set IGNITION_TEST_DATA")
    expected = {"Hourly": (24, 48, 13.912, 1.193), "Weekly": (1, 13, 9.161, 2.777)}
    from xtorch.forecast_metrics import smape

    for group, (season, horizon, smape_, mase_) in expected.items():
        parts = []
        for part in ("Train", "Test"):
            with (root / part / f"{group}-{part.lower()}.csv").open(newline="") as file:
                rows = list(csv.reader(file))[1:]
            parts.append([np.array([float(cell) for cell in row[1:] if cell]) for row in rows])
        panel = Panel([np.concatenate(pair) for pair in zip(*parts, strict=True)], season)
        ends = panel.sizes - horizon
        windows = panel.windows(np.arange(len(panel)), ends, length=season, horizon=horizon)
        points = np.tile(windows.history, (1, -(-horizon // season)))[:, :horizon] * windows.scale[:, None]
        assert smape(windows.future, points).mean() == pytest.approx(smape_, abs=6e-4)
        assert mase(windows.future, points, windows.naive_error).mean() == pytest.approx(mase_, abs=6e-4)
