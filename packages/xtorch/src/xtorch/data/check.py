"""The data check: what is in an image folder, what is wrong with it and what training will leave out."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from xtorch.data.duplicates import connected, exact_groups, near_pairs
from xtorch.data.findings import MAX_EXAMPLES, CheckReport, ClassCount, Finding, Findings
from xtorch.data.images import ImageFacts, image_facts
from xtorch.data.layout import DEFECTIVE, OK, ImageFile, ImageFolder, scan_image_folder
from xtorch.data.masks import mask_problem
from xtorch.picks import evenly
from xtorch.progress import Progress, silent

MIN_OK = 20
"""Fewer usable good images than this cannot be trained on and tested."""
FEW_OK = 60
FEW_DEFECTIVE = 20
_TINY_PX = 64
_MAX_SIZES = 5


@dataclass(frozen=True, kw_only=True)
class UsableImage:
    """An image that training may use."""

    path: str
    label: int
    kind: str | None
    part: Literal["train", "test"] | None
    digest: str
    group: int
    """Near duplicates share a group; a group never straddles two parts of a split."""
    mask: str | None = None
    """Path of the picture that outlines its defects, where it can be used."""


@dataclass(kw_only=True)
class Inspection:
    """Result of the data check: the report for people and what may be used."""

    report: dict[str, Any]
    """Fields of `wire.CheckReport`."""
    usable: list[UsableImage] = field(default_factory=list)
    errors: list[Finding] = field(default_factory=list)
    """Findings that block training."""


def check_image_folder(root: str | Path, progress: Progress | None = None) -> dict[str, Any]:
    """Check a folder of images before training.

    Args:
        root: the dataset's folder, in one of the layouts of `xtorch.data.layout`.
        progress: told about progress.

    Returns:
        The fields of `wire.CheckReport`. A finding of severity ``error`` blocks training.

    Raises:
        DataError: `root` is not a folder.
    """
    return inspect_images(scan_image_folder(root), progress).report


def inspect_images(folder: ImageFolder, progress: Progress | None = None) -> Inspection:
    """`check_image_folder` for a scanned folder, with the list of images that may be used.

    Left out are unreadable files, all but one of equal files, both sides of a contradiction (the same
    file as ok and as defective), and training images that are also in a given test part.
    """
    started = time.monotonic()
    findings = Findings()
    examined = examine_files(folder, findings, progress)
    facts, readable = examined.facts, examined.readable
    kept = _check_masks(folder, examined.usable, findings)
    _report_counts(folder, kept, findings)
    report = CheckReport(
        item="images",
        layout=folder.layout,
        num_files=folder.num_files,
        num_items=examined.num_usable,
        size_bytes=folder.size_bytes,
        classes=_classes(folder.images, readable),
        facts=image_size_facts([(facts[i].width, facts[i].height) for i in readable]),
        findings=findings.sorted(),
        duration_s=round(time.monotonic() - started, 3),
    )
    return Inspection(report=report.to_dict(), usable=kept, errors=findings.errors)


@dataclass(frozen=True, kw_only=True)
class ExaminedFiles:
    """What `examine_files` found.

    Attributes:
        facts: Of each of the folder's images.
        readable: Indices of those that can be read.
        usable: What training may use, of those that have a label.
        num_usable: With those that have none.
    """

    facts: list[ImageFacts]
    readable: list[int]
    usable: list[UsableImage]
    num_usable: int


def examine_files(folder: ImageFolder, findings: Findings, progress: Progress | None = None) -> ExaminedFiles:
    """The part of the check that is the same for every task that labels images: each file by itself, equal
    files, sizes, and files that look nearly the same.

    Args:
        folder: The images, with a label each where one is known.
        findings: Gets what is found.
        progress: told about progress.
    """
    facts = _read_all(folder, progress or silent)
    readable = _report_files(folder, facts, findings)
    usable = _deduplicate(folder, facts, readable, findings)
    _report_sizes(folder, facts, usable, findings)
    return ExaminedFiles(
        facts=facts,
        readable=readable,
        usable=_group_near(folder, facts, usable, findings),
        num_usable=len(usable),
    )


def image_size_facts(sizes: Sequence[tuple[int, int]]) -> dict[str, str]:
    """`CheckReport.facts` about images of these sizes (width, height) in pixels: the most frequent ones."""
    counted = Counter(sizes).most_common()
    if not counted:
        return {}
    if len(counted) == 1:
        width, height = counted[0][0]
        return {"Image size": f"{width} × {height}"}
    shown = [f"{width} × {height} ({num})" for (width, height), num in counted[:_MAX_SIZES]]
    rest = len(counted) - len(shown)
    return {"Image sizes": ", ".join(shown) + (f" and {rest} more" if rest else "")}


def _read_all(folder: ImageFolder, progress: Progress) -> list[ImageFacts]:
    total = len(folder.images)
    facts: list[ImageFacts] = []
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        paths = [folder.root / image.path for image in folder.images]
        for done, fact in enumerate(pool.map(image_facts, paths), start=1):
            facts.append(fact)
            if done % 25 == 0 or done == total:
                progress("Checking images", progress=done / total, message=f"{done} of {total} images")
    return facts


def _report_files(folder: ImageFolder, facts: Sequence[ImageFacts], findings: Findings) -> list[int]:
    """Findings about single files; indices of the readable images."""
    broken = [i for i, fact in enumerate(facts) if fact.error is not None]
    findings.add(
        "image.corrupt",
        "warning",
        "{num} file{s} cannot be read",
        "Damaged or truncated files are left out; export or copy them again to use them.",
        (folder.images[i].path for i in broken),
    )
    findings.add(
        "file.not_image",
        "info",
        "{num} file{s} other than images",
        "They are ignored. Images are JPEG, PNG, BMP, WebP and TIFF files.",
        folder.other_files,
    )
    return [i for i, fact in enumerate(facts) if fact.error is None]


def _deduplicate(
    folder: ImageFolder, facts: Sequence[ImageFacts], readable: Sequence[int], findings: Findings
) -> list[int]:
    """Findings about equal files; indices of what is left."""
    images = folder.images
    dropped: set[int] = set()
    extras: list[str] = []
    conflicts: list[str] = []
    leaks: list[str] = []
    for local in exact_groups([facts[i].digest for i in readable]):
        group = [readable[k] for k in local]
        if len({images[i].label for i in group}) > 1:
            conflicts += [images[i].path for i in group]
            dropped.update(group)
            continue
        tests = [i for i in group if images[i].part == "test"]
        keep = (tests or group)[0]
        if tests and len(tests) < len(group):
            leaks += [images[i].path for i in group if images[i].part != "test"]
        extras += [images[i].path for i in group if i != keep]
        dropped.update(i for i in group if i != keep)
    findings.add(
        "duplicate.label_conflict",
        "warning",
        "{num} file{s} are the same picture with different labels",
        "The same file stands under two labels. All its copies are left out until you delete the wrong one.",
        conflicts,
    )
    findings.add(
        "duplicate.leakage",
        "warning",
        "{num} training image{s} are also test images",
        "A model tested on what it learned from looks better than it is. These are left out of training.",
        leaks,
    )
    findings.add(
        "duplicate.exact",
        "warning",
        "{num} exact duplicate{s}",
        "One copy of each is used, the others are left out.",
        extras,
    )
    return [i for i in readable if i not in dropped]


def _report_sizes(
    folder: ImageFolder, facts: Sequence[ImageFacts], usable: Sequence[int], findings: Findings
) -> None:
    tiny = [i for i in usable if min(facts[i].width, facts[i].height) < _TINY_PX]
    findings.add(
        "image.tiny",
        "warning",
        f"{{num}} image{{s}} with a side under {_TINY_PX} pixels",
        "There is little to see in them: use the camera's full resolution.",
        (folder.images[i].path for i in tiny),
    )
    sizes = Counter((facts[i].width, facts[i].height) for i in usable)
    if len(sizes) > 1:
        findings.add(
            "image.mixed_sizes",
            "info",
            f"Images of {len(sizes)} different sizes",
            "Every image is scaled to one size; shapes are distorted where the aspect ratio differs.",
            num=len(sizes),
        )
    modes = Counter(facts[i].mode for i in usable)
    if len(modes) > 1:
        listed = ", ".join(f"{mode} ({num})" for mode, num in modes.most_common())
        findings.add(
            "image.mixed_modes",
            "info",
            f"Images of different colour modes: {listed}",
            "All become RGB. If one class is grey and the other coloured, the model may learn just that.",
            num=len(modes),
        )


def _group_near(
    folder: ImageFolder, facts: Sequence[ImageFacts], usable: Sequence[int], findings: Findings
) -> list[UsableImage]:
    images = folder.images
    thumbnails = [facts[i].thumbnail_hw for i in usable]
    stacked = np.stack([t for t in thumbnails if t is not None]) if usable else np.zeros((0, 32, 32))
    pairs = near_pairs([facts[i].phash for i in usable], stacked)
    same_label = [(a, b) for a, b in pairs if images[usable[a]].label == images[usable[b]].label]
    findings.add(
        "duplicate.near",
        "info",
        "{num} image{s} look nearly the same as another",
        "They are used, but kept on the same side of the split into training and test images.",
        {images[usable[k]].path for pair in same_label for k in pair},
    )
    straddling = [pair for pair in same_label if {images[usable[k]].part for k in pair} == {"train", "test"}]
    findings.add(
        "duplicate.near_leakage",
        "warning",
        "{num} image{s} look nearly the same in training and test",
        "The measured accuracy may be too good: take different parts, not several photographs of one.",
        {images[usable[k]].path for pair in straddling for k in pair},
    )
    groups = connected(len(usable), same_label)
    kept: list[UsableImage] = []
    for i, group in zip(usable, groups, strict=True):
        image = images[i]
        if image.label is not None:
            kept.append(
                UsableImage(
                    path=image.path,
                    label=image.label,
                    kind=image.kind,
                    part=image.part,
                    digest=facts[i].digest,
                    group=group,
                    mask=image.mask,
                )
            )
    return kept


def _check_masks(folder: ImageFolder, images: Sequence[UsableImage], findings: Findings) -> list[UsableImage]:
    """Findings about masks; the images without those that cannot be used."""
    problems: dict[str, list[str]] = {"unreadable": [], "size": [], "empty": []}
    kept = []
    for image in images:
        problem = None
        if image.mask is not None:
            problem = mask_problem(folder.root / image.path, folder.root / image.mask)
        if problem is not None:
            problems[problem].append(image.mask or "")
        kept.append(image if problem is None else replace(image, mask=None))
    findings.add(
        "mask.unreadable",
        "warning",
        "{num} mask{s} cannot be read",
        "A mask is a picture in black and white. These are left out, their images are used without.",
        problems["unreadable"],
    )
    findings.add(
        "mask.size",
        "warning",
        "{num} mask{s} of another shape than the image",
        "A mask needs its image's height and width, or the same scaled. These are left out.",
        problems["size"],
    )
    findings.add(
        "mask.empty",
        "warning",
        "{num} mask{s} of defective images mark nothing",
        "Outline the defect, or move the image to ok/. These masks are left out.",
        problems["empty"],
    )
    findings.add(
        "mask.orphan",
        "warning",
        "{num} mask{s} without an image",
        "A mask has its image's name, or that with _mask behind it. These are left out.",
        folder.orphan_masks,
    )
    findings.add(
        "mask.found",
        "info",
        "{num} mask{s} of defects",
        "They tell how well defects are located (pixel AUROC, AUPRO); training does not need them.",
        [image.mask for image in kept if image.mask is not None],
    )
    return kept


def _report_counts(folder: ImageFolder, usable: Sequence[UsableImage], findings: Findings) -> None:
    """Findings about the layout and about how many images there are of what."""
    if not folder.images:
        findings.add(
            "image.none",
            "error",
            "No images",
            "Upload JPEG, PNG, BMP, WebP or TIFF files in the folders ok/ and defective/.",
            num=0,
        )
        return
    if folder.layout in ("class_folders", "unlabelled"):
        findings.add(
            "layout.unknown",
            "error",
            "Which images are good?",
            "Put good images into a folder named ok/ and faulty ones into defective/ "
            "(or defective/<kind>/); or use train/ok, test/ok and test/defective.",
            num=len(folder.images),
        )
        return
    given = any(u.part == "test" for u in usable)
    train_ok = [u for u in usable if u.label == OK and u.part != "test"]
    defective = [u for u in usable if u.label == DEFECTIVE and (u.part == "test" or not given)]
    where = "in train/ok" if given else "in ok"
    if len(train_ok) < MIN_OK:
        findings.add(
            "ok.too_few",
            "error",
            f"Only {len(train_ok)} usable images {where}",
            f"At least {MIN_OK} are needed to learn what good looks like; {FEW_OK} and more work better.",
            num=len(train_ok),
        )
    elif len(train_ok) < FEW_OK:
        findings.add(
            "ok.few",
            "warning",
            f"{len(train_ok)} usable images {where}",
            f"It works, but {FEW_OK} and more give steadier results.",
            num=len(train_ok),
        )
    where = "test/<kind>" if given else "defective"
    if not defective:
        findings.add(
            "defective.none",
            "info",
            f"No usable images in {where}",
            "The threshold is chosen by good images alone, for few false alarms. How many defects are found "
            "cannot be measured without any.",
            num=0,
        )
    elif len(defective) < FEW_DEFECTIVE:
        findings.add(
            "defective.few",
            "warning",
            f"{len(defective)} usable images in {where}",
            f"The measured accuracy has a wide interval; {FEW_DEFECTIVE} and more make it narrower.",
            num=len(defective),
        )
    if given and not any(u.label == OK and u.part == "test" for u in usable):
        findings.add(
            "test.no_ok",
            "error",
            "No usable good images in test",
            "Add test/ok: without good images false alarms cannot be measured.",
            num=0,
        )
    if len(defective) > len([u for u in usable if u.label == OK]):
        findings.add(
            "class.imbalance",
            "warning",
            "More defective than good images",
            "Good images teach what normal looks like: add more of them.",
            num=len(defective),
        )


def _classes(images: Sequence[ImageFile], readable: Sequence[int]) -> list[ClassCount]:
    by_class: dict[str, list[str]] = {}
    for i in readable:
        by_class.setdefault(images[i].class_name, []).append(images[i].path)
    ordered = sorted(by_class.items(), key=lambda item: (item[0] != "ok", item[0]))
    return [
        ClassCount(name=name, num_items=len(paths), examples=evenly(paths, MAX_EXAMPLES))
        for name, paths in ordered
    ]
