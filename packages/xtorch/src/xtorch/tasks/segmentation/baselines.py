"""Trivial labellers that a trained one has to beat.

Shapes: H and W rows and columns, K classes, P colours.
"""

from __future__ import annotations

import cv2
import numpy as np

from xtorch.picks import evenly
from xtorch.tasks.segmentation.judge import HeldOutImages
from xtorch.tasks.segmentation.samples import TrainingImages

_BITS = 4
"""Of each channel that the colour table tells apart."""
_MAX_IMAGES = 200


def most_frequent(images: HeldOutImages, number: int) -> list[np.ndarray]:
    """The same class everywhere."""
    return [np.full(truth_HW.shape, number, np.uint8) for truth_HW in images.truth]


class ByColour:
    """Each pixel's most likely class by its colour alone: a table of how often each colour is which class.

    Args:
        images: Of the training part; at most 200, evenly spread.
        num_classes: K.
    """

    def __init__(self, images: TrainingImages, num_classes: int) -> None:
        counts_PK = np.zeros(((1 << _BITS) ** 3, num_classes), np.int64)
        for index in evenly(range(len(images)), _MAX_IMAGES):
            sample = images.sample(index)
            assert sample.mask_HW is not None
            known_HW = sample.mask_HW < num_classes
            np.add.at(counts_PK, (_codes(sample.image_HWC)[known_HW], sample.mask_HW[known_HW]), 1)
        # Colours that were never seen are taken for the most frequent class.
        self._class_P = (counts_PK + counts_PK.sum(axis=0) / max(1, counts_PK.sum())).argmax(axis=1)

    def answers(self, images: HeldOutImages) -> list[np.ndarray]:
        """Class numbers uint8 [H,W] of each image at its judged size."""
        found = []
        name = images.task.input.name
        for feeds, truth_HW in zip(images.feeds, images.truth, strict=True):
            height, width = truth_HW.shape
            pixels_HW3 = cv2.resize(feeds[name][0], (width, height), interpolation=cv2.INTER_AREA)
            found.append(self._class_P[_codes(pixels_HW3)].astype(np.uint8))
        return found


def _codes(pixels_HW3: np.ndarray) -> np.ndarray:
    """The place of each pixel's colour in the table, int64 [H,W]."""
    parts = (pixels_HW3 >> (8 - _BITS)).astype(np.int64)
    codes: np.ndarray = (parts[..., 0] << 2 * _BITS) | (parts[..., 1] << _BITS) | parts[..., 2]
    return codes
