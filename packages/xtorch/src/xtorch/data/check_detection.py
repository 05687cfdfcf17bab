"""The data check of object detection: what is in a folder of images with boxes, what is wrong with it.

`inspect_detection` also gives what training may use: readable images, boxes cleaned and in fractions of the
upright image, a part for each image where the dataset gives one.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from xtorch.data.annotations import (
    PARTS,
    Annotations,
    DatasetFiles,
    Part,
    RawBox,
    RawImage,
    read_annotations,
)
from xtorch.data.duplicates import connected, exact_groups, near_pairs
from xtorch.data.findings import MAX_EXAMPLES, CheckReport, ClassCount, Finding, Findings
from xtorch.data.images import ImageFacts, image_facts
from xtorch.progress import Progress, silent

MIN_IMAGES = 20
"""Fewer usable images with objects cannot be trained on and tested."""
MIN_OBJECTS = 10
"""A class with fewer objects is learned badly, if at all."""
FEW_IMAGES = 100
INPUT_PX = 416
"""Side of the network's input that tiny objects are judged by."""
TINY_PX = 6
"""An object whose longer side is shorter than this in the network's input can hardly be seen."""
MAX_SIDE = 16_384
"""Same limit as `xinfer.preproc.decode_image`."""
MAX_IMBALANCE = 20
_SAME_PLACE = 0.85
_TOLERANCE_PX = 2.0
"""Boxes may lie outside the image by so much without a word: rounding of annotation tools."""
_EXIF_ORIENTATION = 0x0112

PROBLEMS = {
    "annotation.unreadable": (
        "warning",
        "{num} annotation file{s} that cannot be read",
        "Broken XML, JSON or text is left out, and with it what it says about its images. Export it again.",
    ),
    "annotation.unsafe_path": (
        "error",
        "{num} annotation{s} that name a file outside the dataset",
        "File names with '..' are refused. Write names relative to the annotation file or to the dataset.",
    ),
    "annotation.id_twice": (
        "warning",
        "{num} image{s} whose id is used twice",
        "The first one keeps the id, the others are left out. Export the annotations again.",
    ),
    "annotation.unknown_image": (
        "warning",
        "{num} annotation{s} of images that are not listed",
        "They are left out. Export the annotations again.",
    ),
    "image.missing": (
        "warning",
        "{num} annotated image{s} that are not there",
        "Their annotations are left out. Upload the images as well, under the names in the annotations.",
    ),
    "box.incomplete": (
        "warning",
        "{num} object{s} without a complete box",
        "They are left out; a box is four numbers and a class.",
    ),
    "split.unknown_image": (
        "warning",
        "{num} name{s} in the lists of parts without an annotated image",
        "They are left out.",
    ),
}
"""Code -> severity, title and hint of what a reader may note."""


@dataclass(frozen=True, kw_only=True)
class UsableImage:
    """An image that training may use.

    Attributes:
        path: relative to the dataset's root.
        width, height: of the upright image in pixels.
        boxes: float64 [M,4], left, top, right, bottom as fractions of width and height.
        labels: int64 [M], into the dataset's labels.
        ignored: bool [M], objects that are neither learned nor counted.
        part: where whoever made the dataset put it; None: ours to decide.
        group: near duplicates share a group; a group never straddles two parts of our split.
    """

    path: str
    width: int
    height: int
    boxes: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray
    part: Part | None
    digest: str
    group: int


@dataclass(frozen=True, kw_only=True)
class DetectionData:
    """Result of the data check: the report for people and what may be used."""

    report: CheckReport
    labels: tuple[str, ...]
    usable: tuple[UsableImage, ...]

    @property
    def errors(self) -> list[Finding]:
        """Findings that block training."""
        return [finding for finding in self.report.findings if finding.severity == "error"]


def check(dataset_dir: str | Path, *, progress: Progress | None = None) -> dict[str, Any]:
    """Checks a folder of images with boxes, in any of the formats of `xtorch.data.annotations`.

    Returns:
        The fields of `wire.CheckReport`. A finding of severity ``error`` blocks training.

    Raises:
        DataError: `dataset_dir` is not a folder, or an annotation file is too large to be read.
    """
    return inspect_detection(dataset_dir, progress).report.to_dict()


def inspect_detection(dataset_dir: str | Path, progress: Progress | None = None) -> DetectionData:
    """`check`, with the images and boxes that may be used.

    Left out are unreadable images, all but one of equal files (one in the test part stays), boxes that are
    not boxes, and unlisted images where the dataset lists its parts. Boxes are clipped to the image.
    """
    return _Inspection(dataset_dir, progress or silent).run()


@dataclass(kw_only=True)
class _Facts:
    """One image file."""

    image: ImageFacts
    width: int
    height: int
    """Upright."""
    orientation: int


class _Inspection:
    """The steps of the check; each adds to the findings and hands on what is left."""

    def __init__(self, dataset_dir: str | Path, progress: Progress) -> None:
        self.started = time.monotonic()
        self.files = DatasetFiles(dataset_dir)
        self.progress = progress
        self.findings = Findings()

    def run(self) -> DetectionData:
        annotations, others = read_annotations(self.files)
        if annotations is None:
            self._nothing_annotated()
            return self._result("unknown", (), ())
        for other in others:
            self.findings.add(
                "annotation.other_format",
                "info",
                f"There are {other} annotations as well",
                f"Those in the {annotations.format} format are used, which hold more boxes.",
                num=1,
            )
        noted: dict[str, list[str]] = defaultdict(list)
        for problem in annotations.problems:
            noted[problem.code].append(problem.where)
        for code, (severity, title, hint) in PROBLEMS.items():
            self.findings.add(code, severity, title, hint, noted[code])  # type: ignore[arg-type]
        images = self._parts(annotations)
        facts = self._facts(images)
        images = self._readable(images, facts)
        images = self._deduplicated(images, facts)
        labels = self._labels(annotations, images)
        boxes = {image.path: self._boxes(image, facts[image.path], labels) for image in images}
        self._report_boxes()
        usable = self._usable(images, facts, boxes)
        self._report_counts(usable, labels)
        return self._result(annotations.format, labels, usable)

    # ------------------------------------------------------------------------------------------ files

    def _nothing_annotated(self) -> None:
        if not self.files.images:
            self.findings.add(
                "image.none",
                "error",
                "No images",
                "Upload JPEG, PNG, BMP, WebP or TIFF files with their annotations.",
                num=0,
            )
            return
        self.findings.add(
            "annotation.none",
            "error",
            "No annotations",
            "Add boxes in one of these formats: COCO (JSON), YOLO (a text file for each image), Pascal VOC "
            "(an XML file for each image), or a CSV table with the columns image, label, xmin, ymin, xmax, "
            "ymax.",
            num=len(self.files.images),
        )

    def _parts(self, annotations: Annotations) -> list[RawImage]:
        """The images to use, each in one part at most."""
        images = sorted(annotations.images.values(), key=lambda image: image.path)
        overlapping = [image for image in images if len(image.parts) > 1]
        self.findings.add(
            "split.overlap",
            "warning",
            "{num} image{s} in more than one part",
            "They are used for testing, or validation, only: a model must not be tested on what it learned "
            "from.",
            (image.path for image in overlapping),
        )
        for image in overlapping:
            image.parts = {next(part for part in reversed(PARTS) if part in image.parts)}
        if annotations.has_splits:
            unlisted = [image for image in images if not image.parts]
            self.findings.add(
                "split.unlisted",
                "info",
                "{num} annotated image{s} in no part",
                "The dataset lists which images are for training, validation and test; these are left out.",
                (image.path for image in unlisted),
            )
            images = [image for image in images if image.parts]
        known = set(annotations.images)
        self.findings.add(
            "image.unannotated",
            "warning",
            "{num} image{s} that no annotation mentions",
            "They are left out. If nothing is to be found in them, say so: an empty annotation teaches what "
            "to leave alone.",
            (path for path in self.files.images if path not in known),
        )
        return images

    def _facts(self, images: Sequence[RawImage]) -> dict[str, _Facts]:
        facts: dict[str, _Facts] = {}
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            paths = [image.path for image in images]
            for done, (path, fact) in enumerate(
                zip(paths, pool.map(self._fact, paths), strict=True), start=1
            ):
                facts[path] = fact
                if done % 25 == 0 or done == len(paths):
                    self.progress(
                        "Checking images",
                        progress=done / len(paths),
                        message=f"{done} of {len(paths)} images",
                    )
        return facts

    def _fact(self, path: str) -> _Facts:
        fact = image_facts(self.files.root / path)
        orientation = 1
        if fact.error is None:
            try:
                with Image.open(self.files.root / path) as image:
                    orientation = int(image.getexif().get(_EXIF_ORIENTATION, 1))
            except Exception:
                # EXIF is a hint written by cameras and often damaged; such a file is upright.
                orientation = 1
        turned = 5 <= orientation <= 8
        width, height = (fact.height, fact.width) if turned else (fact.width, fact.height)
        return _Facts(image=fact, width=width, height=height, orientation=orientation)

    def _readable(self, images: Sequence[RawImage], facts: dict[str, _Facts]) -> list[RawImage]:
        broken = [image.path for image in images if facts[image.path].image.error is not None]
        self.findings.add(
            "image.corrupt",
            "warning",
            "{num} image{s} that cannot be read",
            "Damaged or truncated files are left out; export or copy them again to use them.",
            broken,
        )
        floating = [image.path for image in images if facts[image.path].image.mode == "F"]
        huge = [
            image.path
            for image in images
            if max(facts[image.path].width, facts[image.path].height) > MAX_SIDE
        ]
        self.findings.add(
            "image.unsupported",
            "warning",
            "{num} image{s} that an engine does not take",
            f"Floating-point pixels and sides over {MAX_SIDE} pixels: they are left out. Convert them to 8 "
            "or 16 bits, or cut them into tiles.",
            floating + huge,
        )
        self.findings.add(
            "image.turned",
            "info",
            "{num} image{s} that their EXIF data turn",
            "They are turned upright, and so are boxes where the annotation's width and height are those of "
            "the file as it is stored. Look at an example in the report to see that boxes fit.",
            (i.path for i in images if facts[i.path].orientation > 1 and facts[i.path].image.error is None),
        )
        modes = Counter(facts[image.path].image.mode for image in images if image.path not in broken)
        if len(modes) > 1:
            listed = ", ".join(f"{mode} ({num})" for mode, num in modes.most_common())
            self.findings.add(
                "image.mixed_modes",
                "info",
                f"Images of different colour modes: {listed}",
                "All become RGB.",
                num=len(modes),
            )
        left_out = {*broken, *floating, *huge}
        return [image for image in images if image.path not in left_out]

    def _deduplicated(self, images: Sequence[RawImage], facts: dict[str, _Facts]) -> list[RawImage]:
        dropped: set[int] = set()
        extras: list[str] = []
        leaks: list[str] = []
        differing: list[str] = []
        for group in exact_groups([facts[image.path].image.digest for image in images]):
            # Of copies in several parts the one that is furthest from training stays.
            rank = {part: index for index, part in enumerate((None, *PARTS))}
            keep = max(group, key=lambda i: (rank[_part(images[i])], len(images[i].boxes)))
            contents = [sorted((box.label, *box.edges) for box in images[i].boxes) for i in group]
            if any(content != contents[0] for content in contents):
                differing += [images[i].path for i in group]
            for i in group:
                if i != keep:
                    dropped.add(i)
                    (leaks if _part(images[i]) != _part(images[keep]) else extras).append(images[i].path)
        self.findings.add(
            "duplicate.leakage",
            "warning",
            "{num} image{s} that are also in another part",
            "A model tested on what it learned from looks better than it is. The copies nearer to training "
            "are left out.",
            leaks,
        )
        self.findings.add(
            "duplicate.exact", "warning", "{num} exact duplicate{s}", "One copy of each is used.", extras
        )
        self.findings.add(
            "duplicate.label_conflict",
            "warning",
            "{num} equal image{s} with different boxes",
            "The copy with the most boxes is used. Delete the wrong one.",
            differing,
        )
        return [image for i, image in enumerate(images) if i not in dropped]

    # ------------------------------------------------------------------------------------------ boxes

    def _labels(self, annotations: Annotations, images: Sequence[RawImage]) -> tuple[str, ...]:
        """Classes that have objects: the declared ones in their order, or all by name."""
        used = {box.label for image in images for box in image.boxes if box.known and box.label}
        unused = [label for label in annotations.labels if label not in used]
        self.findings.add(
            "class.unused",
            "info",
            "{num} declared class(es) without an object",
            "They are left out of the model.",
            unused,
        )
        if annotations.labels:
            return tuple(label for label in dict.fromkeys(annotations.labels) if label in used)
        return tuple(sorted(used, key=_natural))

    def _boxes(
        self, image: RawImage, facts: _Facts, labels: tuple[str, ...]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Clean boxes as fractions of the upright image, their labels, and which are ignored."""
        notes = self._notes
        places = {label: index for index, label in enumerate(labels)}
        rows: list[tuple[tuple[float, float, float, float], int, bool]] = []
        seen: set[tuple[Any, ...]] = set()
        for box in image.boxes:
            if not box.known or box.label not in places:
                notes["class.unknown"].append(image.path)
                continue
            if not all(map(math.isfinite, box.edges)):
                notes["box.not_finite"].append(image.path)
                continue
            edges = self._upright(box, image, facts)
            left, top, right, bottom = edges
            if right <= left or bottom <= top:
                notes["box.degenerate"].append(image.path)
                continue
            slack_x, slack_y = _TOLERANCE_PX / facts.width, _TOLERANCE_PX / facts.height
            if left < -slack_x or top < -slack_y or right > 1 + slack_x or bottom > 1 + slack_y:
                notes["box.outside"].append(image.path)
            clipped = (max(left, 0.0), max(top, 0.0), min(right, 1.0), min(bottom, 1.0))
            if clipped[2] - clipped[0] < 1e-6 or clipped[3] - clipped[1] < 1e-6:
                notes["box.nothing_inside"].append(image.path)
                continue
            key = (places[box.label], *(round(edge, 5) for edge in clipped))
            if key in seen:
                notes["box.duplicate"].append(image.path)
                continue
            seen.add(key)
            rows.append((clipped, places[box.label], box.ignored))
        boxes_M4 = np.array([row[0] for row in rows], float).reshape(-1, 4)
        labels_M = np.array([row[1] for row in rows], np.int64)
        if _same_place_other_class(boxes_M4, labels_M):
            notes["box.label_conflict"].append(image.path)
        longer_side = max(facts.width, facts.height)
        sizes_M2 = (boxes_M4[:, 2:] - boxes_M4[:, :2]) * [facts.width, facts.height] * INPUT_PX / longer_side
        if (sizes_M2.max(axis=1, initial=0.0) < TINY_PX).any() and len(rows):
            notes["box.tiny"].append(image.path)
        return boxes_M4, labels_M, np.array([row[2] for row in rows], bool)

    @property
    def _notes(self) -> dict[str, list[str]]:
        if not hasattr(self, "_noted"):
            self._noted: dict[str, list[str]] = defaultdict(list)
        return self._noted

    @staticmethod
    def _upright(box: RawBox, image: RawImage, facts: _Facts) -> tuple[float, float, float, float]:
        """Edges as fractions of the upright image."""
        stored = (facts.image.width, facts.image.height)
        declared = image.declared_size
        turned = (
            facts.orientation > 1
            and declared == stored
            and (declared != (facts.width, facts.height) or facts.orientation < 5)
        )
        as_drawn = turned and facts.orientation >= 5
        width, height = stored if as_drawn else (facts.width, facts.height)
        left, top, right, bottom = box.edges
        if not box.fractions:
            left, top, right, bottom = left / width, top / height, right / width, bottom / height
        if not as_drawn:
            return left, top, right, bottom
        corners = [_TURNED[facts.orientation](x, y) for x in (left, right) for y in (top, bottom)]
        xs, ys = zip(*corners, strict=True)
        # A box whose edges are in the wrong order must stay recognisable as such.
        if right <= left or bottom <= top:
            return left, top, right, bottom
        return min(xs), min(ys), max(xs), max(ys)

    def _report_boxes(self) -> None:
        for code, severity, title, hint in (
            (
                "class.unknown", "warning", "{num} object{s} of a class that is not declared",
                "They are left out. Add the class to the list of classes, or correct the objects.",
            ),
            (
                "box.not_finite", "warning", "{num} box(es) with numbers that are none",
                "NaN, infinite or missing coordinates: they are left out.",
            ),
            (
                "box.degenerate", "warning", "{num} box(es) without an area",
                "Right must be greater than left and bottom greater than top: they are left out.",
            ),
            (
                "box.outside", "warning", "{num} box(es) reach outside the image",
                "What lies inside is used. Many of these mean that boxes belong to images of another size.",
            ),
            (
                "box.nothing_inside", "warning", "{num} box(es) lie outside the image",
                "They are left out. Many of these mean that boxes belong to images of another size.",
            ),
            (
                "box.duplicate", "warning", "{num} box(es) drawn twice",
                "One of each is used.",
            ),
            (
                "box.label_conflict", "warning", "{num} image{s} where one place has two classes",
                "Two boxes that are nearly the same have different classes. Decide which is right.",
            ),
            (
                "box.tiny", "warning",
                f"{{num}} image{{s}} with objects under {TINY_PX} pixels in the network's input",
                f"Images are scaled to about {INPUT_PX} pixels; such objects can hardly be seen there. Cut "
                "images into tiles, or choose a larger input_size.",
            ),
        ):  # fmt: skip
            # Severity is one of the literals above.
            self.findings.add(code, severity, title, hint, self._notes[code])  # type: ignore[arg-type]

    # ----------------------------------------------------------------------------------------- result

    def _usable(
        self,
        images: Sequence[RawImage],
        facts: dict[str, _Facts],
        boxes: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    ) -> tuple[UsableImage, ...]:
        thumbnails = [facts[image.path].image.thumbnail_hw for image in images]
        stacked = np.stack([t for t in thumbnails if t is not None]) if images else np.zeros((0, 32, 32))
        pairs = near_pairs([facts[image.path].image.phash for image in images], stacked)
        self.findings.add(
            "duplicate.near",
            "info",
            "{num} image{s} look nearly the same as another",
            "They are used; where the split is ours, they stay on one side of it.",
            {images[k].path for pair in pairs for k in pair},
        )
        self.findings.add(
            "duplicate.near_leakage",
            "warning",
            "{num} image{s} look nearly the same in two parts",
            "The measured accuracy may be too good: take different scenes, not several pictures of one.",
            {images[k].path for pair in pairs for k in pair if len({_part(images[i]) for i in pair}) > 1},
        )
        groups = connected(len(images), pairs)
        return tuple(
            UsableImage(
                path=image.path,
                width=facts[image.path].width,
                height=facts[image.path].height,
                boxes=boxes[image.path][0],
                labels=boxes[image.path][1],
                ignored=boxes[image.path][2],
                part=_part(image),
                digest=facts[image.path].image.digest,
                group=group,
            )
            for image, group in zip(images, groups, strict=True)
        )

    def _report_counts(self, usable: Sequence[UsableImage], labels: tuple[str, ...]) -> None:
        """Findings about how many images and objects there are of what."""
        with_objects = [image for image in usable if len(image.labels)]
        if not labels or not with_objects:
            self.findings.add(
                "object.none",
                "error",
                "No usable objects",
                "None of the annotations is a box in a readable image; see the other findings.",
                num=0,
            )
            return
        if len(with_objects) < MIN_IMAGES:
            self.findings.add(
                "image.too_few",
                "error",
                f"Only {len(with_objects)} usable images with objects",
                f"At least {MIN_IMAGES} are needed to train and test; {FEW_IMAGES} and more work better.",
                num=len(with_objects),
            )
        elif len(with_objects) < FEW_IMAGES:
            self.findings.add(
                "image.few",
                "warning",
                f"{len(with_objects)} usable images with objects",
                f"It works, but {FEW_IMAGES} and more give steadier results.",
                num=len(with_objects),
            )
        self.findings.add(
            "image.empty",
            "info",
            "{num} image{s} without an object",
            "They are used: they teach what to leave alone.",
            (image.path for image in usable if not len(image.labels)),
        )
        counts = Counter(int(label) for image in usable for label in image.labels[~image.ignored])
        rare = [labels[index] for index in range(len(labels)) if counts[index] < MIN_OBJECTS]
        self.findings.add(
            "class.rare",
            "warning",
            f"{{num}} class(es) with fewer than {MIN_OBJECTS} objects",
            "Such classes are learned badly and cannot be measured: add examples or leave the class out.",
            rare,
        )
        if len(counts) > 1 and max(counts.values()) > MAX_IMBALANCE * min(counts.values()):
            most, least = max(counts, key=lambda i: counts[i]), min(counts, key=lambda i: counts[i])
            self.findings.add(
                "class.imbalance",
                "warning",
                f"{counts[most]} objects of {labels[most]}, but {counts[least]} of {labels[least]}",
                "The rare classes will be found less reliably: add examples of them.",
                num=len(counts),
            )
        given = Counter(image.part for image in with_objects if image.part is not None)
        # A single part, such as a folder named val/, divides nothing.
        if len(given) > 1:
            if not given["train"]:
                self.findings.add(
                    "split.no_train",
                    "error",
                    "No usable images for training",
                    "The dataset's own parts leave none in train.",
                    num=0,
                )
            for part in PARTS[1:]:
                missing = [
                    label
                    for index, label in enumerate(labels)
                    if given[part] and not any((i.labels == index).any() for i in usable if i.part == part)
                ]
                self.findings.add(
                    f"split.no_{part}_objects",
                    "warning",
                    f"{{num}} class(es) without an object in the {part} part",
                    "Nothing can be said about them there.",
                    missing,
                )

    def _result(self, layout: str, labels: tuple[str, ...], usable: tuple[UsableImage, ...]) -> DetectionData:
        by_class: dict[int, list[str]] = defaultdict(list)
        for image in usable:
            for label in image.labels.tolist():
                by_class[label].append(image.path)
        classes = []
        for index, label in enumerate(labels):
            paths = list(dict.fromkeys(by_class[index]))
            picks = np.linspace(0, len(paths) - 1, min(MAX_EXAMPLES, len(paths))).round().astype(int)
            classes.append(
                ClassCount(
                    name=label, num_items=len(by_class[index]), examples=[paths[int(k)] for k in picks]
                )
            )
        facts = {"Format": layout, "Objects": str(sum(len(image.labels) for image in usable))}
        parts = Counter(image.part for image in usable)
        if any(part is not None for part in parts):
            facts["Parts"] = ", ".join(f"{parts[part]} {part}" for part in PARTS if parts[part])
        if usable:
            sizes = Counter(f"{image.width}x{image.height}" for image in usable)
            facts["Image sizes"] = ", ".join(f"{size} ({num})" for size, num in sizes.most_common(3))
            facts["Objects per image"] = f"{sum(len(i.labels) for i in usable) / len(usable):.1f}"
        findings = self.findings.sorted()
        blocked = any(finding.severity == "error" for finding in findings)
        report = CheckReport(
            item="images",
            layout=layout,
            num_files=len(self.files.sizes),
            num_items=len(usable),
            size_bytes=sum(self.files.sizes.values()),
            classes=classes,
            facts=facts,
            findings=findings,
            suits=() if blocked else ("object-detection",),
            duration_s=round(time.monotonic() - self.started, 3),
        )
        return DetectionData(report=report, labels=labels, usable=usable)


_TURNED = {
    5: lambda x, y: (y, x),
    6: lambda x, y: (1 - y, x),
    7: lambda x, y: (1 - y, 1 - x),
    8: lambda x, y: (y, 1 - x),
}
"""EXIF orientation -> where a point of the stored image, as fractions, lies in the upright one."""


def _part(image: RawImage) -> Part | None:
    return next(iter(image.parts), None)


def _natural(label: str) -> tuple[Any, ...]:
    """ "class 10" comes after "class 9"."""
    word, _, tail = label.rpartition(" ")
    return (word, int(tail), "") if tail.isdecimal() else (label, -1, "")


def _same_place_other_class(boxes_M4: np.ndarray, labels_M: np.ndarray) -> bool:
    if len(labels_M) < 2:
        return False
    low = np.maximum(boxes_M4[:, None, :2], boxes_M4[None, :, :2])
    both = (np.minimum(boxes_M4[:, None, 2:], boxes_M4[None, :, 2:]) - low).clip(0).prod(axis=2)
    area = (boxes_M4[:, 2:] - boxes_M4[:, :2]).prod(axis=1)
    overlap = both / np.maximum(area[:, None] + area[None] - both, 1e-12)
    return bool(((overlap >= _SAME_PLACE) & (labels_M[:, None] != labels_M[None])).any())
