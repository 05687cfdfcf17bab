"""Where "defective" begins: by what a wrong answer may cost, with what the data allow to promise.

A promise is distribution-free: whatever the scores' distribution, if the next images come from where the
validation images came from, the true rate is at most the promised one in 95 of 100 such data sets.

Shapes: N images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from xtorch.errors import SettingsError
from xtorch.metrics import best_f1_threshold

CONFIDENCE = 0.95
DEFAULT_MAX_FALSE_ALARM_RATE = 0.05
MIN_DEFECTIVE = 4
"""Fewer defective validation images decide nothing."""


@dataclass(frozen=True, kw_only=True)
class Promise:
    """``rate`` is at most `at_most`, with `confidence`, by `num` images."""

    rate: Literal["false_alarm_rate", "miss_rate"]
    at_most: float
    confidence: float
    num: int


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """``score >= threshold`` means defective; `rule` says in words how it was chosen."""

    threshold: float
    rule: str
    promise: Promise | None = None

    def to_dict(self) -> dict[str, Any]:
        """For `Report.operating_point`."""
        promised = {} if self.promise is None else {"promised": vars(self.promise)}
        return {"threshold": self.threshold, "rule": self.rule, "chosen_on": "validation", **promised}


def tolerance_rank(num: int, rate: float, *, confidence: float) -> tuple[int, float]:
    """Which of `num` sorted scores bounds a share of the distribution, and which share it bounds.

    The share of the distribution above the k-th smallest of n independent scores has a Beta(n - k + 1, k)
    distribution, whatever the scores' own (continuous) one is.

    Args:
        num: Number of scores, at least 1.
        rate: Share that may lie above, in (0, 1).
        confidence: With which it is to hold.

    Returns:
        The smallest k, counted from 1, above which at most `rate` lies with this confidence, and `rate`;
        where there are too few scores for it, the largest score's k and the share that it does bound.

    Source: Wilks, "Determination of Sample Sizes for Setting Tolerance Limits" (Annals of Mathematical
    Statistics 1941); David and Nagaraja, "Order Statistics" (3rd ed., 2003), section 7.2.
    """
    ranks = np.arange(1, num + 1)
    holds = stats.beta.cdf(rate, num - ranks + 1, ranks) >= confidence
    if holds.any():
        return int(ranks[holds.argmax()]), rate
    return num, float(1 - (1 - confidence) ** (1 / num))


def by_false_alarms(good_N: np.ndarray, rate: float, *, num_compared: int = 1) -> OperatingPoint:
    """The lowest threshold that promises at most `rate` false alarms.

    Args:
        good_N: Scores of held-back good images, N >= 1; training did not see them.
        rate: In (0, 1).
        num_compared: Number of scores among which these were chosen by the same images. The promise is made
            for all of them at once (Bonferroni), so it also holds for the chosen one.
    """
    confidence = 1 - (1 - CONFIDENCE) / num_compared
    rank, bound = tolerance_rank(len(good_N), rate, confidence=confidence)
    threshold = _above(np.sort(good_N)[rank - 1])
    words = f"at most {bound:.2g} of good images are rejected, with {CONFIDENCE:.0%} confidence"
    if bound > rate:
        words += f" ({rate:.2g} was asked for: {len(good_N)} held-back good images cannot promise less)"
    return OperatingPoint(
        threshold=threshold,
        rule=f"{words}: score {rank} of {len(good_N)} held-back good images, from the lowest",
        promise=Promise(rate="false_alarm_rate", at_most=bound, confidence=CONFIDENCE, num=len(good_N)),
    )


def by_misses(defective_N: np.ndarray, rate: float, *, num_compared: int = 1) -> OperatingPoint:
    """The highest threshold that promises at most `rate` missed defects.

    Args:
        defective_N: Scores of held-back defective images, N >= 1; training did not see them.
        rate: In (0, 1).
        num_compared: See `by_false_alarms`.
    """
    confidence = 1 - (1 - CONFIDENCE) / num_compared
    rank, bound = tolerance_rank(len(defective_N), rate, confidence=confidence)
    threshold = float(np.sort(defective_N)[::-1][rank - 1])
    words = f"at most {bound:.2g} of defective images pass, with {CONFIDENCE:.0%} confidence"
    if bound > rate:
        words += f" ({rate:.2g} was asked for: {len(defective_N)} defective images cannot promise less)"
    return OperatingPoint(
        threshold=threshold,
        rule=f"{words}: score {rank} of {len(defective_N)} held-back defective images, from the highest",
        promise=Promise(rate="miss_rate", at_most=bound, confidence=CONFIDENCE, num=len(defective_N)),
    )


def require_defects(max_miss_rate: float | None, num_defective: int) -> None:
    """
    Args:
        max_miss_rate: As asked for.
        num_defective: In the validation part.

    Raises:
        SettingsError: Misses are to be limited, but there are too few defective images to tell.
    """
    if max_miss_rate is not None and num_defective < MIN_DEFECTIVE:
        raise SettingsError(
            f"max_miss_rate needs at least {MIN_DEFECTIVE} defective images to choose by; "
            f"{num_defective} of yours could be held back for it.",
            value=max_miss_rate,
            hint="add defective images (not to the test part), or limit false alarms: max_false_alarm_rate",
        )


def choose(
    labels_N: np.ndarray,
    scores_N: np.ndarray,
    *,
    max_false_alarm_rate: float | None,
    max_miss_rate: float | None,
    num_compared: int = 1,
) -> OperatingPoint:
    """The threshold for what was asked; asked for nothing, the best F1, or without defects few false alarms.

    Args:
        labels_N, scores_N: Of the validation part.
        max_false_alarm_rate, max_miss_rate: At most one of them.
        num_compared: See `by_false_alarms`.

    Raises:
        SettingsError: Misses are to be limited, but there are too few defective images to tell.
    """
    good, defective = scores_N[labels_N == 0], scores_N[labels_N == 1]
    require_defects(max_miss_rate, len(defective))
    if max_miss_rate is not None:
        return by_misses(defective, max_miss_rate, num_compared=num_compared)
    if max_false_alarm_rate is not None or len(defective) < MIN_DEFECTIVE:
        rate = DEFAULT_MAX_FALSE_ALARM_RATE if max_false_alarm_rate is None else max_false_alarm_rate
        return by_false_alarms(good, rate, num_compared=num_compared)
    return OperatingPoint(
        threshold=best_f1_threshold(labels_N, scores_N),
        rule=f"highest F1 on {len(good)} good and {len(defective)} defective validation images",
    )


def _above(score: float) -> float:
    """The next float32: scores are, and `score` itself is to be accepted."""
    return float(np.nextafter(np.float32(score), np.float32(np.inf)))
