"""Jinja filters: numbers, times and names as people read them. Missing values become a dash."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from jinja2 import Undefined
from markupsafe import Markup, escape

from ignition_client import wire

DASH = "–"
METRICS = {
    "image_auroc": "AUROC",
    "f1": "F1",
    "precision": "Precision",
    "recall": "Recall",
    "false_alarm_rate": "False alarm rate",
    "miss_rate": "Miss rate",
    "false_rejects_per_thousand": "False rejects per thousand",
    "pixel_auroc": "Pixel AUROC",
    "aupro": "AUPRO",
    "macro_f1": "Macro F1",
    "micro_f1": "Micro F1",
    "top1": "Top-1 accuracy",
    "map": "mAP",
    "map_50": "mAP@50",
    "map50": "mAP@50",
    "map_75": "mAP@75",
    "mean_iou": "Mean IoU",
    "miou": "Mean IoU",
    "foreground_iou": "IoU without the background",
    "boundary_iou": "Boundary IoU",
    "pixel_accuracy": "Pixel accuracy",
    "dice": "Dice",
    "ece": "Calibration error",
    "mase": "MASE",
    "smape": "sMAPE",
    "owa": "OWA",
    "wql": "WQL",
    "rmse": "RMSE",
    "mae": "MAE",
}
LAYOUTS = {
    "ok_defective": "ok and defective folders",
    "train_test": "train and test folders",
    "class_folders": "one folder per class",
    "unlabelled": "no labels",
    "coco": "COCO boxes",
    "yolo": "YOLO boxes",
    "voc": "Pascal VOC boxes",
    "mask_folder": "folders of images and masks",
    "mask_beside": "masks beside their images",
}
SEVERITIES = ("error", "warning", "info")


def _or_dash(show: Callable[..., str]) -> Callable[..., str]:
    """Values of reports come from jobs: what is absent or not a number is shown as a dash."""

    def shown(value: Any, *args: Any) -> str:
        if value is None or isinstance(value, Undefined | bool) or not isinstance(value, int | float):
            return DASH
        return show(value, *args) if math.isfinite(value) else DASH

    return shown


@_or_dash
def fixed(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}"


@_or_dash
def figure(value: float) -> str:
    """Three significant places, without an exponent where one can do without it."""
    if value == 0 or isinstance(value, int):
        return f"{value:,}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) < 0.001:
        return f"{value:.2g}"
    return f"{value:.{3 if abs(value) < 1 else 2 if abs(value) < 10 else 1}f}"


@_or_dash
def percent(value: float) -> str:
    return f"{100 * value:.1f} %" if 0 < value < 0.1 else f"{100 * value:.0f} %"


@_or_dash
def count(value: float) -> str:
    return f"{value:,.0f}"


@_or_dash
def times(value: float) -> str:
    return f"{value:.1f}×" if value < 100 else f"{value:.0f}×"


@_or_dash
def size(value: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.1f} {unit}" if value < 10 and unit != "B" else f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


@_or_dash
def duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def ago(time: datetime) -> str:
    seconds = (datetime.now(UTC) - time).total_seconds()
    if seconds < 45:
        return "just now"
    for limit, unit_s, unit in ((3600, 60, "min"), (86400, 3600, "h"), (7 * 86400, 86400, "d")):
        if seconds < limit:
            return f"{max(1, round(seconds / unit_s))} {unit} ago"
    return f"{time:%-d %b %Y}"


def metric(name: str | None) -> str:
    return METRICS.get(name, name.replace("_", " ")) if isinstance(name, str) else "Quality"


def layout(name: str) -> str:
    """A data check's layout, in words where they are known."""
    return LAYOUTS.get(name, name.replace("_", " "))


def by_severity(findings: Sequence[wire.Finding]) -> list[wire.Finding]:
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def embedded_json(value: Any) -> Markup:
    """JSON for a ``<script type="application/json">``: no character can end the element."""
    text = json.dumps(value, default=lambda _: None, allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 - escaped above


def inline_code(text: str) -> Markup:
    """Text with `names` in backticks as ``<code>``."""
    parts = escape(text).split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts)
    )


FILTERS: dict[str, Callable[..., Any]] = {
    "fixed": fixed,
    "figure": figure,
    "percent": percent,
    "count": count,
    "times": times,
    "bytes": size,
    "duration": duration,
    "ago": ago,
    "metric": metric,
    "by_severity": by_severity,
    "layout": layout,
    "json": embedded_json,
    "inline_code": inline_code,
}
