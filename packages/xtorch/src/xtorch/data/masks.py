"""Masks: pictures that outline the defects of other pictures; white (or anything but black) is defective.

Known places, names in any case:

- below ``ground_truth/`` or ``masks/``: named as the image or with ``_mask`` behind, in a folder named after
  the same kind of defect: ``test/hole/007.png`` has ``ground_truth/hole/007_mask.png`` (MVTec AD's);
- beside the image: ``007_mask.png``, or ``007.png`` where the image is ``007.jpg`` (or BMP, TIFF).

Shapes: H and W rows and columns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

MASK_FOLDERS = frozenset({"ground_truth", "mask", "masks"})
_SUFFIX = "_mask"
_PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
_MAX_GREY_SHARE = 0.1
"""A mask has two colours; of more in-between than this (blurred edges) it is a photograph."""
_MAX_ASPECT_CHANGE = 0.02
_EXIF_ORIENTATION = 0x0112


@dataclass(kw_only=True)
class Pairing:
    """Which picture outlines which.

    Attributes:
        of_image: Image -> its mask.
        orphans: Masks of which no image is known.
        images: What is no mask.
    """

    of_image: dict[PurePosixPath, PurePosixPath] = field(default_factory=dict)
    orphans: list[PurePosixPath] = field(default_factory=list)
    images: list[PurePosixPath] = field(default_factory=list)


def _stem(path: PurePosixPath) -> str:
    return path.stem[: -len(_SUFFIX)] if path.stem.lower().endswith(_SUFFIX) else path.stem


def pair_masks(
    paths: Sequence[PurePosixPath],
    *,
    skip: int,
    meaningless: frozenset[str],
    beside: bool = True,
) -> Pairing:
    """Tell masks from images by their places and names; files are not opened.

    Args:
        paths: Pictures.
        skip: How many leading folders wrap everything.
        meaningless: Lower-case names of folders that say no kind of defect: ``test``, ``defective``.
        beside: Whether masks may lie beside their images.
    """
    pairing = Pairing()
    below = [path for path in paths if MASK_FOLDERS & {part.lower() for part in path.parts[skip:-1]}]
    rest = [path for path in paths if path not in set(below)]
    if beside:
        in_folder: dict[tuple[PurePosixPath, str], list[PurePosixPath]] = defaultdict(list)
        for path in rest:
            in_folder[path.parent, _stem(path)].append(path)
        for group in in_folder.values():
            named = [path for path in group if path.stem.lower().endswith(_SUFFIX)]
            photos = [path for path in group if path not in named]
            if not named and {path.suffix.lower() for path in photos} & _PHOTO_SUFFIXES:
                named = [path for path in photos if path.suffix.lower() == ".png"]
                photos = [path for path in photos if path not in named]
            if photos and named:
                pairing.of_image[photos[0]] = named[0]
                pairing.orphans += named[1:]
            elif named:
                pairing.orphans += named
            pairing.images += photos
    else:
        pairing.images = list(rest)

    def key(path: PurePosixPath) -> tuple[tuple[str, ...], str]:
        folders = (part.lower() for part in path.parts[skip:-1])
        return tuple(part for part in folders if part not in meaningless | MASK_FOLDERS), _stem(path)

    by_key: dict[tuple[tuple[str, ...], str], list[PurePosixPath]] = defaultdict(list)
    for path in pairing.images:
        by_key[key(path)].append(path)
    for mask in below:
        # Of several images of the name, the one whose folders have most in common with the mask's; a mask
        # without a word about it belongs to a defective image of the test part.
        folders = {part.lower() for part in mask.parts[skip:-1]} | {"test", "defective"}
        found = sorted(
            (path for path in by_key[key(mask)] if path not in pairing.of_image),
            key=lambda path: (-len(folders & {part.lower() for part in path.parts[skip:-1]}), path),
        )
        if found:
            pairing.of_image[found[0]] = mask
        else:
            pairing.orphans.append(mask)
    pairing.images.sort()
    return pairing


def read_mask(path: Path) -> np.ndarray:
    """A mask's file as bool [H,W], true where it is defective; of any colour mode and depth.

    Raises:
        ValueError: It cannot be read, or it is no mask but a photograph.
    """
    try:
        with Image.open(path) as image:
            coloured = image.mode not in ("1", "L") and not image.mode.startswith(("I", "F"))
            values = np.asarray(image.convert("RGB") if coloured else image, dtype=np.float64)
    except Exception as error:  # Pillow's decoders raise nearly anything on broken files
        raise ValueError(f"it cannot be read: {error}") from error
    values_HW = values.max(axis=2) if values.ndim == 3 else values
    level_HW = values_HW / max(float(values_HW.max()), 1e-9)
    if float(((level_HW > 0.1) & (level_HW < 0.9)).mean()) > _MAX_GREY_SHARE:
        raise ValueError("it is no mask: it has more than two colours")
    return np.asarray(level_HW >= 0.5)


def displayed_size(path: Path) -> tuple[int, int]:
    """Width and height of an image as it is shown, its EXIF orientation applied."""
    with Image.open(path) as image:
        turned = image.getexif().get(_EXIF_ORIENTATION, 1) >= 5
        return (image.height, image.width) if turned else (image.width, image.height)


def mask_problem(image: Path, mask: Path) -> str | None:
    """Why a mask cannot be used for an image: ``"unreadable"``, ``"size"``, ``"empty"``; None: it can."""
    try:
        mask_HW = read_mask(mask)
    except ValueError:
        return "unreadable"
    width, height = displayed_size(image)
    aspect, own = width / height, mask_HW.shape[1] / mask_HW.shape[0]
    if abs(aspect - own) > _MAX_ASPECT_CHANGE * max(aspect, own):
        return "size"
    return None if mask_HW.any() else "empty"


def masks_at(root: Path, masks: Sequence[str | None], side: int) -> list[np.ndarray | None]:
    """Masks, scaled to bool [side,side] by their nearest pixels.

    Args:
        root: The dataset's folder.
        masks: Paths below it; None stays None.
        side: Rows and columns.
    """
    scaled: list[np.ndarray | None] = []
    for path in masks:
        if path is None:
            scaled.append(None)
            continue
        picture = Image.fromarray(read_mask(root / path))
        scaled.append(np.asarray(picture.resize((side, side), Image.Resampling.NEAREST), dtype=bool))
    return scaled
