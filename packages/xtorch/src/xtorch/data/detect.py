"""Which templates a dataset suits, from its files alone. A recipe's own check is the deeper judge.

Only names, the heads of tables and the heads of annotation files are read: an answer takes milliseconds for
any size, and files that are damaged or of an unknown kind say nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from xtorch.data.findings import CheckReport, Findings
from xtorch.data.layout import IMAGE_SUFFIXES, OK_NAMES, scan_image_folder, walk_files
from xtorch.data.mask_pairs import MASK_ENDING, MASK_FOLDERS
from xtorch.data.table_head import TableHead, read_head, read_table_head
from xtorch.errors import DataError

ANOMALY = "visual-anomaly-detection"
CLASSIFICATION = "image-classification"
DETECTION = "object-detection"
SEGMENTATION = "image-segmentation"
TEXT = "text-classification"
FORECASTING = "sales-forecasting"

_TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".tab", ".txt", ".jsonl", ".ndjson", ".json", ".parquet"})
_MAX_TABLES = 12
_MAX_ANNOTATIONS = 40
"""Annotation files of one kind that are looked into; one that fits is enough."""
_PARTS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation", "dev"})

_MIN_TEXT_WORDS = 3.0
"""Mean number of words of a cell, from which on a column is text and not names."""
_MAX_LABEL_SHARE = 0.5
"""Labels repeat: at most this share of the rows has a label of its own."""
_MIN_WIDE_COLUMNS = 10


@dataclass(frozen=True, kw_only=True)
class _Files:
    """What lies below `root`, by kind; paths are POSIX and relative."""

    root: Path
    paths: tuple[str, ...]
    images: tuple[PurePosixPath, ...]

    def of_suffix(self, *suffixes: str) -> list[Path]:
        return [self.root / path for path in self.paths if PurePosixPath(path).suffix.lower() in suffixes]


def suits(dataset_dir: str | Path) -> list[str]:
    """Templates that can read a dataset's files.

    Args:
        dataset_dir: The dataset's folder.

    Returns:
        Ids of templates, the most likely first; empty where the files fit none.

    Raises:
        DataError: `dataset_dir` is not a folder.
    """
    files = _list(dataset_dir)
    return _suits_images(files) if files.images else _suits_tables(files)


def describe_unsuited(dataset_dir: str | Path) -> CheckReport:
    """The check of a dataset that suits no template: what lies in it, and what was looked for.

    Raises:
        DataError: `dataset_dir` is not a folder.
    """
    files = _list(dataset_dir)
    suffixes = Counter(PurePosixPath(path).suffix.lower() or "(none)" for path in files.paths)
    findings = Findings()
    if files.images:
        title = "Images, but nothing that says what they show"
        hint = (
            "Put good images into ok/ and faulty ones into defective/; or make one folder per class; or add "
            "boxes (COCO, YOLO, Pascal VOC, CSV) or masks of the same names."
        )
    else:
        title = "No data that a template can learn from"
        hint = (
            "Upload images in folders, images with boxes or masks, a table (CSV, TSV, JSON lines, Parquet) "
            "with a text and a label column, or one with a time column and numbers."
        )
    findings.add("data.unsuited", "error", title, hint, num=len(files.paths))
    return CheckReport(
        item="images" if files.images else "rows",
        layout="unlabelled" if files.images else "unknown",
        num_files=len(files.paths),
        num_items=len(files.images),
        size_bytes=sum((files.root / path).stat().st_size for path in files.paths),
        facts={"Kinds of files": ", ".join(f"{suffix} ({num})" for suffix, num in suffixes.most_common(8))},
        findings=findings.sorted(),
    )


def _list(dataset_dir: str | Path) -> _Files:
    root = Path(dataset_dir)
    if not root.is_dir():
        raise DataError("The dataset's folder does not exist.", value=root.name, hint="check the path")
    paths = tuple(path for path, _ in walk_files(root))
    images = tuple(
        PurePosixPath(path) for path in paths if PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES
    )
    return _Files(root=root, paths=paths, images=images)


# ------------------------------------------------------------------------------------------------- images


def _suits_images(files: _Files) -> list[str]:
    found = []
    if _has_boxes(files):
        found.append(DETECTION)
    folder = scan_image_folder(files.root)
    good = folder.layout == "ok_defective" or any(
        image.part is not None and OK_NAMES & {part.lower() for part in PurePosixPath(image.path).parts}
        for image in folder.images
    )
    if good:
        found.append(ANOMALY)
    if _has_masks(files.images):
        found.append(SEGMENTATION)
    if SEGMENTATION not in found and (_num_classes(files.images) >= 2 or _has_label_table(files)):
        found.append(CLASSIFICATION)
    return found


def _num_classes(images: Sequence[PurePosixPath]) -> int:
    """Number of folders that could be classes: what tells files apart below common and part folders."""
    folders = [
        image.parts[:-1] for image in images if not MASK_FOLDERS & {part.lower() for part in image.parts[:-1]}
    ]
    shared = 0
    while (
        folders
        and all(len(parts) > shared for parts in folders)
        and len({parts[shared] for parts in folders}) == 1
    ):
        shared += 1
    names = set()
    for parts in folders:
        below = [part for part in parts[shared:] if part.lower() not in _PARTS]
        if below:
            names.add(below[0].lower())
    return len(names)


def _has_masks(images: Sequence[PurePosixPath]) -> bool:
    """Whether at least half of the pictures have a mask: the same name in a folder of masks, with an ending
    such as ``_mask``, or beside the picture as .png or .bmp."""
    masks, pictures = set(), []
    by_name = Counter((image.parent, image.stem.lower()) for image in images)
    for image in images:
        stem = image.stem.lower()
        in_folder = MASK_FOLDERS & {part.lower() for part in image.parts[:-1]}
        ending = MASK_ENDING.search(stem)
        twin = by_name[image.parent, stem] > 1 and image.suffix.lower() in (".png", ".bmp", ".gif")
        if in_folder or ending or twin:
            masks.add(MASK_ENDING.sub("", stem))
        else:
            pictures.append(stem)
    return bool(pictures) and 2 * sum(stem in masks for stem in pictures) >= len(pictures)


def _has_boxes(files: _Files) -> bool:
    stems = {image.stem.lower() for image in files.images}
    return (
        any(_is_coco(read_head(path)) for path in files.of_suffix(".json")[:_MAX_ANNOTATIONS])
        or any(_is_voc(read_head(path)) for path in files.of_suffix(".xml")[:_MAX_ANNOTATIONS])
        or any(
            _is_yolo(read_head(path))
            for path in [path for path in files.of_suffix(".txt") if path.stem.lower() in stems][
                :_MAX_ANNOTATIONS
            ]
        )
        or any(
            _is_box_table(read_table_head(path))
            for path in files.of_suffix(".csv", ".tsv", ".txt")[:_MAX_TABLES]
            if path.stem.lower() not in stems
        )
    )


def _is_coco(head: str) -> bool:
    """Source: the COCO data format, https://cocodataset.org/#format-data ("Object Detection")."""
    keys = {key for key in ("images", "annotations", "categories") if f'"{key}"' in head}
    return bool(keys) and ('"file_name"' in head or '"bbox"' in head)


def _is_voc(head: str) -> bool:
    return "<annotation" in head and "<object" in head and "<bndbox" in head


def _is_yolo(head: str) -> bool:
    """Lines of a class number and four or more fractions of the image's size."""
    lines = [line.split() for line in head.splitlines() if line.strip()]
    try:
        return bool(lines) and all(
            len(cells) >= 5 and int(cells[0]) >= 0 and all(-0.5 <= float(cell) <= 1.5 for cell in cells[1:5])
            for cells in lines[:50]
        )
    except ValueError:
        return False


_BOX_COLUMNS = (
    {"xmin", "ymin", "xmax", "ymax"},
    {"x1", "y1", "x2", "y2"},
    {"x0", "y0", "x1", "y1"},
    {"left", "top", "right", "bottom"},
    {"left", "top", "width", "height"},
    {"x", "y", "width", "height"},
    {"x", "y", "w", "h"},
)


def _is_box_table(table: TableHead | None) -> bool:
    """Columns of corners or sizes beside one of image files; untitled: ``file,x1,y1,x2,y2,label``."""
    of_files = _file_columns(table)
    if table is None or not of_files:
        return False
    titles = {re.sub(r"[^a-z0-9]", "", title.lower()).removeprefix("bbox") for title in table.columns}
    if any(columns <= titles for columns in _BOX_COLUMNS):
        return True
    numbers = [index for index in range(len(table.columns)) if table.is_number(index)]
    return len(table.columns) == 6 and of_files == [0] and set(numbers) >= {1, 2, 3, 4}


def _file_columns(table: TableHead | None) -> list[int]:
    """Columns that name image files."""
    if table is None:
        return []
    return [
        index
        for index in range(len(table.columns))
        if _share(PurePosixPath(cell).suffix.lower() in IMAGE_SUFFIXES for cell in table.cells(index)) > 0.9
    ]


def _has_label_table(files: _Files) -> bool:
    """Whether a table names images and, beside them, labels that repeat."""
    for path in files.of_suffix(".csv", ".tsv", ".txt")[:_MAX_TABLES]:
        table = read_table_head(path)
        of_files = _file_columns(table)
        if table is not None and of_files and not _is_box_table(table):
            others = (index for index in range(len(table.columns)) if index not in of_files)
            if any(_is_label(table, index) for index in others):
                return True
    return False


# ------------------------------------------------------------------------------------------------- tables


def _suits_tables(files: _Files) -> list[str]:
    found: list[str] = []
    candidates = sorted(files.of_suffix(*_TABLE_SUFFIXES), key=lambda path: (-path.stat().st_size, path.name))
    for path in candidates[:_MAX_TABLES]:
        table = read_table_head(path)
        if table is None:
            continue
        for template in _suits_table(table):
            if template not in found:
                found.append(template)
    if not found and _has_text_folders(files):
        found.append(TEXT)
    return found


def _suits_table(table: TableHead) -> list[str]:
    found = []
    if _is_labelled_text(table):
        found.append(TEXT)
    if _is_series(table):
        found.append(FORECASTING)
    return found


def _is_labelled_text(table: TableHead) -> bool:
    if any(cell.startswith("__label__") for row in table.rows[:5] for cell in row[:1]):
        return True
    columns = range(len(table.columns))
    texts = [
        index for index in columns if table.mean_words(index) >= _MIN_TEXT_WORDS and not table.is_time(index)
    ]
    if not texts:
        return False
    labels = [index for index in columns if index not in texts and _is_label(table, index)]
    # Titles of classes may be sentences themselves: then the column that repeats itself is the label.
    repeated = [index for index in texts if _is_label(table, index)]
    return bool(labels) or (bool(repeated) and len(repeated) < len(texts))


def _is_label(table: TableHead, index: int) -> bool:
    cells = [cell for cell in table.cells(index) if cell]
    if not cells or table.is_time(index):
        return False
    distinct = len(set(cells))
    # Two rows of two classes are the least that is worth a guess; the recipe's check counts them.
    return 2 <= distinct <= max(2, _MAX_LABEL_SHARE * len(cells)) and not table.is_measure(index)


def _is_series(table: TableHead) -> bool:
    columns = range(len(table.columns))
    times = [index for index in columns if table.is_time(index)]
    numbers = [index for index in columns if table.is_number(index) and index not in times]
    if times and numbers:
        return True
    # Wide: one series a row; the titles are times, or only numbered.
    wide = [index for index in columns if table.is_number(index)]
    numbered = [index for index in wide if re.fullmatch(r"[A-Za-z]{0,2}_?\d+", table.columns[index])]
    dated = [index for index in wide if table.is_time_title(index)]
    return len(numbered) >= _MIN_WIDE_COLUMNS or len(dated) >= _MIN_WIDE_COLUMNS


def _has_text_folders(files: _Files) -> bool:
    texts = [
        PurePosixPath(path) for path in files.paths if PurePosixPath(path).suffix.lower() in (".txt", ".text")
    ]
    return _num_classes(texts) >= 2


def _share(answers: Iterable[bool]) -> float:
    listed = list(answers)
    return sum(listed) / len(listed) if listed else 0.0
