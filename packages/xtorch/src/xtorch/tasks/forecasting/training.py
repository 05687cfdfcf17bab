"""From series to a fitted ensemble: backtests before the test part decide, the test part only measures.

Shapes: W windows, H values forecast, Q quantile levels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from xtorch.errors import TrainingError
from xtorch.models.forecast_ensemble import EnsembleConfig, ForecastEnsemble, MemberConfig, Spread
from xtorch.tasks.forecasting.candidates import Candidate, candidates
from xtorch.tasks.forecasting.choose import Judge, choose_members, conformal_offsets, point_scores
from xtorch.tasks.forecasting.fitting import forecast
from xtorch.tasks.forecasting.kept import KeptFits
from xtorch.tasks.forecasting.plan import (
    ForecastSettings,
    Part,
    Plan,
    test_part,
    training_part,
    validation_parts,
)
from xtorch.tasks.forecasting.windows import Panel, Windows

_MAX_VALIDATION = 4000
_MAX_TEST = 10_000
_MAX_TRAINING = 20_000
_CHUNK = 256

Told = Callable[[float, str], None]
"""(share done, what is done)."""


@dataclass(kw_only=True)
class Outcome:
    """What training leaves.

    Attributes:
        ensemble: Fitted on all that lies before the test part; it is what is exported and what `test`
            measures.
        rows: All candidates, with their scores; `kept` are the ensemble's.
        validation, test: The windows.
        quantiles: The ensemble on the test windows, in the series' own unit, float64 [W,H,Q].
        validation_score: Of the ensemble, on validation: `point_scores` with ``relative``.
        fit_s: Seconds of fitting.
    """

    ensemble: ForecastEnsemble
    rows: list[Candidate]
    kept: tuple[str, ...]
    validation: Windows
    test: Windows
    quantiles: np.ndarray
    validation_score: dict[str, float]
    test_score: dict[str, float]
    fit_s: float


def windows_of(panel: Panel, plan: Plan, part: Part) -> Windows:
    """The windows of a part."""
    return panel.windows(part.series, part.ends, length=plan.length, horizon=plan.horizon)


def train(
    panel: Panel,
    plan: Plan,
    settings: ForecastSettings,
    *,
    seed: int,
    deadline: float,
    told: Told,
    kept: KeptFits | None = None,
) -> Outcome:
    """Fits all candidates before validation, chooses, fits the chosen ones again, and measures.

    Args:
        panel: All series; their last `plan.horizon` values are the test part.
        deadline: Of `time.monotonic`: what is learned before validation ends by then, and candidates that
            were not begun are left out. Fitting the chosen ones again takes about as long once more.
        told: About progress.
        kept: Fits of an earlier run that was killed.

    Raises:
        TrainingError: Nothing could be measured on validation.
    """
    started = time.monotonic()
    validation = windows_of(
        panel, plan, validation_parts(panel, plan, max_windows=_MAX_VALIDATION, seed=seed)
    )
    if not len(validation) or not np.isfinite(validation.future).any():
        raise TrainingError(
            "No forecast could be tried before the test part.",
            value=len(validation),
            hint="the series are too short or hold too few values for this horizon: ask for a shorter one",
        )
    held_back = plan.horizon + plan.validation_span
    early = windows_of(
        panel, plan, training_part(panel, plan, held_back=held_back, max_windows=_MAX_TRAINING, seed=seed)
    )
    rows = candidates(plan, settings.candidates, seed=seed, num_seeds=settings.num_seeds)
    kept = kept or KeptFits(None, plan)
    tried: list[Candidate] = []
    for index, row in enumerate(rows):
        told(0.55 * index / len(rows), row.title)
        if row.fit is None:
            row.module = row.config.build(plan.length, plan.horizon).eval()
        elif not len(early):
            row.note = "Left out: series are too short."
            continue
        elif not kept.restore(row, "early"):
            left_s = deadline - time.monotonic()
            if left_s < 0:
                row.note = "Left out: time was up."
                continue
            try:
                row.learn(early, max(2.0, left_s / (len(rows) - index)))
            except TrainingError as error:
                row.note = f"Left out: {error.message}"
                continue
            kept.keep(row, "early", row.fit_s)
        assert row.module is not None
        row.validation = forecast(row.module, validation)
        if not np.isfinite(row.validation).all():
            row.note = "Left out: it forecast values that are not finite."
            continue
        tried.append(row)
    naive = next(row for row in tried if row.name == naive_name(plan))
    assert naive.validation is not None
    judge = Judge(validation, naive.validation, positive=plan.log)
    for row in tried:
        assert row.validation is not None
        row.scores["validation"] = {
            **point_scores(validation, row.validation),
            "relative": judge(row.validation),
        }
    able = [row for row in tried if row.kind == "model"] or tried
    chosen = [able[index] for index in choose_members([_points(row) for row in able], judge)]
    points_WH = np.median([_points(row) for row in chosen], axis=0)
    offsets_HQ = conformal_offsets(_errors(plan, validation, points_WH), settings.levels)

    # From here on nothing is decided any more: the chosen ones learn what lies before the test part, too.
    told(0.6, "Fitting the chosen members on all of the history")
    test = windows_of(panel, plan, _some(test_part(panel, plan), _MAX_TEST, seed))
    late = windows_of(
        panel, plan, training_part(panel, plan, held_back=plan.horizon, max_windows=_MAX_TRAINING, seed=seed)
    )
    for index, row in enumerate(chosen):
        told(0.6 + 0.3 * index / len(chosen), row.title)
        if row.fit is not None and not kept.restore(row, "late"):
            early_s = row.fit_s
            row.learn(late, float("inf"))
            kept.keep(row, "late", row.fit_s - early_s)
    told(0.9, "Measuring on the test part")
    for row in tried:
        assert row.module is not None
        row.test = forecast(row.module, test)
        row.scores["test"] = point_scores(test, row.test)
    ensemble = assemble(plan, chosen, offsets_HQ, settings.levels)
    fit_s = time.monotonic() - started
    quantiles_WHQ = run_ensemble(ensemble, test)
    middle = settings.levels.index(0.5)
    return Outcome(
        ensemble=ensemble,
        rows=rows,
        kept=tuple(row.name for row in chosen),
        validation=validation,
        test=test,
        quantiles=quantiles_WHQ,
        validation_score={**point_scores(validation, points_WH), "relative": judge(points_WH)},
        test_score=point_scores(test, quantiles_WHQ[:, :, middle]),
        fit_s=fit_s,
    )


def naive_name(plan: Plan) -> str:
    """The baseline that others are compared with."""
    return "naive" if plan.season == 1 else f"seasonal_naive_{plan.season}"


def assemble(
    plan: Plan, chosen: Sequence[Candidate], offsets_HQ: np.ndarray, levels: Sequence[float]
) -> ForecastEnsemble:
    """One module of fitted members."""
    config = EnsembleConfig(
        length=plan.length,
        horizon=plan.horizon,
        season=plan.season,
        quantiles=tuple(levels),
        lower=0.0 if plan.non_negative else None,
        members=tuple(
            MemberConfig(name=row.name, kind=row.config.kind, config=row.config.config) for row in chosen
        ),
    )
    ensemble = ForecastEnsemble(config)
    for row in chosen:
        assert row.module is not None
        ensemble.members[row.name] = row.module
    ensemble.offsets_HQ.copy_(torch.from_numpy(offsets_HQ))
    return ensemble.eval().requires_grad_(False)


def run_ensemble(ensemble: nn.Module, windows: Windows) -> np.ndarray:
    """Quantiles in the series' own unit, float64 [W,H,Q]."""
    parts = []
    with torch.inference_mode():
        for chunk in torch.arange(len(windows)).split(_CHUNK):
            picks = chunk.numpy()
            answer = ensemble(
                torch.from_numpy(windows.history[picks]), torch.from_numpy(windows.observed[picks])
            )
            parts.append(answer.numpy())
    quantiles: np.ndarray = np.concatenate(parts).astype(np.float64) * windows.scale[:, None, None]
    return quantiles


def _points(row: Candidate) -> np.ndarray:
    assert row.validation is not None
    return row.validation


def _errors(plan: Plan, windows: Windows, points_WH: np.ndarray) -> np.ndarray:
    """Errors over the spread that the served graph computes, float64 [W,H]."""
    with torch.inference_mode():
        spread_W1 = Spread(plan.season)(torch.from_numpy(windows.history), torch.from_numpy(windows.observed))
    errors: np.ndarray = (windows.future - points_WH) / (spread_W1.numpy() * windows.scale[:, None])
    return errors


def _some(part: Part, limit: int, seed: int) -> Part:
    if len(part.ends) <= limit:
        return part
    picks = np.sort(np.random.default_rng(seed).choice(len(part.ends), limit, replace=False))
    return Part(series=part.series[picks], ends=part.ends[picks])
