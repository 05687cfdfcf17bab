"""Which candidate is kept, by the validation part: with real defects, or else with drawn ones.

Shapes: N images, C channels, h and w rows and columns of the patch grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from xtorch.data.check import UsableImage
from xtorch.metrics import auroc
from xtorch.picks import evenly
from xtorch.tasks.anomaly.candidates import Candidate, pooled
from xtorch.tasks.anomaly.features import FeatureExtractor
from xtorch.tasks.anomaly.operating_point import MIN_DEFECTIVE
from xtorch.tasks.anomaly.synthetic import DAMAGES, damaged
from xtorch.tasks.images import read_pixels

SYNTHETIC = "synthetic"
"""Part of `Candidate.values`: good validation images with drawn damage."""
MAX_SYNTHETIC = 96
_OPTIONS: tuple[tuple[float, ...], ...] = ((0.02,), (0.2,))
_PREFERENCE = 0.01
"""The default stays unless another is better by more than this: validation parts are small."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """
    Attributes:
        winner: The candidate that is kept.
        metric: What decided: ``image_auroc``, ``synthetic_auroc``; None: nothing could, the first is kept.
        num_compared: How many scores were compared by the validation images.
    """

    winner: Candidate
    metric: str | None
    num_compared: int


def damaged_copies(images: Sequence[np.ndarray], *, seed: int) -> list[np.ndarray]:
    """Copies of good images with damage drawn into them, each kind of damage in turn: uint8 [H,W,3].

    Args:
        images: uint8 RGB [H,W,3] of any sizes, at least one.
        seed: Decides where and how.
    """
    kinds = list(DAMAGES)
    return [
        damaged(
            image_HW3, images[(index + 1) % len(images)], kind=kinds[index % len(kinds)], seed=seed + index
        )
        for index, image_HW3 in enumerate(images)
    ]


def damaged_maps(
    extractor: FeatureExtractor,
    root: Path,
    good: Sequence[UsableImage],
    *,
    seed: int,
    report: Callable[[int, int], None],
) -> list[Tensor]:
    """Feature maps of damaged copies of at most `MAX_SYNTHETIC` images: float16 [N,C,h,w] for each stride.

    Args:
        extractor: Makes the maps.
        root: The dataset's folder.
        good: Good images, at least one.
        seed: Decides where the damage is, and how it looks.
        report: Called with (done, total) now and then.
    """
    side = extractor.config.input_size
    pixels = [read_pixels(root, image.path, side) for image in evenly(good, MAX_SYNTHETIC)]
    return extractor.maps_of(damaged_copies(pixels, seed=seed), report)


def select(candidates: Sequence[Candidate], labels_N: np.ndarray) -> Selection:
    """Keep the candidate, and the shares of patches that make its score, with the highest validation AUROC.

    Args:
        candidates: With `values` of ``validation`` and, where there is no real one, of `SYNTHETIC`.
        labels_N: Of the validation part.
    """
    real = int(labels_N.sum()) >= MIN_DEFECTIVE and bool((labels_N == 0).any())
    good = labels_N == 0
    if not real and not all(SYNTHETIC in candidate.values for candidate in candidates):
        for candidate in candidates:
            candidate.settings["top_fractions"] = list(candidate.top_fractions)
        return Selection(winner=candidates[0], metric=None, num_compared=1)

    def value(candidate: Candidate, fractions: tuple[float, ...]) -> float:
        scores_N = pooled(candidate.values["validation"], fractions).numpy()
        if real:
            return auroc(labels_N, scores_N)
        damaged_N = pooled(candidate.values[SYNTHETIC], fractions).numpy()
        truth_N = np.repeat([0, 1], [int(good.sum()), len(damaged_N)])
        return auroc(truth_N, np.concatenate([scores_N[good], damaged_N]))

    num_compared = 0
    for candidate in candidates:
        options = [candidate.top_fractions, *(o for o in _OPTIONS if o != candidate.top_fractions)]
        values = [value(candidate, option) for option in options]
        best = int(np.argmax([v + (_PREFERENCE if index == 0 else 0.0) for index, v in enumerate(values)]))
        candidate.top_fractions = options[best]
        candidate.settings["top_fractions"] = list(options[best])
        candidate.validation_auroc = values[best]
        num_compared += candidate.num_fits * len(options)
    return Selection(
        winner=max(candidates, key=lambda candidate: candidate.validation_auroc or 0.0),
        metric="image_auroc" if real else "synthetic_auroc",
        num_compared=num_compared,
    )
