"""The rungs of a run: each is fitted and judged by texts that it did not see, then fitted on all that may be
learned from.

Shapes: N texts, C labels.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from xtorch.errors import CheckpointError
from xtorch.progress import Stages
from xtorch.tasks.text.candidates import (
    Contrastive,
    Corpus,
    Effort,
    FineTuned,
    Fitted,
    Frozen,
    Majority,
    Rung,
    Tfidf,
    TunedRung,
)
from xtorch.tasks.text.figures import macro_f1
from xtorch.tasks.text.kept import Kept
from xtorch.tasks.text.operating import answers, label_thresholds, probabilities
from xtorch.tasks.text.settings import SERVABLE, TextSettings
from xtorch.tasks.text.split import TextSplit

_log = logging.getLogger(__name__)
LINEAR, TUNE = "Fitting linear rungs", "Tuning the encoder"
_STRENGTHS = (1.0, 10.0, 100.0)
_MAX_CONTRASTIVE = 2000
"""With more texts to learn from, full fine-tuning does as well in less time."""
_MIN_FULL = 150
"""With fewer, full fine-tuning has nothing to go by."""
_MIN_TUNE_S = 8.0
_SAFETY = 0.8
"""Of the time is planned for: after its steps a rung is judged, and the machine may get slower."""


@dataclass(kw_only=True)
class Entry:
    """A rung with what it gave.

    Attributes:
        fitted: On the training part, or on all texts but the test's after cross-validation.
        share: Of the planned steps, so many were made; None: it does not tune the encoder.
        held: Texts that it was judged by, each by a model that did not see it; `held_logits` [N,C] are
            theirs, and `validation` is how good they are.
    """

    rung: Rung
    kind: Literal["baseline", "model"]
    fitted: Fitted | None
    servable: bool
    share: float | None
    held: np.ndarray
    held_logits: np.ndarray
    validation: dict[str, float]
    fit_s: float
    test_logits: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class Competition:
    """
    Attributes:
        corpus: All texts.
        parts: Which to learn from, which to judge by.
        kept: What an interrupted run left.
        stages: Told about `LINEAR` and `TUNE`.
        seed: Decides batches and hidden tokens.
        left_s: Seconds that are left for tuning the encoder.
    """

    corpus: Corpus
    parts: TextSplit
    settings: TextSettings
    kept: Kept
    stages: Stages
    seed: int
    left_s: Callable[[], float]
    num_fits: int = field(default=0, init=False)
    """Of the encoder, that are to be made."""
    num_fitted: int = field(default=0, init=False)

    def entries(self) -> list[Entry]:
        """Fit what is asked for and what there is time for, and judge it by the folds."""
        wanted = self.settings.candidates
        entries = [self._judged(Majority(corpus=self.corpus), "baseline")]
        linear: dict[str, list[Rung]] = {
            "tfidf": [Tfidf(corpus=self.corpus, strength=s) for s in _STRENGTHS],
            "frozen": [Frozen(corpus=self.corpus, strength=s) for s in _STRENGTHS],
        }
        # What can be served must exist even if the tuned ones find no time.
        kept = [kind for kind in linear if kind in wanted or kind == "frozen"]
        for index, kind in enumerate(kept):
            self.stages.report(LINEAR, index / len(kept), message=linear[kind][0].title)
            entries.append(self._best(linear[kind]))
        self.stages.report(LINEAR, 1.0)
        entries += self._tuned(entries[-1])
        served = max(entry.validation["macro_f1"] for entry in entries if entry.servable)
        for entry in entries:
            if entry.kind == "model" and entry.validation["macro_f1"] > served:
                entry.notes.append(
                    "Better on validation than what is kept, but it cannot be served: engines take the "
                    "encoder's tokens."
                )
        return entries

    def _best(self, variants: Sequence[Rung]) -> Entry:
        """The best of a rung's variants, the first of equals."""
        started = time.monotonic()
        entries = [self._judged(variant, "model") for variant in variants]
        best = max(entries, key=lambda entry: round(entry.validation["macro_f1"], 9))
        best.fit_s = time.monotonic() - started
        return best

    def _tuned(self, frozen: Entry) -> list[Entry]:
        """The rungs that tune the encoder; what is left out is noted at the one that does not."""
        wanted, num = self.settings.candidates, len(self.parts.development)
        rungs: list[TunedRung] = []
        if "contrastive" in wanted and num <= _MAX_CONTRASTIVE:
            rungs.append(Contrastive(corpus=self.corpus))
        if "fine_tuned" in wanted and num >= _MIN_FULL:
            rungs.append(FineTuned(corpus=self.corpus))
        # After cross-validation, each is fitted once more.
        rounds = len(self.parts.folds) + self.parts.is_cross_validated
        self.num_fits = rounds * len(rungs)
        entries = []
        for index, rung in enumerate(rungs):
            self.stages.report(TUNE, self.num_fitted / self.num_fits, message=rung.title)

            def decide(rung: TunedRung = rung, index: int = index) -> float:
                limit_s = self.left_s() / (len(rungs) - index) / rounds
                if limit_s < _MIN_TUNE_S:
                    return 0.0
                return min(1.0, _SAFETY * limit_s / rung.fit_s(self.parts.folds[0][0]))

            share = self.kept.share(rung.name, decide)
            if share:
                entries.append(self._judged(rung, "model", share))
            else:
                self.num_fits -= rounds
                frozen.notes.append(f"{rung.title} was left out: no time was left for it.")
        return entries

    def _judged(self, rung: Rung, kind: Any, share: float | None = None) -> Entry:
        """A rung with its logits of all texts that folds held back.

        Args:
            share: Of the steps of one that tunes the encoder.
        """
        started = time.monotonic()
        parts = self.parts
        logits: list[np.ndarray] = []
        fitted: Fitted | None = None
        for number, (rows, judge) in enumerate(parts.folds):
            name = f"{rung.name}-{number}"
            found = None if share is None else self.kept.logits(name)
            if found is None:
                fitted = self._fitted(rung, rows, name, share)
                found = fitted.logits(judge)
                if share is not None and parts.is_cross_validated:
                    self.kept.keep_logits(name, found)
            self.num_fitted += share is not None
            logits.append(found)
        held = np.concatenate([judge for _, judge in parts.folds])
        held_logits = np.concatenate(logits)
        return Entry(
            rung=rung,
            kind=kind,
            fitted=None if parts.is_cross_validated else fitted,
            servable=rung.name in SERVABLE,
            share=share,
            held=held,
            held_logits=held_logits,
            validation=_scores(held_logits, self.corpus.targets[held], self.corpus.multi_label),
            fit_s=time.monotonic() - started,
        )

    def _fitted(self, rung: Rung, rows: np.ndarray, name: str, share: float | None) -> Fitted:
        effort = self._effort(rung, name, share)
        try:
            return rung.fit(rows, effort)
        except CheckpointError as error:
            _log.warning("%s starts again: %s", name, error)
            self.kept.drop_checkpoints(name)
            return rung.fit(rows, effort)

    def _effort(self, rung: Rung, name: str, share: float | None) -> Effort:
        if share is None:
            return Effort(seed=self.seed)

        def report(done: int, of: int, loss: float) -> None:
            self.stages.report(
                TUNE,
                min(0.999, (self.num_fitted + done / of) / self.num_fits),
                message=f"{rung.title}: step {done} of {of}, loss {loss:.3f}",
            )

        return Effort(seed=self.seed, share=share, checkpoints=self.kept.checkpoints(name), report=report)

    def refit(self, entries: Sequence[Entry]) -> None:
        """After cross-validation, every rung learns from all texts but the test's."""
        for entry in entries:
            if entry.fitted is None:
                started = time.monotonic()
                name = f"{entry.rung.name}-all"
                entry.fitted = self._fitted(entry.rung, self.parts.development, name, entry.share)
                self.num_fitted += entry.share is not None
                entry.fit_s += time.monotonic() - started


def _scores(logits_NC: np.ndarray, truth_NC: np.ndarray, multi_label: bool) -> dict[str, float]:
    """Figures to choose by; with several labels a text, each label at its best threshold."""
    found_NC = probabilities(logits_NC, 1.0, multi_label=multi_label)
    thresholds = label_thresholds(found_NC, truth_NC) if multi_label else ()
    given_NC = answers(found_NC, thresholds, multi_label=multi_label)
    return {
        "macro_f1": macro_f1(truth_NC, given_NC),
        "accuracy": float((truth_NC == given_NC).all(axis=1).mean()),
    }
