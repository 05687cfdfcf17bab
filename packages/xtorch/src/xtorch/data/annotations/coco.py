"""COCO's JSON: images, categories and annotations in one file, one file for each part.

Source: cocodataset.org, "Data format": boxes are left, top, width, height in pixels, counted from 0.
"""

from __future__ import annotations

import json
from typing import Any

from xtorch.data.annotations.base import (
    Annotations,
    DatasetFiles,
    RawBox,
    decode_text,
    is_safe,
    number,
    part_of,
    size_of,
)


def read_coco(files: DatasetFiles) -> Annotations | None:
    """All JSON files that are detection annotations; None where there is none."""
    result = Annotations(format="coco")
    found = False
    broken: list[str] = []
    for path in files.with_suffix(".json"):
        try:
            document = json.loads(decode_text(files.read(path)))
        except (ValueError, RecursionError):
            broken.append(path)
            continue
        if not isinstance(document, dict) or not isinstance(document.get("images"), list):
            continue
        if not isinstance(document.get("annotations"), list):
            # Lists of images without annotations, such as COCO's image_info_test.
            continue
        found = True
        _read_document(files, path, document, result)
    for path in broken:
        result.problem("annotation.unreadable", path)
    return result if found or broken else None


def _read_document(files: DatasetFiles, path: str, document: dict[str, Any], result: Annotations) -> None:
    names: dict[Any, str] = {}
    for category in _objects(document.get("categories")):
        key, name = category.get("id"), category.get("name")
        if isinstance(key, int | str) and isinstance(name, str) and name.strip():
            names[key] = name.strip()
    result.labels = tuple(dict.fromkeys((*result.labels, *names.values())))
    by_id: dict[Any, str | None] = {}
    part = part_of(path)
    for item in _objects(document["images"]):
        key, name = item.get("id"), item.get("file_name")
        if not isinstance(key, int | str) or not isinstance(name, str):
            result.problem("annotation.unreadable", f"{path}: image {key!r}")
            continue
        if not is_safe(name):
            result.problem("annotation.unsafe_path", f"{path}: {name}")
            by_id[key] = None
            continue
        image = files.find_image(name, near=path)
        if key in by_id and by_id[key] != image:
            result.problem("annotation.id_twice", f"{path}: image {key}")
            continue
        by_id[key] = image
        if image is None:
            result.problem("image.missing", f"{path}: {name}")
            continue
        entry = result.image(image)
        entry.declared_size = size_of(item.get("width"), item.get("height"))
        own = part or part_of(image)
        if own is not None:
            entry.parts.add(own)
    for index, item in enumerate(_objects(document["annotations"])):
        where = f"{path}: annotation {item.get('id', index)}"
        key = item.get("image_id")
        if not isinstance(key, int | str) or key not in by_id:
            result.problem("annotation.unknown_image", where)
            continue
        image = by_id[key]
        if image is None:
            continue  # said already
        box = item.get("bbox")
        if not isinstance(box, list) or len(box) != 4:
            result.problem("box.incomplete", where)
            continue
        left, top, width, height = map(number, box)
        kind = item.get("category_id")
        known = isinstance(kind, int | str) and kind in names
        result.image(image).boxes.append(
            RawBox(
                label=names[kind] if known else f"category {kind}",
                edges=(left, top, left + width, top + height),
                ignored=item.get("iscrowd") in (1, True),
                known=known,
            )
        )


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
