"""A report, a data check and an endpoint's answer for each template: made, not trained, to be looked at."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from xtorch.data.findings import CheckReport, ClassCount, Finding
from xtorch.tasks.report import Chart, LeaderboardRow, Mark, Picture, Report, Series, Table


@dataclass(frozen=True, kw_only=True)
class Case:
    """One template's made-up run.

    Attributes:
        files: The dataset.
        check: What `check` answers.
        report, pictures: What `train` leaves.
        answer: What the endpoint says to anything.
        metric: Of the run.
    """

    template: str
    name: str
    files: dict[str, bytes]
    check: dict[str, Any]
    report: dict[str, Any]
    answer: dict[str, Any]
    pictures: dict[str, bytes] = field(default_factory=dict)


def picture(seed: int, *, kind: str = "PNG", spot: bool = False, size: tuple[int, int] = (160, 120)) -> bytes:
    rng = np.random.default_rng(seed)
    width, height = size
    grey = 120 + 30 * np.sin(np.arange(width) / 9 + seed)[None, :] + rng.normal(0, 8, (height, width))
    image = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert("RGB")
    if spot:
        ImageDraw.Draw(image).ellipse((60, 40, 95, 70), fill=(220, 60, 40))
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def _check(
    template: str, item: Any, layout: str, classes: dict[str, list[str]], **changes: Any
) -> dict[str, Any]:
    report = CheckReport(
        item=item,
        layout=layout,
        num_files=14,
        num_items=240,
        size_bytes=1_400_000,
        classes=[ClassCount(name=name, num_items=80, examples=shown) for name, shown in classes.items()],
        findings=[
            Finding(
                code="x.y",
                severity="warning",
                title="3 exact duplicates",
                hint="One is used.",
                num=3,
                paths=["a", "b"],
            )
        ],
        suits=[template],
        duration_s=1.2,
        **changes,
    )
    return {**report.to_dict(), "template": template}


def _report(template: str, metric: str, value: float, **changes: Any) -> dict[str, Any]:
    rows = [
        LeaderboardRow(
            name="kept",
            title="Pretrained network, tuned head",
            kind="model",
            kept=True,
            fit_s=41.5,
            validation={metric: value - 0.01},
            test={metric: value},
            settings={"learning_rate": 0.002, "hidden": 64},
        ),
        LeaderboardRow(
            name="other",
            title="Frozen features",
            kind="model",
            kept=False,
            fit_s=3.2,
            validation={metric: value - 0.05},
            test={metric: value - 0.04},
            note="Fast, a little worse.",
        ),
        LeaderboardRow(
            name="trivial",
            title="Most frequent answer",
            kind="baseline",
            kept=False,
            fit_s=0.0,
            validation={metric: 0.31},
            test={metric: 0.3},
        ),
    ]
    made: dict[str, Any] = {
        "template": template,
        "name": "made",
        "seed": 0,
        "duration_s": 62.0,
        "timings_s": {"Training": 50.0},
        "check": {
            "item": "images",
            "num_items": 240,
            "findings": [{"severity": "warning", "title": "3 exact duplicates"}],
        },
        "protocol": "Stratified 60 / 20 / 20; the test part was scored once, at the end.",
        "counts": {
            "train": {"a": 120, "b": 60},
            "validation": {"a": 40, "b": 20},
            "test": {"a": 40, "b": 20},
        },
        "metric": metric,
        "metrics": {
            metric: {"value": value, "low": value - 0.03, "high": min(1.0, value + 0.02)},
            "recall": {"value": 0.88, "low": 0.8, "high": 0.94},
            "false_alarm_rate": {"value": 0.021, "low": 0.005, "high": 0.06},
        },
        "leaderboard": rows,
        "operating_point": {
            "threshold": 0.5312,
            "rule": "at most 1 % false alarms",
            "chosen_on": "validation",
        },
        "tuning": {
            "num_trials": 14,
            "stop_reason": "no better in 8 trials",
            "best": {"learning_rate": 0.002},
        },
        "parity": {"num_samples": 48, "metric_source": value, "metric_onnx": value, "max_abs_diff": 2.1e-6},
        **changes,
    }
    return Report(**made).to_dict()


def _anomaly() -> Case:
    paths = {"ok": [f"ok/{i}.png" for i in range(6)], "defective": [f"defective/{i}.png" for i in range(4)]}
    edges = [i / 10 for i in range(11)]
    held_out = [{"path": path, "label": 0, "score": 0.2 + i / 50} for i, path in enumerate(paths["ok"])]
    held_out += [
        {"path": path, "label": 1, "score": 0.6 + i / 20} for i, path in enumerate(paths["defective"])
    ]
    map_png = io.BytesIO()
    heat = np.zeros((16, 16, 4), np.uint8)
    heat[5:9, 6:10] = (255, 60, 0, 216)
    Image.fromarray(heat, "RGBA").save(map_png, "PNG")
    return Case(
        template="visual-anomaly-detection",
        name="plates",
        files={
            path: picture(hash_of(path), spot=path.startswith("defective"))
            for group in paths.values()
            for path in group
        },
        check=_check(
            "visual-anomaly-detection", "images", "ok_defective", paths, facts={"Image size": "160 × 120"}
        ),
        pictures={
            "w0.jpg": picture(3, kind="JPEG", spot=True),
            "w0_map.jpg": picture(4, kind="JPEG", spot=True),
        },
        report=_report(
            "visual-anomaly-detection",
            "image_auroc",
            0.973,
            confusion={"labels": ["ok", "defective"], "matrix": [[39, 1], [2, 18]]},
            charts=[
                Chart(
                    id="roc",
                    title="ROC curve",
                    kind="lines",
                    x_title="False alarms",
                    y_title="Found",
                    x=[0, 0.02, 0.1, 1],
                    series=[Series(name="test part", y=[0, 0.8, 0.95, 1])],
                    marks=[Mark(x=0.02, name="operating point")],
                    note="The area below is the AUROC.",
                ),
                Chart(
                    id="scores",
                    title="Scores of the test images",
                    kind="histogram",
                    x_title="Score",
                    y_title="Images",
                    x=edges,
                    marks=[Mark(x=0.5312, name="threshold")],
                    series=[
                        Series(name="ok", y=[0, 4, 12, 14, 8, 2, 0, 0, 0, 0]),
                        Series(name="defective", y=[0, 0, 0, 1, 1, 3, 5, 6, 3, 1]),
                    ],
                ),
            ],
            gallery=[
                Picture(
                    caption="defective/3.png",
                    truth="defective",
                    answer="ok",
                    right=False,
                    images=["w0.jpg", "w0_map.jpg"],
                    note="score 0.41",
                ),
                Picture(
                    caption="ok/5.png", truth="ok", answer="ok", right=True, images=["w0.jpg", "w0_map.jpg"]
                ),
            ],
            held_out=held_out,
        ),
        answer={
            "task": "anomaly-detection",
            "verdict": "defective",
            "score": 0.81,
            "threshold": 0.5312,
            "confidence": 0.93,
            "image": {"width": 160, "height": 120},
            "heatmap": {
                "media_type": "image/png",
                "width": 16,
                "height": 16,
                "data_base64": base64.b64encode(map_png.getvalue()).decode(),
            },
        },
    )


def hash_of(path: str) -> int:
    return sum(path.encode())


def _detection() -> Case:
    paths = [f"images/{i}.png" for i in range(6)]
    return Case(
        template="object-detection",
        name="cells",
        files={path: picture(i, spot=True) for i, path in enumerate(paths)} | {"annotations.json": b"{}"},
        check=_check(
            "object-detection",
            "images",
            "coco",
            {"red cell": paths[:3], "platelet": paths[3:]},
            facts={"Boxes": "4,888", "Smallest box": "12 × 14"},
            charts=[
                {
                    "id": "boxes",
                    "title": "Boxes per label",
                    "kind": "bars",
                    "x_title": "Label",
                    "y_title": "Boxes",
                    "x": ["red cell", "white cell", "platelet"],
                    "series": [{"name": "boxes", "y": [4155, 372, 361]}],
                }
            ],
        ),
        pictures={"g0.jpg": picture(9, kind="JPEG", spot=True)},
        report=_report(
            "object-detection",
            "map_50",
            0.912,
            charts=[
                Chart(
                    id="pr",
                    title="Precision and recall",
                    kind="lines",
                    x_title="Recall",
                    y_title="Precision",
                    x=[0, 0.25, 0.5, 0.75, 1],
                    series=[
                        Series(name="red cell", y=[1, 0.99, 0.97, 0.9, 0.4]),
                        Series(name="white cell", y=[1, 1, 0.98, 0.95, 0.7]),
                        Series(name="platelet", y=[1, 0.9, 0.8, 0.6, None]),
                    ],
                ),
            ],
            tables=[
                Table(
                    id="classes",
                    title="By label",
                    columns=["Label", "Boxes", "mAP@50", "Threshold"],
                    rows=[
                        ["red cell", 819, 0.871, 0.42],
                        ["white cell", 72, 0.98, 0.5],
                        ["platelet", 76, 0.885, None],
                    ],
                )
            ],
            operating_point={
                "threshold": {"red cell": 0.42, "white cell": 0.5, "platelet": 0.31},
                "rule": "highest F1 of each label",
                "chosen_on": "validation",
            },
            confusion={
                "labels": ["red cell", "white cell", "platelet", "nothing"],
                "matrix": [[780, 0, 2, 37], [0, 71, 0, 1], [1, 0, 69, 6], [90, 1, 8, 0]],
            },
            gallery=[
                Picture(
                    caption="images/3.png",
                    truth="12 boxes",
                    answer="11 boxes",
                    right=False,
                    images=["g0.jpg"],
                    note="1 missed",
                )
            ],
            held_out=[{"path": path, "right": 3, "false": 0, "missed": 1} for path in paths],
        ),
        answer={
            "task": "object-detection",
            "image": {"width": 160, "height": 120},
            "detections": [
                {"label": "red cell", "score": 0.93, "box": [58, 38, 97, 72]},
                {"label": "platelet", "score": 0.44, "box": [10, 80, 40, 110]},
            ],
        },
    )


def _classification() -> Case:
    labels = [f"garment {i:02d}" for i in range(20)]
    paths = {label: [f"{label}/0.png"] for label in labels}
    matrix = [[38 if i == j else (3 if j == (i + 1) % 20 else 0) for j in range(20)] for i in range(20)]
    files = {path: picture(hash_of(path)) for group in paths.values() for path in group}
    return Case(
        template="image-classification",
        name="clothing",
        files=files,
        check=_check("image-classification", "images", "class_folders", paths),
        report=_report(
            "image-classification",
            "macro_f1",
            0.894,
            confusion={"labels": labels, "matrix": matrix},
            held_out=[
                {"path": path, "label": label, "answer": label}
                for label, group in paths.items()
                for path in group
            ],
        ),
        answer={
            "task": "image-classification",
            "label": "garment 03",
            "probability": 0.81,
            "labels": ["garment 03"],
            "image": {"width": 160, "height": 120},
            "top": [
                {"label": f"garment {i:02d}", "probability": p} for i, p in ((3, 0.81), (4, 0.1), (9, 0.05))
            ],
        },
    )


def _segmentation() -> Case:
    mask = np.zeros((120, 160), np.uint8)
    mask[30:80, 50:110] = 1
    mask[85:110, 10:60] = 2
    png = io.BytesIO()
    Image.fromarray(mask).save(png, "PNG")
    paths = [f"images/{i}.png" for i in range(4)]
    return Case(
        template="image-segmentation",
        name="cracks",
        files={path: picture(i, spot=True) for i, path in enumerate(paths)},
        check=_check("image-segmentation", "images", "masks", {"crack": paths}),
        report=_report("image-segmentation", "mean_iou", 0.77, held_out=[{"path": path} for path in paths]),
        answer={
            "task": "semantic-segmentation",
            "image": {"width": 160, "height": 120},
            "labels": ["background", "crack", "rust"],
            "shares": {"background": 0.78, "crack": 0.156, "rust": 0.065},
            "mask": {"media_type": "image/png", "data_base64": base64.b64encode(png.getvalue()).decode()},
        },
    )


def _text() -> Case:
    texts = [
        "Where is my parcel? It should have been here on Monday.",
        "The blender arrived broken and leaks.",
        "I would like to change the address of my order <b>4711</b>.",
    ]
    return Case(
        template="text-classification",
        name="tickets",
        files={"tickets.csv": b"text,queue\na b c,late\n"},
        check=_check(
            "text-classification",
            "rows",
            "csv",
            {"late": texts[:1], "broken": texts[1:2], "address": texts[2:]},
            facts={
                "Text column": "text",
                "Label column": "queue",
                "Encoding": "UTF-8",
                "Language": "English",
            },
        ),
        report=_report(
            "text-classification",
            "macro_f1",
            0.931,
            confusion={
                "labels": ["late", "broken", "address"],
                "matrix": [[30, 1, 2], [0, 28, 0], [3, 0, 25]],
            },
            charts=[
                Chart(
                    id="calibration",
                    title="How sure, how right",
                    kind="lines",
                    x_title="Said probability",
                    y_title="Share that was right",
                    x=[0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
                    series=[
                        Series(
                            name="measured",
                            y=[0.48, 0.62, 0.71, 0.79, 0.92, 0.99],
                            low=[0.4, 0.55, 0.65, 0.74, 0.88, 0.97],
                            high=[0.56, 0.7, 0.77, 0.84, 0.95, 1.0],
                        ),
                        Series(name="ideal", y=[0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
                    ],
                ),
            ],
            tables=[
                Table(
                    id="doubtful",
                    title="Rows that may be labelled wrong",
                    columns=["Row", "Text", "Label", "Rather"],
                    rows=[["tickets.csv:17", texts[0], "broken", "late"]],
                    note="Look at them: they teach the wrong thing.",
                )
            ],
            gallery=[
                Picture(
                    caption="tickets.csv:91",
                    truth="late",
                    answer="address",
                    right=False,
                    tokens=[
                        ("Where ", 0.1),
                        ("is ", 0.02),
                        ("my ", 0.0),
                        ("parcel", -0.7),
                        ("? ", 0.0),
                        ("The ", 0.0),
                        ("address ", 0.95),
                        ("was ", 0.1),
                        ("right", 0.4),
                        (".", 0.0),
                    ],
                    note="0.61",
                ),
                Picture(
                    caption="tickets.csv:12",
                    truth="broken",
                    answer="broken",
                    right=True,
                    tokens=[
                        ("The ", 0.0),
                        ("blender ", 0.2),
                        ("arrived ", -0.2),
                        ("broken", 1.0),
                        (".", 0.0),
                    ],
                ),
            ],
            held_out=[
                {"text": text, "label": label, "answer": label}
                for text, label in zip(texts, ("late", "broken", "address"), strict=True)
            ],
        ),
        answer={
            "task": "text-classification",
            "label": "late",
            "labels": ["late"],
            "confidence": 0.88,
            "probabilities": {"late": 0.88, "broken": 0.03, "address": 0.09},
        },
    )


def _forecasting() -> Case:
    day_s, start_s = 86_400, 1_700_000_000
    observed = [100 + 20 * math.sin(2 * math.pi * i / 7) + i / 4 for i in range(90)]
    forecast: list[float | None] = [None] * 76 + [value * 1.02 for value in observed[76:]]
    return Case(
        template="sales-forecasting",
        name="sales",
        files={"sales.csv": b"date,sales\n2024-01-01,3\n"},
        check=_check(
            "sales-forecasting",
            "series",
            "long_csv",
            {},
            facts={"Time column": "date", "Value column": "sales", "Frequency": "daily", "Horizon": "14"},
            charts=[
                {
                    "id": "total",
                    "title": "All series together",
                    "kind": "lines",
                    "x_is_time": True,
                    "x_title": "Time",
                    "y_title": "Sales",
                    "x": [start_s + i * day_s for i in range(90)],
                    "series": [{"name": "sum", "y": observed}],
                }
            ],
        ),
        report=_report(
            "sales-forecasting",
            "wql",
            0.061,
            lower_is_better=True,
            metrics={
                "wql": {"value": 0.061, "low": 0.055, "high": 0.07},
                "mase": {"value": 0.83, "low": 0.79, "high": 0.9},
                "smape": {"value": 11.2, "low": 10.1, "high": 12.7},
            },
            operating_point=None,
            charts=[
                Chart(
                    id="series_typical",
                    title="A typical series",
                    kind="lines",
                    x_is_time=True,
                    x_title="Time",
                    y_title="Sales",
                    x=[start_s + i * day_s for i in range(90)],
                    series=[
                        Series(name="observed", y=observed),
                        Series(
                            name="forecast",
                            y=forecast,
                            low=[None if v is None else v - 12 for v in forecast],
                            high=[None if v is None else v + 12 for v in forecast],
                        ),
                    ],
                    marks=[Mark(x=start_s + 76 * day_s, name="forecast begins")],
                ),
                Chart(
                    id="by_step",
                    title="Error by step",
                    kind="bars",
                    x_title="Step",
                    y_title="MASE",
                    x=[str(i) for i in range(1, 15)],
                    series=[
                        Series(name="kept", y=[0.6 + i / 40 for i in range(14)]),
                        Series(name="seasonal naive", y=[1.0] * 14),
                    ],
                ),
            ],
            tables=[
                Table(
                    id="series",
                    title="By series",
                    columns=["Series", "Values", "MASE", "Coverage"],
                    rows=[["berlin", 900, 0.81, 0.79], ["paris", 900, 0.9, 0.82]],
                )
            ],
        ),
        answer={
            "task": "forecast",
            "horizon": 7,
            "quantiles": {
                "0.1": [90.0 + i for i in range(7)],
                "0.5": [100.0 + i for i in range(7)],
                "0.9": [110.0 + i for i in range(7)],
            },
        },
    )


def cases() -> list[Case]:
    return [_anomaly(), _detection(), _classification(), _segmentation(), _text(), _forecasting()]
