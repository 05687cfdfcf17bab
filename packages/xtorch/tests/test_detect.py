"""Which templates a dataset suits, on small made folders; dirty ones say nothing and never raise."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xtorch.data.detect import (
    ANOMALY,
    CLASSIFICATION,
    DETECTION,
    FORECASTING,
    SEGMENTATION,
    TEXT,
    describe_unsuited,
    suits,
)
from xtorch.errors import DataError

Content = str | bytes
VOC = "<annotation><filename>a.jpg</filename><object><bndbox><xmin>1</xmin></bndbox></object></annotation>"
COCO = json.dumps(
    {"images": [{"file_name": "a.jpg"}], "annotations": [{"bbox": [1, 2, 3, 4]}], "categories": []}
)
REVIEWS = [("the product arrived broken and late", "bad"), ("works very well, I am happy", "good")] * 6
DATES = [f"2024-01-{day:02d}" for day in range(1, 21)]


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[dict[str, Content]], Path]:
    def made(files: dict[str, Content]) -> Path:
        for name, content in files.items():
            path = tmp_path / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path / "data"

    return made


def images(*names: str) -> dict[str, Content]:
    return dict.fromkeys(names, b"not opened")


def rows(*lines: str) -> str:
    return "\n".join(lines) + "\n"


IMAGE_FOLDERS: dict[str, tuple[dict[str, Content], list[str]]] = {
    "ok and defective": (images("ok/a.jpg", "defective/b.jpg"), [ANOMALY, CLASSIFICATION]),
    "ok alone": (images("ok/a.jpg", "ok/b.jpg"), [ANOMALY]),
    "wrapped": (images("set/ok/a.jpg", "set/defective/b.jpg"), [ANOMALY, CLASSIFICATION]),
    "mvtec": (
        images(
            "train/good/000.png", "test/good/001.png", "test/hole/000.png", "ground_truth/hole/000_mask.png"
        ),
        [ANOMALY, SEGMENTATION],
    ),
    "classes": (images("cat/a.jpg", "dog/b.jpg"), [CLASSIFICATION]),
    "classes in parts": (images("train/cat/a.jpg", "train/dog/b.jpg", "test/cat/c.jpg"), [CLASSIFICATION]),
    "labels in a table": (
        {
            **images("a.jpg", "b.jpg", "c.jpg"),
            "labels.csv": rows("id,label", "a.jpg,cat", "b.jpg,dog", "c.jpg,cat"),
        },
        [CLASSIFICATION],
    ),
    "one class": (images("train/cat/a.jpg", "test/cat/c.jpg"), []),
    "parts without classes": (images("train/a.jpg", "test/b.jpg"), []),
    "no folders": (images("a.jpg", "b.jpg"), []),
    "voc": ({**images("JPEGImages/a.jpg"), "Annotations/a.xml": VOC}, [DETECTION]),
    "coco": ({**images("images/a.jpg"), "annotations.json": COCO}, [DETECTION]),
    "yolo": (
        {**images("images/a.jpg"), "labels/a.txt": "0 0.5 0.5 0.1 0.2\n", "data.yaml": "nc: 1"},
        [DETECTION],
    ),
    "yolo, the first image empty": (
        {**images("images/a.jpg", "images/b.jpg"), "labels/a.txt": "", "labels/b.txt": "1 .5 .5 .1 .2\n"},
        [DETECTION],
    ),
    "boxes in a table": (
        {**images("a.jpg"), "boxes.csv": rows("filename,xmin,ymin,xmax,ymax,class", "a.jpg,1,2,30,40,cat")},
        [DETECTION],
    ),
    "boxes in an untitled table": (
        {**images("a.jpg"), "boxes.csv": rows("a.jpg,1,2,30,40,cat", "a.jpg,5,6,50,60,dog")},
        [DETECTION],
    ),
    "masks in a folder": (
        images("images/a.jpg", "images/b.jpg", "masks/a.png", "masks/b.png"),
        [SEGMENTATION],
    ),
    "masks beside": (images("a.jpg", "a_mask.png", "b.jpg", "b_mask.png"), [SEGMENTATION]),
    "masks of the same name": (images("x/a.jpg", "x/a.png", "y/b.jpg", "y/b.png"), [SEGMENTATION]),
    "few masks": (images("images/a.jpg", "images/b.jpg", "images/c.jpg", "masks/a.png"), []),
    "captions": ({**images("images/a.jpg"), "images/a.txt": "a cat on a mat"}, []),
    "other json": ({**images("images/a.jpg"), "info.json": '{"version": 1}'}, []),
    "a cut json": ({**images("images/a.jpg"), "boxes.json": COCO[:60]}, [DETECTION]),
}

TABLES: dict[str, tuple[dict[str, Content], list[str]]] = {
    "csv": ({"a.csv": rows("text,label", *(f'"{t}",{c}' for t, c in REVIEWS))}, [TEXT]),
    "untitled": ({"a.csv": rows(*(f'{c},"{t}"' for t, c in REVIEWS))}, [TEXT]),
    "semicolons and a byte order mark": (
        {"a.csv": rows("text;label", *(f"{t};{c}" for t, c in REVIEWS)).encode("utf-8-sig")},
        [TEXT],
    ),
    "utf-16": ({"a.tsv": rows("text\tlabel", *(f"{t}\t{c}" for t, c in REVIEWS)).encode("utf-16")}, [TEXT]),
    "latin-1": ({"a.csv": rows("text,label", *(f"é {t},{c}" for t, c in REVIEWS)).encode("latin-1")}, [TEXT]),
    "tabs in .txt": ({"SMS.txt": rows(*(f"{c}\t{t}" for t, c in REVIEWS))}, [TEXT]),
    "json lines": ({"a.jsonl": rows(*(json.dumps({"body": t, "y": c}) for t, c in REVIEWS))}, [TEXT]),
    "json": ({"a.json": json.dumps([{"body": t, "y": c} for t, c in REVIEWS])}, [TEXT]),
    "folders": ({"pos/1.txt": "good thing", "pos/2.txt": "fine", "neg/1.txt": "bad thing"}, [TEXT]),
    "fasttext": ({"train.txt": rows(*(f"__label__{c} {t}" for t, c in REVIEWS))}, [TEXT]),
    "no spaces": (
        {"a.csv": rows("text,label", *(f"这个产品非常好用我很喜欢它{i},{i % 2}" for i in range(20)))},
        [TEXT],
    ),
    "sales": (
        {"a.csv": rows("date,store,sales", *(f"{d},{s},{9 + s}" for d in DATES for s in (1, 2)))},
        [FORECASTING],
    ),
    "times": ({"a.csv": rows("ds,y", *(f"{d} 13:00:00,{i}.5" for i, d in enumerate(DATES)))}, [FORECASTING]),
    "years": ({"a.csv": rows("year,passengers", *(f"{1950 + i},{i * 7}" for i in range(20)))}, [FORECASTING]),
    "wide": (
        {"a.csv": rows(",".join(["item", *DATES]), *(",".join(map(str, range(21))) for _ in range(3)))},
        [FORECASTING],
    ),
    "tickets with times": (
        {"a.csv": rows("created,body,queue", *(f"{DATES[i]},{t},{c}" for i, (t, c) in enumerate(REVIEWS)))},
        [TEXT],
    ),
    "no label repeats": ({"a.csv": rows("text,id", *(f"{t},k{i}" for i, (t, _) in enumerate(REVIEWS)))}, []),
    "numbers only": ({"a.csv": rows("a,b", *(f"{i},{i * i}" for i in range(20)))}, []),
    "empty table": ({"a.csv": ""}, []),
    "title only": ({"a.csv": "text,label\n"}, []),
    "binary": ({"a.csv": bytes(range(256)) * 8, "b.parquet": b"PAR1 but not really"}, []),
    "bad json": ({"a.json": "[{", "b.jsonl": "{}\n{not"}, []),
    "a pdf": ({"a.pdf": b"%PDF"}, []),
}  # fmt: skip


@pytest.mark.parametrize("case", [*IMAGE_FOLDERS, *TABLES])
def test_folder_suits(folder: Any, case: str) -> None:
    files, wanted = {**IMAGE_FOLDERS, **TABLES}[case]
    assert suits(folder(files)) == wanted


def test_large_table_sorted_by_label_has_several_labels(folder: Any) -> None:
    lines = [f"row {i} says something about the matter at hand,label{i // 8000}" for i in range(32_000)]
    root = folder({"a.csv": rows("text,label", *lines)})
    assert (root / "a.csv").stat().st_size > 1_000_000
    assert suits(root) == [TEXT]


def test_parquet_suits_like_csv(folder: Any) -> None:
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    root = folder({})
    root.mkdir()
    texts, labels = zip(*REVIEWS, strict=True)
    parquet.write_table(arrow.table({"text": texts, "label": labels}), root / "a.parquet")
    assert suits(root) == [TEXT]


def test_unsuited_data_is_described_and_blocked(folder: Any) -> None:
    report = describe_unsuited(folder({**images("a.jpg", "b.jpg"), "notes.pdf": b"x"}))
    assert [finding.code for finding in report.findings] == ["data.unsuited"]
    assert report.findings[0].severity == "error"
    assert report.facts == {"Kinds of files": ".jpg (2), .pdf (1)"}
    assert (report.num_files, report.num_items, report.size_bytes) == (3, 2, 21)


def test_missing_folder_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        suits(tmp_path / "nowhere")


def test_detection_loads_neither_torch_nor_pandas() -> None:
    program = "import sys, xtorch.data.detect; print([n for n in ('torch', 'pandas') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
