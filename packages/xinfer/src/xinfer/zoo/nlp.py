"""Tasks on whole texts: embedding and classification.

Legend: N texts, S tokens, D channels of an embedding, C labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from xinfer.errors import InputError, TaskSpecError
from xinfer.preproc.text import Tokenizer, TokenWindows
from xinfer.tasks import TaskSpec
from xinfer.tasks.text import Embedding, TextClassification, TextInput
from xinfer.zoo.base import BuildInput, Feeds, Outputs, TaskRunner

if TYPE_CHECKING:
    from xinfer.catalogue import Entry

SpecT = TypeVar("SpecT", bound=TaskSpec)
ResultT = TypeVar("ResultT")

MAX_CHARACTERS = 1_000_000
"""Of one text: far more than any model sees, little enough for any machine."""

MAX_WINDOWS = 8
"""Of one inference, where the model takes many."""


class TextRunner(TaskRunner[SpecT, ResultT]):
    """What tasks on text share: the tokeniser, and checks of the model's inputs."""

    def setup(self) -> None:
        """Opens the tokeniser and checks that the model takes what it gives.

        Raises:
            TaskSpecError: The model's inputs are others than the task feeds.
            PackageError: The engine carries no tokeniser.
            DocumentError: What it carries is none.
        """
        spec = self.task.input
        assert isinstance(spec, TextInput)
        inputs = {item.name: item for item in self.engine.manifest.io.inputs}
        fixed = {item.shape[1] for item in inputs.values() if len(item.shape) == 2} - {-1}
        wrong = inputs.keys() != set(spec.tensors) or any(
            item.dtype != "int64" or len(item.shape) != 2 for item in inputs.values()
        )
        if wrong or (fixed and (fixed != {spec.max_length} or spec.pad != "max_length")):
            found = ", ".join(f"{name} {list(item.shape)}" for name, item in inputs.items())
            raise TaskSpecError(
                f"the model takes {found}, the task "
                f"feeds {', '.join(spec.tensors)} of {spec.max_length} tokens, padded to {spec.pad}",
                value=sorted(inputs),
            )
        self._takes_many = all(item.shape[0] == -1 for item in inputs.values())
        self.tokenizer = Tokenizer.from_bytes(
            self.engine.asset(spec.tokenizer), max_length=spec.max_length, padding=spec.pad
        )

    def feeds(self, tokens: Feeds) -> Feeds:
        """The tokeniser's arrays under the names of the model's inputs."""
        spec = self.task.input
        assert isinstance(spec, TextInput)
        names = {
            "input_ids": spec.name,
            "attention_mask": spec.attention_mask,
            "token_type_ids": spec.token_types,
        }
        return {name: tokens[kind] for kind, name in names.items() if name is not None}

    def infer_windows(self, windows: TokenWindows) -> list[Outputs]:
        """The outputs [S,...] of each window, padding included."""
        step = MAX_WINDOWS if self._takes_many else 1
        count = len(windows.text_index)
        futures = [
            self.engine.infer_async(
                self.feeds({name: array[first : first + step] for name, array in windows.feeds.items()})
            )
            for first in range(0, count, step)
        ]
        return [
            {name: array[row] for name, array in outputs.items()}
            for outputs in (future.result() for future in futures)
            for row in range(len(next(iter(outputs.values()))))
        ]

    @classmethod
    def build_input(cls, entry: Entry, folder: Path) -> BuildInput:
        """The model and its tokeniser, measured on sentences that stand in this package."""
        from xinfer.zoo.held_out import text_build_input

        return text_build_input(entry, folder)


@dataclass(frozen=True, kw_only=True)
class EmbeddingResult:
    """What a text means, as a vector.

    Attributes:
        vector: [D] float32; of unit length where the task says so.
        num_tokens: Of the text, special tokens included.
        truncated: Whether the text was longer than the model sees.
    """

    vector: np.ndarray = field(repr=False, compare=False)
    num_tokens: int
    truncated: bool

    def similarity(self, other: EmbeddingResult) -> float:
        """Cosine of the angle to another embedding of the same model: 1 the same, about 0 unrelated."""
        return float(cosine_similarity(self.vector[None], other.vector[None])[0, 0])

    def to_json(self) -> dict[str, Any]:
        """The vector as a list of numbers, and how much of the text it is of."""
        return {"vector": self.vector.tolist(), "num_tokens": self.num_tokens, "truncated": self.truncated}


@dataclass(frozen=True, kw_only=True)
class Match:
    """One of the texts that were searched.

    Attributes:
        index: Its place among them.
        text: The text.
        score: Cosine similarity to the query.
    """

    index: int
    text: str
    score: float


class Embedder(TextRunner[Embedding, EmbeddingResult]):
    """Turns texts into vectors: ``Embedder("all-minilm-l6-v2")``."""

    SPEC = Embedding

    def prepare(self, x: str) -> tuple[Feeds, tuple[np.ndarray, bool]]:
        """One text as feeds, its mask, and whether it was cut off. Raises InputError if it is not text."""
        tokens = self.tokenizer.encode_batch([checked_text(x)])
        mask_S = tokens["attention_mask"][0] == 1
        # Only a text that fills the window may be longer, and only then is it worth to look.
        full = int(mask_S.sum()) == self.task.input.max_length
        truncated = full and len(self.tokenizer.encode_windows([x]).text_index) > 1
        return self.feeds(tokens), (mask_S, truncated)

    def interpret(self, outputs: Outputs, context: tuple[np.ndarray, bool]) -> EmbeddingResult:
        """The first text's vector."""
        mask_S, truncated = context
        vector_D = pool(outputs[self.task.outputs["embedding"]][0], mask_S, self.task.pooling)
        if self.task.normalise:
            vector_D = vector_D / max(float(np.linalg.norm(vector_D)), 1e-12)
        return EmbeddingResult(
            vector=vector_D.astype(np.float32),
            num_tokens=int(mask_S.sum()),
            truncated=truncated,
        )

    def embed(self, texts: Iterable[str]) -> np.ndarray:
        """Vectors of many texts.

        Args:
            texts: At least one.

        Returns:
            [N,D] float32.

        Raises:
            InputError: No texts, or something that is not text.
        """
        results = self.predict_batch(texts)
        if not results:
            raise InputError("there are no texts")
        return np.stack([result.vector for result in results])

    def similarity(self, first: str, second: str) -> float:
        """How near two texts are in meaning: the cosine of their vectors, -1..1."""
        a, b = self.predict_batch([first, second])
        return a.similarity(b)

    def search(self, query: str, texts: Sequence[str], *, limit: int = 5) -> list[Match]:
        """The texts nearest to a query, best first.

        Args:
            query: What to look for.
            texts: What to look in.
            limit: At most this many.
        """
        scores = cosine_similarity(self.embed([query]), self.embed(texts))[0]
        best = np.argsort(-scores, kind="stable")[:limit]
        return [Match(index=int(i), text=texts[i], score=float(scores[i])) for i in best]


@dataclass(frozen=True, kw_only=True)
class TextClassificationResult:
    """What a text is.

    Attributes:
        label: The best label; None where the classifier abstains, or where no label of several applies.
        labels: All that apply, best first: one or none, or several of a multi-label task.
        confidence: Probability of the best label.
        probabilities: Of every label, in the task's order.
    """

    label: str | None
    labels: tuple[str, ...]
    confidence: float
    probabilities: dict[str, float] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Label, labels, confidence and all probabilities."""
        return {
            "label": self.label,
            "labels": list(self.labels),
            "confidence": self.confidence,
            "probabilities": dict(self.probabilities),
        }

    def draw(self, *, limit: int = 10, width: int = 40) -> str:
        """The most probable labels with bars, as lines of plain text.

        Args:
            limit: At most this many labels.
            width: Characters of a bar that stands for 1.
        """
        rows = sorted(self.probabilities.items(), key=lambda item: -item[1])[:limit]
        widest = max(len(label) for label, _ in rows)
        return "\n".join(
            f"{label:<{widest}} {'█' * round(p * width):<{width}} {p:6.1%}{' *' * (label in self.labels)}"
            for label, p in rows
        )


class TextClassifier(TextRunner[TextClassification, TextClassificationResult]):
    """Gives texts, or pairs of texts, one label or several."""

    SPEC = TextClassification

    def prepare(self, x: str | tuple[str, str]) -> tuple[Feeds, None]:
        """A text, or two that are judged together, as feeds. Raises InputError if it is neither."""
        if isinstance(x, tuple) and len(x) == 2:
            return self.feeds(self.tokenizer.encode_batch([checked_text(x[0])], [checked_text(x[1])])), None
        return self.feeds(self.tokenizer.encode_batch([checked_text(x)])), None

    def interpret(self, outputs: Outputs, context: object) -> TextClassificationResult:
        """The first text's labels."""
        del context
        logits_C = outputs[self.task.outputs["logits"]][0]
        if logits_C.shape != (len(self.task.labels),):
            raise TaskSpecError(
                f"the model gives {list(logits_C.shape)} numbers for {len(self.task.labels)} labels",
                value=list(logits_C.shape),
            )
        return classify(logits_C, self.task)


def classify(logits_C: np.ndarray, task: TextClassification) -> TextClassificationResult:
    """Logits as calibrated probabilities and labels.

    Args:
        logits_C: [C], any finite numbers.
        task: Labels, temperature, thresholds.
    """
    scaled_C = logits_C.astype(np.float64) / task.temperature
    if task.multi_label:
        probability_C = sigmoid(scaled_C)
        threshold_C = np.array(task.thresholds or [0.5] * len(task.labels))
        order = np.argsort(-probability_C, kind="stable")
        chosen = [int(index) for index in order if probability_C[index] >= threshold_C[index]]
    else:
        probability_C = softmax(scaled_C)
        best = int(probability_C.argmax())
        sure = task.abstain_below is None or probability_C[best] >= task.abstain_below
        chosen = [best] if sure else []
    labels = tuple(task.labels[index] for index in chosen)
    return TextClassificationResult(
        label=labels[0] if labels else None,
        labels=labels,
        confidence=float(probability_C[chosen[0]] if chosen else probability_C.max()),
        probabilities=dict(zip(task.labels, probability_C.tolist(), strict=True)),
    )


def fit_temperature(logits_NC: np.ndarray, labels_N: np.ndarray) -> float:
    """The `temperature` that calibrates a classifier: least negative log-likelihood on held-out data.

    Args:
        logits_NC: [N,C] of texts that the model was not trained on.
        labels_N: [N] numbers of the true labels.

    Returns:
        A number in 0.01..100; over 1 where the model is too sure of itself.

    Raises:
        InputError: No samples, or labels that do not fit.

    Source: Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017), section 4.2; the loss is
        convex in 1/T, so that a golden-section search finds its minimum (Kiefer, 1953).
    """
    logits_NC, labels_N = np.asarray(logits_NC, np.float64), np.asarray(labels_N)
    fits = logits_NC.ndim == 2 and labels_N.shape == logits_NC.shape[:1] and labels_N.dtype.kind in "iu"
    if not fits or labels_N.size == 0 or labels_N.min() < 0 or labels_N.max() >= logits_NC.shape[1]:
        raise InputError("expected logits [N,C] and as many numbers of labels", value=list(logits_NC.shape))

    def loss(log_inverse: float) -> float:
        scaled_NC = logits_NC * np.exp(log_inverse)
        shifted_NC = scaled_NC - scaled_NC.max(axis=1, keepdims=True)
        true_N = np.take_along_axis(shifted_NC, labels_N[:, None].astype(np.int64), axis=1)[:, 0]
        return float(np.mean(np.log(np.exp(shifted_NC).sum(axis=1)) - true_N))

    golden = (np.sqrt(5) - 1) / 2
    low, high = -np.log(100), np.log(100)
    for _ in range(60):
        left, right = high - golden * (high - low), low + golden * (high - low)
        if loss(left) <= loss(right):
            high = right
        else:
            low = left
    return float(np.exp(-(low + high) / 2))


def checked_text(text: object) -> str:
    """The text itself. Raises InputError unless it is text of a size that can be worked on."""
    if not isinstance(text, str):
        raise InputError(f"expected text, given was {type(text).__name__}", value=type(text).__name__)
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"the text has more than {MAX_CHARACTERS} characters", value=len(text))
    return text


def pool(array: np.ndarray, mask_S: np.ndarray, pooling: str) -> np.ndarray:
    """One text's vector.

    Args:
        array: [D] where the graph pooled, else [S,D].
        mask_S: [S] bool, true for tokens, false for padding.
        pooling: ``graph``, ``mean`` or ``first``.

    Raises:
        TaskSpecError: The output has another number of dimensions.

    Source: Reimers and Gurevych, "Sentence-BERT" (EMNLP 2019), section 3.
    """
    if array.ndim != (1 if pooling == "graph" else 2):
        raise TaskSpecError(
            f"the model gives {list(array.shape)} for a text, which pooling {pooling!r} cannot take",
            value=list(array.shape),
        )
    if pooling == "mean":
        mean: np.ndarray = array[mask_S].mean(axis=0, dtype=np.float64)
        return mean
    first: np.ndarray = array[int(mask_S.argmax())] if pooling == "first" else array
    return first


def cosine_similarity(a_ND: np.ndarray, b_MD: np.ndarray) -> np.ndarray:
    """Cosines [N,M] between the rows of two sets of vectors; 0 for zero vectors."""
    unit_a, unit_b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (a_ND, b_MD))
    cosines: np.ndarray = np.clip(unit_a @ unit_b.T, -1, 1)
    return cosines


def softmax(x: np.ndarray) -> np.ndarray:
    """Along the last axis, without overflow."""
    shifted = np.exp(x - x.max(axis=-1, keepdims=True))
    probabilities: np.ndarray = shifted / shifted.sum(axis=-1, keepdims=True)
    return probabilities


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Elementwise, without overflow."""
    probabilities: np.ndarray = 0.5 * (1 + np.tanh(0.5 * x))
    return probabilities
