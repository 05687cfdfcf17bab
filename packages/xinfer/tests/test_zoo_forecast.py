"""Forecasting: gaps, scaling, quantiles, batches; on a tiny model whose answer is known."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from xinfer import InputError, TaskSpecError, parse_task
from xinfer.tasks.forecast import SeriesInput
from xinfer.zoo.svg import ticks
from xinfer.zoo.timeseries import Forecaster, prepare_series

from .zoo_engines import make_engine, save_onnx

LENGTH, HORIZON, SEASON = 12, 6, 4
SPEC = {
    "task": "forecast",
    "version": 1,
    "input": {"name": "past", "kind": "series", "length": LENGTH, "scaling": "standard"},
    "outputs": {"forecast": "forecast"},
    "horizon": HORIZON,
    "quantiles": [0.1, 0.5, 0.9],
    "metric": "cosine",
}


def make_seasonal_onnx(path: Path, *, batch: int | str = "N", crossed: bool = False) -> Path:
    """What was a season ago, half a unit up and down: [N,12] -> [N,6,3]; columns falling if crossed."""
    places = np.array([LENGTH - SEASON + step % SEASON for step in range(HORIZON)], np.int64)
    spread = np.array([0.5, 0.0, -0.5] if crossed else [-0.5, 0.0, 0.5], np.float32)
    nodes = [
        helper.make_node("Gather", ["past", "places"], ["season"], axis=1),
        helper.make_node("Unsqueeze", ["season", "last"], ["column"]),
        helper.make_node("Add", ["column", "spread"], ["forecast"]),
    ]
    constants = {"places": places, "last": np.array([2], np.int64), "spread": spread}
    inputs = {"past": (TensorProto.FLOAT, [batch, LENGTH])}
    return save_onnx(path, nodes, inputs, {"forecast": [batch, HORIZON, 3]}, constants)


def make_masked_onnx(path: Path) -> Path:
    """The last value, if it was observed, else 7: [1,12], [1,12] -> [1,6]."""
    nodes = [
        helper.make_node("Gather", ["past", "end"], ["value"], axis=1),
        helper.make_node("Gather", ["mask", "end"], ["known"], axis=1),
        helper.make_node("Greater", ["known", "half"], ["is_known"]),
        helper.make_node("Where", ["is_known", "value", "seven"], ["chosen"]),
        helper.make_node("Expand", ["chosen", "shape"], ["forecast"]),
    ]
    constants = {
        "end": np.array([LENGTH - 1], np.int64),
        "half": np.float32(0.5),
        "seven": np.float32(7),
        "shape": np.array([1, HORIZON], np.int64),
    }
    inputs = {name: (TensorProto.FLOAT, [1, LENGTH]) for name in ("past", "mask")}
    return save_onnx(path, nodes, inputs, {"forecast": [1, HORIZON]}, constants)


GOLDEN = {"past": np.arange(LENGTH, dtype=np.float32)[None]}


def open_forecaster(folder: Path, spec: dict, **options: object) -> Forecaster:
    model = make_seasonal_onnx(folder / "model" / "model.onnx", **options)  # type: ignore[arg-type]
    return Forecaster(make_engine(folder, model, spec, GOLDEN))


@pytest.fixture(scope="module")
def forecaster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forecaster]:
    with open_forecaster(tmp_path_factory.mktemp("forecast"), SPEC) as opened:
        yield opened


def seasonal(length: int = 20, *, level: float = 100.0, size: float = 10.0) -> np.ndarray:
    return level + size * np.array([math.sin(2 * math.pi * step / SEASON) for step in range(length)])


def spec_of(**changes: object) -> SeriesInput:
    return SeriesInput(name="past", length=6, **changes)  # type: ignore[arg-type]


def test_forecast_is_in_the_series_own_units(forecaster: Forecaster) -> None:
    history = seasonal()
    result = forecaster.predict(history)
    expected = [history[-SEASON + step % SEASON] for step in range(HORIZON)]
    np.testing.assert_allclose(result.median, expected, rtol=1e-5)
    half = 0.5 * history[-LENGTH:].std()
    np.testing.assert_allclose(result.quantile(0.9) - result.median, half, rtol=1e-4)
    np.testing.assert_allclose(result.median - result.quantile(0.1), half, rtol=1e-4)


@pytest.mark.parametrize(("level", "size"), [(0.0, 1e-6), (1e9, 10.0), (-5.0, 1e6)])
def test_forecast_keeps_its_precision_when_the_scale_is_extreme(
    forecaster: Forecaster, level: float, size: float
) -> None:
    history = seasonal(level=level, size=size)
    expected = [history[-SEASON + step % SEASON] for step in range(HORIZON)]
    np.testing.assert_allclose(forecaster.predict(history).median, expected, atol=1e-5 * size)


def test_only_the_last_values_count(forecaster: Forecaster) -> None:
    history = seasonal()
    long = np.concatenate([np.full(5, 1e9), history[-LENGTH:]])
    np.testing.assert_array_equal(
        forecaster.predict(long).values, forecaster.predict(history[-LENGTH:]).values
    )


def test_gaps_and_none_are_filled(forecaster: Forecaster) -> None:
    history = list(seasonal(LENGTH, size=0))
    expected = forecaster.predict(history).values
    for missing in (math.nan, None):
        holed = [missing if index in (0, 3, 4, 11) else value for index, value in enumerate(history)]
        np.testing.assert_array_equal(forecaster.predict(holed).values, expected)


def test_a_constant_series_is_forecast_as_constant(forecaster: Forecaster) -> None:
    np.testing.assert_array_equal(forecaster.predict([0.1] * LENGTH).median, [0.1] * HORIZON)


def test_short_history_is_filled_in_front() -> None:
    filled, mask, _ = prepare_series([4.0, 6.0], spec_of())
    np.testing.assert_array_equal(filled, [4, 4, 4, 4, 4, 6])
    np.testing.assert_array_equal(mask, [0, 0, 0, 0, 1, 1])


@pytest.mark.parametrize(
    ("gaps", "expected"),
    [
        ("linear", [2, 2, 3, 4, 8, 8]),
        ("last", [2, 2, 2, 4, 8, 8]),
        ("mean", [14 / 3, 2, 14 / 3, 4, 8, 14 / 3]),
    ],
)
def test_each_rule_fills_gaps_in_its_way(gaps: str, expected: list[float]) -> None:
    filled, mask, _ = prepare_series([math.nan, 2, math.nan, 4, 8, math.nan], spec_of(gaps=gaps))
    np.testing.assert_allclose(filled, expected, rtol=1e-6)
    np.testing.assert_array_equal(mask, [0, 1, 0, 1, 1, 0])


@pytest.mark.parametrize("scaling", ["graph", "standard", "mean_abs"])
def test_scaling_is_undone(scaling: str) -> None:
    history = [3.0, 9.0, math.nan, -4.0, 5.0, 1.0]
    filled, _, scaled = prepare_series(history, spec_of(scaling=scaling))
    np.testing.assert_allclose(filled * scaled.scale + scaled.offset, [3, 9, 2.5, -4, 5, 1], atol=1e-5)
    if scaling == "standard":
        known = filled[[0, 1, 3, 4, 5]]
        assert known.mean() == pytest.approx(0, abs=1e-6)
        assert known.std() == pytest.approx(1, abs=1e-6)


@settings(deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.floats(-1e12, 1e12)), max_size=10),
    st.sampled_from(["linear", "last", "mean"]),
    st.sampled_from(["graph", "standard", "mean_abs"]),
)
def test_prepared_series_are_finite_or_refused(history: list[float | None], gaps: str, scaling: str) -> None:
    known = [value for value in history[-6:] if value is not None]
    if len(known) < 2:
        with pytest.raises(InputError):
            prepare_series(history, spec_of(gaps=gaps, scaling=scaling))
        return
    filled, mask, _ = prepare_series(history, spec_of(gaps=gaps, scaling=scaling))
    assert filled.shape == mask.shape == (6,)
    assert np.isfinite(filled).all()
    assert mask.sum() == len(known)


@pytest.mark.parametrize(
    "history",
    [
        [],
        [1.0],
        [math.nan] * 20,
        [1.0, math.inf, 2.0],
        [[1.0, 2.0]],
        ["a", "b"],
        [5.0] + [math.nan] * 12,
        [1e300, -1e300],
    ],
)
def test_predict_refuses_what_cannot_be_forecast(forecaster: Forecaster, history: list) -> None:
    with pytest.raises(InputError):
        forecaster.predict(history)


def test_batch_agrees_with_single_forecasts_when_longer_than_one_inference(forecaster: Forecaster) -> None:
    histories = [seasonal(14 + index % 7, level=index, size=1 + index) for index in range(150)]
    results = forecaster.predict_batch(iter(histories))
    assert len(results) == 150
    for index in (0, 63, 64, 149):
        alone = forecaster.predict(histories[index])
        np.testing.assert_allclose(results[index].values, alone.values, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(results[index].history, histories[index][-LENGTH:])


def test_batch_runs_one_by_one_when_the_model_takes_one(tmp_path: Path) -> None:
    with open_forecaster(tmp_path, SPEC, batch=1) as forecaster:
        results = forecaster.predict_batch([seasonal(level=level) for level in (0.0, 50.0)])
        np.testing.assert_allclose(results[1].median - results[0].median, 50, rtol=1e-5)


def test_crossed_quantiles_are_put_in_order(tmp_path: Path) -> None:
    with open_forecaster(tmp_path, SPEC, crossed=True) as forecaster:
        assert (np.diff(forecaster.predict(seasonal()).values, axis=1) > 0).all()


def test_bounds_hold(tmp_path: Path) -> None:
    with open_forecaster(tmp_path, SPEC | {"lower": 0.0, "upper": 8.0}) as forecaster:
        values = forecaster.predict(seasonal(level=2.0)).values
        assert (values.min(), values.max()) == (0.0, 8.0)


def test_mask_tells_the_model_what_was_observed(tmp_path: Path) -> None:
    spec = SPEC | {
        "quantiles": [0.5],
        "input": {"name": "past", "kind": "series", "length": LENGTH, "mask": "mask", "gaps": "mean"},
    }
    model = make_masked_onnx(tmp_path / "model" / "model.onnx")
    golden = GOLDEN | {"mask": np.ones((1, LENGTH), np.float32)}
    with Forecaster(make_engine(tmp_path, model, spec, golden)) as forecaster:
        assert forecaster.predict([1.0, 2.0, 3.0]).median[0] == 3
        assert forecaster.predict([1.0, 2.0, math.nan]).median[0] == 7


def test_json_and_drawing_are_complete(forecaster: Forecaster) -> None:
    history = seasonal(10)
    history[[2, 9]] = math.nan
    result = forecaster.predict(history)
    document = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert document["horizon"] == HORIZON
    assert list(document["quantiles"]) == ["0.1", "0.5", "0.9"]
    assert document["quantiles"]["0.5"] == result.median.tolist()
    root = ElementTree.fromstring(result.draw())
    lines = [node for node in root.iter() if node.tag.endswith("polyline")]
    # The gap splits the history; the forecast stands by itself because the last value is missing.
    assert len(lines) == 3
    assert len(lines[-1].get("points", "").split()) == HORIZON
    assert any(node.tag.endswith("polygon") for node in root.iter())
    with pytest.raises(InputError):
        result.quantile(0.25)


@pytest.mark.parametrize(
    "change",
    [
        {"horizon": 0},
        {"quantiles": [0.1, 0.9]},
        {"quantiles": [0.9, 0.5, 0.1]},
        {"quantiles": [0.5, 1.0]},
        {"lower": 1.0, "upper": 1.0},
        {"input": SPEC["input"] | {"min_observed": LENGTH + 1}},
        {"outputs": {}},
    ],
)
def test_spec_is_refused_when_it_makes_no_sense(change: dict[str, object]) -> None:
    with pytest.raises(TaskSpecError):
        parse_task(SPEC | change)


@pytest.mark.parametrize("change", [{"horizon": 5}, {"quantiles": [0.5]}, {"outputs": {"forecast": "other"}}])
def test_forecaster_refuses_an_engine_whose_outputs_differ(tmp_path: Path, change: dict[str, object]) -> None:
    model = make_seasonal_onnx(tmp_path / "model" / "model.onnx")
    with make_engine(tmp_path, model, SPEC | change, GOLDEN) as engine, pytest.raises(TaskSpecError):
        Forecaster(engine)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_and_within_the_range(low: float, span: float) -> None:
    found = ticks(low, low + span)
    assert len(found) <= 7
    assert all(low - 1e-6 * span <= tick <= low + span + 1e-6 * span for tick in found)
