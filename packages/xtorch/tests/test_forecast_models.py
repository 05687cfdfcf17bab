"""Forecasters as tensor programs: each against the recursion it stands for, or the library it comes from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from xtorch.export import export_tensor_model
from xtorch.models import create
from xtorch.models.filters import LEVEL_GRID, holt_bank, ses_bank
from xtorch.models.forecast_ensemble import (
    EnsembleConfig,
    ForecastEnsemble,
    LagFeatures,
    MemberConfig,
    WindowScale,
)
from xtorch.models.linear_forecasters import DLinear, NLinear
from xtorch.models.seasonality import Seasonality
from xtorch.models.statistical import (
    TSB,
    Croston,
    ExponentialSmoothing,
    Mean,
    SeasonalMedian,
    SeasonalNaive,
    Theta,
    median,
)
from xtorch.models.trees import Trees

LENGTH, HORIZON = 48, 12


def ones(history: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(history)


@pytest.fixture(scope="module")
def series() -> torch.Tensor:
    """Monthly-like, positive, with trend, season and noise: float32 [6,48] of mean about 1."""
    rng = np.random.default_rng(0)
    time = np.arange(LENGTH)
    season = 1 + 0.3 * np.sin(2 * np.pi * (time[None] + np.arange(6)[:, None]) / 12)
    values = season * (1 + 0.02 * time[None]) * np.exp(0.05 * rng.normal(size=(6, LENGTH)))
    return torch.tensor(values / values.mean(1, keepdims=True), dtype=torch.float32)


def holt_loop(
    values: np.ndarray, alpha: float, share: float, phi: float, horizon: int
) -> tuple[np.ndarray, np.ndarray]:
    """One-step-ahead predictions and the forecast, as the textbook writes them."""
    level, trend, steps = values[0], 0.0, []
    for value in values:
        predicted = level + phi * trend
        steps.append(predicted)
        level = predicted + alpha * (value - predicted)
        trend = phi * trend + alpha * share * (value - predicted)
    reach = np.cumsum(phi ** np.arange(1, horizon + 1))
    return np.array(steps), level + reach * trend


def test_filter_bank_is_the_recursion_weighted_by_its_errors(series: torch.Tensor) -> None:
    bank = holt_bank(LENGTH, HORIZON, levels=(0.2, 0.7), trends=(0.1,), damping=(0.9,))
    grid = [(0.2, 0.0, 1.0), (0.7, 0.0, 1.0), (0.2, 0.1, 0.9), (0.7, 0.1, 0.9)]
    for row, forecast in zip(series.double().numpy(), bank(series, ones(series)).numpy(), strict=True):
        runs = [holt_loop(row, *constants, HORIZON) for constants in grid]
        score = np.array([-0.5 * LENGTH * np.log(((row - steps) ** 2).sum()) for steps, _ in runs])
        weight = np.exp(score - score.max())
        expected = sum(w * f for w, (_, f) in zip(weight / weight.sum(), runs, strict=True))
        np.testing.assert_allclose(forecast, expected, rtol=2e-4)


def test_filling_in_front_changes_no_smoothing(series: torch.Tensor) -> None:
    short = series[:, 20:]
    padded = torch.cat([short[:, :1].expand(-1, 20), short], 1)
    observed = torch.cat([torch.zeros(6, 20), torch.ones(6, 28)], 1)
    long, brief = ses_bank(LENGTH, HORIZON), ses_bank(28, HORIZON)
    torch.testing.assert_close(long(padded, observed), brief(short, ones(short)), rtol=1e-4, atol=1e-5)
    for make in (Theta, ExponentialSmoothing):
        ours, theirs = make(LENGTH, HORIZON, 12), make(28, HORIZON, 12)
        torch.testing.assert_close(ours(padded, observed), theirs(short, ones(short)), rtol=1e-3, atol=1e-4)


def test_theta_without_a_season_is_the_published_one(series: torch.Tensor) -> None:
    ours = Theta(LENGTH, HORIZON)(series, ones(series)).numpy()
    time = np.arange(LENGTH + HORIZON)
    for row, forecast in zip(series.double().numpy(), ours, strict=True):
        slope, intercept = np.polyfit(time[:LENGTH], row, 1)
        line = intercept + slope * time
        bent = 2 * row - line[:LENGTH]
        runs = [holt_loop(bent, alpha, 0.0, 1.0, HORIZON) for alpha in LEVEL_GRID]
        score = np.array([-0.5 * LENGTH * np.log(((bent - steps) ** 2).sum()) for steps, _ in runs])
        weight = np.exp(score - score.max()) / np.exp(score - score.max()).sum()
        smoothed = sum(w * f for w, (_, f) in zip(weight, runs, strict=True))
        np.testing.assert_allclose(forecast, (smoothed + line[LENGTH:]) / 2, rtol=1e-3)


def test_seasonality_takes_out_what_it_puts_back() -> None:
    index = np.array([1.3, 0.7, 0.9, 1.1])
    values = torch.tensor(np.tile(index, 10) * np.linspace(1, 2, 40), dtype=torch.float32)[None]
    for moved in (values, values - 5):
        part = Seasonality(40, 8, 4)
        adjusted, factor, term = part(moved, ones(moved))
        if (moved > 0).all():
            np.testing.assert_allclose(factor[0].numpy(), np.tile(index, 2), rtol=0.02)
            np.testing.assert_allclose(adjusted[0].numpy(), np.linspace(1, 2, 40), rtol=0.03)
        else:
            assert torch.all(factor == 1)
            np.testing.assert_allclose(term[0, :4].sum().item(), 0, atol=1e-5)
            assert term[0, 0] > 0 > term[0, 1]


def test_noise_has_no_season() -> None:
    noise = 10 + torch.randn((50, 60), generator=torch.Generator().manual_seed(0))
    _, factor, _ = Seasonality(60, 12, 12)(noise, ones(noise))
    # The test is wrong at most about one time in ten.
    assert (factor != 1).any(1).float().mean() < 0.25


def croston_loop(values: np.ndarray, alpha: float) -> float:
    size: float | None = None
    interval: float | None = None
    last = -1
    for time, value in enumerate(values):
        if value:
            gap = time - last
            last = time
            size = value if size is None else size + alpha * (value - size)
            interval = gap if interval is None else interval + alpha * (gap - interval)
    assert size is not None
    assert interval is not None
    return float(size / interval)


def tsb_loop(values: np.ndarray, alpha: float, beta: float) -> float:
    size: float | None = None
    chance = float((values != 0).mean())
    for value in values:
        chance += beta * ((value != 0) - chance)
        if value:
            size = value if size is None else size + alpha * (value - size)
    assert size is not None
    return float(size * chance)


def test_croston_and_tsb_are_their_recursions() -> None:
    rng = np.random.default_rng(1)
    values = np.where(rng.random((20, LENGTH)) < 0.3, rng.integers(1, 9, (20, LENGTH)), 0).astype(float)
    values[:, 5] = 2
    history = torch.tensor(values, dtype=torch.float32)
    ours, theirs = Croston(LENGTH, 2)(history, ones(history)), TSB(LENGTH, 2)(history, ones(history))
    for row, croston, tsb in zip(values, ours.numpy(), theirs.numpy(), strict=True):
        np.testing.assert_allclose(croston, croston_loop(row, 0.1), rtol=1e-4)
        np.testing.assert_allclose(tsb, tsb_loop(row, 0.2, 0.1), rtol=1e-4)


def test_croston_agrees_with_statsforecast() -> None:
    models = pytest.importorskip("statsforecast.models", reason="statsforecast is not installed")
    rng = np.random.default_rng(2)
    values = np.where(rng.random(LENGTH) < 0.4, rng.integers(1, 9, LENGTH), 0).astype(np.float32)
    values[0] = 3
    expected = models.CrostonClassic().forecast(y=values, h=1)["mean"][0]
    history = torch.from_numpy(values)[None]
    np.testing.assert_allclose(Croston(LENGTH, 1)(history, ones(history)).item(), expected, rtol=0.02)


def test_simple_members() -> None:
    history = torch.arange(1.0, 13.0)[None]
    observed = ones(history)
    assert SeasonalNaive(12, 6, 4)(history, observed)[0].tolist() == [9, 10, 11, 12, 9, 10]
    assert SeasonalNaive(12, 2)(history, observed)[0].tolist() == [12, 12]
    assert SeasonalMedian(12, 5, 4, 3)(history, observed)[0].tolist() == [5, 6, 7, 8, 5]
    observed[0, :6] = 0
    assert Mean(12, 2)(history, observed)[0].tolist() == [9.5, 9.5]
    assert median(torch.tensor([[4.0, 1, 3, 2]]), dim=1).item() == 2.5


def test_nlinear_and_dlinear_are_their_definitions() -> None:
    torch.manual_seed(0)
    past = torch.randn(3, 30)
    model = NLinear(30, 4)
    torch.testing.assert_close(model(past + 7), model(past) + 7)
    split = DLinear(30, 4, window=5)
    padded = torch.cat([past[:, :1].expand(-1, 2), past, past[:, -1:].expand(-1, 2)], 1)
    trend = padded.unfold(1, 5, 1).mean(2)
    torch.testing.assert_close(
        split(past), split.Linear_Trend(trend) + split.Linear_Seasonal(past - trend), rtol=1e-4, atol=1e-5
    )
    with pytest.raises(ValueError, match="odd"):
        DLinear(30, 4, window=4)


def test_linear_forecasters_are_created_by_name() -> None:
    assert isinstance(create("nlinear", length=30, horizon=4), NLinear)
    assert isinstance(create("dlinear", length=30, horizon=4), DLinear)


def test_trees_give_lightgbms_answers() -> None:
    lightgbm = pytest.importorskip("lightgbm", reason="LightGBM is not installed")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 6)).astype(np.float32).round(2)
    y = np.where(x[:, 0] > 0.3, x[:, 1] * 2, -x[:, 2]) + 0.1 * rng.normal(size=3000)
    params = {"num_leaves": 20, "use_missing": False, "verbose": -1, "num_threads": 1}
    booster = lightgbm.train(params, lightgbm.Dataset(x, y), num_boost_round=30)
    trees = Trees.from_lightgbm(booster)
    np.testing.assert_allclose(trees(torch.from_numpy(x)).numpy(), booster.predict(x), rtol=1e-5, atol=1e-5)
    # Values exactly at a threshold go the same way.
    edges = np.repeat(np.nextafter(trees.threshold.numpy()[:50], np.float32(0))[:, None], 6, axis=1)
    np.testing.assert_allclose(
        trees(torch.from_numpy(edges)).numpy(), booster.predict(edges), rtol=1e-5, atol=1e-5
    )


def test_trees_with_other_splits_are_refused() -> None:
    lightgbm = pytest.importorskip("lightgbm", reason="LightGBM is not installed")
    rng = np.random.default_rng(0)
    x = rng.integers(0, 5, (500, 1)).astype(np.float32)
    data = lightgbm.Dataset(x, (x[:, 0] == 2) * 1.0, categorical_feature=[0])
    booster = lightgbm.train({"verbose": -1, "num_threads": 1}, data, num_boost_round=2)
    with pytest.raises(ValueError, match="cannot convert"):
        Trees.from_lightgbm(booster)


def test_lag_features_are_the_values_they_name() -> None:
    features = LagFeatures(24, 5, [4])
    past = torch.arange(24.0)[None]
    answer = features(past)
    assert answer.shape == (1, 5, features.num_features)
    # Steps 0..4 ahead are places 24..28; a season before are 20..23 and, for the fifth, two seasons: 24 - 0.
    assert answer[0, :, 0].tolist() == [20, 21, 22, 23, 20]
    assert answer[0, :, 1].tolist() == [16, 17, 18, 19, 16]
    torch.testing.assert_close(answer[0, :, -1], torch.tensor([0.2, 0.4, 0.6, 0.8, 1.0]))


@pytest.mark.parametrize("log", [True, False])
def test_window_scale_is_undone(log: bool, series: torch.Tensor) -> None:
    scale = WindowScale(24, centre=6, log=log)
    past, centre, spread = scale(series)
    torch.testing.assert_close(scale.undo(past, centre, spread), series[:, -24:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scale.scale(series[:, -24:], centre, spread), past, rtol=1e-4, atol=1e-5)


def members() -> tuple[MemberConfig, ...]:
    networks = {"length": 40, "centre": 6, "log": True, "num_seeds": 2, "network": "nhits"}
    networks |= {"pool_sizes": [2, 1], "downsampling": [4, 1], "blocks": [1, 1], "hidden": [16, 16]}
    return (
        MemberConfig(name="naive", kind="seasonal_naive", config={"season": 12}),
        MemberConfig(name="mean", kind="mean"),
        MemberConfig(name="median", kind="seasonal_median", config={"season": 12}),
        MemberConfig(name="theta", kind="theta", config={"season": 12}),
        MemberConfig(name="ets", kind="ets", config={"season": 12}),
        MemberConfig(name="croston", kind="croston"),
        MemberConfig(name="tsb", kind="tsb"),
        MemberConfig(name="networks", kind="networks", config=networks),
        MemberConfig(
            name="linear",
            kind="networks",
            config={"length": 40, "centre": 6, "log": False, "num_seeds": 1, "network": "nlinear"},
        ),
    )


@pytest.mark.slow
def test_every_member_is_one_onnx_graph(series: torch.Tensor, tmp_path: Path) -> None:
    import onnxruntime

    torch.manual_seed(0)
    config = EnsembleConfig(
        length=LENGTH, horizon=HORIZON, season=12, quantiles=(0.1, 0.5, 0.9), members=members(), lower=0.0
    )
    model = ForecastEnsemble(config).eval().requires_grad_(False)
    model.offsets_HQ.copy_(torch.tensor([-1.0, 0.0, 2.0]).expand(HORIZON, 3))
    observed = ones(series)
    observed[0, :20] = 0
    held = torch.where(observed > 0, series, series[:, 20:21])
    export_tensor_model(
        model,
        [held[:3], observed[:3]],
        tmp_path / "model.onnx",
        input_names=["history", "observed"],
        output_names=["forecast"],
        free_axes=(0,),
        axis_names="N",
    )
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"history": held.numpy(), "observed": observed.numpy()})
    np.testing.assert_allclose(answer, model(held, observed).numpy(), rtol=1e-4, atol=1e-5)
    assert answer.shape == (6, HORIZON, 3)
    assert (np.diff(answer, axis=2) > 0).all()
    assert EnsembleConfig.from_dict(config.to_dict()) == config
