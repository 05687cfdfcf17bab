"""Reports of any task, and of none, as pages show them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from ignition_hub.web import figures
from ignition_hub.web.format import figure
from ignition_hub.web.render import environment


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.98765, "0.988"),
        (13.912, "13.9"),
        (1234.5, "1,234"),
        (0.00012345, "0.00012"),
        (1.0, "1.00"),
        (0, "0"),
        (12, "12"),
        (float("nan"), "–"),
        (None, "–"),
        (True, "–"),
        ("x", "–"),
        (-0.5, "-0.500"),
        (10**7, "10,000,000"),
    ],
)
def test_figure_has_three_significant_places(value: Any, text: str) -> None:
    assert figure(value) == text


def chart(**changes: Any) -> dict[str, Any]:
    return {
        "id": "a",
        "title": "A",
        "kind": "bars",
        "x_title": "x",
        "y_title": "y",
        "x": ["one", "two"],
        "series": [{"name": "n", "y": [1.0, 3.0]}],
        **changes,
    }


def test_bars_start_at_zero_and_fill_the_width() -> None:
    view = figures.chart_view(chart(series=[{"name": "n", "y": [1.0, -3.0]}]))
    bars = [entry["bars"][0] for entry in view["bars"]]
    assert [(bar["start"], bar["width"]) for bar in bars] == [(75.0, 25.0), (0.0, 75.0)]
    flat = figures.chart_view(chart(series=[{"name": "n", "y": [0.0, None]}]))["bars"]
    assert flat[0]["bars"][0]["width"] == 0
    assert "width" not in flat[1]["bars"][0]


def test_ok_and_defective_keep_their_colours_and_others_differ() -> None:
    pair = [{"name": "defective", "y": [1, 2]}, {"name": "ok", "y": [1, 2]}]
    assert [one["swatch"] for one in figures.chart_view(chart(series=pair))["series"]] == [1, 0]
    many = [{"name": f"s{index}", "y": [1, 2]} for index in range(6)]
    assert len({one["swatch"] for one in figures.chart_view(chart(series=many))["series"]}) == 6


def test_small_confusion_is_shown_whole_with_shades_by_row() -> None:
    view = figures.confusion_view({"labels": ["a", "b"], "matrix": [[9, 1], [0, 4]]})
    assert view is not None
    cells = [[(cell["num"], cell["right"], cell["shade"]) for cell in row["cells"]] for row in view["rows"]]
    assert cells == [[(9, True, 5), (1, False, 1)], [(0, False, 0), (4, True, 5)]]


def test_large_confusion_is_shown_by_its_mix_ups() -> None:
    labels = [f"label {index}" for index in range(40)]
    matrix = [[10 if i == j else 0 for j in range(40)] for i in range(40)]
    matrix[3][7], matrix[5][6] = 8, 2
    view = figures.confusion_view({"labels": labels, "matrix": matrix})
    assert view is not None
    assert view["rows"] == []
    assert view["mix_ups"] == [
        {"truth": "label 3", "said": "label 7", "num": 8, "of": 18},
        {"truth": "label 5", "said": "label 6", "num": 2, "of": 12},
    ]


@pytest.mark.parametrize(
    "confusion",
    [None, {}, {"labels": ["a"], "matrix": []}, {"labels": ["a", "b"], "matrix": [[1], [2]]}, {"labels": 3}],
)
def test_confusion_that_does_not_fit_is_left_out(confusion: Any) -> None:
    assert figures.confusion_view(confusion) is None


@pytest.mark.parametrize(
    ("weight", "name"),
    [(0.0, ""), (0.04, ""), (0.1, "for-1"), (1.0, "for-5"), (7, "for-5"), (-0.5, "against-3"), (None, "")],
)
def test_token_is_coloured_by_what_it_spoke_for(weight: Any, name: str) -> None:
    assert figures.token_class(weight) == name


def test_leaderboard_has_what_was_kept_first_and_baselines_last() -> None:
    report = {
        "metric": "wql",
        "leaderboard": [
            {"name": "naive", "kind": "baseline", "kept": False, "validation": {"wql": 0.3}, "test": {}},
            {
                "name": "b",
                "kind": "model",
                "kept": False,
                "validation": {"wql": 0.2, "mase": 1.0},
                "test": None,
            },
            {"name": "a", "kind": "model", "kept": True, "settings": {"depth": 3}, "test": {"wql": 0.1}},
        ],
    }
    rows = figures.leaderboard_view(report)
    assert [row["name"] for row in rows] == ["a", "b", "naive"]
    assert [row["test_value"] for row in rows] == [0.1, None, None]
    assert rows[0]["settings_text"] == "depth 3"


def test_anomaly_scores_come_from_the_test_images() -> None:
    report = {
        "held_out": [
            {"label": 1, "score": 0.9},
            {"label": 0, "score": 0.1},
            {"label": "ok", "score": 0.2},
            {"x": 1},
        ],
        "charts": [{"id": "scores", "x": [0, 1], "series": [{"name": "ok", "y": [2]}]}],
        "operating_point": {"threshold": 0.5},
    }
    assert figures.anomaly_scores(report) == {
        "scores": {"ok": [0.1, 0.2], "defective": [0.9]},
        "histogram": {"ok": [2], "defective": [0], "edges": [0, 1]},
        "threshold": 0.5,
    }
    assert figures.anomaly_scores(None) == {
        "scores": {"ok": [], "defective": []},
        "histogram": None,
        "threshold": None,
    }


REPORT: dict[str, Any] = {
    "schema_version": 2,
    "template": "text-classification",
    "protocol": "Stratified; the test part was <scored> once.",
    "counts": {"train": {"good": 60, "bad": 55}, "test": {"good": 20, "bad": 18}},
    "metric": "macro_f1",
    "metrics": {"macro_f1": {"value": 0.91234, "low": 0.87, "high": 0.95}, "abstain_rate": {"value": 0.05}},
    "leaderboard": [
        {
            "name": "m",
            "title": "MiniLM",
            "kind": "model",
            "kept": True,
            "validation": {"macro_f1": 0.9},
            "test": {"macro_f1": 0.91},
            "fit_s": 12.0,
            "settings": {"C": 1.0},
            "note": "",
        },
        {
            "name": "most",
            "title": "Most frequent",
            "kind": "baseline",
            "kept": False,
            "validation": {"macro_f1": 0.3},
            "test": {"macro_f1": 0.31},
            "fit_s": 0.0,
            "settings": {},
            "note": "",
        },
    ],
    "operating_point": {
        "threshold": {"good": 0.5, "bad": 0.25},
        "rule": "at most 5 % wrong",
        "chosen_on": "validation",
    },
    "confusion": {"labels": ["good", "bad"], "matrix": [[19, 1], [2, 16]]},
    "charts": [
        chart(id="words", kind="bars"),
        chart(
            id="loss",
            kind="lines",
            x=[1, 2],
            series=[{"name": "</script>", "y": [0.5, None], "low": [0.4, None], "high": [0.6, None]}],
        ),
        chart(id="scores", kind="histogram", x=[0, 1, 2], marks=[{"x": 1.0, "name": "threshold"}]),
    ],
    "tables": [
        {
            "id": "t",
            "title": "Per label",
            "columns": ["Label", "F1", "Rows"],
            "rows": [["good", 0.92345, 20], ["<b>", None, 18]],
        }
    ],
    "gallery": [
        {
            "caption": "row 3",
            "truth": "bad",
            "answer": "good",
            "right": False,
            "images": [],
            "tokens": [["not ", -0.8], ["good", 0.9]],
            "note": "0.61",
        },
        {
            "caption": "a.jpg",
            "truth": "cat",
            "answer": "cat",
            "right": True,
            "images": ["a.jpg", "a_map.jpg"],
            "tokens": [],
        },
    ],
    "tuning": {"num_trials": 12, "stop_reason": "plateau", "best": {"C": 1.0}},
    "parity": {"num_samples": 20, "max_abs_diff": 1.5e-6},
    "check": {
        "item": "rows",
        "num_items": 153,
        "findings": [{"severity": "warning", "title": "3 duplicates"}],
    },
    "held_out": [],
}


def shown(report: dict[str, Any]) -> str:
    return environment.get_template("_report.html").render(report=report, run_id="r1", part=_parts())


def _parts() -> Any:
    return environment.get_template("_parts.html").make_module({})


def test_report_is_shown_whole_without_knowing_its_task() -> None:
    html = shown(REPORT)
    for words in (
        "Macro F1",
        "0.912",
        "0.870 – 0.950",
        "MiniLM",
        "baseline",
        "at most 5 % wrong",
        "good: 0.500",
        "Most frequent",
        "Per label",
        "plateau",
        "3 duplicates",
        "is bad, said good",
        "right: cat",
        "against-",
        "for-5",
        "row 3",
        "max abs diff",
        "1.5e-06",
    ):
        assert words.lower() in html.lower(), words
    assert "/v1/runs/r1/report/a_map.jpg" in html
    assert "&lt;scored&gt;" in html
    assert "<b>" not in html
    drawn = [json.loads(text) for text in re.findall(r'json">(.*?)</script>', html)]
    assert [one["id"] for one in drawn] == ["loss", "scores"]
    assert drawn[0]["series"][0]["name"] == "</script>"


@pytest.mark.parametrize("name", [name for name in REPORT if name != "schema_version"])
def test_report_survives_what_it_leaves_out(name: str) -> None:
    shown({key: value for key, value in REPORT.items() if key != name})
    shown({**REPORT, name: None})


def test_report_of_an_older_form_is_not_drawn() -> None:
    html = shown({"schema_version": 1, "roc": {}, "worst": []})
    assert "older form" in html
    assert "Leaderboard" not in html
