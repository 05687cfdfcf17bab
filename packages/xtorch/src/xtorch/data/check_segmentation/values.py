"""What the masks' values mean, and how many pixels of each image are of which class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from xtorch.data.check_segmentation.files import Pair
from xtorch.data.check_segmentation.usable import UsableImage
from xtorch.data.findings import Findings
from xtorch.data.label_masks import IGNORED, MaskLegend, read_raw_mask
from xtorch.data.mask_classes import Understood


def report_values(
    pairs: Sequence[Pair],
    understood: Understood,
    *,
    class_list: str | None,
    num_listed: int,
    findings: Findings,
) -> list[Pair]:
    """Findings about what masks hold; the pairs without photographs.

    Args:
        class_list: The file that names the classes; None: none does.
        num_listed: Classes in it.
    """
    names = [pair.mask for pair in pairs if pair.facts is not None]

    def at(places: frozenset[int]) -> list[str]:
        return [names[place] for place in places]

    photographs = set(at(understood.photographs))
    findings.add(
        "mask.photograph",
        "warning",
        "{num} photograph{s} among the masks",
        "They hold colours or shades that no class has, as photographs do. They are left out, and their "
        "images.",
        photographs,
    )
    findings.add(
        "mask.blurred",
        "info",
        "{num} mask{s} with blurred edges or noise",
        "Saved as JPEG, or drawn with smooth edges: each pixel becomes the class of the nearest value. PNG "
        "without smoothing keeps classes exact.",
        at(understood.blurred),
    )
    findings.add(
        "mask.unknown_value",
        "warning",
        "{num} mask{s} with values that no class has",
        f"{class_list} does not list them; these pixels are neither learned nor counted.",
        at(understood.unknown),
    )
    findings.add(
        "classes.unmatched",
        "warning",
        "The list of classes does not fit the masks",
        f"{class_list} lists {num_listed} classes, the masks hold others or another number. The list is not "
        "used: write value and name of each class, a class a line.",
        num=num_listed if understood.unmatched else None,
    )
    findings.add(
        "mask.mixed_values",
        "warning",
        "Masks paint the same class with different values",
        "Some use 1, others 255; both are taken as the foreground.",
        num=len(names) if understood.mixed else None,
    )
    findings.add(
        "mask.void",
        "info",
        'The value 255 is taken as "not labelled"',
        "Its pixels are neither learned nor counted. If it is a class, list it: classes.txt with value and "
        "name a line.",
        num=len(names) if understood.void else None,
    )
    return [pair for pair in pairs if pair.mask not in photographs]


def usable_images(
    root: Path, pairs: Sequence[Pair], understood: Understood, findings: Findings
) -> tuple[tuple[UsableImage, ...], Understood]:
    """Images with their pixels of each class; classes that no pixel shows are left out."""
    num, legend = len(understood.names), understood.legend
    if understood.background is None:
        findings.add(
            "mask.no_background",
            "warning",
            "{num} image{s} without a mask, though no class is the background",
            "They are left out: it cannot be said what they show.",
            (pair.image.path for pair in pairs if pair.facts is None),
        )
        pairs = [pair for pair in pairs if pair.facts is not None]
    counted = [_pixels(root, pair, legend, num, understood.background) for pair in pairs]
    kept = np.flatnonzero(sum(counted, start=np.zeros(num, np.int64))).tolist()
    findings.add(
        "class.unused",
        "info",
        "{num} listed class(es) without a pixel",
        "They are left out of the model.",
        [name for number, name in enumerate(understood.names) if number not in kept],
    )
    renumbered = {number: place for place, number in enumerate(kept)}
    classes = {code: renumbered.get(number, IGNORED) for code, number in legend.classes.items()}
    background = understood.background
    understood = replace(
        understood,
        legend=replace(legend, classes=classes),
        names=tuple(understood.names[number] for number in kept),
        background=None if background is None else renumbered.get(background),
    )
    return tuple(
        UsableImage(
            path=pair.image.path,
            mask=pair.image.mask,
            width=pair.width,
            height=pair.height,
            pixels=pixels_K[kept],
            part=pair.image.part,
            digest=pair.digest,
            group=pair.group,
        )
        for pair, pixels_K in zip(pairs, counted, strict=True)
    ), understood


def _pixels(root: Path, pair: Pair, legend: MaskLegend, num: int, background: int | None) -> np.ndarray:
    """The mask's pixels of each class, int64 [K]."""
    pixels_K = np.zeros(num, np.int64)
    facts = pair.facts
    if facts is None:
        assert background is not None
        pixels_K[background] = pair.width * pair.height
        return pixels_K
    if facts.rest == 0 and (legend.kind == "colour") == (facts.kind == "colour"):
        codes, counts = np.array(list(facts.counts)), np.array(list(facts.counts.values()))
    else:
        raw = read_raw_mask(root / pair.mask).as_kind(legend.kind)
        codes, counts = np.unique(raw.codes_HW, return_counts=True)
    numbers = legend.numbers(codes)
    known = numbers != IGNORED
    np.add.at(pixels_K, numbers[known], counts[known])
    return pixels_K
