"""The forecasting recipe: check, plan, backtests, ensemble, intervals, test, export, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xtorch.data.check_series import SeriesInspection, inspect_series, refuse
from xtorch.data.series import SeriesSet
from xtorch.errors import ParityError
from xtorch.export import export_tensor_model
from xtorch.models.forecast_ensemble import ForecastEnsemble
from xtorch.progress import Progress, Stages
from xtorch.tasks.forecasting import TEMPLATE, show
from xtorch.tasks.forecasting.candidates import Candidate
from xtorch.tasks.forecasting.choose import point_scores
from xtorch.tasks.forecasting.files import save_model, task_spec
from xtorch.tasks.forecasting.kept import kept_fits
from xtorch.tasks.forecasting.plan import ForecastSettings, Plan, plan_for, training_part
from xtorch.tasks.forecasting.reference import Reference, arima
from xtorch.tasks.forecasting.training import Outcome, naive_name, train
from xtorch.tasks.forecasting.windows import Panel, Windows
from xtorch.tasks.recipe import Run, write_json
from xtorch.tasks.report import LeaderboardRow

_CHECK, _TRAIN, _REFERENCE, _EXPORT, _REPORT = (
    "Checking series",
    "Training and backtesting",
    "Fitting ARIMA",
    "Exporting",
    "Writing the report",
)
#: Relative difference of MASE of source and export: rounding may send a value down another branch of a tree.
_PARITY_TOLERANCE = 2e-3
_PARITY_WINDOWS = 256
_TRAIN_ITEMS = 400
_EXAMPLE_BATCH = 3


def run(
    dataset_dir: str | Path,
    output_dir: str | Path,
    *,
    name: str,
    budget_s: float = 120.0,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    cache_dir: str | Path | None = None,
) -> dict[str, Any]:
    """Trains a forecaster on a table of series and writes all that a build needs.

    Args:
        dataset_dir: A table in a layout of `xtorch.data.series`.
        output_dir: Gets the files of ARCHITECTURE.md, 10.3; all of them or none.
        name: The model's name, for the report.
        budget_s: Seconds. Half of them are for learning before the backtests: members get less training, or
            are left out, where that is too short. Baselines, statistical members, test, export and report
            always happen.
        seed: Decides samples and initial weights.
        settings: Fields of `ForecastSettings`.
        progress: Told about progress.
        cache_dir: Keeps members that were fitted: a run that was killed goes on from there when it is run
            again. It then ends as it would have, unless time cuts training short. None: nothing is kept.

    Returns:
        The fields of `wire.TrainResult`.

    Raises:
        DataError: The data check found an error, or the series are too short for the horizon.
        SettingsError: A setting is unknown or out of range.
        TrainingError: Nothing could be measured.
        ExportError: The model could not be exported, or the export gives other answers.
    """
    with _Run.begin(
        TEMPLATE,
        ForecastSettings,
        dataset_dir,
        output_dir,
        name=name,
        budget_s=budget_s,
        seed=seed,
        settings=settings,
        progress=progress,
        cache_dir=cache_dir,
    ) as this:
        return this.execute()


class _Run(Run[ForecastSettings]):
    """The steps."""

    def execute(self) -> dict[str, Any]:
        chosen = self.settings
        self.stages = Stages(
            self.progress, {_CHECK: 5, _TRAIN: self.budget_s, _REFERENCE: 15, _EXPORT: 10, _REPORT: 2}
        )
        self.stages.report(_CHECK, 0.0)
        inspection = inspect_series(
            self.dataset_dir, roles=chosen.roles, gaps=chosen.gaps, horizon=chosen.horizon
        )
        refuse(inspection)
        series = inspection.series
        assert series is not None
        plan = plan_for(series, inspection.usable, chosen)
        panel = Panel([series.values[number] for number in inspection.usable], plan.season)
        outcome = train(
            panel,
            plan,
            chosen,
            seed=self.seed,
            deadline=self.started_s + 0.5 * self.budget_s,
            told=lambda done, what: self.stages.report(_TRAIN, done, message=what),
            kept=kept_fits(self.cache_dir, panel, plan, chosen, seed=self.seed, budget_s=self.budget_s),
        )
        self.stages.report(_REFERENCE, 0.0)
        reference = _reference(panel, plan, chosen, outcome, limit_s=self.left_s, seed=self.seed)
        self.stages.report(_EXPORT, 0.0)
        compared = _export(outcome, self.folder)
        self.stages.report(_REPORT, 0.0)
        _write_splits(self.folder, series, inspection, panel, plan, chosen, outcome, seed=self.seed)
        return self.finish(
            num_test=len(outcome.test),
            candidate=" + ".join(outcome.kept),
            parity=compared,
            **_figures(inspection, plan, chosen, outcome, reference, seed=self.seed),
        )


def _reference(
    panel: Panel, plan: Plan, settings: ForecastSettings, outcome: Outcome, *, limit_s: float, seed: int
) -> Reference | None:
    if "arima" not in settings.candidates or limit_s < 5:
        return None
    points_WH = outcome.quantiles[:, :, settings.levels.index(0.5)]
    ends = panel.sizes[outcome.test.series] - plan.horizon
    season = plan.seasons[0] if plan.seasons else 1
    return arima(panel, outcome.test, points_WH, ends, season=season, limit_s=min(limit_s, 30.0), seed=seed)


def _export(outcome: Outcome, folder: Path) -> dict[str, float]:
    """Writes the model and compares the file with its source on test windows.

    Raises:
        ParityError: The test metric of the file is another one.
    """
    ensemble, test = outcome.ensemble, outcome.test
    config = ensemble.config
    save_model(ensemble, folder)
    write_json(folder / "task.json", task_spec(config))
    write_json(folder / "labels.json", [])
    path = folder / "model.onnx"
    export_ensemble(ensemble, test, path)
    return parity(path, outcome)


def export_ensemble(ensemble: ForecastEnsemble, windows: Windows, path: Path) -> None:
    """Writes the model as ONNX: ``history`` and ``observed`` float32 [N,L] -> ``forecast`` [N,H,Q].

    Args:
        ensemble: What to write.
        windows: Examples for the exporter to trace; at least one.
        path: Where to write.

    Raises:
        ExportError: The exporter or ONNX's checker refuses.
    """
    rows = np.arange(_EXAMPLE_BATCH) % len(windows)
    export_tensor_model(
        ensemble,
        [torch.from_numpy(windows.history[rows]), torch.from_numpy(windows.observed[rows])],
        path,
        input_names=["history", "observed"],
        output_names=["forecast"],
        free_axes=(0,),
        axis_names="N",
    )


def parity(path: Path, outcome: Outcome) -> dict[str, float]:
    """`Report.parity`: MASE of source and file on the same test windows.

    Raises:
        ParityError: They differ by more than rounding, or a value is not finite.
    """
    import os

    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    test = outcome.test
    picks = np.unique(np.linspace(0, len(test) - 1, min(len(test), _PARITY_WINDOWS)).round().astype(int))
    some = Windows(**{field: getattr(test, field)[picks] for field in vars(test)})
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(path), sess_options=options, providers=["CPUExecutionProvider"]
    )
    (forecast_NHQ,) = session.run(None, {"history": some.history, "observed": some.observed})
    middle = outcome.ensemble.config.quantiles.index(0.5)
    scale_W11 = some.scale[:, None, None]
    exported_WHQ = forecast_NHQ.astype(np.float64) * scale_W11
    source_WHQ = outcome.quantiles[picks]
    values = [_deciding(point_scores(some, each[:, :, middle])) for each in (source_WHQ, exported_WHQ)]
    worst = float(np.abs((source_WHQ - exported_WHQ) / scale_W11).max())
    if not np.isfinite(exported_WHQ).all() or abs(values[1] - values[0]) > _PARITY_TOLERANCE * max(
        values[0], 0.1
    ):
        raise ParityError(
            f"The exported model's error is {values[1]:.5g}, its source's {values[0]:.5g}.",
            value=values[1],
            hint="this is a defect of the export: report it with the versions of torch and onnxscript",
        )
    return {
        "num_samples": len(picks),
        "metric_source": values[0],
        "metric_onnx": values[1],
        "max_abs_diff": worst,
    }


def _deciding(scores: Mapping[str, float]) -> float:
    """MASE, or sMAPE where no series has one."""
    return scores["mase"] if np.isfinite(scores["mase"]) else scores["smape"]


def _write_splits(
    folder: Path,
    series: SeriesSet,
    inspection: SeriesInspection,
    panel: Panel,
    plan: Plan,
    settings: ForecastSettings,
    outcome: Outcome,
    *,
    seed: int,
) -> None:
    """``splits.json``: windows by series and by where their histories end."""
    names = [series.names[number] for number in inspection.usable]

    def items(numbers: Sequence[int], ends: Sequence[int]) -> list[dict[str, Any]]:
        return [{"series": names[n], "end": int(end)} for n, end in zip(numbers, ends, strict=True)]

    early = training_part(panel, plan, held_back=plan.horizon, max_windows=_TRAIN_ITEMS, seed=seed)
    test = outcome.test.series.tolist()
    write_json(
        folder / "splits.json",
        {
            "protocol": {**plan.to_dict(), "roles": settings.roles, "gaps": settings.gaps},
            "train": items(early.series.tolist(), early.ends.tolist()),
            "validation": [],
            "test": items(test, (panel.sizes[test] - plan.horizon).tolist()),
        },
    )


def _figures(
    inspection: SeriesInspection,
    plan: Plan,
    settings: ForecastSettings,
    outcome: Outcome,
    reference: Reference | None,
    *,
    seed: int,
) -> dict[str, Any]:
    """Fields of `Report`."""
    series = inspection.series
    assert series is not None
    test, quantiles, levels = outcome.test, outcome.quantiles, settings.levels
    names = [series.names[number] for number in inspection.usable]
    metrics = show.metrics(test, quantiles, levels, seed=seed)
    charts = [
        *show.drawn_series(series, inspection.usable, plan, test, quantiles, levels),
        show.coverage_chart(test, quantiles, levels),
        show.coverage_by_step(test, quantiles, levels),
    ]
    points = quantiles[:, :, levels.index(0.5)]
    return {
        "check": inspection.report.to_dict(),
        "protocol": _protocol(plan),
        "counts": {
            "validation": {"windows": len(outcome.validation)},
            "test": {"windows": len(test)},
            "all": {"series": len(names)},
        },
        "metric": "mase" if "mase" in metrics else "smape",
        "lower_is_better": True,
        "metrics": metrics,
        "leaderboard": _leaderboard(plan, outcome, reference, seed=seed),
        "charts": [chart for chart in charts if chart is not None],
        "tables": [
            show.horizon_table(test, quantiles, levels),
            show.series_table(names, test, quantiles, levels),
        ],
        "held_out": [
            {"series": names[int(number)], "forecast": [round(float(v), 6) for v in row]}
            for number, row in list(zip(test.series, points, strict=True))[:500]
        ],
    }


def _protocol(plan: Plan) -> str:
    horizon = plan.horizon
    return (
        f"The last {horizon} values of every series are the test part: they were used for nothing but "
        f"measuring the exported ensemble. Before them, {plan.num_origins} "
        f"origin{'s' if plan.num_origins > 1 else ''} ({plan.stride} values apart) of {horizon} values chose "
        "the members and the width of the intervals; learned members saw nothing of these while they were "
        "chosen, and were then fitted again with all that lies before the test part. The model sees the last "
        f"{plan.length} values. MASE is relative to a naive forecast with season {plan.season}."
    )


def _leaderboard(
    plan: Plan, outcome: Outcome, reference: Reference | None, *, seed: int
) -> list[LeaderboardRow]:
    def finite(scores: Mapping[str, float]) -> dict[str, float | None]:
        return {name: value if np.isfinite(value) else None for name, value in scores.items()}

    def row(candidate: Candidate) -> LeaderboardRow:
        kept = candidate.name in outcome.kept
        refitted = "Test figures are of the fit before validation." if candidate.fit and not kept else ""
        parts = [candidate.note, "Served: a member of the ensemble." if kept else refitted]
        return LeaderboardRow(
            name=candidate.name,
            title=candidate.title,
            kind="baseline" if candidate.kind == "baseline" else "model",
            kept=kept,
            validation=finite(candidate.scores.get("validation", {"mase": float("nan")})),
            test=finite(candidate.scores.get("test", {"mase": float("nan")})),
            fit_s=round(candidate.fit_s, 3),
            settings={**candidate.config.config, "seed": seed}
            if candidate.fit
            else dict(candidate.config.config),
            note=" ".join(part for part in parts if part),
        )

    rows = [
        LeaderboardRow(
            name="ensemble",
            title="Median of " + ", ".join(outcome.kept),
            kind="model",
            kept=True,
            validation=finite(outcome.validation_score),
            test=finite(outcome.test_score),
            fit_s=round(outcome.fit_s, 3),
            settings={"members": list(outcome.kept)},
            note=f"The served model. Relative scores: 1 is {naive_name(plan)}.",
        ),
        *(row(candidate) for candidate in outcome.rows),
    ]
    if reference is not None:
        same = reference.ensemble_scores["mase"]
        rows.append(
            LeaderboardRow(
                name="arima",
                title="AutoARIMA, each series by itself",
                kind="model",
                kept=False,
                validation={"mase": None},
                test=finite(reference.scores),
                fit_s=round(reference.fit_s, 3),
                note=f"Cannot be served as one graph. There was time for {reference.num_series} of "
                f"{len(outcome.test)} series; on these the ensemble's MASE is {same:.3f}.",
            )
        )
    return rows
