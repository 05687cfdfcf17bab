"""The image files behind the annotations: which can be used, which are copies, which are in two parts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from xtorch.data.annotations import PARTS, Annotations, Part, RawImage
from xtorch.data.duplicates import connected, exact_groups, near_pairs
from xtorch.data.findings import Findings
from xtorch.data.images import MAX_PIXELS, MAX_SIDE, ImageFacts, image_facts
from xtorch.progress import Progress

_EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """One image file.

    Attributes:
        facts: of the file as it is stored.
        width, height: of the upright image in pixels.
        orientation: as EXIF has it, 1 to 8.
    """

    facts: ImageFacts
    width: int
    height: int
    orientation: int


Files = Mapping[str, ImageFile]
"""By path."""


def part_of_image(image: RawImage) -> Part | None:
    """The one part that `parts` left it in."""
    return next(iter(image.parts), None)


def parts(annotations: Annotations, listed: Sequence[str], findings: Findings) -> list[RawImage]:
    """The images to use, each in one part at most.

    Args:
        listed: all image files of the dataset.
    """
    images = sorted(annotations.images.values(), key=lambda image: image.path)
    overlapping = [image for image in images if len(image.parts) > 1]
    findings.add(
        "split.overlap",
        "warning",
        "{num} image{s} in more than one part",
        "They are used for testing, or validation, only: a model must not be tested on what it learned from.",
        (image.path for image in overlapping),
    )
    for image in overlapping:
        image.parts = {next(part for part in reversed(PARTS) if part in image.parts)}
    if annotations.has_splits:
        findings.add(
            "split.unlisted",
            "info",
            "{num} annotated image{s} in no part",
            "The dataset lists which images are for training, validation and test; these are left out.",
            (image.path for image in images if not image.parts),
        )
        images = [image for image in images if image.parts]
    findings.add(
        "image.unannotated",
        "warning",
        "{num} image{s} that no annotation mentions",
        "They are left out. If nothing is to be found in them, say so: an empty annotation teaches what "
        "to leave alone.",
        (path for path in listed if path not in annotations.images),
    )
    return images


def read_files(root: Path, images: Sequence[RawImage], progress: Progress) -> dict[str, ImageFile]:
    """Reads every image file once."""
    files: dict[str, ImageFile] = {}
    total = len(images)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        paths = [image.path for image in images]
        found = pool.map(lambda path: _read(root / path), paths)
        for done, (path, file) in enumerate(zip(paths, found, strict=True), start=1):
            files[path] = file
            if done % 25 == 0 or done == total:
                progress("Checking images", progress=done / total, message=f"{done} of {total} images")
    return files


def _read(path: Path) -> ImageFile:
    facts = image_facts(path)
    orientation = 1
    if facts.error is None:
        try:
            with Image.open(path) as image:
                orientation = int(image.getexif().get(_EXIF_ORIENTATION, 1))
        except Exception:
            # EXIF is a hint written by cameras and often damaged; such a file is upright.
            orientation = 1
    turned = 5 <= orientation <= 8
    width, height = (facts.height, facts.width) if turned else (facts.width, facts.height)
    return ImageFile(facts=facts, width=width, height=height, orientation=orientation)


def readable(images: Sequence[RawImage], files: Files, findings: Findings) -> list[RawImage]:
    """The images that an engine takes."""
    refused = {image.path: files[image.path].facts for image in images if files[image.path].facts.error}
    # Of a file that cannot be read at all nothing is known, of one that is too much its size.
    findings.add(
        "image.corrupt",
        "warning",
        "{num} image{s} that cannot be read",
        "Damaged or truncated files are left out; export or copy them again to use them.",
        (path for path, facts in refused.items() if not facts.width),
    )
    findings.add(
        "image.unsupported",
        "warning",
        "{num} image{s} that an engine does not take",
        f"Floating-point pixels, more than 16 bits, sides over {MAX_SIDE} pixels or more than "
        f"{MAX_PIXELS // 1_000_000} million pixels: they are left out. Convert them to 8 or 16 bits, or cut "
        "them into tiles.",
        (path for path, facts in refused.items() if facts.width),
    )
    usable = [image for image in images if image.path not in refused]
    findings.add(
        "image.turned",
        "info",
        "{num} image{s} that their EXIF data turn",
        "They are turned upright, and so are boxes where the annotation's width and height are those of "
        "the file as it is stored. Look at an example in the report to see that boxes fit.",
        (image.path for image in usable if files[image.path].orientation > 1),
    )
    modes = Counter(files[image.path].facts.mode for image in usable)
    if len(modes) > 1:
        listed = ", ".join(f"{mode} ({num})" for mode, num in modes.most_common())
        findings.add(
            "image.mixed_modes",
            "info",
            f"Images of different colour modes: {listed}",
            "All become RGB.",
            num=len(modes),
        )
    return usable


def without_copies(images: Sequence[RawImage], files: Files, findings: Findings) -> list[RawImage]:
    """One image of each group of equal files: the one that is furthest from training."""
    rank = {part: index for index, part in enumerate((None, *PARTS))}
    dropped: set[int] = set()
    extras: list[str] = []
    leaks: list[str] = []
    differing: list[str] = []
    for group in exact_groups([files[image.path].facts.digest for image in images]):
        keep = max(group, key=lambda i: (rank[part_of_image(images[i])], len(images[i].boxes)))
        contents = [sorted((box.label, *box.edges) for box in images[i].boxes) for i in group]
        if any(content != contents[0] for content in contents):
            differing += [images[i].path for i in group]
        for i in group:
            if i != keep:
                dropped.add(i)
                leaking = part_of_image(images[i]) != part_of_image(images[keep])
                (leaks if leaking else extras).append(images[i].path)
    findings.add(
        "duplicate.leakage",
        "warning",
        "{num} image{s} that are also in another part",
        "A model tested on what it learned from looks better than it is. The copies nearer to training "
        "are left out.",
        leaks,
    )
    findings.add(
        "duplicate.exact", "warning", "{num} exact duplicate{s}", "One copy of each is used.", extras
    )
    findings.add(
        "duplicate.label_conflict",
        "warning",
        "{num} equal image{s} with different boxes",
        "One copy is used: the one in the part furthest from training, or with the most boxes. Delete the "
        "wrong one.",
        differing,
    )
    return [image for i, image in enumerate(images) if i not in dropped]


def near_groups(images: Sequence[RawImage], files: Files, findings: Findings) -> list[int]:
    """A group for each image; those that look nearly the same share one."""
    thumbnails = [files[image.path].facts.thumbnail_hw for image in images]
    stacked = np.stack([t for t in thumbnails if t is not None]) if images else np.zeros((0, 32, 32))
    pairs = near_pairs([files[image.path].facts.phash for image in images], stacked)
    findings.add(
        "duplicate.near",
        "info",
        "{num} image{s} look nearly the same as another",
        "They are used; where the split is ours, they stay on one side of it.",
        {images[k].path for pair in pairs for k in pair},
    )
    findings.add(
        "duplicate.near_leakage",
        "warning",
        "{num} image{s} look nearly the same in two parts",
        "The measured accuracy may be too good: take different scenes, not several pictures of one.",
        {images[k].path for pair in pairs for k in pair if len({part_of_image(images[i]) for i in pair}) > 1},
    )
    return connected(len(images), pairs)
