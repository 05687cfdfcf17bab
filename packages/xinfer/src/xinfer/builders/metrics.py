"""Metrics that need no labels: how well an engine agrees with its source model.

Legend: N samples, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xinfer.verify import cosine_agreement

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Outputs = dict[str, np.ndarray]


def mean_cosine(outputs: Sequence[Outputs], source: Sequence[Outputs]) -> float:
    """Mean over the samples of the lowest cosine over the outputs.

    Args:
        outputs, source: One dict per sample, of the engine and of the source model.

    Returns:
        A number in -1..1; 1 for the source model itself.
    """
    return float(
        np.mean(
            [
                min(cosine_agreement(found[name], expected[name]) for name in expected)
                for found, expected in zip(outputs, source, strict=True)
            ]
        )
    )


def top1_agreement(outputs: Sequence[Outputs], source: Sequence[Outputs]) -> float:
    """Share of rows whose greatest value stands in the same place as the source model's.

    Args:
        outputs, source: One dict per sample; the first output is taken, [..., C].

    Returns:
        A number in 0..1.
    """
    same = [
        next(iter(found.values())).argmax(axis=-1) == next(iter(expected.values())).argmax(axis=-1)
        for found, expected in zip(outputs, source, strict=True)
    ]
    return float(np.mean(np.concatenate([np.ravel(each) for each in same])))


AGREEMENT: dict[str, Callable[[Sequence[Outputs], Sequence[Outputs]], float]] = {
    "cosine": mean_cosine,
    "top1_agreement": top1_agreement,
}
"""Metric -> how it is computed from the candidate's outputs and the source model's; 1 is full agreement."""
