"""The parts of a training report (ARCHITECTURE.md, 10.6) that look the same for every task.

A recipe describes what to show; the Hub draws it without knowing the task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

SCHEMA_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line, or one set of bars.

    Attributes:
        name: For the legend.
        y: As many as the chart's `x` (a histogram: one fewer than its edges); None is a gap.
        low, high: A band around `y`.
    """

    name: str
    y: Sequence[float | None]
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A vertical line, such as a threshold."""

    x: float
    name: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """What a chart shows.

    Attributes:
        id: Stable, for links and tests: ``roc``.
        kind: "lines", "bars" (`x` are names), "histogram" (`x` are the edges of the bins).
        x: Numbers, or names for bars; POSIX seconds where `x_is_time`.
        note: A sentence below.
    """

    id: str
    title: str
    kind: Literal["lines", "bars", "histogram"]
    x_title: str
    y_title: str
    x: Sequence[float] | Sequence[str]
    series: Sequence[Series]
    marks: Sequence[Mark] = ()
    x_is_time: bool = False
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text and numbers.

    Attributes:
        columns: Titles.
        rows: Cells: str, int, float (drawn with three significant places) or None.
    """

    id: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | int | float | None]]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One entry of the gallery: images, or a text with a weight for each token, and what was said of it.

    Attributes:
        caption: Which sample this is.
        truth, answer: What it is and what the model said.
        right: Whether the answer is.
        images: Names of files below ``report/``, side by side.
        tokens: ``(text, weight -1 to 1)``: what spoke for (> 0) and against the answer.
        note: The score, or why it is shown.
    """

    caption: str
    truth: str
    answer: str
    right: bool
    images: Sequence[str] = ()
    tokens: Sequence[tuple[str, float]] = ()
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class LeaderboardRow:
    """One candidate.

    Attributes:
        kind: "baseline" (trivial, always there) or "model".
        kept: Whether it was exported.
        validation, test: Metric -> value; None: not measured.
        settings: Its hyper-parameters.
    """

    name: str
    title: str
    kind: Literal["baseline", "model"]
    kept: bool
    validation: Mapping[str, float | None]
    test: Mapping[str, float | None]
    fit_s: float
    settings: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Report:
    """``report.json``.

    Attributes:
        metric: Which of `metrics` decides; more is better, unless `lower_is_better`.
        metrics: On the test part: name -> ``{"value", "low", "high"}``, a 95 % interval.
        protocol: How the data was split and what was never touched, in a sentence.
        counts: Part -> label (or "rows", "series") -> number.
        operating_point: ``{"threshold": number or {label: number}, "rule", "chosen_on"}`` and figures.
        confusion: ``{"labels", "matrix"}``, rows are the truth.
        parity: Source against ONNX: ``{"num_samples", "metric_source", "metric_onnx", "max_abs_diff"}``.
        tuning: ``{"num_trials", "stop_reason", "best": {…}}`` where there was a search.
        held_out: The test part, sample by sample, as far as it is worth keeping.
    """

    template: str
    name: str
    seed: int
    duration_s: float
    timings_s: Mapping[str, float]
    check: Mapping[str, Any]
    protocol: str
    counts: Mapping[str, Mapping[str, int]]
    metric: str
    lower_is_better: bool = False
    metrics: Mapping[str, Mapping[str, float]]
    leaderboard: Sequence[LeaderboardRow]
    operating_point: Mapping[str, Any] | None = None
    confusion: Mapping[str, Any] | None = None
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    gallery: Sequence[Picture] = ()
    tuning: Mapping[str, Any] | None = None
    parity: Mapping[str, Any] | None = None
    held_out: Sequence[Mapping[str, Any]] = ()

    def to_dict(self) -> dict[str, Any]:
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}


def parity(source: np.ndarray, onnx: np.ndarray, metric: Callable[[np.ndarray], float]) -> dict[str, Any]:
    """`Report.parity`.

    Args:
        source, onnx: What the trained model and its export gave for the same samples, [N,...].
        metric: Of either.
    """
    return {
        "num_samples": len(source),
        "max_abs_diff": float(np.abs(source - onnx).max()),
        "metric_source": metric(source),
        "metric_onnx": metric(onnx),
    }
