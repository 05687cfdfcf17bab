"""YOLO's text files: a line ``class cx cy w h`` in fractions for each object, one file for each image.

A label file lies beside its image, or in ``labels/`` where the image lies in ``images/``. An optional YAML
file names the classes and says which folders (or lists of images) are train, val and test.

Source: docs.ultralytics.com, "Object Detection Datasets Overview"; a line with more than five numbers is an
outline, ``class x1 y1 x2 y2 ...``, whose bounding box is taken, as it is there.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

import yaml

from xtorch.data.annotations.base import (
    PARTS,
    Annotations,
    DatasetFiles,
    RawBox,
    decode_text,
    is_safe,
    number,
    part_named,
    part_of,
)

_NAME_FILES = frozenset({"classes.txt", "obj.names", "_darknet.labels", "labels.txt", "names.txt"})
_MAX_YAML_BYTES = 1 << 20


def read_yolo(files: DatasetFiles) -> Annotations | None:
    """All label files that belong to an image; None where there is none."""
    texts = {
        path for path in files.with_suffix(".txt") if PurePosixPath(path).name.lower() not in _NAME_FILES
    }
    pairs = {image: label for image in files.images if (label := _label_file(image, texts)) is not None}
    config = _config(files)
    if not any(_looks_like_labels(files, label) for label in pairs.values()):
        return None
    result = Annotations(format="yolo", labels=_names(files, config))
    for image in files.images:
        entry = result.image(image)
        part = part_of(image)
        if part is not None:
            entry.parts.add(part)
        if image not in pairs:
            continue
        try:
            lines = decode_text(files.read(pairs[image])).splitlines()
        except UnicodeDecodeError:
            result.problem("annotation.unreadable", pairs[image])
            continue
        for index, line in enumerate(lines, start=1):
            if line.strip():
                _read_line(line.split(), f"{pairs[image]}:{index}", image, result)
    for label in sorted(texts - set(pairs.values())):
        if _looks_like_labels(files, label):
            result.problem("image.missing", label)
    _read_parts(files, config, result)
    return result


def _label_file(image: str, texts: set[str]) -> str | None:
    pure = PurePosixPath(image)
    candidates = [pure.with_suffix(".txt").as_posix()]
    for index, folder in enumerate(pure.parts[:-1]):
        if folder.lower() == "images":
            moved = (*pure.parts[:index], "labels", *pure.parts[index + 1 : -1], f"{pure.stem}.txt")
            candidates.append(PurePosixPath(*moved).as_posix())
    return next((candidate for candidate in reversed(candidates) if candidate in texts), None)


def _looks_like_labels(files: DatasetFiles, path: str) -> bool:
    """Whether a text file's first line is a class and numbers."""
    if files.sizes[path] > 8 << 20:
        return False
    head = files.read(path)[:200].decode("latin-1").strip().split("\n")[0].split()
    return len(head) >= 5 and all(
        re.fullmatch(r"[+-]?[0-9.]+([eE][+-]?\d+)?|nan|inf", word) for word in head[1:5]
    )


def _read_line(words: list[str], where: str, image: str, result: Annotations) -> None:
    values = [number(word) for word in words]
    index = int(values[0]) if values[0].is_integer() else -1
    if len(values) in (5, 6):  # a sixth one is a detector's score
        cx, cy, w, h = values[1:5]
        edges = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
    elif len(values) >= 7 and len(values) % 2 == 1:
        xs, ys = values[1::2], values[2::2]
        edges = (min(xs), min(ys), max(xs), max(ys))
    else:
        result.problem("box.incomplete", where)
        return
    known = index >= 0 and (not result.labels or index < len(result.labels))
    label = result.labels[index] if known and result.labels else f"class {words[0]}"
    result.image(image).boxes.append(RawBox(label=label, edges=edges, fractions=True, known=known))


def _config(files: DatasetFiles) -> tuple[str, dict[str, Any]]:
    """Path and content of the YAML file that names classes; ("", {}) where there is none."""
    for path in files.with_suffix(".yaml", ".yml"):
        if files.sizes[path] > _MAX_YAML_BYTES:
            continue
        try:
            document = yaml.safe_load(decode_text(files.read(path)))
        except (yaml.YAMLError, ValueError, RecursionError):
            continue
        if isinstance(document, dict) and "names" in document:
            return path, document
    return "", {}


def _names(files: DatasetFiles, config: tuple[str, dict[str, Any]]) -> tuple[str, ...]:
    names = config[1].get("names")
    if isinstance(names, list):
        return tuple(str(name) for name in names)
    if isinstance(names, dict) and names and all(isinstance(key, int) and 0 <= key < 10_000 for key in names):
        return tuple(str(names.get(index, f"class {index}")) for index in range(max(names) + 1))
    for path in files.sizes:
        if PurePosixPath(path).name.lower() in _NAME_FILES:
            try:
                lines = decode_text(files.read(path)).splitlines()
            except UnicodeDecodeError:
                continue
            return tuple(line.strip() for line in lines if line.strip())
    return ()


def _read_parts(files: DatasetFiles, config: tuple[str, dict[str, Any]], result: Annotations) -> None:
    """``train:``, ``val:`` and ``test:`` of the YAML file: folders, or text files that list images."""
    path, document = config
    given: dict[str, list[str]] = {}
    for key in document:
        part = part_named(str(key))
        values = document[key] if isinstance(document[key], list) else [document[key]]
        if part is not None:
            given.setdefault(part, []).extend(value for value in values if isinstance(value, str))
    members: dict[str, set[str]] = {
        part: {image for value in given.get(part, ()) for image in _members(files, path, value)}
        for part in PARTS
    }
    named = [part for part in PARTS if members[part]]
    # Where train and val are the same folder, as in small examples, nothing was divided.
    if len(named) < 2 or len({frozenset(members[part]) for part in named}) < len(named):
        return
    result.has_splits = True
    for entry in result.images.values():
        entry.parts = {part for part in named if entry.path in members[part]}


def _members(files: DatasetFiles, near: str, value: str) -> list[str]:
    # Exporters write "../train/images" where they mean "train/images": only what follows counts.
    pieces = [piece for piece in re.split(r"[\\/]", value) if piece not in ("", ".", "..")]
    wanted = "/".join(pieces)
    base = PurePosixPath(near).parent
    if wanted.lower().endswith(".txt"):
        listed = next((name for name in ((base / wanted).as_posix(), wanted) if name in files.sizes), None)
        if listed is None:
            return []
        lines = decode_text(files.read(listed)).splitlines()
        names = [line.strip().removeprefix("./") for line in lines if is_safe(line.removeprefix("./"))]
        return [image for name in names if (image := files.find_image(name, near=listed)) is not None]
    for index in range(len(pieces)):
        folder = "/".join(pieces[index:])
        for prefix in ((base / folder).as_posix() + "/", folder + "/"):
            found = [image for image in files.images if image.startswith(prefix)]
            if found:
                return found
    return []
