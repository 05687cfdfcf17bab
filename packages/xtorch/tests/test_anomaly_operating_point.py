"""Thresholds keep what they promise, whatever the distribution of the scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from xtorch.errors import SettingsError
from xtorch.tasks.anomaly.candidates import Candidate
from xtorch.tasks.anomaly.operating_point import by_false_alarms, by_misses, choose, tolerance_rank
from xtorch.tasks.anomaly.selection import select


@pytest.mark.parametrize(("rate", "num"), [(0.05, 59), (0.01, 299), (0.1, 29)])
def test_as_many_scores_are_needed_as_published(rate: float, num: int) -> None:
    """Wilks: the largest of n bounds the share with 95 % confidence from n = ln 0.05 / ln(1 - rate) on."""
    assert num == math.ceil(math.log(0.05) / math.log(1 - rate))
    assert tolerance_rank(num, rate, confidence=0.95) == (num, rate)
    rank, bound = tolerance_rank(num - 1, rate, confidence=0.95)
    assert rank == num - 1
    assert rate < bound < 1.1 * rate


def test_rank_is_the_binomial_one() -> None:
    """For 93 scores and 5 %, the largest but one: P(Binomial(93, 0.05) <= 1) <= 0.05 < P(... <= 2)."""
    assert tolerance_rank(93, 0.05, confidence=0.95)[0] == 92
    assert tolerance_rank(92, 0.05, confidence=0.95)[0] == 92


@pytest.mark.parametrize("draw", ["normal", "exponential", "standard_cauchy"])
def test_promise_is_kept_in_19_of_20_data_sets(draw: str) -> None:
    rng = np.random.default_rng(0)
    kept = 0
    many = np.sort(getattr(rng, draw)(size=200_000))
    for _ in range(1500):
        point = by_false_alarms(getattr(rng, draw)(size=120).astype(np.float32), 0.05)
        kept += int(1 - np.searchsorted(many, point.threshold) / len(many) <= 0.05)
    assert 0.935 <= kept / 1500 <= 0.99


def test_promise_holds_for_the_chosen_of_several_scores() -> None:
    """Of eight scores the one with the lowest threshold is taken: a single promise is broken too often."""
    rng = np.random.default_rng(1)

    def share_kept(num_compared: int) -> float:
        kept = 0
        for _ in range(600):
            points = [
                by_false_alarms(rng.uniform(size=150), 0.05, num_compared=num_compared) for _ in range(8)
            ]
            kept += int(1 - min(point.threshold for point in points) <= 0.05)
        return kept / 600

    assert share_kept(8) >= 0.93
    assert share_kept(1) < 0.9


def test_few_images_promise_what_they_can_and_say_so() -> None:
    point = by_false_alarms(np.arange(10.0), 0.01)
    assert point.promise is not None
    assert point.promise.at_most == pytest.approx(1 - 0.05**0.1)
    assert point.threshold > 9
    assert "0.01 was asked for" in point.rule


def test_misses_are_bounded_from_below() -> None:
    rng = np.random.default_rng(0)
    point = by_misses(rng.normal(5, 1, 400), 0.02)
    assert point.promise is not None
    assert point.promise.at_most == 0.02
    assert point.threshold < 5 - 2.0537  # the 2 % quantile
    assert (rng.normal(5, 1, 20_000) < point.threshold).mean() < 0.02


def test_promised_misses_hold_for_the_chosen_of_several_scores() -> None:
    """Of eight scores the one with the highest threshold is taken."""
    rng = np.random.default_rng(1)
    defective = rng.uniform(size=(600, 8, 150))

    def share_kept(num_compared: int) -> float:
        points = [
            max(by_misses(scores, 0.05, num_compared=num_compared).threshold for scores in draws)
            for draws in defective
        ]
        return float((np.array(points) <= 0.05).mean())

    assert share_kept(8) >= 0.93
    assert share_kept(1) < 0.9


def test_every_fit_that_validation_chose_from_counts_as_compared() -> None:
    labels = np.repeat([0, 1], [8, 4])
    values = torch.rand(12, 6, 6, generator=torch.Generator().manual_seed(0))

    def candidate(name: str, num_fits: int) -> Candidate:
        return Candidate(
            name=name,
            title=name,
            scorer_kind=name,
            scorer=nn.Identity(),
            scorer_size=1,
            top_fractions=(0.1,),
            fit_s=0.0,
            settings={},
            num_fits=num_fits,
            values={"validation": values},
        )

    # Three ways of pooling each: its own and two more.
    assert select([candidate("memory", 1)], labels).num_compared == 3
    assert select([candidate("memory", 1), candidate("head", 7)], labels).num_compared == 3 + 7 * 3


def test_good_image_on_the_threshold_is_accepted() -> None:
    point = by_false_alarms(np.linspace(0, 1, 60, dtype=np.float32), 0.05)
    assert point.threshold > 1.0
    assert np.float32(point.threshold) != np.float32(1.0)


def test_default_is_best_f1_with_defects_and_few_false_alarms_without() -> None:
    labels = np.repeat([0, 1], [50, 10])
    scores = np.concatenate([np.linspace(0, 1, 50), np.linspace(2, 3, 10)])
    both = choose(labels, scores, max_false_alarm_rate=None, max_miss_rate=None)
    assert both.promise is None
    assert 1 < both.threshold < 2
    good = choose(labels[:53], scores[:53], max_false_alarm_rate=None, max_miss_rate=None)
    assert good.promise is not None
    assert good.promise.rate == "false_alarm_rate"
    asked = choose(labels, scores, max_false_alarm_rate=0.2, max_miss_rate=None)
    assert asked.threshold < 1
    missed = choose(labels, scores, max_false_alarm_rate=None, max_miss_rate=0.3)
    assert missed.promise is not None
    assert missed.promise.rate == "miss_rate"


def test_misses_cannot_be_limited_without_defects() -> None:
    with pytest.raises(SettingsError, match="max_miss_rate") as caught:
        choose(np.zeros(30), np.arange(30.0), max_false_alarm_rate=None, max_miss_rate=0.02)
    assert caught.value.value == 0.02
    assert "max_false_alarm_rate" in str(caught.value.hint)
