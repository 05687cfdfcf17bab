"""What a run came to, and the report of it.

Shapes: N texts, C labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from xinfer.preproc.text import Tokenizer
from xtorch.data.check_text import TextInspection
from xtorch.data.texts import shortened
from xtorch.tasks.report import LeaderboardRow, Picture
from xtorch.tasks.text.candidates import Corpus
from xtorch.tasks.text.competition import Entry
from xtorch.tasks.text.explain import word_weights
from xtorch.tasks.text.figures import (
    abstention_table,
    confusion,
    confusions_table,
    coverage_chart,
    fits_a_page,
    label_chart,
    label_table,
    macro_f1,
    metrics_with_intervals,
    mislabelled_table,
    operating_figures,
    reliability_chart,
)
from xtorch.tasks.text.files import tokenizer_bytes
from xtorch.tasks.text.linear import fit_linear
from xtorch.tasks.text.model import TextModel
from xtorch.tasks.text.operating import OperatingPoint, answers, label_thresholds, probabilities
from xtorch.tasks.text.split import TextSplit, deal

_MISTAKES, _RIGHT = 10, 3
_MAX_HELD_OUT = 5000
_MISLABEL_FOLDS = 5


@dataclass(kw_only=True)
class Outcome:
    """All that is known at the end of a run."""

    inspection: TextInspection
    parts: TextSplit
    corpus: Corpus
    entries: list[Entry]
    winner: Entry
    model: TextModel
    max_length: int
    seed: int
    temperature: float
    thresholds: tuple[float, ...]
    point: OperatingPoint | None
    abstains: bool

    def found(self, logits_NC: np.ndarray) -> np.ndarray:
        """Calibrated probabilities."""
        return probabilities(logits_NC, self.temperature, multi_label=self.corpus.multi_label)

    def given(self, logits_NC: np.ndarray) -> np.ndarray:
        """Labels that are given, 0 or 1."""
        return answers(self.found(logits_NC), self.thresholds, multi_label=self.corpus.multi_label)

    @property
    def indices(self) -> dict[str, np.ndarray]:
        """Part -> indices of usable texts."""
        return {"train": self.parts.train, "validation": self.parts.validation, "test": self.parts.test}

    def counts(self) -> dict[str, dict[str, int]]:
        """Part -> label -> texts."""
        return {
            part: dict(zip(self.corpus.labels, self.corpus.targets[rows].sum(axis=0).tolist(), strict=True))
            for part, rows in self.indices.items()
        }


def report_figures(outcome: Outcome) -> dict[str, Any]:
    """The fields of `Report` that say how good the model is."""
    corpus, winner = outcome.corpus, outcome.winner
    multi_label, labels = corpus.multi_label, corpus.labels
    assert winner.test_logits is not None
    truth_NC = corpus.targets[outcome.parts.test]
    found_NC, given_NC = outcome.found(winner.test_logits), outcome.given(winner.test_logits)
    charts = [label_chart(labels, truth_NC, given_NC)]
    charts.append(reliability_chart(truth_NC, found_NC, multi_label=multi_label))
    tables = [label_table(labels, truth_NC, given_NC)]
    matrix = None
    operating: dict[str, Any] = {"temperature": outcome.temperature, "chosen_on": _held_name(outcome)}
    if multi_label:
        operating |= {
            "threshold": dict(zip(labels, outcome.thresholds, strict=True)),
            "rule": "highest F1 of each label",
        }
    else:
        matrix_CC = confusion(labels, truth_NC, given_NC)
        if fits_a_page(labels):
            matrix = {"labels": list(labels), "matrix": matrix_CC.tolist()}
        test = (found_NC.max(axis=1), found_NC.argmax(axis=1) == truth_NC.argmax(axis=1))
        held_NC = outcome.found(winner.held_logits)
        held_truth_N = corpus.targets[winner.held].argmax(axis=1)
        held = (held_NC.max(axis=1), held_NC.argmax(axis=1) == held_truth_N)
        charts.append(coverage_chart(*test))
        tables.append(abstention_table(held, test))
        assert outcome.point is not None
        operating |= {
            "threshold": outcome.point.threshold,
            "rule": _rule(outcome),
            **operating_figures(outcome.point, *test),
        }
        suspects = _mislabelled(outcome)
        tables += [table for table in (confusions_table(labels, matrix_CC), suspects) if table]
    return {
        "check": outcome.inspection.report.to_dict(),
        "protocol": outcome.parts.protocol,
        "counts": outcome.counts(),
        "metric": "macro_f1",
        "metrics": metrics_with_intervals(
            truth_NC, found_NC, given_NC, multi_label=multi_label, seed=outcome.seed
        ),
        "leaderboard": [_row(outcome, entry, truth_NC) for entry in outcome.entries],
        "operating_point": operating,
        "confusion": matrix,
        "charts": charts,
        "tables": tables,
        "gallery": _gallery(outcome, truth_NC, found_NC, given_NC),
        "held_out": _held_out(outcome, found_NC, given_NC),
    }


def _held_name(outcome: Outcome) -> str:
    return "cross-validation" if outcome.parts.is_cross_validated else "validation"


def _rule(outcome: Outcome) -> str:
    point = outcome.point
    if not outcome.abstains or point is None:
        return "every text is answered"
    rule = f"at most {point.max_wrong:.1%} of the answers wrong"
    if not point.guaranteed:
        rule += "; too few texts were held back to be sure of it, so the share itself decided"
    return rule


def _row(outcome: Outcome, entry: Entry, truth_NC: np.ndarray) -> LeaderboardRow:
    assert entry.fitted is not None
    assert entry.test_logits is not None
    found_NC = probabilities(entry.test_logits, 1.0, multi_label=outcome.corpus.multi_label)
    thresholds: tuple[float, ...] = ()
    if outcome.corpus.multi_label:
        held_NC = probabilities(entry.held_logits, 1.0, multi_label=True)
        thresholds = label_thresholds(held_NC, outcome.corpus.targets[entry.held])
    given_NC = answers(found_NC, thresholds, multi_label=outcome.corpus.multi_label)
    if entry is outcome.winner:
        given_NC = outcome.given(entry.test_logits)
    return LeaderboardRow(
        name=entry.rung.name,
        title=entry.rung.title,
        kind=entry.kind,
        kept=entry is outcome.winner,
        validation=entry.validation,
        test={
            "macro_f1": macro_f1(truth_NC, given_NC),
            "accuracy": float((truth_NC == given_NC).all(axis=1).mean()),
        },
        fit_s=round(entry.fit_s, 3),
        settings=entry.fitted.settings,
        note=" ".join(entry.notes),
    )


def _mislabelled(outcome: Outcome) -> Any:
    """Likely wrong labels among the texts to learn from, by linear models on frozen embeddings."""
    corpus, rows = outcome.corpus, outcome.parts.development
    groups = [outcome.inspection.usable[i].group for i in rows]
    rng = np.random.default_rng(outcome.seed)
    found_NC = np.zeros((len(rows), len(corpus.labels)))
    for part in deal(corpus.targets[rows], groups, [1 / _MISLABEL_FOLDS] * _MISLABEL_FOLDS, rng):
        if len(part):
            fit = np.setdiff1d(np.arange(len(rows)), part)
            head = fit_linear(
                corpus.frozen[rows[fit]], corpus.targets[rows[fit]], multi_label=False, strength=10.0
            )
            found_NC[part] = probabilities(head.logits(corpus.frozen[rows[part]]), 1.0, multi_label=False)
    texts = [outcome.inspection.usable[i] for i in rows]
    return mislabelled_table(texts, corpus.labels, corpus.targets[rows], found_NC)


def _named(labels: tuple[str, ...], row_C: np.ndarray) -> str:
    return ", ".join(labels[int(i)] for i in np.flatnonzero(row_C)) or "none"


def _gallery(
    outcome: Outcome, truth_NC: np.ndarray, found_NC: np.ndarray, given_NC: np.ndarray
) -> list[Picture]:
    """The surest mistakes, then the least sure right answers, with what each word spoke for."""
    tokenizer = Tokenizer.from_bytes(tokenizer_bytes(), max_length=outcome.max_length)
    right_N = (truth_NC == given_NC).all(axis=1)
    confidence_N = found_NC.max(axis=1)
    order = np.argsort(-confidence_N, kind="stable")
    wrong = [int(i) for i in order if not right_N[i]][:_MISTAKES]
    narrow = [int(i) for i in order[::-1] if right_N[i]][:_RIGHT]
    pictures = []
    for row in (*wrong, *narrow):
        usable = outcome.inspection.usable[outcome.parts.test[row]]
        label = int(found_NC[row].argmax())
        weights = word_weights(outcome.model, tokenizer, usable.text, label)
        pictures.append(
            Picture(
                caption=usable.place,
                truth=_named(outcome.corpus.labels, truth_NC[row]),
                answer=_named(outcome.corpus.labels, given_NC[row]),
                right=bool(right_N[row]),
                tokens=weights,
                note=f"Probability of {outcome.corpus.labels[label]}: {found_NC[row, label]:.1%}. Words are "
                "weighted by how much hiding them changes this answer (occlusion).",
            )
        )
    return pictures


def _held_out(outcome: Outcome, found_NC: np.ndarray, given_NC: np.ndarray) -> list[dict[str, Any]]:
    labels = outcome.corpus.labels
    rows = []
    for index, place in enumerate(outcome.parts.test[:_MAX_HELD_OUT]):
        usable = outcome.inspection.usable[int(place)]
        rows.append(
            {
                "row": usable.place,
                "text": shortened(usable.text),
                "label": ", ".join(usable.labels) or "none",
                "answer": _named(labels, given_NC[index]),
                "confidence": float(found_NC[index].max()),
            }
        )
    return rows
