"""How many images and objects there are of what, and whether that is enough."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from xtorch.data.annotations import PARTS
from xtorch.data.check_detection.usable import UsableImage
from xtorch.data.findings import MAX_EXAMPLES, ClassCount, Findings
from xtorch.picks import evenly

MIN_IMAGES = 20
"""Fewer usable images with objects cannot be trained on and tested."""
MIN_OBJECTS = 10
"""A class with fewer objects is learned badly, if at all."""
FEW_IMAGES = 100
MAX_IMBALANCE = 20


def report_amounts(usable: Sequence[UsableImage], labels: Sequence[str], findings: Findings) -> None:
    """Findings about how many images and objects there are of what."""
    with_objects = [image for image in usable if len(image.labels)]
    if not labels or not with_objects:
        findings.add(
            "object.none",
            "error",
            "No usable objects",
            "None of the annotations is a box in a readable image; see the other findings.",
            num=0,
        )
        return
    if len(with_objects) < MIN_IMAGES:
        findings.add(
            "image.too_few",
            "error",
            f"Only {len(with_objects)} usable images with objects",
            f"At least {MIN_IMAGES} are needed to train and test; {FEW_IMAGES} and more work better.",
            num=len(with_objects),
        )
    elif len(with_objects) < FEW_IMAGES:
        findings.add(
            "image.few",
            "warning",
            f"{len(with_objects)} usable images with objects",
            f"It works, but {FEW_IMAGES} and more give steadier results.",
            num=len(with_objects),
        )
    findings.add(
        "image.empty",
        "info",
        "{num} image{s} without an object",
        "They are used: they teach what to leave alone.",
        (image.path for image in usable if not len(image.labels)),
    )
    _report_classes(usable, labels, findings)
    _report_parts(usable, labels, findings)


def _report_classes(usable: Sequence[UsableImage], labels: Sequence[str], findings: Findings) -> None:
    counts = Counter(int(label) for image in usable for label in image.labels[~image.ignored])
    findings.add(
        "class.rare",
        "warning",
        f"{{num}} class(es) with fewer than {MIN_OBJECTS} objects",
        "Such classes are learned badly and cannot be measured: add examples or leave the class out.",
        [label for index, label in enumerate(labels) if counts[index] < MIN_OBJECTS],
    )
    present = {index: num for index, num in counts.items() if num}
    if len(present) > 1 and max(present.values()) > MAX_IMBALANCE * min(present.values()):
        most, least = max(present, key=present.__getitem__), min(present, key=present.__getitem__)
        findings.add(
            "class.imbalance",
            "warning",
            f"{present[most]} objects of {labels[most]}, but {present[least]} of {labels[least]}",
            "The rare classes will be found less reliably: add examples of them.",
            num=len(present),
        )


def _report_parts(usable: Sequence[UsableImage], labels: Sequence[str], findings: Findings) -> None:
    given = Counter(image.part for image in usable if len(image.labels) and image.part is not None)
    if len(given) < 2:
        # A single part, such as a folder named val/, divides nothing.
        return
    if not given["train"]:
        findings.add(
            "split.no_train",
            "error",
            "No usable images for training",
            "The dataset's own parts leave none in train.",
            num=0,
        )
    for part in PARTS[1:]:
        if not given[part]:
            continue
        there = {int(label) for image in usable if image.part == part for label in image.labels}
        findings.add(
            f"split.no_{part}_objects",
            "warning",
            f"{{num}} class(es) without an object in the {part} part",
            "Nothing can be said about them there.",
            [label for index, label in enumerate(labels) if index not in there],
        )


def class_counts(usable: Sequence[UsableImage], labels: Sequence[str]) -> list[ClassCount]:
    """Objects of each class, and images to show."""
    by_class: dict[int, list[str]] = defaultdict(list)
    for image in usable:
        for label in image.labels.tolist():
            by_class[label].append(image.path)
    classes = []
    for index, label in enumerate(labels):
        examples = evenly(list(dict.fromkeys(by_class[index])), MAX_EXAMPLES)
        classes.append(ClassCount(name=label, num_items=len(by_class[index]), examples=examples))
    return classes


def facts(layout: str, usable: Sequence[UsableImage]) -> dict[str, str]:
    """What was inferred, for people."""
    found = {"Format": layout, "Objects": str(sum(len(image.labels) for image in usable))}
    parts = Counter(image.part for image in usable)
    if any(part is not None for part in parts):
        found["Parts"] = ", ".join(f"{parts[part]} {part}" for part in PARTS if parts[part])
    if usable:
        sizes = Counter(f"{image.width}x{image.height}" for image in usable)
        found["Image sizes"] = ", ".join(f"{size} ({num})" for size, num in sizes.most_common(3))
        found["Objects per image"] = f"{sum(len(i.labels) for i in usable) / len(usable):.1f}"
    return found
