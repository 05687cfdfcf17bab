"""The data check of segmentation: images, masks, what the masks' values mean, and how much there is of what.

`inspect_segmentation` also gives what training may use: readable images, each with a mask that fits, and the
legend that turns the masks' values into classes.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from xtorch.data.check_segmentation import amounts, files, values
from xtorch.data.check_segmentation.usable import SegmentationData, UsableImage
from xtorch.data.findings import CheckReport, Findings
from xtorch.data.label_masks import MaskLegend
from xtorch.data.mask_classes import Understood, understand
from xtorch.data.mask_pairs import MaskFolder, scan_masks
from xtorch.errors import DataError
from xtorch.progress import Progress, silent

__all__ = ["SegmentationData", "UsableImage", "check", "inspect_segmentation"]

_NOTHING = Understood(legend=MaskLegend(kind="value", classes={}), names=(), background=None)


def check(dataset_dir: str | Path, *, progress: Progress | None = None) -> dict[str, Any]:
    """Checks a folder of images with masks, laid out as `xtorch.data.mask_pairs` says.

    Returns:
        The fields of `wire.CheckReport`. A finding of severity ``error`` blocks training.

    Raises:
        DataError: `dataset_dir` is not a folder.
    """
    return inspect_segmentation(dataset_dir, progress).report.to_dict()


def inspect_segmentation(dataset_dir: str | Path, progress: Progress | None = None) -> SegmentationData:
    """`check`, with the images and the legend that training may use.

    Left out are unreadable images and masks, images without a mask, masks of another shape, photographs that
    pose as masks, all but one of equal images, all copies of an image whose masks differ, training images
    that are also in a given test part, and classes that no pixel shows.
    """
    started_s = time.monotonic()
    folder, findings = scan_masks(dataset_dir), Findings()
    usable: tuple[UsableImage, ...] = ()
    understood, class_list = _NOTHING, None
    if folder.images:
        usable, understood, class_list = _usable(folder, findings, progress or silent)
    else:
        files.report_nothing(folder, findings)
    report = CheckReport(
        item="images",
        layout=folder.layout,
        num_files=folder.num_files,
        num_items=len(usable),
        size_bytes=folder.size_bytes,
        classes=amounts.class_counts(usable, understood.names),
        facts=amounts.facts(usable, understood, class_list),
        findings=findings.sorted(),
        suits=() if findings.errors else ("image-segmentation",),
        duration_s=round(time.monotonic() - started_s, 3),
    )
    return SegmentationData(
        report=report,
        labels=understood.names,
        background=understood.background,
        legend=understood.legend,
        usable=usable,
    )


def _usable(
    folder: MaskFolder, findings: Findings, progress: Progress
) -> tuple[tuple[UsableImage, ...], Understood, str | None]:
    """Images that may be used, what their masks mean, and the file that says so."""
    class_list, entries = files.class_list(folder, findings)
    files.report_pairs(folder, findings)
    masks = files.read_masks(folder, findings, progress)
    images = files.without_contradictions(folder, masks, findings)
    pairs = files.pairs(folder, images, masks, findings, progress)
    try:
        understood = understand([pair.facts for pair in pairs if pair.facts is not None], entries)
    except DataError as error:
        findings.add("class.too_many", "error", error.message.rstrip("."), error.hint or "", num=0)
        return (), _NOTHING, class_list
    pairs = values.report_values(
        pairs, understood, class_list=class_list, num_listed=len(entries), findings=findings
    )
    usable, understood = values.usable_images(folder.root, pairs, understood, findings)
    amounts.report_amounts(usable, understood.names, understood.background, findings)
    return usable, understood, None if understood.unmatched else class_list
