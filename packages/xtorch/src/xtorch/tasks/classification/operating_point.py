"""From which confidence on an answer needs no review.

Shapes: N images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from xtorch.class_metrics import bootstrap
from xtorch.metrics import wilson


@dataclass(frozen=True, kw_only=True)
class ReviewPoint:
    """
    Attributes:
        threshold: Answers with a lower confidence go to a person.
        low, high: Its 95 % interval (bootstrap).
    """

    threshold: float
    low: float
    high: float
    review_cost: float
    num_images: int

    def to_dict(self, confidence_N: np.ndarray, right_N: np.ndarray) -> dict[str, Any]:
        """`Report.operating_point`, with what the threshold does on the test part."""
        answered = confidence_N >= self.threshold
        review = 1 - answered.mean()
        missed = float((answered & ~right_N).mean())
        return {
            "threshold": self.threshold,
            "threshold_low": self.low,
            "threshold_high": self.high,
            "rule": (
                f"least cost on {self.num_images} images that the model did not see, where a review costs "
                f"{self.review_cost:g} of a wrong answer"
            ),
            "chosen_on": "validation",
            "review_share": wilson(int((~answered).sum()), len(answered)).to_dict(),
            "top1_without_review": wilson(int((right_N & answered).sum()), int(answered.sum())).to_dict(),
            "cost_per_image": missed + self.review_cost * float(review),
            "cost_per_image_without_reviews": float((~right_N).mean()),
        }


def choose(confidence_N: np.ndarray, right_N: np.ndarray, *, review_cost: float, seed: int) -> ReviewPoint:
    """The threshold with the least cost.

    Args:
        confidence_N: Probability of the answer, of images that the model did not see.
        right_N: Whether the answer is right.
        review_cost: As a share of a wrong answer's.

    Source: Chow, "On optimum recognition error and reject tradeoff" (IEEE Trans. Information Theory 1970):
    for true probabilities the best threshold is ``1 - review_cost``; here it is the best on the data.
    """

    def best(picks: np.ndarray) -> float:
        return _cheapest(confidence_N[picks], right_N[picks], review_cost)

    interval = bootstrap(best, len(confidence_N), seed=seed)
    return ReviewPoint(
        threshold=interval.value,
        low=interval.low,
        high=interval.high,
        review_cost=review_cost,
        num_images=len(confidence_N),
    )


def _cheapest(confidence_N: np.ndarray, right_N: np.ndarray, review_cost: float) -> float:
    """Of thresholds between confidences, the cheapest; of equal ones, the nearest to Chow's."""
    order = np.argsort(confidence_N, kind="stable")
    values = confidence_N[order]
    wrong = ~right_N[order]
    # With a cut before place k, the k least confident answers are reviewed and the rest are given.
    reviewed = np.arange(len(values) + 1)
    given_wrong = np.concatenate([np.cumsum(wrong[::-1])[::-1], [0]])
    cost = given_wrong + review_cost * reviewed
    cuts = np.concatenate([[0.0], (values[1:] + values[:-1]) / 2, [1.0]])
    # A cut between equal confidences would not cut.
    possible = np.concatenate([[True], values[1:] > values[:-1], [True]])
    cost = np.where(possible, cost, np.inf)
    cheapest = np.flatnonzero(cost == cost.min())
    return float(cuts[cheapest[np.argmin(np.abs(cuts[cheapest] - (1 - review_cost)))]])
