"""Which images and masks of a dataset can be used: found, readable, once, and of one shape."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from xtorch.data.check import examine_files
from xtorch.data.class_list import MAX_BYTES, ClassEntry, is_class_list, read_class_list
from xtorch.data.findings import Findings
from xtorch.data.label_masks import content_digest, stored_orientation, upright_mask
from xtorch.data.layout import ImageFile, ImageFolder
from xtorch.data.mask_classes import MaskFacts, mask_facts
from xtorch.data.mask_pairs import MaskedImage, MaskFolder
from xtorch.progress import Progress

_MASKS_SHARE = 0.6
"""Of the check's time goes into masks."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A readable image and its mask.

    Attributes:
        facts: Of the mask; None: there is none, all of the image is background.
        width, height: Of the upright image in pixels.
        orientation: EXIF's.
    """

    image: MaskedImage
    facts: MaskFacts | None
    width: int
    height: int
    orientation: int
    digest: str
    group: int

    @property
    def mask(self) -> str:
        """The mask's path; empty where there is none."""
        return self.image.mask or ""


def class_list(folder: MaskFolder, findings: Findings) -> tuple[str | None, list[ClassEntry]]:
    """The first file that lists classes, and what it says."""
    listed = sorted(
        (path for path in folder.other_files if is_class_list(path)),
        key=lambda path: (path.count("/"), path),
    )
    for path in listed:
        file = folder.root / path
        if file.stat().st_size <= MAX_BYTES:
            entries = read_class_list(path, file.read_bytes())
            if entries:
                folder.other_files.remove(path)
                return path, entries
    findings.add(
        "classes.unreadable",
        "warning",
        "{num} list{s} of classes that cannot be read",
        "A text file with a class a line: its name, or value and name. It is not used.",
        listed,
    )
    return None, []


def report_nothing(folder: MaskFolder, findings: Findings) -> None:
    """There are no pairs of images and masks."""
    num = len(folder.unmasked)
    findings.add(
        "mask.none" if num else "image.none",
        "error",
        f"{num} images, but no masks of theirs" if num else "No images",
        "Put images into images/ and masks of the same names into masks/, or each mask beside its image "
        "as NAME_mask.png. A mask paints every pixel with the value or colour of its class.",
        num=num,
    )


def report_pairs(folder: MaskFolder, findings: Findings) -> None:
    """Findings about which image has which mask."""
    findings.add(
        "image.unmasked",
        "warning",
        "{num} image{s} without a mask",
        "They are left out. If there is nothing to mark in them, add a black mask or put them into ok/.",
        folder.unmasked,
    )
    findings.add(
        "mask.orphan",
        "warning",
        "{num} mask{s} without an image",
        "A mask has its image's name, or that with _mask behind it. These are left out.",
        folder.orphans,
    )
    findings.add(
        "mask.spare",
        "warning",
        "{num} further mask{s} of an image that has one",
        "The first by name is used. One mask holds all classes of an image.",
        folder.spare,
    )
    findings.add(
        "mask.instances",
        "info",
        "{num} picture{s} of single objects",
        "They number objects instead of classes; they are not used.",
        folder.instances,
    )
    findings.add(
        "mask.implied",
        "info",
        "{num} image{s} that are background only, by their folder",
        "Images in ok/, good/ or normal/ need no mask.",
        (image.path for image in folder.images if image.mask is None),
    )


def read_masks(folder: MaskFolder, findings: Findings, progress: Progress) -> dict[str, MaskFacts]:
    """What is in the masks; those that cannot be read are said so."""
    paths = [image.mask for image in folder.images if image.mask is not None]
    found: dict[str, MaskFacts] = {}
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        facts = pool.map(lambda path: mask_facts(folder.root / path), paths)
        for done, (path, fact) in enumerate(zip(paths, facts, strict=True), start=1):
            found[path] = fact
            if done % 25 == 0 or done == len(paths):
                progress(
                    "Checking masks",
                    progress=_MASKS_SHARE * done / len(paths),
                    message=f"{done} of {len(paths)} masks",
                )
    findings.add(
        "mask.unreadable",
        "warning",
        "{num} mask{s} cannot be read",
        "They are damaged, too large, or have values that are no class numbers. They are left out, and "
        "their images.",
        (path for path, fact in found.items() if fact.error is not None),
    )
    return found


def without_contradictions(
    folder: MaskFolder, masks: Mapping[str, MaskFacts], findings: Findings
) -> list[MaskedImage]:
    """Images with readable masks, without equal images whose masks differ."""
    images = [image for image in folder.images if image.mask is None or masks[image.mask].error is None]
    said: dict[str, set[str]] = {}
    digests = {}
    for image in images:
        digest = content_digest((folder.root / image.path).read_bytes())
        digests[image.path] = digest
        said.setdefault(digest, set()).add("" if image.mask is None else masks[image.mask].digest)
    conflicts = {image.path for image in images if len(said[digests[image.path]]) > 1}
    findings.add(
        "duplicate.mask_conflict",
        "warning",
        "{num} equal image{s} with different masks",
        "All copies are left out until you delete the wrong ones.",
        conflicts,
    )
    return [image for image in images if image.path not in conflicts]


def pairs(
    folder: MaskFolder,
    images: Sequence[MaskedImage],
    masks: Mapping[str, MaskFacts],
    findings: Findings,
    progress: Progress,
) -> list[Pair]:
    """Readable images, one of each, with masks of their shape."""
    listed = ImageFolder(
        root=folder.root,
        layout="train_test" if any(image.part for image in images) else "class_folders",
        images=tuple(
            ImageFile(
                path=image.path,
                label=0,
                class_name="",
                part=None if image.part is None else "test" if image.part == "test" else "train",
            )
            for image in images
        ),
        other_files=tuple(folder.other_files),
        num_files=folder.num_files,
        size_bytes=folder.size_bytes,
    )

    def report(stage: str, /, **details: Any) -> None:
        share = details.pop("progress", None) or 0.0
        progress(stage, progress=_MASKS_SHARE + (1 - _MASKS_SHARE) * share, **details)

    examined = examine_files(listed, findings, report)
    places = {image.path: place for place, image in enumerate(images)}
    found = []
    for file in examined.usable:
        place = places[file.path]
        fact, image = examined.facts[place], images[place]
        orientation = stored_orientation(folder.root / file.path)
        width, height = fact.width, fact.height
        if orientation >= 5:
            width, height = height, width
        found.append(
            Pair(
                image=image,
                facts=None if image.mask is None else masks[image.mask],
                width=width,
                height=height,
                orientation=orientation,
                digest=file.digest,
                group=file.group,
            )
        )
    findings.add(
        "image.turned",
        "info",
        "{num} image{s} that their EXIF data turn",
        "They are turned upright. A mask of the shape of the stored picture is turned with it; look at "
        "an example in the report to see that masks fit.",
        (pair.image.path for pair in found if pair.orientation > 1),
    )
    return _fitting(found, findings)


def _fitting(found: Sequence[Pair], findings: Findings) -> list[Pair]:
    """Without masks of another shape than their image's."""
    wrong = {pair.mask for pair in found if not _fits(pair)}
    findings.add(
        "mask.size",
        "warning",
        "{num} mask{s} of another shape than the image",
        "A mask needs its image's height and width, or the same scaled. These are left out, and their "
        "images.",
        wrong,
    )
    fitting = [pair for pair in found if pair.mask not in wrong]
    findings.add(
        "mask.scaled",
        "info",
        "{num} mask{s} of another size than the image",
        "Their shape is the image's: they are scaled by their nearest pixels.",
        (
            pair.mask
            for pair in fitting
            if pair.facts is not None and {*pair.facts.size} != {pair.width, pair.height}
        ),
    )
    return fitting


def _fits(pair: Pair) -> bool:
    if pair.facts is None:
        return True
    shape = np.broadcast_to(np.zeros((1, 1), np.uint8), pair.facts.size[::-1])
    return upright_mask(shape, width=pair.width, height=pair.height, orientation=pair.orientation) is not None
