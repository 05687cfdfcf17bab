"""What all annotation formats are read into, and how names in annotations become files of the dataset.

Names in annotation files are untrusted: they are only ever looked up in the list of files that were found
below the dataset's folder, so no name leads anywhere else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from xtorch.data.layout import IMAGE_SUFFIXES
from xtorch.errors import DataError

FormatName = Literal["coco", "yolo", "voc", "csv"]
Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")
MAX_FILE_BYTES = 512 << 20
"""A larger annotation file is refused."""

_PART_OF_NAME: Mapping[str, Part] = {
    "train": "train", "training": "train", "trainval": "train",
    "val": "validation", "valid": "validation", "validation": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
_IGNORED_NAMES = frozenset({"thumbs.db", "desktop.ini"})


@dataclass(frozen=True, kw_only=True)
class RawBox:
    """One object as it was written down; nothing has been checked but that there are four numbers.

    Attributes:
        label: the class's name; empty where there is none.
        edges: left, top, right, bottom: pixels, or fractions of the image where `fractions`. Pixel i spans
            i..i+1. May be NaN or infinite.
        ignored: a crowd (COCO) or difficult (VOC): neither learned nor counted.
        known: whether the class is one of those that the dataset declares.
    """

    label: str
    edges: tuple[float, float, float, float]
    fractions: bool = False
    ignored: bool = False
    known: bool = True


@dataclass(kw_only=True)
class RawImage:
    """One image of an annotation file.

    Attributes:
        path: the file, relative to the dataset's root.
        declared_size: width and height that the annotations state.
        parts: where it was put by whoever made the dataset; more than one is a mistake of theirs.
    """

    path: str
    boxes: list[RawBox] = field(default_factory=list)
    declared_size: tuple[int, int] | None = None
    parts: set[Part] = field(default_factory=set)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something in the annotations that cannot be used.

    Attributes:
        code: of `xtorch.data.check_detection.PROBLEMS`.
        where: ``file`` or ``file:line``.
    """

    code: str
    where: str


@dataclass(kw_only=True)
class Annotations:
    """What a reader found.

    Attributes:
        labels: classes that the dataset declares, in its order; empty where it declares none.
        images: by path.
        has_splits: whether some images are given to parts by lists, so that an unlisted one is left out.
    """

    format: FormatName
    labels: tuple[str, ...] = ()
    images: dict[str, RawImage] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    has_splits: bool = False

    def image(self, path: str) -> RawImage:
        """The entry of an image; a new one where there is none yet."""
        return self.images.setdefault(path, RawImage(path=path))

    def problem(self, code: str, where: str) -> None:
        """Notes something that cannot be used."""
        self.problems.append(Problem(code=code, where=where))


class DatasetFiles:
    """The files below a folder, and nothing else.

    Links that lead out of the folder are left out.

    Args:
        root: the dataset's folder.

    Raises:
        DataError: it is not a folder.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise DataError(
                "The dataset's folder does not exist.", value=self.root.name, hint="check the path"
            )
        self.sizes: dict[str, int] = dict(self._walk())
        self.images = [path for path in self.sizes if _suffix(path) in IMAGE_SUFFIXES]
        self._by_name: dict[str, list[str]] = {}
        self._by_stem: dict[str, list[str]] = {}
        for path in self.images:
            pure = PurePosixPath(path.lower())
            self._by_name.setdefault(pure.name, []).append(path)
            self._by_stem.setdefault(pure.stem, []).append(path)

    def _walk(self) -> Iterable[tuple[str, int]]:
        resolved = self.root.resolve()
        for folder, subfolders, names in os.walk(self.root):
            subfolders[:] = sorted(name for name in subfolders if _visible(name))
            for name in sorted(filter(_visible, names)):
                path = Path(folder, name)
                if path.is_symlink() and not path.resolve().is_relative_to(resolved):
                    continue
                if path.is_file():
                    yield path.relative_to(self.root).as_posix(), path.stat().st_size

    def with_suffix(self, *suffixes: str) -> list[str]:
        """Files of these suffixes (lower case, with the dot)."""
        return [path for path in self.sizes if _suffix(path) in suffixes]

    def read(self, path: str) -> bytes:
        """The bytes of a listed file.

        Raises:
            DataError: it is larger than `MAX_FILE_BYTES`.
        """
        if self.sizes[path] > MAX_FILE_BYTES:
            raise DataError(
                "An annotation file is too large.",
                value=path,
                hint=f"split it into files of at most {MAX_FILE_BYTES >> 20} MiB",
            )
        return (self.root / path).read_bytes()

    def find_image(self, name: str, *, near: str) -> str | None:
        """The image that a name in an annotation file means; None where there is none or it is not clear.

        Tried in this order: the name relative to the annotation file's folder, to its parent, to the root and
        to the usual image folders; then any image of that file name, if there is one only.

        Args:
            name: as written; backslashes, drives and leading slashes are tolerated, ``..`` is not.
            near: the annotation file's path.
        """
        if not is_safe(name):
            return None
        wanted = PurePosixPath(re.sub(r"^[A-Za-z]:", "", name.strip()).replace("\\", "/").lstrip("/"))
        folder = PurePosixPath(near).parent
        for base in (folder, folder / "images", folder.parent, folder.parent / "images",
                     folder.parent / "JPEGImages", PurePosixPath(), PurePosixPath("images")):  # fmt: skip
            candidate = (base / wanted).as_posix()
            if candidate in self.sizes and _suffix(candidate) in IMAGE_SUFFIXES:
                return candidate
        found = self._by_name.get(wanted.name.lower(), [])
        if not found and wanted.suffix.lower() not in IMAGE_SUFFIXES:
            found = self._by_stem.get(wanted.name.lower(), [])
        if len(found) > 1:
            # Several of that name, such as train/1.jpg and test/1.jpg: the annotation's own branch decides.
            found = [path for path in found if path.split("/")[0] == near.split("/")[0]]
        return found[0] if len(found) == 1 else None


def is_safe(name: str) -> bool:
    """Whether a name in an annotation file may be looked up at all."""
    return bool(name.strip()) and "\0" not in name and ".." not in re.split(r"[\\/]", name)


def part_of(path: str) -> Part | None:
    """The part that folders or the file's name say: ``train/``, ``val2017/``, ``instances_test.json``."""
    pure = PurePosixPath(path)
    for piece in (*pure.parts[:-1], pure.stem):
        for word in re.split(r"[^a-z]+", piece.lower()):
            if word in _PART_OF_NAME and (piece != pure.stem or _suffix(path) not in IMAGE_SUFFIXES):
                return _PART_OF_NAME[word]
    return None


def part_named(word: str) -> Part | None:
    """The part of a word such as "valid"."""
    return _PART_OF_NAME.get(word.strip().lower())


def decode_text(data: bytes) -> str:
    """Text of an annotation file, whatever program wrote it: UTF-8, UTF-16 with its mark, or Windows' 1252.

    Raises:
        UnicodeDecodeError: it is none of these.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        if b"\0" in data:
            raise
        return data.decode("cp1252")


def number(value: object) -> float:
    """A number that may be text; NaN where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return float("nan")
    try:
        return float(value)
    except (ValueError, OverflowError):
        return float("nan")


def size_of(width: object, height: object) -> tuple[int, int] | None:
    """A declared width and height; None where they make no sense."""
    w, h = number(width), number(height)
    return (int(w), int(h)) if 1 <= w < 1e6 and 1 <= h < 1e6 else None


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix.lower()


def _visible(name: str) -> bool:
    return not name.startswith((".", "__MACOSX")) and name.lower() not in _IGNORED_NAMES
