"""What a training report shows (ARCHITECTURE.md, 10.6), shaped for the templates: no task is known here.

Reports come from jobs, so whatever one leaves out is left out of the page, and nothing raises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ignition_hub.web.format import DASH, figure, metric, percent

SCHEMA_VERSION = 2
MAX_CONFUSION = 16
"""Labels whose whole matrix is shown; of more, only what is mixed up."""
MAX_MIX_UPS = 12
NUM_SHADES = 5

# Swatches of style.css: 0 teal, 1 red, 2 blue, 3 yellow, 4 orange, 5 grey.
_PALETTE = (4, 2, 0, 3, 1, 5)
_KNOWN_SERIES = {"ok": 0, "right": 0, "good": 0, "defective": 1, "wrong": 1}


def known_schema(report: Mapping[str, Any] | None) -> bool:
    """Whether these pages can draw a report; those of before the first release are of another form."""
    return report is not None and report.get("schema_version") == SCHEMA_VERSION


def chart_view(chart: Mapping[str, Any]) -> dict[str, Any]:
    """A chart with a swatch for each series, and for bars the widths in percent."""
    series = [dict(one) for one in _list(chart.get("series"))]
    names = [str(one.get("name", "")).lower() for one in series]
    told_apart = all(name in _KNOWN_SERIES for name in names) and len(
        {_KNOWN_SERIES[name] for name in names}
    ) == len(names)
    for index, one in enumerate(series):
        one["swatch"] = _KNOWN_SERIES[names[index]] if told_apart else _PALETTE[index % len(_PALETTE)]
    view = {**chart, "series": series}
    if chart.get("kind") == "bars":
        view["bars"] = _bars(chart, series)
    return view


def _bars(chart: Mapping[str, Any], series: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each name: its bars, each with start and width as shares of the whole, 0 to 100."""
    names = _list(chart.get("x"))
    values = [value for one in series for value in _numbers(one.get("y")) if value is not None]
    ends = values + [end for one in series for end in _numbers(one.get("high")) if end is not None]
    low, high = min([0.0, *values]), max([0.0, *ends])
    span = (high - low) or 1.0
    entries = []
    for index, name in enumerate(names):
        bars = []
        for one in series:
            value = _at(one.get("y"), index)
            bar: dict[str, Any] = {"swatch": one["swatch"], "value": value}
            if value is not None:
                start = (min(0.0, value) - low) / span
                bar |= {"start": round(100 * start, 2), "width": round(100 * abs(value) / span, 2)}
            bars.append(bar)
        entries.append({"name": name, "bars": bars})
    return entries


def confusion_view(confusion: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Rows of the matrix with a shade (0 to `NUM_SHADES`) for each cell; or the most frequent mix-ups."""
    labels = _list((confusion or {}).get("labels"))
    matrix = [_numbers(row) for row in _list((confusion or {}).get("matrix"))]
    if not labels or len(matrix) != len(labels) or any(len(row) != len(labels) for row in matrix):
        return None
    mix_ups = sorted(
        (
            {"truth": labels[i], "said": labels[j], "num": matrix[i][j], "of": sum(map(_zero, matrix[i]))}
            for i in range(len(labels))
            for j in range(len(labels))
            if i != j and matrix[i][j]
        ),
        key=lambda one: -_zero(one["num"]),
    )
    rows = []
    if len(labels) <= MAX_CONFUSION:
        for i, row in enumerate(matrix):
            total = sum(map(_zero, row)) or 1
            rows.append(
                {
                    "label": labels[i],
                    "cells": [
                        {
                            "num": value,
                            "right": i == j,
                            "shade": 0
                            if not value
                            else 1 + min(NUM_SHADES - 1, int(NUM_SHADES * value / total)),
                        }
                        for j, value in enumerate(row)
                    ],
                }
            )
    return {"labels": labels, "rows": rows, "mix_ups": mix_ups[:MAX_MIX_UPS]}


def value_of(name: str, value: Any) -> str:
    """A measure as people read it: rates in percent."""
    shown: str = percent(value) if str(name).endswith(("_rate", "_share")) else figure(value)
    return shown


def main_metric(report: Mapping[str, Any]) -> str:
    """The metric that decides: the report's, or the first that there is."""
    name = report.get("metric")
    return str(name) if name else str(next(iter(_mapping(report.get("metrics"))), ""))


def side_metrics(report: Mapping[str, Any], num: int = 2) -> list[str]:
    """Further metrics for the head of the page: what goes wrong first, then the others in order."""
    names = [name for name in _mapping(report.get("metrics")) if name != main_metric(report)]
    return sorted(names, key=lambda name: not str(name).endswith("_rate"))[:num]


def leaderboard_view(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows with the deciding values and the settings in words; what was kept first, baselines last."""
    name = main_metric(report)
    rows = [
        {
            **row,
            "validation_value": _mapping(row.get("validation")).get(name),
            "test_value": _mapping(row.get("test")).get(name),
            "settings_text": ", ".join(
                f"{key} {value}" for key, value in _mapping(row.get("settings")).items()
            ),
        }
        for row in _list(report.get("leaderboard"))
        if isinstance(row, Mapping)
    ]
    return sorted(rows, key=lambda row: (not row.get("kept"), row.get("kind") == "baseline"))


def operating_facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The operating point, line by line."""
    point = _mapping(report.get("operating_point"))
    facts = []
    for name, value in point.items():
        if name == "threshold" and isinstance(value, Mapping):
            shown = ", ".join(f"{label}: {figure(limit)}" for label, limit in list(value.items())[:20])
            facts.append(("Thresholds", shown))
        else:
            facts.append((metric(name).capitalize(), text_of(value, name)))
    return facts


def text_of(value: Any, name: str = "") -> str:
    """A value of a report's free parts as text."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return value_of(name, value)
    if isinstance(value, Mapping):
        if {"value", "low", "high"} <= value.keys():
            low, high = value_of(name, value["low"]), value_of(name, value["high"])
            return f"{value_of(name, value['value'])} (95 % between {low} and {high})"
        return ", ".join(f"{key} {text_of(one)}" for key, one in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(text_of(one) for one in value)
    return str(value)


def anomaly_scores(report: Mapping[str, Any] | None) -> dict[str, Any]:
    """What an anomaly detector's playground shows a score among: the test images' scores by label."""
    scores: dict[str, list[float]] = {"ok": [], "defective": []}
    for item in _list((report or {}).get("held_out")):
        if isinstance(item, Mapping) and is_number(item.get("score")):
            scores["defective" if item.get("label") in (1, "defective") else "ok"].append(item["score"])
    charts = {
        chart.get("id"): chart for chart in _list((report or {}).get("charts")) if isinstance(chart, Mapping)
    }
    drawn = charts.get("scores", {})
    counts = {str(one.get("name")): one.get("y") for one in _list(drawn.get("series"))}
    edges = _list(drawn.get("x"))
    nothing = [0] * max(0, len(edges) - 1)
    histogram = {name: counts.get(name, nothing) for name in scores} | {"edges": edges} if edges else None
    threshold = _mapping((report or {}).get("operating_point")).get("threshold")
    return {"scores": scores, "histogram": histogram, "threshold": threshold}


def token_class(weight: Any) -> str:
    """The class of a token that spoke for (``for-1`` to ``for-5``) or against the answer."""
    if not isinstance(weight, int | float) or abs(weight) < 0.05:
        return ""
    strength = min(NUM_SHADES, 1 + int(NUM_SHADES * min(abs(weight), 0.999)))
    return f"{'for' if weight > 0 else 'against'}-{strength}"


def cell_text(value: Any) -> str:
    """A cell of a report's table."""
    return figure(value) if isinstance(value, float) else text_of(value)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _numbers(value: Any) -> list[float | None]:
    return [one if is_number(one) else None for one in _list(value)]


def _at(values: Any, index: int) -> float | None:
    numbers = _numbers(values)
    return numbers[index] if index < len(numbers) else None


def _zero(value: float | None) -> float:
    return value or 0


FILTERS: dict[str, Callable[..., Any]] = {
    "known_schema": known_schema,
    "chart_view": chart_view,
    "confusion_view": confusion_view,
    "value_of": lambda value, name="": value_of(name, value),
    "main_metric": main_metric,
    "side_metrics": side_metrics,
    "leaderboard_view": leaderboard_view,
    "operating_facts": operating_facts,
    "text_of": text_of,
    "token_class": token_class,
    "anomaly_scores": anomaly_scores,
    "figure_plain": lambda value: f"{value:.6g}" if is_number(value) else "nan",
    "cell_text": cell_text,
}
TESTS: dict[str, Callable[..., bool]] = {"is_number": is_number}
