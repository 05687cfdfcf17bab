"""Pascal VOC: one XML file for each image, lists of names in ``ImageSets/Main``.

Source: Everingham and Winn, "The PASCAL VOC Challenge 2012 Development Kit", sections 4 and 8. Its pixels
count from 1; nearly all tools that write the format today count from 0, so the numbers are taken as they are.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from xml.etree import ElementTree
from xml.parsers import expat

from xtorch.data.annotations.base import (
    Annotations,
    DatasetFiles,
    Part,
    RawBox,
    decode_text,
    is_safe,
    number,
    part_of,
    size_of,
)

_SETS: dict[str, Part] = {"train": "train", "val": "validation", "test": "test", "trainval": "train"}
_EDGES = ("xmin", "ymin", "xmax", "ymax")


def read_voc(files: DatasetFiles) -> Annotations | None:
    """All XML files that are annotations; None where there is none."""
    found = [
        path
        for path in files.with_suffix(".xml")
        if b"<annotation" in files.read(path)[:4096].replace(b"\0", b"")
    ]
    if not found:
        return None
    result = Annotations(format="voc")
    by_stem: dict[str, str] = {}
    for path in found:
        image = _read_file(files, path, result)
        if image is not None:
            by_stem[PurePosixPath(path).stem] = image
            part = part_of(image)
            if part is not None:
                result.image(image).parts.add(part)
    _read_sets(files, by_stem, result)
    return result


def parse_xml(data: bytes) -> ElementTree.Element:
    """An XML document without a document type, so without entities of its own.

    Raises:
        ValueError: it is not well-formed, or declares a document type.
    """

    def refuse(*_: object) -> None:
        raise ValueError("a document type declaration is not accepted")

    first = expat.ParserCreate()
    first.StartDoctypeDeclHandler = refuse
    try:
        first.Parse(data, True)
        # Nothing is left to expand: entities can only be declared in a document type.
        return ElementTree.fromstring(data)  # noqa: S314
    except (expat.ExpatError, ElementTree.ParseError, LookupError, RecursionError) as error:
        raise ValueError(str(error)) from error


def _read_file(files: DatasetFiles, path: str, result: Annotations) -> str | None:
    try:
        document = parse_xml(files.read(path))
    except ValueError:
        result.problem("annotation.unreadable", path)
        return None
    name = (document.findtext("filename") or "").strip()
    if name and not is_safe(name):
        result.problem("annotation.unsafe_path", path)
        return None
    stem = PurePosixPath(path).stem
    # The name inside is often a copy of another file's: the annotation's own name is tried as well.
    image = files.find_image(name, near=path) if name else None
    image = image or files.find_image(stem, near=path)
    if image is None:
        result.problem("image.missing", f"{path}: {name or stem}")
        return None
    entry = result.image(image)
    entry.declared_size = size_of(document.findtext("size/width"), document.findtext("size/height"))
    for item in document.iter("object"):
        box = item.find("bndbox")
        if box is None:
            result.problem("box.incomplete", path)
            continue
        left, top, right, bottom = (number(box.findtext(edge)) for edge in _EDGES)
        entry.boxes.append(
            RawBox(
                label=(item.findtext("name") or "").strip(),
                edges=(left, top, right, bottom),
                ignored=(item.findtext("difficult") or "0").strip() == "1",
            )
        )
    return image


def _read_sets(files: DatasetFiles, by_stem: dict[str, str], result: Annotations) -> None:
    """The lists in ``ImageSets/Main``; train and val are taken rather than trainval, which is both."""
    lists: dict[str, list[str]] = {}
    for path in files.with_suffix(".txt"):
        name = PurePosixPath(path).stem.lower()
        if name in _SETS and _is_main_list(path):
            try:
                lines = decode_text(files.read(path)).splitlines()
            except UnicodeDecodeError:
                result.problem("annotation.unreadable", path)
                continue
            lists.setdefault(name, []).extend(line.split()[0] for line in lines if line.strip())
    if "train" in lists:
        lists.pop("trainval", None)
    for name, stems in lists.items():
        result.has_splits = True
        for stem in stems:
            # Some lists name files rather than stems.
            image = by_stem.get(stem) or by_stem.get(PurePosixPath(stem).stem)
            if image is None:
                result.problem("split.unknown_image", f"{name}.txt: {stem}")
            else:
                result.image(image).parts.add(_SETS[name])


def _is_main_list(path: str) -> bool:
    """Whether a list is one of all images; those for segmentation or actions lie in folders beside."""
    folders = [piece.lower() for piece in PurePosixPath(path).parts[:-1]]
    return folders[-1:] == ["imagesets"] or folders[-2:] == ["imagesets", "main"]
