"""The data check of image classification: files, labels, and how many images there are of each class."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xtorch.data.check import UsableImage, examine_files, image_size_facts
from xtorch.data.classes import ClassFolder, scan_classes
from xtorch.data.findings import MAX_EXAMPLES, CheckReport, ClassCount, Finding, Findings
from xtorch.data.layout import ImageFile, ImageFolder
from xtorch.picks import evenly
from xtorch.progress import Progress

MIN_PER_CLASS = 5
"""A class with fewer usable training images is left out: it could not be both learned and measured."""
FEW_PER_CLASS = 20
_FEW_TEST = 50
_IMBALANCE = 10
_SHOWN_NAMES = 8


@dataclass(kw_only=True)
class ClassInspection:
    """Result of the check.

    Attributes:
        report: Fields of `wire.CheckReport`.
        labels: Names of the classes that training may use, sorted.
        usable: Images of these classes; `UsableImage.label` is a number of `labels`.
        errors: Findings that block training.
    """

    report: dict[str, Any]
    labels: tuple[str, ...]
    usable: list[UsableImage]
    errors: list[Finding]


def check(dataset_dir: str | Path, *, progress: Progress | None = None) -> dict[str, Any]:
    """Checks a folder of labelled images before training.

    Args:
        dataset_dir: The dataset, in one of the layouts of `xtorch.data.classes`.
        progress: Told about progress.

    Returns:
        The fields of `wire.CheckReport`. A finding of severity ``error`` blocks training.

    Raises:
        DataError: `dataset_dir` is not a folder.
    """
    return inspect_classes(scan_classes(dataset_dir), progress).report


def inspect_classes(folder: ClassFolder, progress: Progress | None = None) -> ClassInspection:
    """`check` for a scanned folder, with the images that may be used.

    Left out are unreadable files, all but one of equal files, all copies of a file with several labels,
    training images that are also in a given test part, and classes that are too small.
    """
    started = time.monotonic()
    findings = Findings()
    names = sorted({image.name for image in folder.images})
    numbers = {name: number for number, name in enumerate(names)}
    listed = ImageFolder(
        root=folder.root,
        layout="train_test" if folder.layout == "train_test" else "class_folders",
        images=tuple(
            ImageFile(
                path=image.path,
                label=numbers[image.name],
                class_name=image.name,
                kind=image.name,
                part=image.part,
            )
            for image in folder.images
        ),
        other_files=tuple(folder.other_files),
        num_files=folder.num_files,
        size_bytes=folder.size_bytes,
    )
    examined = examine_files(listed, findings, progress)
    _report_labels(folder, names, findings)
    labels, usable = _keep_classes(examined.usable, names, findings)
    _report_counts(folder, labels, usable, findings)
    readable: dict[str, list[str]] = defaultdict(list)
    for index in examined.readable:
        readable[folder.images[index].name].append(folder.images[index].path)
    facts = {"Classes used": str(len(labels))} | image_size_facts(
        [(examined.facts[index].width, examined.facts[index].height) for index in examined.readable]
    )
    if folder.table is not None:
        facts["Labels from"] = folder.table
    report = CheckReport(
        item="images",
        layout=folder.layout,
        num_files=folder.num_files,
        num_items=len(usable),
        size_bytes=folder.size_bytes,
        classes=[
            ClassCount(name=name, num_items=len(paths), examples=evenly(paths, MAX_EXAMPLES))
            for name, paths in sorted(readable.items())
        ],
        facts=facts,
        findings=findings.sorted(),
        duration_s=round(time.monotonic() - started, 3),
    )
    return ClassInspection(report=report.to_dict(), labels=labels, usable=usable, errors=findings.errors)


def _report_labels(folder: ClassFolder, names: Sequence[str], findings: Findings) -> None:
    findings.add(
        "label.none",
        "warning",
        "{num} image{s} without a class",
        "Put each image into the folder of its class, or list it in the table. These are left out.",
        folder.unlabelled,
    )
    findings.add(
        "label.missing_file",
        "warning",
        "{num} row{s} of the table without an image",
        "The file is not there, or several have this name. These rows are left out.",
        folder.missing,
    )
    findings.add(
        "label.contradiction",
        "warning",
        "{num} image{s} with several classes in the table",
        "Each image shows one class. These are left out until the table says which.",
        folder.contradictions,
    )
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        alike["".join(character for character in name.casefold() if character.isalnum())].append(name)
    pairs = [" / ".join(group) for key, group in alike.items() if key and len(group) > 1]
    findings.add(
        "class.similar_names",
        "warning",
        f"{{num}} class name{{s}} that differ in case or signs only: {_listed(pairs)}",
        "If they mean the same, give them one name: else the model has to guess which you meant.",
        num=len(pairs) or None,
    )


def _keep_classes(
    usable: Sequence[UsableImage], names: Sequence[str], findings: Findings
) -> tuple[tuple[str, ...], list[UsableImage]]:
    """Classes with enough images, and their images with new label numbers."""
    to_learn = Counter(image.label for image in usable if image.part != "test")
    kept = [number for number in range(len(names)) if to_learn[number] >= MIN_PER_CLASS]
    small = [names[number] for number in range(len(names)) if 0 < to_learn[number] < MIN_PER_CLASS]
    findings.add(
        "class.too_few",
        "warning",
        f"{{num}} class(es) left out: {_listed(small)}",
        f"A class needs at least {MIN_PER_CLASS} usable training images; {FEW_PER_CLASS} are better.",
        num=len(small) or None,
    )
    untaught = sorted(
        {names[image.label] for image in usable if image.part == "test" and not to_learn[image.label]}
    )
    findings.add(
        "test.unknown_class",
        "warning",
        f"{{num}} class(es) of the test part that training never saw: {_listed(untaught)}",
        "Nothing can recognise what it was never shown. Their images are left out.",
        num=len(untaught) or None,
    )
    renumbered = {number: index for index, number in enumerate(kept)}
    return tuple(names[number] for number in kept), [
        replace(image, label=renumbered[image.label]) for image in usable if image.label in renumbered
    ]


def _report_counts(
    folder: ClassFolder, labels: Sequence[str], usable: Sequence[UsableImage], findings: Findings
) -> None:
    if not folder.images:
        title = "No images" if not folder.unlabelled else "Images, but no classes"
        findings.add(
            "image.none",
            "error",
            title,
            "Upload JPEG, PNG, BMP, WebP or TIFF files in one folder per class, or a CSV with the columns "
            "file and label.",
            num=0,
        )
        return
    if len(labels) < 2:
        findings.add(
            "class.one",
            "error",
            f"{len(labels)} usable class" + ("es" if not labels else ""),
            f"At least two classes with {MIN_PER_CLASS} usable images each are needed to tell them apart.",
            num=len(labels),
        )
        return
    to_learn = Counter(image.label for image in usable if image.part != "test")
    few = [labels[number] for number in range(len(labels)) if to_learn[number] < FEW_PER_CLASS]
    findings.add(
        "class.few",
        "warning",
        f"{{num}} class(es) with fewer than {FEW_PER_CLASS} images: {_listed(few)}",
        "It works, but the model's answers for them are less reliable, and so is their measured accuracy.",
        num=len(few) or None,
    )
    most, least = to_learn.most_common()[0], to_learn.most_common()[-1]
    if most[1] > _IMBALANCE * least[1]:
        findings.add(
            "class.imbalance",
            "warning",
            f"{most[1]} images of {_listed([labels[most[0]]])}, {least[1]} of {_listed([labels[least[0]]])}",
            "Training tries giving rare classes more weight; more images of them help most.",
            num=most[1],
        )
    _report_test(labels, Counter(image.label for image in usable if image.part == "test"), findings)


def _report_test(labels: Sequence[str], tested: Mapping[int, int], findings: Findings) -> None:
    """Findings about a given test part."""
    if not tested:
        return
    absent = [name for number, name in enumerate(labels) if number not in tested]
    findings.add(
        "test.class_missing",
        "warning",
        f"{{num}} class(es) without test images: {_listed(absent)}",
        "How well they are recognised cannot be measured.",
        num=len(absent) or None,
    )
    total = sum(tested.values())
    findings.add(
        "test.few",
        "warning",
        f"Only {total} test images",
        f"The measured accuracy has a wide interval; {_FEW_TEST} and more make it narrower.",
        num=total if total < _FEW_TEST else None,
    )


def _listed(names: Sequence[str]) -> str:
    """Some names, with braces doubled: titles are format strings."""
    shown = ", ".join(names[:_SHOWN_NAMES]) + (", …" if len(names) > _SHOWN_NAMES else "")
    return shown.replace("{", "{{").replace("}", "}}")
