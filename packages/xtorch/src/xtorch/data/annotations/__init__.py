"""Boxes of objects in images, in the formats that people have: COCO, YOLO, Pascal VOC, CSV.

`read_annotations` tells the format from the files alone. Nothing is judged here:
`xtorch.data.check_detection` does that.
"""

from __future__ import annotations

from pathlib import Path

from xtorch.data.annotations.base import (
    PARTS,
    Annotations,
    DatasetFiles,
    FormatName,
    Part,
    Problem,
    RawBox,
    RawImage,
)
from xtorch.data.annotations.coco import read_coco
from xtorch.data.annotations.csv_boxes import read_csv
from xtorch.data.annotations.voc import read_voc
from xtorch.data.annotations.yolo import read_yolo

READERS = {"coco": read_coco, "voc": read_voc, "csv": read_csv, "yolo": read_yolo}

__all__ = [
    "PARTS",
    "READERS",
    "Annotations",
    "DatasetFiles",
    "FormatName",
    "Part",
    "Problem",
    "RawBox",
    "RawImage",
    "read_annotations",
]


def read_annotations(root: str | Path | DatasetFiles) -> tuple[Annotations | None, tuple[FormatName, ...]]:
    """Reads the annotations below a folder.

    Args:
        root: the dataset's folder.

    Returns:
        The annotations in the format that has the most boxes (None where there are none at all), and the
        other formats that were there as well.

    Raises:
        DataError: `root` is not a folder, or an annotation file is too large.
    """
    files = root if isinstance(root, DatasetFiles) else DatasetFiles(root)
    found = [result for reader in READERS.values() if (result := reader(files)) is not None]
    if not found:
        return None, ()

    def boxes(result: Annotations) -> tuple[int, int]:
        return sum(len(image.boxes) for image in result.images.values()), len(result.images)

    best = max(found, key=boxes)
    return best, tuple(each.format for each in found if each is not best)
