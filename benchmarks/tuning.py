"""Regret of `xtorch.tune` against random search and against defaults, on learning problems with real data.

Protocol. The same search is put to several problems: which classifier (logistic regression, kernel SVM,
nearest neighbours, extremely randomised trees) with which settings. The value of a setting is its accuracy
on held-back data, the mean of two stratified halves, evaluated truly whenever a searcher asks for it. The
portfolio is learned on the problems of `LEARN` alone: greedily, each next setting is the one that lowers
their mean regret most. It is then judged on the problems of `HELD_OUT`, which are other data.

Searchers, each with the same seeds:

- ``tune``: `xtorch.tune` with that portfolio.
- ``tune, no portfolio``: the same without.
- ``portfolio, then random``: that portfolio, then random draws: what is left is the model's own merit.
- ``random``: draws from the same space (Optuna's RandomSampler).
- ``defaults``: scikit-learn's default settings (40 trees for 100, as in the space), one classifier after the
  other: four trials.

Regret after n trials is ``(best - found) / (best - median)``: 0 is the best value that anyone ever found on
the problem, 1 what the middle one of the reference draws gives. Reported are medians and means over problems
and seeds; intervals are bootstraps over seeds.

    python benchmarks/tuning.py [--data FOLDER] [--seeds 10] [--reference 150]

Writes ``results/tuning.json`` with every regret.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from interleaved import machine
from PIL import Image
from sklearn import datasets
from sklearn.decomposition import TruncatedSVD
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from xtorch.space import Choice, Float, Int, Params, Space, suggest
from xtorch.tune import Search, tune

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("IGNITION_TEST_DATA", HERE.parent.parent / "shared" / "data"))
BUDGETS = (5, 10, 20)
PORTFOLIO_SIZE = 5
_RESAMPLES = 2000
_LEARN_SEED, _REFERENCE_SEED = 1_000_000, 2_000_000

SPACE: Space = {
    "classifier": Choice(options=("logistic", "svm", "neighbours", "trees")),
    "scale": Choice(options=(True, False)),
    "logistic_c": Float(low=1e-4, high=1e3, log=True, when=("classifier", ("logistic",))),
    "svm_c": Float(low=1e-2, high=1e3, log=True, when=("classifier", ("svm",))),
    "svm_gamma": Float(low=1e-5, high=10.0, log=True, when=("classifier", ("svm",))),
    "neighbours": Int(low=1, high=60, log=True, when=("classifier", ("neighbours",))),
    "weights": Choice(options=("uniform", "distance"), when=("classifier", ("neighbours",))),
    "max_features": Float(low=0.02, high=1.0, log=True, when=("classifier", ("trees",))),
    "min_leaf": Int(low=1, high=20, log=True, when=("classifier", ("trees",))),
}
DEFAULTS: tuple[dict[str, Any], ...] = (
    {"classifier": "logistic", "scale": True, "logistic_c": 1.0},
    # gamma="scale" is 1 / (features * variance); with scaled features 1 / features, set per problem.
    {"classifier": "svm", "scale": True, "svm_c": 1.0, "svm_gamma": None},
    {"classifier": "neighbours", "scale": True, "neighbours": 5, "weights": "uniform"},
    {"classifier": "trees", "scale": False, "max_features": None, "min_leaf": 1},
)


class Problem:
    """Features and labels; counts what it costs to try a setting."""

    def __init__(self, name: str, features: np.ndarray, labels: np.ndarray) -> None:
        self.name, self.shape = name, features.shape
        self._splits = [
            train_test_split(features, labels, test_size=0.5, stratify=labels, random_state=seed)
            for seed in (0, 1)
        ]
        self._known: dict[str, float] = {}

    def value(self, params: Params) -> float:
        """Mean accuracy, computed once for each setting."""
        key = json.dumps(dict(params), sort_keys=True)
        if key not in self._known:
            scores = []
            for train, test, train_labels, test_labels in self._splits:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # not converged is a setting like any other
                    model = _classifier(params).fit(train, train_labels)
                scores.append(float((model.predict(test) == test_labels).mean()))
            self._known[key] = float(np.mean(scores))
        return self._known[key]

    def defaults(self) -> list[dict[str, Any]]:
        """scikit-learn's own settings for this problem's number of features."""
        num = self.shape[1]
        found = []
        for params in DEFAULTS:
            fitted = dict(params)
            if "svm_gamma" in fitted:
                fitted["svm_gamma"] = 1 / num
            if "max_features" in fitted:
                fitted["max_features"] = float(np.sqrt(num) / num)
            found.append(fitted)
        return found


def _classifier(params: Params) -> Any:
    given: Any = params
    match given["classifier"]:
        case "logistic":
            model: Any = LogisticRegression(C=given["logistic_c"], max_iter=200)
        case "svm":
            model = SVC(C=given["svm_c"], gamma=given["svm_gamma"])
        case "neighbours":
            model = KNeighborsClassifier(given["neighbours"], weights=given["weights"])
        case _:
            model = ExtraTreesClassifier(
                40, max_features=given["max_features"], min_samples_leaf=given["min_leaf"], random_state=0
            )
    return make_pipeline(StandardScaler(), model) if given["scale"] else model


# ---------------------------------------------------------------------------------------------- problems


def _wine() -> tuple[np.ndarray, np.ndarray]:
    return datasets.load_wine(return_X_y=True)


def _iris() -> tuple[np.ndarray, np.ndarray]:
    return datasets.load_iris(return_X_y=True)


def _cancer() -> tuple[np.ndarray, np.ndarray]:
    return datasets.load_breast_cancer(return_X_y=True)


def _digits() -> tuple[np.ndarray, np.ndarray]:
    features, labels = datasets.load_digits(return_X_y=True)
    return features[:700], labels[:700]


def _texts(path: Path, text: str, label: str, *, num: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """TF-IDF, reduced to 40 numbers, of rows of the most frequent classes."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    common = [name for name, _ in Counter(row[label] for row in rows).most_common(classes)]
    rows = [row for row in rows if row[label] in common]
    picks = np.random.default_rng(0).permutation(len(rows))[:num]
    weights = TfidfVectorizer(sublinear_tf=True, min_df=2).fit_transform([rows[i][text] for i in picks])
    features = TruncatedSVD(40, random_state=0).fit_transform(weights)
    return features, np.array([common.index(rows[i][label]) for i in picks])


def _tiles(data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Which kind of defect a tile has, from 12x12 grey levels; good tiles are the last class."""
    kinds = sorted(path.name for path in (data / "magnetic_tile").glob("MT_*"))
    features, labels = [], []
    for number, kind in enumerate(kinds):
        for path in sorted((data / "magnetic_tile" / kind / "Imgs").glob("*.jpg"))[:100]:
            with Image.open(path) as image:
                features.append(
                    np.asarray(image.convert("L").resize((12, 12), Image.Resampling.BOX)).ravel() / 255
                )
            labels.append(number)
    return np.array(features), np.array(labels)


def _clothes(data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Which garment is shown, from 10x10 colours."""
    folders = sorted(path for path in (data / "clothing" / "train").iterdir() if path.is_dir())
    features, labels = [], []
    for number, folder in enumerate(folders):
        for path in sorted(folder.iterdir()):
            with Image.open(path) as image:
                image.draft("RGB", (40, 40))
                features.append(
                    np.asarray(image.convert("RGB").resize((10, 10), Image.Resampling.BOX)).ravel() / 255
                )
            labels.append(number)
    return np.array(features), np.array(labels)


def problems(data: Path) -> dict[str, dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]]]:
    banking, news = data / "banking77/banking_data/train.csv", data / "ag_news/test.csv"
    return {
        "LEARN": {
            "wine": _wine,
            "iris": _iris,
            "banking77, 10 intents": lambda: _texts(banking, "text", "category", num=600, classes=10),
            "magnetic tile, grey levels": lambda: _tiles(data),
        },
        "HELD_OUT": {
            "breast cancer": _cancer,
            "digits": _digits,
            "clothing, colours": lambda: _clothes(data),
            "AG News, 4 topics": lambda: _news(news),
        },
    }


def _news(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The file has no header: class, title, text."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    rows = [row for row in rows if len(row) >= 3 and row[0].strip().isdigit()]
    picks = np.random.default_rng(0).permutation(len(rows))[:800]
    weights = TfidfVectorizer(sublinear_tf=True, min_df=2).fit_transform(
        [f"{rows[i][1]} {rows[i][2]}" for i in picks]
    )
    return TruncatedSVD(40, random_state=0).fit_transform(weights), np.array([int(rows[i][0]) for i in picks])


# --------------------------------------------------------------------------------------------- searchers


def drawn(num: int, seed: int) -> list[dict[str, Any]]:
    """Settings at random."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return [suggest(SPACE, study.ask()) for _ in range(num)]


def searched(problem: Problem, seed: int, portfolio: Sequence[Params]) -> list[float]:
    """Values in the order in which `tune` tried them."""
    result = tune(
        lambda trial: problem.value(trial.params),
        Search(space=SPACE, portfolio=portfolio, max_trials=max(BUDGETS), seed=seed),
    )
    return [row.value for row in result.trials if row.value is not None]


def learned_portfolio(tasks: Sequence[Problem], num_candidates: int) -> list[dict[str, Any]]:
    """Settings that together leave the least regret on the tasks, greedily."""
    candidates = drawn(num_candidates, _LEARN_SEED)
    values = np.array([[task.value(params) for params in candidates] for task in tasks])
    best, middle = values.max(axis=1, keepdims=True), np.median(values, axis=1, keepdims=True)
    regret = (best - values) / np.maximum(best - middle, 1e-9)
    chosen: list[int] = []
    for _ in range(PORTFOLIO_SIZE):
        so_far = regret[:, chosen].min(axis=1, keepdims=True) if chosen else np.full((len(tasks), 1), np.inf)
        gains = np.minimum(regret, so_far).mean(axis=0)
        gains[chosen] = np.inf
        chosen.append(int(gains.argmin()))
    return [candidates[index] for index in chosen]


def regrets(values: Sequence[float], best: float, middle: float) -> dict[str, float]:
    """Regret after each budget; a searcher with fewer trials keeps its last."""
    return {str(n): (best - max(values[:n])) / max(best - middle, 1e-9) for n in BUDGETS}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--reference", type=int, default=150)
    arguments = parser.parse_args()
    if not (arguments.data / "clothing").is_dir():
        print("tuning: the data is missing; give --data or IGNITION_TEST_DATA", file=sys.stderr)
        return 2
    started_s, hardware = time.monotonic(), machine("optuna", "scikit-learn", "numpy")
    listed = problems(arguments.data)
    learn = [Problem(name, *make()) for name, make in listed["LEARN"].items()]
    portfolio = learned_portfolio(learn, arguments.reference)
    print("portfolio:", *portfolio, sep="\n  ", flush=True)
    rows: list[dict[str, Any]] = []
    for name, make in listed["HELD_OUT"].items():
        problem = Problem(name, *make())
        reference = [problem.value(params) for params in drawn(arguments.reference, _REFERENCE_SEED)]
        found: list[tuple[str, int, list[float]]] = []
        for seed in range(arguments.seeds):
            found.append(("tune", seed, searched(problem, seed, portfolio)))
            found.append(("tune, no portfolio", seed, searched(problem, seed, ())))
            random = [problem.value(each) for each in drawn(max(BUDGETS), seed)]
            known = [problem.value(each) for each in portfolio]
            found.append(("portfolio, then random", seed, (known + random)[: max(BUDGETS)]))
            found.append(("random", seed, random))
            found.append(("defaults", seed, [problem.value(each) for each in problem.defaults()]))
        best = max(max(reference), *(max(values) for _, _, values in found))
        middle = float(np.median(reference))
        for searcher, seed, values in found:
            rows.append(
                {
                    "problem": name,
                    "searcher": searcher,
                    "seed": seed,
                    "regret": regrets(values, best, middle),
                    "values": values,
                }
            )
        print(name, problem.shape, f"best {best:.4f}, middle {middle:.4f}", flush=True)
    summary = summarise(rows)
    print(json.dumps(summary, indent=1))
    out = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": hardware,
        "protocol": " ".join((__doc__ or "").split("\n\n")[1].split()),
        "seeds": arguments.seeds,
        "reference_draws": arguments.reference,
        "learned_on": list(listed["LEARN"]),
        "portfolio": portfolio,
        "duration_s": round(time.monotonic() - started_s, 1),
        "summary": summary,
        "rows": rows,
    }
    (HERE / "results" / "tuning.json").write_text(json.dumps(out, indent=1) + "\n")
    return 0


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Regret by searcher and budget: median with its interval over seeds, mean, medians by problem."""
    searchers = list(dict.fromkeys(row["searcher"] for row in rows))
    names = list(dict.fromkeys(row["problem"] for row in rows))
    rng = np.random.default_rng(0)
    summary: dict[str, Any] = {}
    for searcher in searchers:
        summary[searcher] = {}
        for budget in map(str, BUDGETS):
            table = np.array(
                [
                    [
                        row["regret"][budget]
                        for row in rows
                        if (row["searcher"], row["problem"]) == (searcher, name)
                    ]
                    for name in names
                ]
            )
            seeds = rng.integers(0, table.shape[1], (_RESAMPLES, table.shape[1]))
            medians = np.median(table[:, seeds].transpose(1, 0, 2).reshape(_RESAMPLES, -1), axis=1)
            low, high = np.quantile(medians, [0.025, 0.975])
            summary[searcher][budget] = {
                "median": float(np.median(table)),
                "mean": float(table.mean()),
                "low": float(low),
                "high": float(high),
                "by_problem": dict(zip(names, np.median(table, axis=1).tolist(), strict=True)),
            }
    return summary


if __name__ == "__main__":
    sys.exit(main())
