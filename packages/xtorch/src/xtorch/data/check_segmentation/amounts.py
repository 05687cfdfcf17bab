"""How many images there are, and how much of which class; whether that is enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from xtorch.data.annotations import PARTS
from xtorch.data.check import image_size_facts
from xtorch.data.check_segmentation.usable import UsableImage
from xtorch.data.findings import MAX_EXAMPLES, ClassCount, Findings
from xtorch.data.mask_classes import Understood
from xtorch.picks import evenly

MIN_IMAGES = 12
"""Fewer usable images cannot be trained on, decided by and tested on."""
FEW_IMAGES = 60
MIN_PER_CLASS = 6
"""A class in fewer images can hardly be in all three parts."""
_RARE_SHARE = 1e-4
"""Of all pixels; a class with less is barely to be seen."""
_SHOWN_NAMES = 8
_KINDS = {"value": "grey values", "index": "palette indices", "colour": "colours"}


def report_amounts(
    usable: Sequence[UsableImage], labels: Sequence[str], background: int | None, findings: Findings
) -> None:
    """Findings about how many images there are, and how much of which class."""
    if len(usable) < MIN_IMAGES:
        findings.add(
            "image.too_few",
            "error",
            f"Only {len(usable)} usable image{'' if len(usable) == 1 else 's'} with masks",
            f"At least {MIN_IMAGES} are needed to train and test; {FEW_IMAGES} and more work better.",
            num=len(usable),
        )
        return
    if len(labels) < 2:
        only = f": all pixels are {_listed(labels)}" if labels else ""
        findings.add(
            "class.one",
            "error",
            f"{len(labels)} class{'' if len(labels) == 1 else 'es'} in the masks{only}",
            "At least two are needed, such as the background and what is to be marked.",
            num=len(labels),
        )
        return
    findings.add(
        "image.few",
        "warning",
        "{num} usable images with masks",
        f"It works, but {FEW_IMAGES} and more give steadier results.",
        num=len(usable) if len(usable) < FEW_IMAGES else None,
    )
    shown = Counter(int(label) for image in usable for label in image.labels)
    findings.add(
        "mask.empty",
        "info",
        "{num} mask{s} with nothing but background",
        "They are used: they teach what to leave alone.",
        (
            image.mask
            for image in usable
            if image.mask is not None and background is not None and image.labels.tolist() == [background]
        ),
    )
    total_K = pixels_of(usable, len(labels))
    rare = [label for number, label in enumerate(labels) if shown[number] < MIN_PER_CLASS]
    findings.add(
        "class.rare",
        "warning",
        f"{{num}} class(es) in fewer than {MIN_PER_CLASS} images: {_listed(rare)}",
        "Such classes are learned badly and cannot be measured: add images or leave the class out.",
        num=len(rare) or None,
    )
    small = [
        label
        for number, label in enumerate(labels)
        if total_K[number] < _RARE_SHARE * total_K.sum() and label not in rare
    ]
    findings.add(
        "class.small",
        "warning",
        f"{{num}} class(es) with less than {_RARE_SHARE:.2%} of the pixels: {_listed(small)}",
        "They are hard to see once images are scaled: cut images into tiles, or choose a larger input.",
        num=len(small) or None,
    )
    _report_parts(usable, labels, findings)


def _report_parts(usable: Sequence[UsableImage], labels: Sequence[str], findings: Findings) -> None:
    """Findings about given parts; a single one divides nothing."""
    given = Counter(image.part for image in usable if image.part is not None)
    if len(given) < 2:
        return
    if not given["train"]:
        findings.add(
            "split.no_train",
            "error",
            "No usable images for training",
            "The dataset's own parts leave none in train.",
            num=0,
        )
    for part in PARTS:
        members = [image for image in usable if image.part == part]
        absent = [
            label
            for number, label in enumerate(labels)
            if members and not any(image.pixels[number] for image in members)
        ]
        findings.add(
            f"split.no_{part}_pixels",
            "warning",
            f"{{num}} class(es) without a pixel in the {part} part: {_listed(absent)}",
            "It cannot be learned." if part == "train" else "Nothing can be said about them there.",
            num=len(absent) or None,
        )


def class_counts(usable: Sequence[UsableImage], labels: Sequence[str]) -> list[ClassCount]:
    """How many images show each class."""
    found = []
    for number, label in enumerate(labels):
        paths = [image.path for image in usable if image.pixels[number]]
        found.append(ClassCount(name=label, num_items=len(paths), examples=evenly(paths, MAX_EXAMPLES)))
    return found


def facts(usable: Sequence[UsableImage], understood: Understood, class_list: str | None) -> dict[str, str]:
    """`CheckReport.facts`.

    Args:
        class_list: The file that names the classes; None: none does.
    """
    if not usable:
        return {}
    total_K = pixels_of(usable, len(understood.names))
    share_K = total_K / max(int(total_K.sum()), 1)
    order = np.argsort(-share_K, kind="stable")[:_SHOWN_NAMES]
    found = {
        "Masks": _KINDS[understood.legend.kind],
        "Share of pixels": ", ".join(f"{understood.names[k]} {share_K[k]:.2%}" for k in order),
    }
    if class_list is not None:
        found["Classes from"] = class_list
    parts = Counter(image.part for image in usable if image.part is not None)
    if parts:
        found["Parts"] = ", ".join(f"{parts[part]} {part}" for part in PARTS if parts[part])
    return found | image_size_facts([(image.width, image.height) for image in usable])


def pixels_of(usable: Sequence[UsableImage], num_classes: int) -> np.ndarray:
    """Pixels of each class in all images, int64 [K]."""
    total_K: np.ndarray = sum((image.pixels for image in usable), start=np.zeros(num_classes, np.int64))
    return total_K


def _listed(names: Sequence[str]) -> str:
    """Some names, with braces doubled: titles are format strings."""
    shown = ", ".join(names[:_SHOWN_NAMES]) + (", …" if len(names) > _SHOWN_NAMES else "")
    return shown.replace("{", "{{").replace("}", "}}")
