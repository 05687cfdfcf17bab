"""Tasks on places in texts: names, and answers to questions.

Legend: S tokens, C labels, W words.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from xinfer.errors import InputError
from xinfer.preproc.text import TokenWindows
from xinfer.tasks.text import ExtractiveAnswering, TokenClassification
from xinfer.zoo.base import Feeds, Outputs
from xinfer.zoo.markup import highlight
from xinfer.zoo.nlp import TextRunner, checked_text, softmax


@dataclass(frozen=True, kw_only=True)
class Entity:
    """A name in a text.

    Attributes:
        label: What it names, such as ``PER``.
        text: The characters `start` to `end` of the text.
        start, end: In characters.
        score: Mean probability of its words.
    """

    label: str
    text: str
    start: int
    end: int
    score: float


@dataclass(frozen=True, kw_only=True)
class EntitiesResult:
    """The names in a text, in order, not overlapping."""

    text: str = field(repr=False)
    entities: tuple[Entity, ...]

    def to_json(self) -> dict[str, Any]:
        """Label, text, place in characters and score of each."""
        return {"entities": [dict(vars(entity)) for entity in self.entities]}

    def draw(self, *, style: Literal["html", "ansi"] = "html") -> str:
        """The text with its names marked, as an HTML fragment or for a terminal."""
        return highlight(self.text, [(e.start, e.end, e.label) for e in self.entities], style=style)


class NamedEntityRecognizer(TextRunner[TokenClassification, EntitiesResult]):
    """Finds names in texts of any length."""

    SPEC = TokenClassification

    def predict(self, x: str) -> EntitiesResult:
        """Finds names.

        Args:
            x: The text; long ones are read in windows that overlap.

        Raises:
            InputError: It is not text.
        """
        windows = self._windows(x)
        return self._result(x, windows, self.infer_windows(windows))

    def predict_batch(self, xs: Any) -> list[EntitiesResult]:
        """The names in many texts, in order."""
        return [self.predict(x) for x in xs]

    def prepare(self, x: str) -> tuple[Feeds, tuple[str, TokenWindows]]:
        """All windows as feeds."""
        windows = self._windows(x)
        return self.feeds(windows.feeds), (x, windows)

    def interpret(self, outputs: Outputs, context: tuple[str, TokenWindows]) -> EntitiesResult:
        """The names in `prepare`'s windows."""
        text, windows = context
        return self._result(text, windows, rows_of(outputs))

    def _windows(self, x: str) -> TokenWindows:
        return self.tokenizer.encode_windows([checked_text(x)], stride=self.task.stride)

    def _result(self, text: str, windows: TokenWindows, outputs: list[Outputs]) -> EntitiesResult:
        words: dict[int, _Word] = {}
        for row, output in enumerate(outputs):
            probability_SC = softmax(output[self.task.outputs["logits"]].astype(np.float64))
            for number, word in _words(windows.words[row], windows.offsets[row], probability_SC).items():
                # Of a word in several windows, the whole one with most context on both sides counts.
                if number not in words or word.rank > words[number].rank:
                    words[number] = word
        ordered = sorted(words.values(), key=lambda word: word.start)
        return EntitiesResult(text=text, entities=tuple(aggregate(text, ordered, self.task)))


@dataclass(frozen=True)
class _Word:
    start: int
    end: int
    probability: np.ndarray
    rank: tuple[int, int]


def _words(words_S: np.ndarray, offsets_S2: np.ndarray, probability_SC: np.ndarray) -> dict[int, _Word]:
    """Number of the word in the text -> the mean of its tokens."""
    tokens: dict[int, list[int]] = {}
    for token in np.flatnonzero(words_S >= 0).tolist():
        tokens.setdefault(int(words_S[token]), []).append(token)
    inside = [token for members in tokens.values() for token in members]
    first, last = min(inside, default=0), max(inside, default=0)
    return {
        word: _Word(
            int(offsets_S2[members[0], 0]),
            int(offsets_S2[members[-1], 1]),
            probability_SC[members].mean(axis=0),
            (len(members), min(members[0] - first, last - members[-1])),
        )
        for word, members in tokens.items()
    }


def aggregate(text: str, words: list[_Word], task: TokenClassification) -> list[Entity]:
    """Words as names: ``B-X`` begins one, ``I-X`` (or ``X``) goes on with one of its kind, or begins one.

    Source: Tjong Kim Sang and De Meulder, "Introduction to the CoNLL-2003 Shared Task" (2003), section 2;
        read leniently, as its evaluation script does.
    """
    groups: list[tuple[str, list[tuple[_Word, float]]]] = []
    previous: str | None = None
    for word in words:
        best = int(word.probability.argmax())
        label = task.labels[best]
        if label == task.outside:
            previous = None
            continue
        begins = label.startswith("B-")
        kind = label[2:] if label.startswith(("B-", "I-")) else label
        if begins or kind != previous:
            groups.append((kind, []))
        groups[-1][1].append((word, float(word.probability[best])))
        previous = kind
    entities = []
    for kind, members in groups:
        start, end = members[0][0].start, members[-1][0].end
        # Some tokenisers count the space before a word as part of it.
        start += len(text[start:end]) - len(text[start:end].lstrip())
        score = float(np.mean([probability for _, probability in members]))
        entities.append(Entity(label=kind, text=text[start:end], start=start, end=end, score=score))
    return entities


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A place in the text that answers the question.

    Attributes:
        text: The characters `start` to `end` of the text.
        start, end: In characters.
        score: Probability among all places (and "no answer", where the model knows that).
    """

    text: str
    start: int
    end: int
    score: float


@dataclass(frozen=True, kw_only=True)
class AnswerResult:
    """The answer to a question.

    Attributes:
        question, context: What was asked, and of what.
        answer: The best place; None where the text holds no answer.
        candidates: The best places, best first.
        no_answer_score: Probability that there is none; None where the model does not know that.
    """

    question: str
    context: str = field(repr=False)
    answer: Answer | None
    candidates: tuple[Answer, ...] = field(repr=False)
    no_answer_score: float | None

    def to_json(self) -> dict[str, Any]:
        """The answer and the candidates."""
        return {
            "answer": None if self.answer is None else dict(vars(self.answer)),
            "candidates": [dict(vars(candidate)) for candidate in self.candidates],
            "no_answer_score": self.no_answer_score,
        }

    def draw(self, *, style: Literal["html", "ansi"] = "html") -> str:
        """The text with the answer marked, as an HTML fragment or for a terminal."""
        spans = [] if self.answer is None else [(self.answer.start, self.answer.end, "")]
        return highlight(self.context, spans, style=style)


NUM_CANDIDATES = 5


class QuestionAnswering(TextRunner[ExtractiveAnswering, AnswerResult]):
    """Finds where in a text the answer to a question stands."""

    SPEC = ExtractiveAnswering

    def answer(self, question: str, context: str) -> AnswerResult:
        """`predict` with the two texts by name."""
        return self.predict((question, context))

    def predict(self, x: tuple[str, str]) -> AnswerResult:
        """Answers a question.

        Args:
            x: The question, and the text to look in; long ones are read in windows that overlap.

        Raises:
            InputError: Not two texts, an empty one, or a question that leaves no room for the text.
        """
        windows = self._windows(x)
        return self._result(x, windows, self.infer_windows(windows))

    def predict_batch(self, xs: Any) -> list[AnswerResult]:
        """The answers to many questions, in order."""
        return [self.predict(x) for x in xs]

    def prepare(self, x: tuple[str, str]) -> tuple[Feeds, tuple[tuple[str, str], TokenWindows]]:
        """All windows as feeds."""
        windows = self._windows(x)
        return self.feeds(windows.feeds), (x, windows)

    def interpret(self, outputs: Outputs, context: tuple[tuple[str, str], TokenWindows]) -> AnswerResult:
        """The answer in `prepare`'s windows."""
        x, windows = context
        return self._result(x, windows, rows_of(outputs))

    def _windows(self, x: tuple[str, str]) -> TokenWindows:
        if not isinstance(x, tuple) or len(x) != 2:
            raise InputError("expected a question and a text", value=type(x).__name__)
        question, text = x
        for name, value in (("question", question), ("text", text)):
            if not checked_text(value).strip():
                raise InputError(f"the {name} is empty")
        return self.tokenizer.encode_windows([question], [text], stride=self.task.stride)

    def _result(self, x: tuple[str, str], windows: TokenWindows, outputs: list[Outputs]) -> AnswerResult:
        question, text = x
        places, logits, null_logit = [], [], np.inf
        for row, output in enumerate(outputs):
            start_S = output[self.task.outputs["start"]].astype(np.float64)
            end_S = output[self.task.outputs["end"]].astype(np.float64)
            tokens = np.flatnonzero(windows.sequence[row] == 1)
            found = spans(tokens, windows.offsets[row], start_S, end_S, self.task.max_answer_tokens)
            places.append(found[0])
            logits.append(found[1])
            # No window holds an answer only if the least sure of them says so.
            first = int(windows.feeds["attention_mask"][row].argmax())
            null_logit = min(null_logit, float(start_S[first] + end_S[first]))
        unique_P2, which = np.unique(np.concatenate(places), axis=0, return_inverse=True)
        if len(unique_P2) == 0:
            raise InputError("the text holds no tokens that could answer")
        best_P = np.full(len(unique_P2), -np.inf)
        # A place in two windows is one place.
        np.maximum.at(best_P, which.ravel(), np.concatenate(logits))
        knows_null = self.task.null_threshold is not None
        scores = softmax(np.append(best_P, null_logit) if knows_null else best_P)
        order = np.argsort(-best_P, kind="stable")[:NUM_CANDIDATES]
        candidates = tuple(
            Answer(text=text[start:end], start=int(start), end=int(end), score=float(scores[index]))
            for index, (start, end) in zip(order, unique_P2[order], strict=True)
        )
        none = knows_null and best_P.max() < null_logit + float(self.task.null_threshold or 0)
        return AnswerResult(
            question=question,
            context=text,
            answer=None if none else candidates[0],
            candidates=candidates,
            no_answer_score=float(scores[-1]) if knows_null else None,
        )


def rows_of(outputs: Outputs) -> list[Outputs]:
    """The outputs of each of several windows that ran together."""
    count = len(next(iter(outputs.values())))
    return [{name: array[row] for name, array in outputs.items()} for row in range(count)]


def spans(
    tokens: np.ndarray, offsets_S2: np.ndarray, start_S: np.ndarray, end_S: np.ndarray, max_tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """All places of a window that could be an answer.

    Args:
        tokens: Which tokens are of the text, ascending; those of the question cannot answer it.
        offsets_S2: Characters start..end of each token.
        start_S, end_S: Logits.
        max_tokens: Longest answer.

    Returns:
        Start and end in characters [P,2] int64, and the sum of the two logits [P] float64.

    Source: Devlin et al., "BERT" (NAACL 2019), section 4.2: the score of a span is start plus end.
    """
    # Text tokens are contiguous, so the n-th token after one is its n-th successor.
    first, length = np.meshgrid(np.arange(len(tokens)), np.arange(max_tokens), indexing="ij")
    inside = first + length < len(tokens)
    start, end = tokens[first[inside]], tokens[(first + length)[inside]]
    places_P2 = np.stack([offsets_S2[start, 0], offsets_S2[end, 1]], axis=1)
    some = places_P2[:, 0] < places_P2[:, 1]
    return places_P2[some], (start_S[start] + end_S[end])[some]
