"""What a run leaves behind beside the model: task spec, splits, and the report's figures and pictures.

Shapes: N images, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from xtorch.class_metrics import class_metrics, log_loss, softmax
from xtorch.data.class_splits import ClassSplit
from xtorch.models.classifier import Classifier, ClassifierConfig
from xtorch.tasks.classification.answers import answers
from xtorch.tasks.classification.figures import (
    class_table,
    confused_table,
    confusion,
    reliability_chart,
    review_chart,
)
from xtorch.tasks.classification.files import task_spec
from xtorch.tasks.classification.gallery import doubtful_labels, worst_mistakes
from xtorch.tasks.classification.head import TunedHead
from xtorch.tasks.classification.operating_point import ReviewPoint
from xtorch.tasks.images import labelled_splits
from xtorch.tasks.recipe import write_json
from xtorch.tasks.report import LeaderboardRow
from xtorch.tasks.tuning import progress_chart, trials_table, tuning_facts


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A classifier that competes.

    Attributes:
        row: Of the leaderboard, but for the test part.
        unseen, unseen_labels: Calibrated probabilities [N,C] of images that it did not see, and their labels
            [N]: what the operating point is chosen by.
    """

    row: LeaderboardRow
    model: Classifier
    unseen: np.ndarray
    unseen_labels: np.ndarray

    @property
    def validation_log_loss(self) -> float:
        """Infinite where there is nothing to measure it on."""
        value = self.row.validation["log_loss"]
        return math.inf if value is None else value


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run decided.

    Attributes:
        truth: Part of the split -> labels int64 [N].
        candidates: All that competed, `winner` among them.
    """

    dataset_dir: Path
    labels: tuple[str, ...]
    parts: ClassSplit
    truth: Mapping[str, np.ndarray]
    config: ClassifierConfig
    tuned: TunedHead
    candidates: Sequence[Candidate]
    winner: Candidate
    point: ReviewPoint
    seed: int


def write_spec(outcome: Outcome, folder: Path) -> None:
    """``task.json``, ``labels.json`` and ``splits.json``."""
    write_json(folder / "task.json", task_spec(outcome.config, outcome.labels))
    write_json(folder / "labels.json", list(outcome.labels))
    write_json(folder / "splits.json", labelled_splits(outcome.parts.parts))


def measure(outcome: Outcome, folder: Path) -> dict[str, Any]:
    """Answers the test part, and gives the fields of `Report` that follow; writes the gallery's pictures."""
    root, labels, winner = outcome.dataset_dir, outcome.labels, outcome.winner
    test, truth_N = outcome.parts.test, outcome.truth["test"]
    logits = answers([each.model for each in outcome.candidates], root, test, outcome.config)
    tested = [softmax(logits_NC) for logits_NC in logits]
    probabilities_NC = next(
        given_NC for each, given_NC in zip(outcome.candidates, tested, strict=True) if each is winner
    )
    answers_N = probabilities_NC.argmax(axis=1)
    confidence_N, right_N = probabilities_NC.max(axis=1), answers_N == truth_N
    learned = [*outcome.parts.train, *outcome.parts.validation]
    gallery = worst_mistakes(root, folder, test, labels, probabilities_NC, winner.model)
    doubtful, doubtful_table = doubtful_labels(
        root, folder, learned, labels, outcome.tuned.probabilities, winner.model
    )
    search = outcome.tuned.search
    tables = [
        class_table(labels, truth_N, answers_N),
        confused_table(labels, truth_N, answers_N),
        doubtful_table,
        trials_table(search, "log_loss", title="Settings of the classifier that were tried"),
    ]
    return {
        "counts": outcome.parts.counts(labels),
        "metric": "top1",
        "metrics": class_metrics(truth_N, probabilities_NC, seed=outcome.seed),
        "leaderboard": [
            *(
                replace(each.row, kept=each is winner, test=leaderboard_figures(truth_N, given_NC))
                for each, given_NC in zip(outcome.candidates, tested, strict=True)
            ),
            _majority(outcome),
        ],
        "operating_point": outcome.point.to_dict(confidence_N, right_N),
        "confusion": confusion(labels, truth_N, answers_N),
        "charts": [
            reliability_chart(truth_N, probabilities_NC),
            review_chart(confidence_N, right_N, outcome.point.threshold),
            progress_chart(search, "log loss", lower_is_better=True),
        ],
        "tables": [table for table in tables if table is not None],
        "gallery": [*gallery, *doubtful],
        "tuning": tuning_facts(search),
        "held_out": [
            {
                "path": image.path,
                "label": labels[image.label],
                "answer": labels[answer],
                "confidence": float(confidence),
            }
            for image, answer, confidence in zip(test, answers_N, confidence_N, strict=True)
        ],
    }


def _majority(outcome: Outcome) -> LeaderboardRow:
    """What always answering the most frequent class gives; the classes' shares are its probabilities."""
    num = len(outcome.labels)
    known_N = np.concatenate([outcome.truth["train"], outcome.truth["validation"]])
    shares_C = np.bincount(known_N, minlength=num) / len(known_N)

    def guessed(part: str) -> dict[str, float | None]:
        truth_N = outcome.truth[part]
        return leaderboard_figures(truth_N, np.tile(shares_C, (len(truth_N), 1)))

    return LeaderboardRow(
        name="majority",
        title="Always the most frequent class",
        kind="baseline",
        kept=False,
        validation=guessed("validation"),
        test=guessed("test"),
        fit_s=0.0,
    )


def leaderboard_figures(truth_N: np.ndarray, probabilities_NC: np.ndarray) -> dict[str, float | None]:
    """The leaderboard's figures; None where there are no images."""
    if not len(truth_N):
        return {"top1": None, "log_loss": None}
    return {
        "top1": float((probabilities_NC.argmax(axis=1) == truth_N).mean()),
        "log_loss": log_loss(truth_N, probabilities_NC),
    }
