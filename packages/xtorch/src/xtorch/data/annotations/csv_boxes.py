"""Tables with a row for each object: image, class and box in pixels or fractions, by common column names.

Known without a header: ``image, left, top, right, bottom, class`` (keras-retinanet).
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

from xtorch.data.annotations.base import (
    Annotations,
    DatasetFiles,
    RawBox,
    decode_text,
    is_safe,
    number,
    part_named,
    part_of,
    size_of,
)

_IMAGE = (
    "image", "imagepath", "imagename", "imageid", "imagefile", "imagefilename", "filename", "file",
    "filepath", "path", "img", "imgpath", "imgname", "uri",
)  # fmt: skip
_LABEL = ("label", "class", "classname", "category", "categoryname", "labelname", "object", "name", "type")
_PART = ("split", "set", "subset", "part", "partition", "usage", "fold")
_CORNERS = (
    ("xmin", "ymin", "xmax", "ymax"),
    ("left", "top", "right", "bottom"),
    ("x1", "y1", "x2", "y2"),
    ("bboxxmin", "bboxymin", "bboxxmax", "bboxymax"),
    ("bboxx1", "bboxy1", "bboxx2", "bboxy2"),
)
_CENTRES = (
    ("xcenter", "ycenter", "width", "height"),
    ("xcentre", "ycentre", "width", "height"),
    ("cx", "cy", "w", "h"),
    ("centerx", "centery", "width", "height"),
)
_SIZES = (
    ("x", "y", "w", "h"),
    ("x", "y", "width", "height"),
    ("left", "top", "width", "height"),
    ("xmin", "ymin", "width", "height"),
    ("bboxx", "bboxy", "bboxwidth", "bboxheight"),
    ("bboxx", "bboxy", "bboxw", "bboxh"),
    ("bboxleft", "bboxtop", "bboxwidth", "bboxheight"),
)
_SUFFIXES = (".csv", ".tsv")


def read_csv(files: DatasetFiles) -> Annotations | None:
    """All tables that hold boxes; None where there is none."""
    result = Annotations(format="csv")
    found = False
    for path in files.with_suffix(*_SUFFIXES):
        try:
            text = decode_text(files.read(path))
        except UnicodeDecodeError:
            result.problem("annotation.unreadable", path)
            continue
        found |= _read_table(files, path, text, result)
    return result if found else None


def _read_table(files: DatasetFiles, path: str, text: str, result: Annotations) -> bool:
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t|", key=first.count)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error:
        result.problem("annotation.unreadable", path)
        return False
    if not rows:
        return False
    header = ["".join(c for c in cell.lower() if c.isalnum()) for cell in rows[0]]
    columns, start = _columns(header), 1
    if columns is None and _is_headless(rows[0]):
        columns, start = _Columns(image=0, label=5, box=(1, 2, 3, 4), kind="corners"), 0
    if columns is None:
        return False
    body = [
        (index, row) for index, row in enumerate(rows[start:], start=start + 1) if any(map(str.strip, row))
    ]
    fractions = _are_fractions([[number(_cell(row, c)) for c in columns.box] for _, row in body])
    for index, row in body:
        _read_row(files, path, f"{path}:{index}", row, columns, fractions, result)
    return True


class _Columns:
    """Which column is what."""

    def __init__(
        self, *, image: int, label: int | None, box: Sequence[int], kind: str,
        size: tuple[int, int] | None = None, part: int | None = None,
    ) -> None:  # fmt: skip
        self.image, self.label, self.box, self.kind, self.size, self.part = (
            image,
            label,
            tuple(box),
            kind,
            size,
            part,
        )


def _columns(header: list[str]) -> _Columns | None:
    def first(names: Sequence[str]) -> int | None:
        return next((header.index(name) for name in names if name in header), None)

    image = first(_IMAGE)
    if image is None:
        return None
    for kind, groups in (("corners", _CORNERS), ("centre", _CENTRES), ("size", _SIZES)):
        for names in groups:
            if all(name in header for name in names):
                size = None
                # Beside corners, width and height are the image's.
                if kind == "corners" and "width" in header and "height" in header:
                    size = (header.index("width"), header.index("height"))
                return _Columns(
                    image=image,
                    label=first(_LABEL),
                    box=[header.index(name) for name in names],
                    kind=kind,
                    size=size,
                    part=first(_PART),
                )
    return None


def _is_headless(row: list[str]) -> bool:
    return len(row) == 6 and all(math.isfinite(number(cell)) for cell in row[1:5]) and "." in row[0]


def _are_fractions(boxes: list[list[float]]) -> bool:
    """Whether a table's numbers are shares of the image: nearly all at most 1, and not all whole."""
    values = [value for box in boxes for value in box if math.isfinite(value)]
    if not values:
        return False
    small = sum(abs(value) <= 1.0 for value in values)
    return small >= 0.95 * len(values) and any(value != int(value) for value in values)


def _cell(row: list[str], column: int | None) -> str:
    return row[column].strip() if column is not None and column < len(row) else ""


def _read_row(
    files: DatasetFiles, path: str, where: str, row: list[str], columns: _Columns, fractions: bool, result:
    Annotations
) -> None:  # fmt: skip
    name = _cell(row, columns.image)
    if not name:
        result.problem("box.incomplete", where)
        return
    if not is_safe(name):
        result.problem("annotation.unsafe_path", where)
        return
    image = files.find_image(name, near=path)
    if image is None:
        result.problem("image.missing", f"{where}: {name}")
        return
    entry = result.image(image)
    part = part_named(_cell(row, columns.part)) if columns.part is not None else None
    if part is None:
        part = part_of(path) or part_of(image)
    if part is not None:
        entry.parts.add(part)
    if columns.size is not None:
        entry.declared_size = size_of(*(_cell(row, column) for column in columns.size))
    cells = [_cell(row, column) for column in columns.box]
    label = _cell(row, columns.label) if columns.label is not None else "object"
    if not any(cells):
        # An image without objects is written with empty cells.
        if label and columns.label is not None:
            result.problem("box.incomplete", where)
        return
    if not all(cells):
        result.problem("box.incomplete", where)
        return
    a, b, c, d = map(number, cells)
    if columns.kind == "centre":
        a, b, c, d = a - c / 2, b - d / 2, a + c / 2, b + d / 2
    elif columns.kind == "size":
        c, d = a + c, b + d
    entry.boxes.append(RawBox(label=label, edges=(a, b, c, d), fractions=fractions, known=bool(label)))
