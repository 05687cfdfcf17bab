"""The rungs that compete in a run: each is fitted on some texts and gives logits of others.

Shapes: N texts, D features, C labels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import nn

from xtorch.models.bert import SentenceEncoder
from xtorch.tasks.text.contrastive import NAME_COPIES, name_sentences, tune_contrastively
from xtorch.tasks.text.full import tune_fully
from xtorch.tasks.text.linear import LinearHead, fit_linear
from xtorch.tasks.text.model import TextModel, TextModelConfig
from xtorch.tasks.text.tokens import Tokens, outputs_of
from xtorch.tasks.text.training import Plan

FEW_OF_LABEL = 32
"""With at most as many texts of a label (median), its name is worth learning from."""
_TFIDF_FEATURES = 20_000

Report = Callable[[float, str], None]
"""Share of a rung that is done, and a message."""


@dataclass(kw_only=True)
class Corpus:
    """All usable texts in the forms that the rungs need.

    Attributes:
        texts: As they are.
        tokens: Of these.
        frozen: Embeddings by the published encoder, float32 [N,D].
        targets: Labels, 0 or 1, int64 [N,C].
        labels: Names of the columns.
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


class Rung(Protocol):
    """A way to fit a classifier."""

    name: str
    title: str

    def fit(self, rows: np.ndarray, *, seed: int, limit_s: float, report: Report) -> Fitted:
        """
        Args:
            rows: Which texts of the corpus to learn from.
            seed: Of everything that is random.
            limit_s: Steps are left out that do not fit into it.
            report: Told about progress.
        """


@dataclass(kw_only=True)
class Majority:
    """Always the most frequent label."""

    corpus: Corpus
    name: str = "majority"
    title: str = "Always the most frequent label"

    def fit(self, rows: np.ndarray, *, seed: int, limit_s: float, report: Report) -> Fitted:
        del seed, limit_s, report
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

    def fit(self, rows: np.ndarray, *, seed: int, limit_s: float, report: Report) -> Fitted:
        del seed, limit_s, report
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
            return Majority(corpus=self.corpus).fit(rows, seed=0, limit_s=0, report=lambda *_: None)
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

    def fit(self, rows: np.ndarray, *, seed: int, limit_s: float, report: Report) -> Fitted:
        del seed, limit_s, report
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


def _tuned_logits(corpus: Corpus, model: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    """Logits of a tuned model, in bfloat16."""
    return lambda picked: outputs_of(model, corpus.tokens.take(picked)).astype(np.float64)


@dataclass(kw_only=True)
class Contrastive:
    """The encoder tuned contrastively, and a linear classifier."""

    corpus: Corpus
    strength: float = 1.0
    learning_rate: float = 5e-5
    name: str = "contrastive"
    title: str = "Contrastive fine-tuning (SetFit) and a linear classifier"

    def fit(self, rows: np.ndarray, *, seed: int, limit_s: float, report: Report) -> Fitted:
        corpus = self.corpus
        tokens, targets = corpus.tokens.take(rows), corpus.targets[rows]
        names, name_targets = _with_names(corpus, rows)
        tokens = Tokens([*tokens.ids, *names.ids], pad_id=tokens.pad_id)
        targets = np.concatenate([targets, name_targets])
        encoder = copy.deepcopy(corpus.encoder)
        plan = contrastive_plan(len(tokens), limit_s=limit_s, learning_rate=self.learning_rate)
        steps = tune_contrastively(encoder, tokens, targets, plan, seed=seed, report=_steps(report))
        features = outputs_of(encoder, tokens)
        head = fit_linear(features, targets, multi_label=corpus.multi_label, strength=self.strength)
        model = _model_of(corpus, encoder, head)
        return Fitted(
            logits=_tuned_logits(corpus, model),
            model=lambda: model,
            settings={
                "strength": self.strength,
                "steps": steps,
                "planned_steps": plan.steps,
                "batch_size": plan.batch_size,
                "learning_rate": plan.learning_rate,
                "label_names": bool(len(names)),
            },
        )


@dataclass(kw_only=True)
class FineTuned:
    """Encoder and head tuned together, the head fitted first."""

    corpus: Corpus
    strength: float = 10.0
    learning_rate: float = 8e-5
    name: str = "fine_tuned"
    title: str = "Full fine-tuning"

    def fit(self, rows: np.ndarray, *, seed: int, limit_s: float, report: Report) -> Fitted:
        corpus = self.corpus
        targets = corpus.targets[rows]
        head = fit_linear(
            corpus.frozen[rows], targets, multi_label=corpus.multi_label, strength=self.strength
        )
        model = _model_of(corpus, copy.deepcopy(corpus.encoder), head)
        plan = full_plan(len(rows), limit_s=limit_s, learning_rate=self.learning_rate)
        steps = tune_fully(
            model,
            corpus.tokens.take(rows),
            targets,
            plan,
            multi_label=corpus.multi_label,
            seed=seed,
            report=_steps(report),
        )
        return Fitted(
            logits=_tuned_logits(corpus, model),
            model=lambda: model,
            settings={
                "steps": steps,
                "planned_steps": plan.steps,
                "batch_size": plan.batch_size,
                "learning_rate": plan.learning_rate,
            },
        )


def contrastive_plan(num: int, *, limit_s: float, learning_rate: float = 5e-5) -> Plan:
    """For `num` texts: 50 batches of up to 32, and with more texts two passes over them."""
    steps = max(50, -(-2 * num // 32))
    return Plan(steps=steps, batch_size=32, learning_rate=learning_rate, limit_s=limit_s)


def full_plan(num: int, *, limit_s: float, learning_rate: float = 8e-5) -> Plan:
    """For `num` texts: three passes in batches of 16, and at least 60 of them."""
    return Plan(
        steps=max(60, -(-3 * num // 16)),
        batch_size=16,
        learning_rate=learning_rate,
        layer_decay=0.9,
        limit_s=limit_s,
        min_steps=30,
    )


def _steps(report: Report) -> Callable[[int, int, float], None]:
    return lambda done, of, loss: report(done / of, f"step {done} of {of}, loss {loss:.3f}")
