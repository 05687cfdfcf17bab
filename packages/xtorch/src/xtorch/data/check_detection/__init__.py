"""The data check of object detection: what is in a folder of images with boxes, what is wrong with it.

`inspect_detection` also gives what training may use: readable images, boxes cleaned and in fractions of the
upright image, a part for each image where the dataset gives one.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xtorch.data.annotations import Annotations, DatasetFiles, read_annotations
from xtorch.data.check_detection import amounts, files
from xtorch.data.check_detection.boxes import BoxCheck, used_labels
from xtorch.data.check_detection.usable import DetectionData, UsableImage
from xtorch.data.findings import CheckReport, Findings, Severity
from xtorch.progress import Progress, silent

__all__ = ["PROBLEMS", "DetectionData", "UsableImage", "check", "inspect_detection"]

PROBLEMS: Mapping[str, tuple[Severity, str, str]] = {
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
    started_s = time.monotonic()
    dataset, findings = DatasetFiles(dataset_dir), Findings()
    annotations, others = read_annotations(dataset)
    layout: str = "unknown"
    labels: tuple[str, ...] = ()
    usable: tuple[UsableImage, ...] = ()
    if annotations is None:
        _report_nothing_annotated(dataset, findings)
    else:
        for other in others:
            findings.add(
                "annotation.other_format",
                "info",
                f"There are {other} annotations as well",
                f"Those in the {annotations.format} format are used, which hold more boxes.",
                num=1,
            )
        layout = annotations.format
        labels, usable = _usable(dataset, annotations, findings, progress or silent)
        amounts.report_amounts(usable, labels, findings)
    report = CheckReport(
        item="images",
        layout=layout,
        num_files=len(dataset.sizes),
        num_items=len(usable),
        size_bytes=sum(dataset.sizes.values()),
        classes=amounts.class_counts(usable, labels),
        facts=amounts.facts(layout, usable),
        findings=findings.sorted(),
        suits=() if findings.errors else ("object-detection",),
        duration_s=round(time.monotonic() - started_s, 3),
    )
    return DetectionData(report=report, labels=labels, usable=usable)


def _usable(
    dataset: DatasetFiles, annotations: Annotations, findings: Findings, progress: Progress
) -> tuple[tuple[str, ...], tuple[UsableImage, ...]]:
    """Labels and images that may be used; each step adds to the findings and hands on what is left."""
    _report_problems(annotations, findings)
    images = files.parts(annotations, dataset.images, findings)
    read = files.read_files(dataset.root, images, progress)
    images = files.readable(images, read, findings)
    images = files.without_copies(images, read, findings)
    labels = used_labels(annotations, images, findings)
    boxes = BoxCheck(labels)
    cleaned = [boxes.clean(image, read[image.path]) for image in images]
    boxes.report(findings)
    groups = files.near_groups(images, read, findings)
    usable = tuple(
        UsableImage(
            path=image.path,
            width=read[image.path].width,
            height=read[image.path].height,
            boxes=clean.boxes,
            labels=clean.labels,
            ignored=clean.ignored,
            part=files.part_of_image(image),
            digest=read[image.path].facts.digest,
            group=group,
        )
        for image, clean, group in zip(images, cleaned, groups, strict=True)
    )
    return labels, usable


def _report_problems(annotations: Annotations, findings: Findings) -> None:
    noted: dict[str, list[str]] = defaultdict(list)
    for problem in annotations.problems:
        noted[problem.code].append(problem.where)
    for code, (severity, title, hint) in PROBLEMS.items():
        findings.add(code, severity, title, hint, noted[code])


def _report_nothing_annotated(dataset: DatasetFiles, findings: Findings) -> None:
    if not dataset.images:
        findings.add(
            "image.none",
            "error",
            "No images",
            "Upload JPEG, PNG, BMP, WebP or TIFF files with their annotations.",
            num=0,
        )
        return
    findings.add(
        "annotation.none",
        "error",
        "No annotations",
        "Add boxes in one of these formats: COCO (JSON), YOLO (a text file for each image), Pascal VOC (an "
        "XML file for each image), or a CSV table with the columns image, label, xmin, ymin, xmax, ymax.",
        num=len(dataset.images),
    )
