"""Fits the members that learn from all series together: a linear map, boosted trees, neural networks.

Shapes: W windows, L past values, H future values, F features, R rows (one per window and step).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from xtorch.errors import TrainingError
from xtorch.models.forecast_ensemble import (
    LagFeatures,
    LagTrees,
    MemberConfig,
    ScaledNetworks,
    WindowScale,
)
from xtorch.models.linear_forecasters import NLinear
from xtorch.models.trees import Trees
from xtorch.tasks.forecasting.windows import Windows
from xtorch.trainer import Trainer, TrainerConfig

_MAX_ROWS = 200_000
_CHUNK = 256
_NUM_TREES = 300
_NUM_EPOCHS, _STEPS_PER_EPOCH = 20, 40
_TIMED_STEPS = 5


def importance(windows: Windows) -> np.ndarray:
    """How much a unit of each scaled window weighs in MASE and sMAPE, float32 [W], mean 1.

    An error of the scaled value is worth ``scale / naive_error`` in MASE; the root and the bounds keep single
    series from ruling.
    """
    weight_W = windows.scale / np.where(windows.naive_error > 0, windows.naive_error, np.nan)
    typical = np.nanmedian(weight_W) if np.isfinite(weight_W).any() else 1.0
    weight_W = np.clip(np.nan_to_num(weight_W / typical, nan=1.0), 0.05, 20.0)
    weight_W = np.sqrt(weight_W)
    return (weight_W / weight_W.mean()).astype(np.float32)


def scaled_pairs(scale: WindowScale, windows: Windows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs [W,L], targets [W,H] (NaN: not known), centre and spread [W,1] as a learned member sees them."""
    past_WL, centre_W1, spread_W1 = scale(torch.from_numpy(windows.history))
    return (
        past_WL,
        scale.scale(torch.from_numpy(windows.scaled_future), centre_W1, spread_W1),
        centre_W1,
        spread_W1,
    )


def fit_linear(scale: WindowScale, windows: Windows, *, ridge: float = 1e-2) -> ScaledNetworks:
    """NLinear by weighted ridge regression in closed form, on windows whose future is known.

    Raises:
        TrainingError: There is no such window.

    Source: Hoerl and Kennard, "Ridge Regression" (Technometrics 1970); closed form as in Toner and Darlow,
    "An Analysis of Linear Time Series Forecasting Models" (ICML 2024), section 3.
    """
    past_WL, target_WH, _, spread_W1 = scaled_pairs(scale, windows)
    whole_W = torch.isfinite(target_WH).all(1)
    if not whole_W.any():
        raise TrainingError("A value is missing in every future.", value=len(windows))
    last_W1 = past_WL[:, -1:]
    x = torch.cat([past_WL - last_W1, torch.ones_like(last_W1)], 1)[whole_W].double()
    y = (target_WH - last_W1)[whole_W].double()
    # Bounded, or the few windows that jump would be all that is fitted.
    limit = 6 * y.abs().mean(1).median()
    y = y.clamp(-limit, limit)
    weight_W1 = (spread_W1 * torch.from_numpy(importance(windows))[:, None])[whole_W].double()
    weight_W1 = (weight_W1 / weight_W1.mean()).clamp(max=10.0)
    gram_LL = x.T @ (weight_W1 * x)
    gram_LL += ridge * gram_LL.diagonal().mean() * torch.eye(len(gram_LL), dtype=torch.float64)
    weights_LH = torch.linalg.solve(gram_LL, x.T @ (weight_W1 * y))
    network = NLinear(scale.length, y.shape[1])
    with torch.no_grad():
        network.Linear.weight.copy_(weights_LH[:-1].T)
        network.Linear.bias.copy_(weights_LH[-1])
    return ScaledNetworks(scale, [network]).eval().requires_grad_(False)


def fit_trees(
    scale: WindowScale,
    windows: Windows,
    *,
    seasons: Sequence[int],
    seed: int,
    num_trees: int = _NUM_TREES,
    num_leaves: int = 31,
    learning_rate: float = 0.05,
    limit_s: float = float("inf"),
) -> LagTrees:
    """LightGBM on lag features, least absolute error, one row per window and step ahead (direct forecasts).

    Args:
        scale: What the features are made of.
        windows: To learn from.
        seasons: That lags are taken from.
        num_trees: At most; fewer where time is up.
        limit_s: Seconds for boosting.

    Raises:
        TrainingError: No future value is known.

    Source: Ke et al., "LightGBM" (NeurIPS 2017); one model for all series and steps as in the M5
    competition's winners (Makridakis et al., International Journal of Forecasting 2022, section 4).
    """
    import lightgbm

    features = LagFeatures(scale.length, windows.future.shape[1], seasons)
    past_WL, target_WH, _, spread_W1 = scaled_pairs(scale, windows)
    horizon = target_WH.shape[1]
    rng = np.random.default_rng(seed)
    # Some steps of every window say more than every step of some.
    steps = max(1, min(horizon, _MAX_ROWS // len(windows)))
    pick_WK = torch.from_numpy(np.argsort(rng.random((len(windows), horizon)), axis=1)[:, :steps])
    parts, targets = [], []
    with torch.inference_mode():
        for chunk in torch.arange(len(windows)).split(_CHUNK):
            rows_NHF = features(past_WL[chunk])
            index_NK = pick_WK[chunk]
            rows_NKF = rows_NHF.gather(1, index_NK[:, :, None].expand(-1, -1, features.num_features))
            parts.append(rows_NKF.flatten(0, 1).numpy())
            targets.append((target_WH[chunk].gather(1, index_NK) - rows_NKF[:, :, 0]).flatten().numpy())
    x_RF, y_R = np.concatenate(parts), np.concatenate(targets)
    weight_R = np.repeat(spread_W1[:, 0].numpy() * importance(windows), steps)
    known_R = np.isfinite(y_R)
    if not known_R.any():
        raise TrainingError("No future value is known.", value=len(windows))
    booster = lightgbm.Booster(
        {
            "objective": "l1",
            "num_leaves": num_leaves,
            "max_depth": 10,
            "learning_rate": learning_rate,
            "min_data_in_leaf": 50,
            "feature_fraction": 0.6,
            "bagging_fraction": 0.7,
            "bagging_freq": 1,
            "use_missing": False,
            # As torch: threads that wait for a busy machine's cores cost more than they gain.
            "num_threads": torch.get_num_threads(),
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
            "verbose": -1,
        },
        lightgbm.Dataset(x_RF[known_R], y_R[known_R], weight=weight_R[known_R]),
    )
    started = time.monotonic()
    for _ in range(num_trees):
        if booster.update() or time.monotonic() - started > limit_s:
            break
    return LagTrees(scale, features, Trees.from_lightgbm(booster)).eval()


def fit_networks(
    scale: WindowScale,
    windows: Windows,
    member: MemberConfig,
    *,
    seed: int,
    num_epochs: int | None = None,
    limit_s: float = float("inf"),
    batch: int = 256,
    learning_rate: float = 1e-3,
) -> tuple[ScaledNetworks, int]:
    """The networks of a member, one after the other, by the weighted mean absolute error on random windows.

    Args:
        member: Of kind "networks".
        seed: Of the first; the others follow.
        num_epochs: Of 40 steps each; None: 20, and fewer where `limit_s` leaves no time for them.
        limit_s: Seconds for all networks together. The first steps are timed, so that the learning rate falls
            to 0 within the time there is.

    Returns:
        The networks, and the epochs of each.

    Raises:
        TrainingError: No future value is known, or the loss is not finite.
    """
    past_WL, target_WH, _, spread_W1 = scaled_pairs(scale, windows)
    known_WH = torch.isfinite(target_WH)
    if not known_WH.any():
        raise TrainingError("No future value is known.", value=len(windows))
    target_WH = torch.where(known_WH, target_WH, 0.0)
    weight_W1 = spread_W1 * torch.from_numpy(importance(windows))[:, None]
    weight_WH = known_WH * (weight_W1 / weight_W1.mean()).clamp(max=10.0)

    def loss(model: nn.Module, picks: Tensor) -> Tensor:
        error_NH = (model(past_WL[picks]) - target_WH[picks]).abs()
        weight_NH = weight_WH[picks]
        total: Tensor = (error_NH * weight_NH).sum() / weight_NH.sum().clamp(min=1e-6)
        return total

    def built(number: int) -> nn.Module:
        torch.manual_seed(number)
        single = MemberConfig(name=member.name, kind=member.kind, config={**member.config, "num_seeds": 1})
        module = single.build(windows.history.shape[1], target_WH.shape[1])
        assert isinstance(module, ScaledNetworks)
        return module.networks[0]

    def fit(network: nn.Module, number: int, epochs: int, steps: int) -> nn.Module:
        def batches(generator: torch.Generator) -> list[Tensor]:
            return list(torch.randint(len(past_WL), (steps, batch), generator=generator).unbind())

        config = TrainerConfig(max_epochs=epochs, learning_rate=learning_rate, weight_decay=1e-4, seed=number)
        Trainer(config).fit(network, batches, loss=loss)
        return network

    num_networks = int(member.config["num_seeds"])
    if num_epochs is None:
        fit(built(seed), seed, 1, 1)  # the first step of a process is slower than the others
        started = time.monotonic()
        fit(built(seed), seed, 1, _TIMED_STEPS)
        epoch_s = (time.monotonic() - started) / _TIMED_STEPS * _STEPS_PER_EPOCH
        num_epochs = int(np.clip(limit_s / num_networks // epoch_s, 1, _NUM_EPOCHS))
    networks = [
        fit(built(number), number, num_epochs, _STEPS_PER_EPOCH)
        for number in range(seed, seed + num_networks)
    ]
    return ScaledNetworks(scale, networks).eval().requires_grad_(False), num_epochs


def forecast(member: nn.Module, windows: Windows) -> np.ndarray:
    """A member's points in the series' own unit, float64 [W,H]."""
    parts = []
    with torch.inference_mode():
        for chunk in np.array_split(np.arange(len(windows)), max(1, -(-len(windows) // _CHUNK))):
            answer = member(
                torch.from_numpy(windows.history[chunk]), torch.from_numpy(windows.observed[chunk])
            )
            parts.append(answer.numpy())
    points: np.ndarray = np.concatenate(parts).astype(np.float64) * windows.scale[:, None]
    return points
