"""Finds the images in a folder and the class of each: from folders, or from a table that lists files.

Known layouts, in the order in which they are tried (names in any case):

- ``label_table``: a CSV or TSV file with a column of image files and one of labels; a column ``split`` may
  name the part.
- ``train_test``: ``train/<class>`` and ``test/<class>``, or ``<class>/train`` and ``<class>/test``; ``val``
  counts as training data.
- ``class_folders``: ``<class>/...``.

A folder that wraps everything, as archives have it, is looked through; folders within a class are its own.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from xtorch.data.layout import IMAGE_SUFFIXES, walk_files
from xtorch.data.tables import Table, read_table
from xtorch.errors import DataError

Layout = Literal["label_table", "train_test", "class_folders"]
Part = Literal["train", "test"]

PARTS: dict[str, Part] = {
    **dict.fromkeys(("train", "training", "val", "valid", "validation", "dev"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What a folder or cell may call a part of the data."""
_TABLE_SUFFIXES = (".csv", ".tsv", ".tab")
_LABEL_COLUMNS = (
    "label",
    "labels",
    "class",
    "classname",
    "category",
    "target",
    "species",
    "breed",
    "tag",
    "y",
)
_PART_COLUMNS = ("split", "part", "subset", "set", "fold", "usage")
_MIN_FOUND = 0.5
"""A column holds file names if at least this share of its cells name an image that is there."""


@dataclass(frozen=True, kw_only=True)
class ClassImage:
    """An image file and its class.

    Attributes:
        path: POSIX path relative to the dataset's root.
        name: The class, in Unicode's composed form (NFC).
        part: Of whoever made the dataset; None: ours to decide.
    """

    path: str
    name: str
    part: Part | None = None


@dataclass(kw_only=True)
class ClassFolder:
    """What was found below `root`.

    Attributes:
        unlabelled: Images without a class.
        missing: Files that the table lists and that are not there, as ``file:row``.
        contradictions: Images that the table lists under several classes.
        other_files: Files that are no images by their suffix, but for the table.
        table: The table that was read.
    """

    root: Path
    layout: Layout
    images: list[ClassImage]
    num_files: int
    size_bytes: int
    other_files: list[str]
    unlabelled: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    contradictions: list[str] = field(default_factory=list)
    table: str | None = None


def scan_classes(root: str | Path) -> ClassFolder:
    """Lists the images below a folder with their classes.

    Files are not opened: a listed image may still turn out corrupt.

    Raises:
        DataError: `root` is not a folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError("The dataset's folder does not exist.", value=root.name, hint="check the path")
    files = walk_files(root)
    paths = [PurePosixPath(path) for path, _ in files if PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES]
    others = [path for path, _ in files if PurePosixPath(path).suffix.lower() not in IMAGE_SUFFIXES]
    found = ClassFolder(
        root=root,
        layout="class_folders",
        images=[],
        num_files=len(files),
        size_bytes=sum(size for _, size in files),
        other_files=others,
    )
    for name in others:
        if name.lower().endswith(_TABLE_SUFFIXES) and _from_table(found, name, paths):
            return found
    _from_folders(found, paths)
    return found


def class_name(text: str) -> str:
    """A class's name as it is shown: composed (NFC), without space around it."""
    return unicodedata.normalize("NFC", text).strip()


# ------------------------------------------------------------------------------------------------ folders


def _from_folders(found: ClassFolder, paths: Sequence[PurePosixPath]) -> None:
    skip = _shared(paths)
    folders = {path: path.parts[skip:-1] for path in paths}
    level = _part_level(folders.values())
    if level is not None:
        found.layout = "train_test"
    for path, parts in folders.items():
        part = None
        if level is not None and len(parts) > level:
            part = PARTS[parts[level].lower()]
            parts = parts[:level] + parts[level + 1 :]
        if parts:
            found.images.append(ClassImage(path=path.as_posix(), name=class_name(parts[0]), part=part))
        else:
            found.unlabelled.append(path.as_posix())


def _shared(paths: Sequence[PurePosixPath]) -> int:
    """Number of folders that all images are in."""
    folders = [path.parts[:-1] for path in paths]
    shared = 0
    while folders and all(len(parts) > shared for parts in folders):
        # The last folder above the files is a class, even if it is the only one.
        if len({parts[shared] for parts in folders}) > 1 or all(
            len(parts) == shared + 1 for parts in folders
        ):
            break
        shared += 1
    return shared


def _part_level(folders: Iterable[tuple[str, ...]]) -> int | None:
    """Where the folders' names are parts of the data and not classes: 0 ``train/cat``, 1 ``cat/train``."""
    listed = [parts for parts in folders if parts]
    for level in (0, 1):
        names = {parts[level].lower() if len(parts) > level else "" for parts in listed}
        # A class may be called "train" as well: it is a part only if it has nothing but parts beside it.
        if names <= PARTS.keys() and {PARTS[name] for name in names} == {"train", "test"}:
            return level
    return None


# -------------------------------------------------------------------------------------------------- table


def _from_table(found: ClassFolder, name: str, paths: Sequence[PurePosixPath]) -> bool:
    """Fills in what a table says; False: it lists no images of this folder."""
    try:
        table = read_table(found.root / name, name=name)
    except DataError:
        return False
    lookup = _Lookup(paths, PurePosixPath(name).parent)
    files = _file_column(table, lookup)
    label = None if files is None else _label_column(table, files)
    if files is None or label is None:
        return False
    part = next(
        (title for title in table.columns if title.strip().lower() in _PART_COLUMNS and title != label), None
    )
    named: dict[str, set[tuple[str, Part | None]]] = defaultdict(set)
    for index, (cell, text) in enumerate(zip(table.columns[files], table.columns[label], strict=True)):
        path = lookup.find(cell)
        if path is None:
            found.missing.append(table.place(index))
        elif text and class_name(text):
            said = (table.columns[part][index] or "") if part else ""
            named[path].add((class_name(text), PARTS.get(said.strip().lower())))
    for path, entries in sorted(named.items()):
        if len({entry[0] for entry in entries}) > 1:
            found.contradictions.append(path)
        else:
            class_, where = sorted(entries, key=str)[0]
            found.images.append(ClassImage(path=path, name=class_, part=where))
    if {image.part for image in found.images} != {"train", "test"}:
        found.images = [ClassImage(path=image.path, name=image.name) for image in found.images]
    found.layout, found.table = "label_table", name
    found.unlabelled = [path.as_posix() for path in paths if path.as_posix() not in named]
    found.other_files.remove(name)
    return True


class _Lookup:
    """Images by what a table may call them: their path, the path below the table, or their bare name."""

    def __init__(self, paths: Sequence[PurePosixPath], folder: PurePosixPath) -> None:
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for path in paths:
            text = path.as_posix()
            for key in {text, path.name, path.stem, _relative(path, folder)}:
                self._by_name[unicodedata.normalize("NFC", key)].append(text)

    def find(self, cell: str | None) -> str | None:
        """The one image of that name; None: there is none, or there are several."""
        if not cell:
            return None
        key = unicodedata.normalize("NFC", cell.strip().replace("\\", "/").removeprefix("./"))
        for name in (key, key.rsplit("/", 1)[-1]):
            if len(self._by_name.get(name, ())) == 1:
                return self._by_name[name][0]
        return None


def _relative(path: PurePosixPath, folder: PurePosixPath) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix()


def _file_column(table: Table, lookup: _Lookup) -> str | None:
    shares = {
        title: sum(lookup.find(cell) is not None for cell in cells) / len(cells)
        for title, cells in table.columns.items()
        if cells
    }
    best = max(shares, key=lambda title: shares[title], default=None)
    return best if best is not None and shares[best] >= _MIN_FOUND else None


def _label_column(table: Table, files: str) -> str | None:
    """The column that is called so, else the one that repeats itself most."""
    titles = [title for title in table.columns if title != files]
    for wanted in _LABEL_COLUMNS:
        for title in titles:
            if title.strip().lower().replace("_", "") == wanted:
                return title
    counts = {title: len({cell for cell in table.columns[title] if cell}) for title in titles}
    repeated = {
        title: num
        for title, num in counts.items()
        if 2 <= num <= table.num_rows / 2 and title.strip().lower() not in _PART_COLUMNS
    }
    return min(repeated, key=lambda title: repeated[title], default=None)
