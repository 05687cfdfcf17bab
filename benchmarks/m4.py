"""Forecasting on M4 Hourly and Weekly and on M3 Monthly, with the recipe as users get it.

Protocol: every series is its training part followed by its official test part. The recipe
(`xtorch.tasks.forecasting`) holds back the last values (48, 13 and 18: exactly the test part), chooses
members and interval widths by rolling origins before it, fits the chosen ones again on all of the
training part, and forecasts the test part once. Nothing is chosen on the test part. What is measured is
the ensemble that would be served; with ``--onnx`` the exported file is measured too.

M4 is scored as by its organisers: sMAPE and MASE (seasons 24 and 1) averaged over series, OWA relative to
Naive 2 (18.383 / 2.395 Hourly, 9.161 / 2.777 Weekly, from the official sheet). The seasonal naive
forecast must give the official 13.912 / 1.193 and 9.161 / 2.777, or the scorer is wrong and the script
ends.

    python benchmarks/m4.py hourly weekly m3 --budget 600 --onnx

The budget cuts training short where a machine is slow or busy: `rounds` in the result says how many trees
and epochs there was time for (300 and 20 are all).

Published, for comparison. M4 (Makridakis et al., International Journal of Forecasting 2020): OWA of the
winner (Smyl) .440 Hourly, .851 Weekly; best single entries .410 and .739. M3 Monthly, sMAPE over 18
steps: Theta 13.85 (Makridakis and Hibon, International Journal of Forecasting 2000), recomputed from its
forecasts as 13.94 by Autobox.

The data are not part of the project: ``IGNITION_TEST_DATA``, default ``../shared/data``. M3 needs xlrd.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xtorch.forecast_metrics import coverage, mase, owa, smape, wql
from xtorch.tasks.forecasting.plan import ForecastSettings, Plan, make_plan
from xtorch.tasks.forecasting.recipe import export_ensemble
from xtorch.tasks.forecasting.show import bands
from xtorch.tasks.forecasting.training import Outcome, naive_name, train
from xtorch.tasks.forecasting.windows import Panel

DATA = Path(
    os.environ.get("IGNITION_TEST_DATA", Path(__file__).resolve().parents[1].parent / "shared" / "data")
)
RESULTS = Path(__file__).parent / "results"
SETS: dict[str, dict[str, Any]] = {
    "hourly": {
        "horizon": 48,
        "season": 24,
        "seasons": (24, 168),
        "naive2": (18.383, 2.395),
        "seasonal_naive": (13.912, 1.193),
        "goal_owa": 0.44,
        "published_owa": {"Smyl (winner)": 0.440, "best single entry": 0.410},
    },
    "weekly": {
        "horizon": 13,
        "season": 1,
        "seasons": (52,),
        "naive2": (9.161, 2.777),
        "seasonal_naive": (9.161, 2.777),
        "goal_owa": 0.80,
        "published_owa": {"Smyl (winner)": 0.851, "best single entry": 0.739},
    },
    "m3": {
        "horizon": 18,
        "season": 12,
        "seasons": (12,),
        "published_smape": {"Theta": 13.85, "Theta, recomputed by Autobox": 13.94},
    },
}


def m4_series(group: str) -> list[np.ndarray]:
    """Training part and test part of every series, one after the other."""
    parts = []
    for part in ("Train", "Test"):
        with (DATA / "m4" / part / f"{group}-{part.lower()}.csv").open(newline="") as file:
            rows = list(csv.reader(file))[1:]
        parts.append({row[0]: np.array([float(cell) for cell in row[1:] if cell]) for row in rows})
    return [np.concatenate([values, parts[1][name]]) for name, values in parts[0].items()]


def m3_monthly() -> list[np.ndarray]:
    """All 1,428 series, the last 18 values of each being the test part."""
    import xlrd

    sheet = xlrd.open_workbook(DATA / "m3" / "M3C.xls").sheet_by_name("M3Month")
    series = []
    for row in range(1, sheet.nrows):
        number = int(sheet.cell_value(row, 1))
        series.append(np.array([float(cell) for cell in sheet.row_values(row, 6, 6 + number)]))
    return series


def load(name: str) -> list[np.ndarray]:
    return m3_monthly() if name == "m3" else m4_series(name.capitalize())


def plan_of(name: str, series: list[np.ndarray]) -> Plan:
    given = SETS[name]
    return make_plan(
        series,
        season=given["season"],
        seasons=given["seasons"],
        horizon=given["horizon"],
        usual_horizon=given["horizon"],
    )


def official(name: str, outcome: Outcome, points_WH: np.ndarray) -> dict[str, float]:
    """sMAPE, MASE and, where Naive 2 is known, OWA, as the organisers score."""
    test = outcome.test
    scores = {
        "smape": float(smape(test.future, points_WH).mean()),
        "mase": float(mase(test.future, points_WH, test.naive_error).mean()),
    }
    if "naive2" in SETS[name]:
        naive_smape, naive_mase = SETS[name]["naive2"]
        scores["owa"] = owa(scores["smape"], scores["mase"], naive_smape=naive_smape, naive_mase=naive_mase)
    return scores


def on_onnx(outcome: Outcome) -> np.ndarray:
    """Points of the exported file, run by ONNX Runtime, float64 [W,H]."""
    import onnxruntime

    test = outcome.test
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_ensemble(outcome.ensemble, test, path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        parts = [
            session.run(None, {"history": test.history[chunk], "observed": test.observed[chunk]})[0]
            for chunk in np.array_split(np.arange(len(test)), max(1, len(test) // 64))
        ]
    middle = outcome.ensemble.config.quantiles.index(0.5)
    points: np.ndarray = np.concatenate(parts)[:, :, middle].astype(np.float64) * test.scale[:, None]
    return points


def measure(name: str, *, seed: int, num_seeds: int, budget_s: float, onnx: bool) -> dict[str, Any]:
    series = load(name)
    plan = plan_of(name, series)
    settings = ForecastSettings(horizon=plan.horizon, num_seeds=num_seeds)
    started, cpu = time.monotonic(), time.process_time()
    outcome = train(
        Panel(series, plan.season),
        plan,
        settings,
        seed=seed,
        deadline=started + 0.5 * budget_s,
        told=lambda done, what: print(
            f"  {time.monotonic() - started:5.0f} s {done:4.0%} {what}", flush=True
        ),
    )
    middle = settings.levels.index(0.5)
    ensemble = official(name, outcome, outcome.quantiles[:, :, middle])
    rows: dict[str, dict[str, Any]] = {
        row.name: {
            "validation": row.scores["validation"],
            "test": official(name, outcome, row.test),
            "fit_s": round(row.fit_s, 2),
            "rounds": row.rounds,
        }
        for row in outcome.rows
        if row.test is not None
    }
    if "seasonal_naive" in SETS[name]:
        naive = rows[naive_name(plan)]["test"]
        ours, theirs = (naive["smape"], naive["mase"]), SETS[name]["seasonal_naive"]
        if not np.allclose(ours, theirs, atol=6e-4):
            raise SystemExit(f"the seasonal naive forecast scores {ours}, the official sheet says {theirs}")
    result: dict[str, Any] = {
        "num_series": len(series),
        "plan": plan.to_dict(),
        "seed": seed,
        "num_seeds": num_seeds,
        "budget_s": budget_s,
        "ensemble": list(outcome.kept),
        "validation": outcome.validation_score,
        "test": ensemble,
        "wql": wql(outcome.test.future, outcome.quantiles, settings.levels),
        "coverage": {
            f"{100 * share:g} %": float(
                100
                * np.nanmean(
                    coverage(outcome.test.future, outcome.quantiles[:, :, low], outcome.quantiles[:, :, high])
                )
            )
            for share, low, high in bands(settings.levels)
        },
        "rows": rows,
        "published": {key: SETS[name][key] for key in SETS[name] if key.startswith(("published", "goal"))},
        "duration_s": round(time.monotonic() - started, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
    }
    if onnx:
        result["test_onnx"] = official(name, outcome, on_onnx(outcome))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="*", default=list(SETS), help=f"of {', '.join(SETS)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--num-seeds", type=int, default=ForecastSettings().num_seeds, help="networks in the ensemble"
    )
    parser.add_argument("--budget", type=float, default=600.0, help="seconds, as the recipe's `budget_s`")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--onnx", action="store_true", help="measure the exported file as well")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    path = RESULTS / "m4.json"
    for name in arguments.sets:
        print(name, flush=True)
        result = measure(
            name,
            seed=arguments.seed,
            num_seeds=arguments.num_seeds,
            budget_s=arguments.budget,
            onnx=arguments.onnx,
        )
        result["machine"] = {
            "cpu": platform.processor() or platform.machine(),
            "num_cores": os.cpu_count(),
            "load_average": [round(value, 2) for value in os.getloadavg()],
            "versions": {each: version(each) for each in ("torch", "lightgbm", "numpy", "onnxruntime")},
        }
        document: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        document[name] = result
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        for row, scores in result["rows"].items():
            print(f"  {row:24s}", {key: round(value, 3) for key, value in scores["test"].items()})
        print(
            "  ensemble", result["ensemble"], {key: round(value, 4) for key, value in result["test"].items()}
        )
        print("  coverage", {key: round(value, 1) for key, value in result["coverage"].items()}, flush=True)


if __name__ == "__main__":
    main()
