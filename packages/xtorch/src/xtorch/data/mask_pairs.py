"""Finds images and the masks that paint their classes, by places and names; no file is opened.

A picture is a mask where one of these holds (names in any case):

- it lies below a folder called ``masks``, ``labels``, ``annotations``, ``ground_truth``, ...;
- its name ends with ``_mask``, ``-label``, ``_gt``, ``_seg``, ...;
- beside it lies a photograph of its name: ``007.png`` beside ``007.jpg``.

It belongs to the image of its name (without that ending) whose folders say the same, but for words such as
``images``. Parts come from folders (``train/images``, ``masks/val``) or from lists of names (``train.txt``,
as in Pascal VOC). Images in a folder called ``ok``, ``good`` or ``normal`` need no
mask: all of them is background.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from xtorch.data.annotations.base import PARTS, DatasetFiles, Part, decode_text, part_named, part_of
from xtorch.data.layout import OK_NAMES

Layout = Literal["mask_folder", "mask_beside", "unlabelled"]

MASK_FOLDERS = frozenset(
    {
        *("mask", "masks", "ground_truth", "groundtruth", "gt", "label", "labels", "labelcol"),
        *("annotation", "annotations", "segmentation", "segmentations", "segmentationclass"),
    }
)
MASK_ENDING = re.compile(r"[_-](mask|masks|label|labels|gt|seg|segmentation)$", re.IGNORECASE)
_INSTANCE_FOLDERS = frozenset({"segmentationobject", "instances"})
"""One number per object, not per class: of no use here, and no images either."""
_SAYING_NOTHING = MASK_FOLDERS | {
    *("images", "image", "imgs", "img", "jpegimages", "photos", "pictures", "input", "inputs", "rgb", "data"),
}
_PHOTO_ORDER = (".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".png", ".gif")
"""Of two pictures of one name, the first is the photograph and the last the mask."""
_MAX_LIST_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class MaskedImage:
    """An image and its mask, as POSIX paths relative to the dataset's root.

    Attributes:
        mask: None: all of the image is background.
        part: Where whoever made the dataset put it; None: ours to decide.
    """

    path: str
    mask: str | None
    part: Part | None = None


@dataclass(kw_only=True)
class MaskFolder:
    """What was found below `root`.

    Attributes:
        images: Sorted by path.
        unmasked: Images without a mask.
        orphans: Masks without an image.
        spare: Further masks of images that have one.
        instances: Pictures of objects instead of classes.
    """

    root: Path
    layout: Layout
    images: list[MaskedImage]
    num_files: int
    size_bytes: int
    other_files: list[str]
    unmasked: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    spare: list[str] = field(default_factory=list)
    instances: list[str] = field(default_factory=list)


def scan_masks(root: str | Path) -> MaskFolder:
    """Lists the images below a folder with their masks.

    Raises:
        DataError: `root` is not a folder.
    """
    files = DatasetFiles(root)
    instances = {path for path in files.images if _INSTANCE_FOLDERS & _folders(path)}
    pictures = [path for path in files.images if path not in instances]
    in_folders = {path for path in pictures if MASK_FOLDERS & _folders(path)}
    masks = in_folders | _beside([path for path in pictures if path not in in_folders])
    photos = [path for path in pictures if path not in masks]
    of_photo, orphans, spare = _matched(photos, sorted(masks))
    listed, lists = _listed_parts(files, photos)
    known = lists.union(files.images)
    found = MaskFolder(
        root=files.root,
        layout="mask_folder" if in_folders else "mask_beside" if masks else "unlabelled",
        images=[],
        num_files=len(files.sizes),
        size_bytes=sum(files.sizes.values()),
        other_files=[path for path in files.sizes if path not in known],
        orphans=orphans,
        spare=spare,
        instances=sorted(instances),
    )
    for path in sorted(photos):
        part = listed.get(path) or part_of(path)
        if path in of_photo or (masks and OK_NAMES & _folders(path)):
            found.images.append(MaskedImage(path=path, mask=of_photo.get(path), part=part))
        else:
            found.unmasked.append(path)
    return found


def _folders(path: str) -> set[str]:
    return {part.lower() for part in PurePosixPath(path).parts[:-1]}


def _stem(path: str) -> str:
    stem = unicodedata.normalize("NFC", PurePosixPath(path).stem).casefold()
    return MASK_ENDING.sub("", stem)


def _beside(paths: Sequence[str]) -> set[str]:
    """Masks among pictures that share their folders with photographs."""
    masks = {path for path in paths if MASK_ENDING.search(PurePosixPath(path).stem)}
    twins: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path in paths:
        if path not in masks:
            twins[PurePosixPath(path).parent.as_posix(), _stem(path)].append(path)
    for group in twins.values():
        if len(group) > 1:
            masks |= set(sorted(group, key=_photo_rank)[1:])
    return masks


def _photo_rank(path: str) -> tuple[int, str]:
    return _PHOTO_ORDER.index(PurePosixPath(path).suffix.lower()), path


def _matched(photos: Sequence[str], masks: Sequence[str]) -> tuple[dict[str, str], list[str], list[str]]:
    """Photo -> mask, masks without a photo, and those that came too late.

    Tried in this order: the same telling folders and the same part; the same folders; the name alone, where
    only one image has it.
    """
    of_photo: dict[str, str] = {}
    spare: list[str] = []
    left = list(masks)
    for key in (_full_key, _folder_key, _name_key):
        known: dict[object, list[str]] = defaultdict(list)
        for photo in photos:
            known[key(photo)].append(photo)
        rest = []
        for mask in left:
            found = known.get(key(mask), [])
            free = [photo for photo in found if photo not in of_photo]
            if len(free) == 1 or (free and key is _full_key):
                of_photo[free[0]] = mask
            elif found and not free and len(found) == 1:
                spare.append(mask)
            else:
                rest.append(mask)
        left = rest
    return of_photo, left, spare


def _telling(path: str) -> tuple[str, ...]:
    folders = (part.lower() for part in PurePosixPath(path).parts[:-1])
    return tuple(part for part in folders if part not in _SAYING_NOTHING and part_of(f"{part}/x") is None)


def _full_key(path: str) -> tuple[object, ...]:
    return _telling(path), part_of(path), _stem(path)


def _folder_key(path: str) -> tuple[object, ...]:
    return _telling(path), _stem(path)


def _name_key(path: str) -> tuple[object, ...]:
    return (_stem(path),)


def _listed_parts(files: DatasetFiles, photos: Iterable[str]) -> tuple[Mapping[str, Part], set[str]]:
    """Parts of images that lists of names say, and these lists' paths."""
    by_stem: dict[str, list[str]] = defaultdict(list)
    for photo in photos:
        by_stem[_stem(photo)].append(photo)
    parts: dict[str, Part] = {}
    lists: set[str] = set()
    for path in files.with_suffix(".txt"):
        part = part_named(PurePosixPath(path).stem)
        if part is None or files.sizes[path] > _MAX_LIST_BYTES:
            continue
        try:
            lines = decode_text(files.read(path)).splitlines()
        except UnicodeDecodeError:
            continue
        lists.add(path)
        for line in filter(str.strip, lines):
            # A line may name image and mask, as CamVid's lists do.
            named = by_stem.get(_stem(line.split()[0].replace("\\", "/")), [])
            if len(named) == 1:
                # An image in several lists is tested on, not learned from.
                before = parts.get(named[0])
                if before is None or PARTS.index(part) > PARTS.index(before):
                    parts[named[0]] = part
    return parts, lists
