"""The trivial baseline: how far an image's mean colour is from that of good images.

Whatever needs more than a look at the average must beat it; where it does well, lighting or exposure tell the
classes apart, which is worth knowing.

Shapes: N images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xtorch.data.check import UsableImage
from xtorch.tasks.images import read_pixels

_MIN_SIDE_PX = 64


def mean_colours(root: Path, images: Sequence[UsableImage]) -> np.ndarray:
    """Mean of red, green and blue of each image, float64 [N,3] in 0..255."""
    colours = [read_pixels(root, image.path, _MIN_SIDE_PX).mean(axis=(0, 1)) for image in images]
    return np.array(colours, dtype=np.float64).reshape(-1, 3)


def colour_scores(good_N3: np.ndarray, colours_N3: np.ndarray) -> np.ndarray:
    """Mahalanobis distance of colours to the good images' ones, float64 [N].

    Source: Mahalanobis, "On the generalised distance in statistics" (Proc. National Institute of Sciences of
    India 1936); half a grey level of rounding keeps the covariance invertible.
    """
    covariance = np.cov(good_N3, rowvar=False) + 0.25 * np.eye(3)
    centred_N3 = colours_N3 - good_N3.mean(axis=0)
    return np.sqrt(np.einsum("ni,ij,nj->n", centred_N3, np.linalg.inv(covariance), centred_N3))
