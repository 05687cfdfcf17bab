"""The rungs that compete in a run: each is fitted on some texts and gives logits of others.

Shapes: N texts, D features, C labels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from xtorch.models.bert import SentenceEncoder
from xtorch.tasks.text.contrastive import NAME_COPIES, contrastive_tuning, name_sentences
from xtorch.tasks.text.full import full_tuning
from xtorch.tasks.text.linear import LinearHead, fit_linear
from xtorch.tasks.text.model import TextModel, TextModelConfig
from xtorch.tasks.text.tokens import Tokens, outputs_of
from xtorch.tasks.text.training import Plan, StepReport, Tuning

FEW_OF_LABEL = 32
"""With at most as many texts of a label (median), its name is worth learning from."""
_TFIDF_FEATURES = 20_000


@dataclass(kw_only=True)
class Corpus:
    """All usable texts in the forms that the rungs need.

    Attributes:
        texts: As they are.
        tokens: Of these.
        frozen: Embeddings by the published encoder, float32 [N,D].
        targets: Labels, 0 or 1, int64 [N,C].
        labels: Names of the columns.
        multi_label: Whether a text may have any number of them; else it has one.
        encoder: The published one; never changed.
        tokenise: For label names.
        use_label_names: Whether these may be learned from.
    """

    texts: Sequence[str]
    tokens: Tokens
    frozen: np.ndarray
    targets: np.ndarray
    labels: tuple[str, ...]
    multi_label: bool
    encoder: SentenceEncoder
    tokenise: Callable[[Sequence[str]], Tokens]
    use_label_names: bool = True


@dataclass(kw_only=True)
class Fitted:
    """A rung fitted on some texts.

    Attributes:
        logits: Of texts of the corpus, by index.
        model: What is exported; None where it cannot be served.
        settings: For the leaderboard.
    """

    logits: Callable[[np.ndarray], np.ndarray]
    model: Callable[[], TextModel] | None = None
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What a rung that tunes the encoder has to know of the run; the others do without.

    Attributes:
        seed: Of everything that is random.
        share: Of the planned steps, so many are made (at least a few), 0..1.
        checkpoints: Where an interrupted fit goes on from; None: nowhere.
        report: Told of each step.
    """

    seed: int = 0
    share: float = 1.0
    checkpoints: Path | None = None
    report: StepReport | None = None


class Rung(Protocol):
    """A way to fit a classifier."""

    name: str
    title: str

    def fit(self, rows: np.ndarray, effort: Effort) -> Fitted:
        """
        Args:
            rows: Which texts of the corpus to learn from.
        """


class TunedRung(Rung, Protocol):
    """A rung that takes long, and knows how long."""

    def fit_s(self, rows: np.ndarray) -> float:
        """Seconds that all planned steps on these texts take here, as measured on a few."""


@dataclass(kw_only=True)
class Majority:
    """Always the most frequent label."""

    corpus: Corpus
    name: str = "majority"
    title: str = "Always the most frequent label"

    def fit(self, rows: np.ndarray, effort: Effort) -> Fitted:
        del effort
        share_C = (self.corpus.targets[rows].mean(axis=0)).clip(1e-6, 1 - 1e-6)
        logits_C = np.log(share_C / (1 - share_C)) if self.corpus.multi_label else np.log(share_C)
        return Fitted(logits=lambda picked: np.tile(logits_C, (len(picked), 1)))


@dataclass(kw_only=True)
class Tfidf:
    """Words and pairs of words, weighted by rarity, and a linear classifier. Not served: its graph would need
    the words of a text, and engines take the encoder's tokens.

    Source: Spärck Jones, "A statistical interpretation of term specificity" (J. Documentation 1972).
    """

    corpus: Corpus
    strength: float = 10.0
    name: str = "tfidf"
    title: str = "Words (TF-IDF) and a linear classifier"

    def fit(self, rows: np.ndarray, effort: Effort) -> Fitted:
        del effort
        texts = self.corpus.texts
        # Scripts without spaces have no words to cut out: runs of characters work for all.
        spaced = np.mean([" " in texts[i].strip() for i in rows]) > 0.5
        vectors = TfidfVectorizer(
            sublinear_tf=True,
            ngram_range=(1, 2) if spaced else (1, 3),
            analyzer="word" if spaced else "char",
            token_pattern=r"(?u)\b\w+\b" if spaced else None,
            max_features=_TFIDF_FEATURES,
        )
        try:
            features = vectors.fit_transform([texts[i] for i in rows])
        except ValueError:
            return Majority(corpus=self.corpus).fit(rows, Effort())
        head = fit_linear(
            features,
            self.corpus.targets[rows],
            multi_label=self.corpus.multi_label,
            strength=self.strength,
        )
        return Fitted(
            logits=lambda picked: head.logits(vectors.transform([texts[i] for i in picked])),
            settings={"strength": self.strength, "features": len(vectors.vocabulary_)},
        )


def _model_of(corpus: Corpus, encoder: SentenceEncoder, head: LinearHead) -> TextModel:
    config = TextModelConfig(num_labels=len(corpus.labels), bert=encoder.bert.config)
    model = TextModel(config, encoder)
    model.set_head(head.weight, head.bias)
    return model.eval()


def _with_names(corpus: Corpus, rows: np.ndarray) -> tuple[Tokens, np.ndarray]:
    """Tokens and targets of label names' sentences; none where texts are many or names say nothing."""
    counts = corpus.targets[rows].sum(axis=0)
    sentences = name_sentences(corpus.labels)
    wanted = [
        index
        for index, sentence in enumerate(sentences)
        if sentence is not None and counts[index] > 0
        for _ in range(NAME_COPIES)
    ]
    if not corpus.use_label_names or np.median(counts) > FEW_OF_LABEL or len(wanted) < 2 * NAME_COPIES:
        return Tokens([]), np.zeros((0, len(corpus.labels)))
    return corpus.tokenise([str(sentences[i]) for i in wanted]), np.eye(len(corpus.labels))[wanted]


@dataclass(kw_only=True)
class Frozen:
    """The published encoder as it is, and a linear classifier."""

    corpus: Corpus
    strength: float = 10.0
    name: str = "frozen"
    title: str = "Frozen sentence embeddings (MiniLM) and a linear classifier"

    def fit(self, rows: np.ndarray, effort: Effort) -> Fitted:
        del effort
        corpus = self.corpus
        features, targets = corpus.frozen[rows], corpus.targets[rows]
        names, name_targets = _with_names(corpus, rows)
        if len(names):
            features = np.concatenate([features, outputs_of(corpus.encoder, names)])
            targets = np.concatenate([targets, name_targets])
        head = fit_linear(features, targets, multi_label=corpus.multi_label, strength=self.strength)
        return Fitted(
            logits=lambda picked: head.logits(corpus.frozen[picked]),
            model=lambda: _model_of(corpus, copy.deepcopy(corpus.encoder), head),
            settings={"strength": self.strength, "label_names": bool(len(names))},
        )


def _tuned(corpus: Corpus, model: TextModel, plan: Plan, planned: Plan, **settings: Any) -> Fitted:
    """A tuned model as a rung's result; its logits are computed in bfloat16."""
    return Fitted(
        logits=lambda picked: outputs_of(model, corpus.tokens.take(picked)).astype(np.float64),
        model=lambda: model,
        settings={
            "steps": plan.steps,
            "planned_steps": planned.steps,
            "batch_size": plan.batch_size,
            "learning_rate": plan.learning_rate,
            **settings,
        },
    )


@dataclass(kw_only=True)
class Contrastive:
    """The encoder tuned contrastively, and a linear classifier."""

    corpus: Corpus
    strength: float = 1.0
    learning_rate: float = 5e-5
    name: str = "contrastive"
    title: str = "Contrastive fine-tuning (SetFit) and a linear classifier"

    def fit(self, rows: np.ndarray, effort: Effort) -> Fitted:
        tokens, targets = self._texts(rows)
        planned = contrastive_plan(len(tokens), learning_rate=self.learning_rate)
        plan = planned.shortened(effort.share)
        encoder = copy.deepcopy(self.corpus.encoder)
        contrastive_tuning(encoder, tokens, targets, plan).run(
            seed=effort.seed, checkpoints=effort.checkpoints, report=effort.report
        )
        head = fit_linear(
            outputs_of(encoder, tokens),
            targets,
            multi_label=self.corpus.multi_label,
            strength=self.strength,
        )
        return _tuned(
            self.corpus,
            _model_of(self.corpus, encoder, head),
            plan,
            planned,
            strength=self.strength,
            label_names=len(tokens) > len(rows),
        )

    def fit_s(self, rows: np.ndarray) -> float:
        tokens, targets = self._texts(rows)
        plan = contrastive_plan(len(tokens), learning_rate=self.learning_rate)
        tuning = contrastive_tuning(copy.deepcopy(self.corpus.encoder), tokens, targets, plan)
        return plan.steps * tuning.step_s()

    def _texts(self, rows: np.ndarray) -> tuple[Tokens, np.ndarray]:
        """What is learned from: texts and, where they help, labels' names."""
        tokens, targets = self.corpus.tokens.take(rows), self.corpus.targets[rows]
        names, name_targets = _with_names(self.corpus, rows)
        return Tokens([*tokens.ids, *names.ids], pad_id=tokens.pad_id), np.concatenate(
            [targets, name_targets]
        )


@dataclass(kw_only=True)
class FineTuned:
    """Encoder and head tuned together, the head fitted first."""

    corpus: Corpus
    strength: float = 10.0
    learning_rate: float = 8e-5
    name: str = "fine_tuned"
    title: str = "Full fine-tuning"

    def fit(self, rows: np.ndarray, effort: Effort) -> Fitted:
        planned = full_plan(len(rows), learning_rate=self.learning_rate)
        plan = planned.shortened(effort.share)
        model = self._start(rows)
        self._tuning(model, rows, plan).run(
            seed=effort.seed, checkpoints=effort.checkpoints, report=effort.report
        )
        return _tuned(self.corpus, model, plan, planned)

    def fit_s(self, rows: np.ndarray) -> float:
        plan = full_plan(len(rows), learning_rate=self.learning_rate)
        return plan.steps * self._tuning(self._start(rows), rows, plan).step_s()

    def _start(self, rows: np.ndarray) -> TextModel:
        """The published encoder with a head that is fitted."""
        corpus = self.corpus
        head = fit_linear(
            corpus.frozen[rows],
            corpus.targets[rows],
            multi_label=corpus.multi_label,
            strength=self.strength,
        )
        return _model_of(corpus, copy.deepcopy(corpus.encoder), head)

    def _tuning(self, model: TextModel, rows: np.ndarray, plan: Plan) -> Tuning:
        corpus = self.corpus
        return full_tuning(
            model, corpus.tokens.take(rows), corpus.targets[rows], plan, multi_label=corpus.multi_label
        )


def contrastive_plan(num: int, *, learning_rate: float = 5e-5) -> Plan:
    """For `num` texts: 50 batches of up to 32, and with more texts two passes over them."""
    return Plan(steps=max(50, -(-2 * num // 32)), batch_size=32, learning_rate=learning_rate)


def full_plan(num: int, *, learning_rate: float = 8e-5) -> Plan:
    """For `num` texts: three passes in batches of 16, and at least 60 of them."""
    return Plan(
        steps=max(60, -(-3 * num // 16)),
        batch_size=16,
        learning_rate=learning_rate,
        layer_decay=0.9,
        least_steps=30,
    )
