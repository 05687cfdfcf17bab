"""Finds the images in a folder and tells what its subfolders mean.

Known layouts, in the order in which they are tried (names in any case):

- ``train_test``: ``train/ok``, ``test/ok``, ``test/<anything else>`` (also MVTec AD's: ``train/good``,
  ``test/good``, ``test/<kind>``); ``train/<kind>`` may exist, ``test/`` may be missing.
- ``ok_defective``: ``ok/``, and ``defective/``, ``defective/<kind>/``, ``<kind>/`` beside it, or nothing.
- ``class_folders``: folders, none of which says that its images are good.
- ``unlabelled``: images without folders.

A single folder that wraps everything, as archives have it, is looked through. In the first two, masks are
found where `xtorch.data.masks` says; elsewhere, folders of masks are left alone.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from xtorch.data.masks import pair_masks
from xtorch.errors import DataError

LayoutName = Literal["ok_defective", "train_test", "class_folders", "unlabelled"]
Part = Literal["train", "test"]

OK = 0
DEFECTIVE = 1
LABELS = ("ok", "defective")

OK_NAMES = frozenset({"ok", "good", "normal"})
DEFECTIVE_NAMES = frozenset(
    {"defective", "defect", "defects", "bad", "anomaly", "anomalies", "anomalous", "nok", "ng"}
)
_PART_NAMES: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "val": "train",
    "valid": "train",
    "validation": "train",
    "test": "test",
    "testing": "test",
}
_IGNORED_FILES = frozenset({"thumbs.db", "desktop.ini"})
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"})


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """One image file and what its place says about it."""

    path: str
    """POSIX path relative to the dataset's root."""
    label: int | None
    """`OK`, `DEFECTIVE`, or None where the layout does not say."""
    class_name: str
    """Name to show: the label's, else the folder's."""
    kind: str | None = None
    """Kind of defect, from the folder's name."""
    part: Part | None = None
    """Part of the data it was put into by whoever made the dataset; None: ours to decide."""
    mask: str | None = None
    """POSIX path of the picture that outlines its defects."""


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """What was found below `root`."""

    root: Path
    layout: LayoutName
    images: tuple[ImageFile, ...]
    other_files: tuple[str, ...]
    """Files that are no images by their suffix."""
    num_files: int
    size_bytes: int
    orphan_masks: tuple[str, ...] = ()
    """Masks of which no image is known."""


def _visible(name: str) -> bool:
    return not name.startswith((".", "__MACOSX")) and name.lower() not in _IGNORED_FILES


def walk_files(root: Path) -> list[tuple[str, int]]:
    """Every visible file as (POSIX path, size in bytes), sorted."""
    found: list[tuple[str, int]] = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if _visible(name))
        for name in names:
            path = Path(folder, name)
            if _visible(name) and path.is_file():
                found.append((path.relative_to(root).as_posix(), path.stat().st_size))
    return sorted(found)


def _wrapper(paths: list[PurePosixPath]) -> tuple[str, ...]:
    """Folders that wrap everything and mean nothing themselves."""
    prefix: tuple[str, ...] = ()
    while paths:
        depth = len(prefix)
        tops = {path.parts[depth] if len(path.parts) > depth + 1 else "" for path in paths}
        (top,) = tops if len(tops) == 1 else ("",)
        if not top or top.lower() in OK_NAMES | DEFECTIVE_NAMES | _PART_NAMES.keys():
            break
        prefix += (top,)
    return prefix


def _labelled(folders: tuple[str, ...]) -> tuple[int, str | None]:
    """Label and kind that ``<class>/<kind>`` folders say."""
    name = folders[0].lower()
    if name in OK_NAMES:
        return OK, None
    if name in DEFECTIVE_NAMES:
        return DEFECTIVE, "/".join(folders[1:]) or None
    return DEFECTIVE, "/".join(folders)


def scan_image_folder(root: str | Path) -> ImageFolder:
    """List the images below a folder and interpret its layout.

    Args:
        root: the dataset's folder.

    Returns:
        The images sorted by path. Files are not opened: a listed image may still turn out corrupt.

    Raises:
        DataError: `root` is not a folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError("The dataset's folder does not exist.", value=root.name, hint="check the path")
    files = walk_files(root)
    paths = [PurePosixPath(path) for path, _ in files if PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES]
    skip = len(_wrapper(paths))
    says_ok = any(part.lower() in OK_NAMES for path in paths for part in path.parts[skip:-1][:2])
    pairing = pair_masks(
        paths,
        skip=skip,
        meaningless=OK_NAMES | DEFECTIVE_NAMES | _PART_NAMES.keys(),
        beside=says_ok,
    )
    paths = pairing.images
    folders = {path: path.parts[skip:-1] for path in paths}
    tops = {parts[0].lower() for parts in folders.values() if parts}

    def image_file(path: PurePosixPath, names: tuple[str, ...], part: Part | None) -> ImageFile:
        label, kind = _labelled(names)
        mask = pairing.of_image.get(path) if label == DEFECTIVE else None
        return ImageFile(
            path=path.as_posix(),
            label=label,
            class_name=LABELS[label],
            kind=kind,
            part=part,
            mask=None if mask is None else mask.as_posix(),
        )

    images: list[ImageFile] = []
    layout: LayoutName
    found_parts = {_PART_NAMES.get(top) for top in tops}
    if {"train", "test"} <= found_parts or (found_parts == {"train"} and says_ok):
        layout = "train_test"
        for path, parts in folders.items():
            part = _PART_NAMES.get(parts[0].lower()) if parts else None
            if part is not None and len(parts) >= 2:
                images.append(image_file(path, parts[1:], part))
    elif tops & OK_NAMES:
        layout = "ok_defective"
        images = [image_file(path, parts, None) for path, parts in folders.items() if parts]
    elif tops:
        layout = "class_folders"
        images = [
            ImageFile(path=path.as_posix(), label=None, class_name=parts[0])
            for path, parts in folders.items()
            if parts
        ]
    else:
        layout = "unlabelled"
        images = [ImageFile(path=path.as_posix(), label=None, class_name="unlabelled") for path in paths]

    suffixes = {path: PurePosixPath(path).suffix.lower() for path, _ in files}
    return ImageFolder(
        root=root,
        layout=layout,
        images=tuple(images),
        other_files=tuple(path for path, suffix in suffixes.items() if suffix not in IMAGE_SUFFIXES),
        orphan_masks=tuple(mask.as_posix() for mask in pairing.orphans) if says_ok else (),
        num_files=len(files),
        size_bytes=sum(size for _, size in files),
    )
