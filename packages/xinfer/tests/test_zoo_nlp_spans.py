"""Names and answers in texts, with windows; on tiny models whose answers are known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xinfer import InputError, TaskSpecError, parse_task
from xinfer.zoo.markup import highlight
from xinfer.zoo.spans import NamedEntityRecognizer, QuestionAnswering

from .text_models import golden_tokens, make_answering_onnx, make_token_onnx, table, tokenizer_json
from .zoo_engines import make_engine

INPUT = {"name": "input_ids", "kind": "text", "max_length": 64}
NAMES = {
    "task": "token-classification",
    "version": 1,
    "input": INPUT,
    "outputs": {"logits": "logits"},
    "labels": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"],
    "stride": 4,
    "metric": "top1_agreement",
}
ANSWERS = {
    "task": "question-answering",
    "version": 1,
    "input": INPUT,
    "outputs": {"start": "start", "end": "end"},
    "stride": 4,
    "max_answer_tokens": 3,
    "metric": "top1_agreement",
}
NAME_ROWS = {
    "ada": [0, 5, 0, 0, 0],
    "love": [0, 0, 5, 0, 0],
    "##lace": [0, 0, 4, 0, 0],
    "london": [0, 0, 0, 5, 0],
    "paris": [0, 0, 0, 0, 5],
    "new": [0, 0, 0, 5, 0],
    "york": [0, 0, 0, 0, 5],
}
TEXT = "Ada Lovelace lives in London, and Paris. New York, new york new\nYORK?"


@pytest.fixture(scope="module")
def tokenizer() -> dict[str, bytes]:
    return {"tokenizer.json": tokenizer_json()}


def open_names(
    folder: Path, tokenizer: dict[str, bytes], *, max_length: int, batch: int | str = "N", edge: float = 0.0
) -> NamedEntityRecognizer:
    rows = table(5, NAME_ROWS, [5, 0, 0, 0, 0])
    model = make_token_onnx(folder / "model" / "model.onnx", rows, batch=batch, edge=edge)
    spec = NAMES | {"input": INPUT | {"max_length": max_length}}
    return NamedEntityRecognizer(make_engine(folder, model, spec, golden_tokens(), tokenizer))


@pytest.fixture(scope="module")
def names(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: dict[str, bytes]
) -> Iterator[NamedEntityRecognizer]:
    with open_names(tmp_path_factory.mktemp("ner"), tokenizer, max_length=64) as opened:
        yield opened


@pytest.fixture(scope="module")
def answering(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: dict[str, bytes]
) -> Iterator[QuestionAnswering]:
    with open_answering(tmp_path_factory.mktemp("qa"), tokenizer) as opened:
        yield opened


def open_answering(folder: Path, tokenizer: dict[str, bytes], **changes: object) -> QuestionAnswering:
    rows = {
        "[CLS]": [2, 2],
        "london": [6, 3],
        "paris": [5, 5],
        "new": [4, 0],
        "york": [0, 4],
        "who": [9, 9],
        "[SEP]": [9, 9],
    }
    model = make_answering_onnx(folder / "model" / "model.onnx", table(2, rows, [0, 0]))
    return QuestionAnswering(make_engine(folder, model, ANSWERS | changes, golden_tokens(), tokenizer))


def test_names_are_merged_and_stand_where_they_are_said_to(names: NamedEntityRecognizer) -> None:
    result = names.predict(TEXT)
    found = [(entity.label, entity.text) for entity in result.entities]
    assert found == [
        ("PER", "Ada Lovelace"),
        ("LOC", "London"),
        ("LOC", "Paris"),
        ("LOC", "New York"),
        ("LOC", "new york"),
        ("LOC", "new\nYORK"),
    ]
    assert all(TEXT[entity.start : entity.end] == entity.text for entity in result.entities)
    assert result.entities[1].score == pytest.approx(np.exp(5) / (np.exp(5) + 4), rel=1e-5)
    assert json.loads(json.dumps(result.to_json()))["entities"][0]["start"] == 0


def test_characters_count_and_not_bytes(names: NamedEntityRecognizer) -> None:
    text = "\N{GRINNING FACE} é\N{COMBINING ACUTE ACCENT} 北京 ada, \N{FAMILY}london"
    for entity in names.predict(text).entities:
        assert text[entity.start : entity.end] == entity.text
        assert entity.text in ("ada", "london")


def test_text_without_names_has_none(names: NamedEntityRecognizer) -> None:
    assert names.predict("").entities == ()
    assert names.predict("who is it?").entities == ()


@pytest.mark.parametrize("batch", ["N", 1])
def test_windows_find_what_one_window_finds_when_edges_mislead(
    tmp_path: Path, tokenizer: dict[str, bytes], names: NamedEntityRecognizer, batch: int | str
) -> None:
    text = " ".join(["the film."] + [TEXT] * 5)
    with (
        open_names(tmp_path / "whole", tokenizer, max_length=500, edge=50.0) as whole,
        open_names(tmp_path / "cut", tokenizer, max_length=14, batch=batch, edge=50.0) as cut,
    ):
        expected = whole.predict(text)
        assert len(expected.entities) == 30
        assert len(cut.tokenizer.encode_windows([text], stride=4).text_index) > 5
        found = cut.predict(text)
        assert [(e.label, e.start, e.end) for e in found.entities] == [
            (e.label, e.start, e.end) for e in expected.entities
        ]


def test_names_of_a_batch_come_in_order(names: NamedEntityRecognizer) -> None:
    found = names.predict_batch(["ada", "in paris", TEXT])
    assert [result.text for result in found] == ["ada", "in paris", TEXT]
    assert found[1].entities[0].text == "paris"


def test_prepare_and_interpret_agree_with_predict(
    names: NamedEntityRecognizer, answering: QuestionAnswering
) -> None:
    feeds, context = names.prepare(TEXT)
    assert names.interpret(names.engine.infer(feeds), context) == names.predict(TEXT)
    question = ("who is it?", TEXT)
    asked, where = answering.prepare(question)
    assert answering.interpret(answering.engine.infer(asked), where) == answering.predict(question)


class _Marks(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.inside, self.marks = "", []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.inside = tag

    def handle_data(self, data: str) -> None:
        if self.inside == "mark":
            self.marks.append(data.strip())
            self.inside = ""


def test_drawing_marks_every_name(names: NamedEntityRecognizer) -> None:
    result = names.predict("<b>Ada</b> & London")
    marks = _Marks()
    marks.feed(result.draw())
    assert marks.marks == ["Ada", "London"]
    assert "<b>" not in result.draw()
    assert result.draw(style="ansi").count("\x1b[0m") == 4
    assert "\x1b[31mADA" not in names.predict("\x1b[31mADA").draw(style="ansi")


@given(st.text(max_size=40), st.integers(0, 40), st.integers(0, 40))
def test_highlight_keeps_the_text(text: str, a: int, b: int) -> None:
    start, end = sorted((min(a, len(text)), min(b, len(text))))

    class Text(HTMLParser):
        found = ""

        def handle_data(self, data: str) -> None:
            self.found += data

    parser = Text()
    parser.feed(highlight(text, [(start, end, "")]))
    parser.close()
    # HTML has one kind of line end and no null character.
    assert parser.found.replace("\r", "") == text.replace("\r", "")


def test_answer_is_the_best_place_of_the_text_and_not_of_the_question(answering: QuestionAnswering) -> None:
    context = "the film is in london. Ada is in Paris, it is new york."
    result = answering.answer("who paris?", context)
    assert result.answer is not None
    assert (result.answer.text, context[result.answer.start : result.answer.end]) == ("Paris", "Paris")
    logits = np.array([candidate.score for candidate in result.candidates])
    assert (np.diff(logits) <= 0).all()
    assert result.candidates[1].text == "london"
    assert result.no_answer_score is None
    # Best logits 10 (paris) and 9 (london): their probabilities are a factor e apart.
    assert logits[0] / logits[1] == pytest.approx(np.e, rel=1e-4)
    document = json.loads(json.dumps(result.to_json()))
    assert document["answer"]["text"] == "Paris"
    assert "<mark" in result.draw()


def test_answers_are_as_long_as_allowed(answering: QuestionAnswering) -> None:
    assert answering.answer("where?", "in new york").answer.text == "new york"  # type: ignore[union-attr]
    # Four tokens from "new" to "york": too long for an answer.
    far = answering.answer("where?", "in new film film york").answer
    assert far is not None
    assert far.text != "new film film york"


def test_answer_in_a_later_window_has_its_place_in_the_whole_text(
    tmp_path: Path, tokenizer: dict[str, bytes]
) -> None:
    context = "the film is good. " * 30 + "Ada lives in Paris. " + "it is bad, " * 20
    with open_answering(tmp_path, tokenizer, input=INPUT | {"max_length": 20}) as answering:
        result = answering.predict(("where?", context))
        assert result.answer is not None
        assert (result.answer.start, result.answer.text) == (context.index("Paris"), "Paris")
        # Places in two windows count once.
        assert len({(c.start, c.end) for c in result.candidates}) == len(result.candidates)


def test_no_answer_is_given_when_none_beats_the_threshold(
    tmp_path: Path, tokenizer: dict[str, bytes]
) -> None:
    with open_answering(tmp_path, tokenizer, null_threshold=0.0) as answering:
        none = answering.answer("where?", "the film is good")
        assert none.answer is None
        assert none.no_answer_score is not None
        assert none.no_answer_score > max(candidate.score for candidate in none.candidates)
        assert answering.answer("where?", "in paris").answer is not None
        assert "<mark" not in none.draw()


@pytest.mark.parametrize(
    "x",
    [
        "text",
        ("", "text"),
        ("who?", "  "),
        ("who?", None),
        (1, "text"),
        ("who " * 60, "text"),
        ("a", "b", "c"),
    ],
)
def test_predict_refuses_what_is_no_question(answering: QuestionAnswering, x: object) -> None:
    with pytest.raises(InputError):
        answering.predict(x)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"labels": ["B-PER", "I-PER"]},
        {"labels": ["O"]},
        {"stride": 62},
        {"stride": -1},
        {"outputs": {"start": "s", "end": "e"}},
    ],
)
def test_names_spec_is_refused_when_it_makes_no_sense(change: dict[str, object]) -> None:
    with pytest.raises(TaskSpecError):
        parse_task(NAMES | change)


@pytest.mark.parametrize("change", [{"max_answer_tokens": 0}, {"stride": 62}, {"outputs": {"start": "s"}}])
def test_answers_spec_is_refused_when_it_makes_no_sense(change: dict[str, object]) -> None:
    with pytest.raises(TaskSpecError):
        parse_task(ANSWERS | change)
