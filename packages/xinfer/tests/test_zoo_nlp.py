"""Embedding and classification of texts, on tiny models whose answers are known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xinfer import DocumentError, InputError, PackageError, TaskSpecError, parse_task
from xinfer.builders import measure_pipeline
from xinfer.tasks.text import TextClassification
from xinfer.zoo.nlp import Embedder, TextClassifier, classify, fit_temperature

from .text_models import (
    WORDS,
    golden_tokens,
    make_classifier_onnx,
    make_embedding_onnx,
    table,
    token_inputs,
    tokenizer_json,
)
from .zoo_engines import make_engine

INPUT = {"name": "input_ids", "kind": "text", "max_length": 12}
EMBED = {"task": "embedding", "input": INPUT, "outputs": {"embedding": "embedding"}, "metric": "cosine"}
CLASSIFY = {
    "task": "text-classification",
    "version": 1,
    "input": INPUT | {"token_types": "token_type_ids"},
    "outputs": {"logits": "logits"},
    "labels": ["good", "bad", "place"],
    "metric": "top1_agreement",
}
VECTORS = np.random.default_rng(0).normal(size=(len(WORDS), 4)).astype(np.float32)


@pytest.fixture(scope="module")
def tokenizer() -> dict[str, bytes]:
    return {"tokenizer.json": tokenizer_json()}


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory, tokenizer: dict[str, bytes]) -> Iterator[Embedder]:
    folder = tmp_path_factory.mktemp("embed")
    model = make_embedding_onnx(folder / "model" / "model.onnx", VECTORS, pooled=True)
    with Embedder(make_engine(folder, model, EMBED, golden_tokens(), tokenizer)) as opened:
        yield opened


@pytest.fixture(scope="module")
def classifier(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: dict[str, bytes]
) -> Iterator[TextClassifier]:
    folder = tmp_path_factory.mktemp("classify")
    rows = table(3, {"good": [4, 0, 0], "bad": [0, 4, 0], "london": [0, 0, 4]}, [0, 0, 0])
    model = make_classifier_onnx(folder / "model" / "model.onnx", rows)
    with TextClassifier(make_engine(folder, model, CLASSIFY, golden_tokens(types=True), tokenizer)) as opened:
        yield opened


def expected_vector(*words: str) -> np.ndarray:
    mean = np.mean([VECTORS[WORDS.index(word)] for word in ("[CLS]", *words, "[SEP]")], axis=0)
    return mean / np.linalg.norm(mean)


def test_vector_is_the_unit_mean_of_the_tokens(embedder: Embedder) -> None:
    result = embedder.predict("Ada Lovelace lives in London.")
    expected = expected_vector("ada", "love", "##lace", "lives", "in", "london", ".")
    np.testing.assert_allclose(result.vector, expected, atol=1e-6)
    assert (result.num_tokens, result.truncated) == (9, False)
    assert json.loads(json.dumps(result.to_json()))["num_tokens"] == 9


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_pooling_outside_the_graph_leaves_padding_out(
    tmp_path: Path, tokenizer: dict[str, bytes], pooling: str
) -> None:
    model = make_embedding_onnx(tmp_path / "model" / "model.onnx", VECTORS, pooled=False)
    spec = EMBED | {"pooling": pooling, "normalise": False, "input": INPUT | {"pad": "max_length"}}
    with Embedder(make_engine(tmp_path, model, spec, golden_tokens(), tokenizer)) as embedder:
        vector = embedder.predict("ada lives").vector
    tokens = VECTORS[[WORDS.index(word) for word in ("[CLS]", "ada", "lives", "[SEP]")]]
    np.testing.assert_allclose(vector, tokens.mean(axis=0) if pooling == "mean" else tokens[0], atol=1e-6)


def test_engine_of_fixed_shape_is_padded_to_it(tmp_path: Path, tokenizer: dict[str, bytes]) -> None:
    model = make_embedding_onnx(tmp_path / "model" / "model.onnx", VECTORS, pooled=True, batch=1, length=12)
    spec = EMBED | {"input": INPUT | {"pad": "max_length"}}
    with Embedder(make_engine(tmp_path, model, spec, golden_tokens(length=12), tokenizer)) as embedder:
        np.testing.assert_allclose(embedder.predict("ada").vector, expected_vector("ada"), atol=1e-6)
        np.testing.assert_allclose(
            embedder.embed(["ada", "in paris"])[1], expected_vector("in", "paris"), atol=1e-6
        )


def test_long_text_is_cut_at_max_length(embedder: Embedder) -> None:
    result = embedder.predict("ada " * 50)
    assert (result.num_tokens, result.truncated) == (12, True)
    np.testing.assert_allclose(result.vector, expected_vector(*["ada"] * 10), atol=1e-6)


def test_batch_gives_what_single_texts_give_in_order(embedder: Embedder) -> None:
    texts = ["ada", "in london and paris", "", "good film", "bad film", "ada lives in new york"]
    vectors = embedder.embed(texts)
    for text, vector in zip(texts, vectors, strict=True):
        np.testing.assert_allclose(vector, embedder.predict(text).vector, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_similarity_and_search_rank_by_cosine(embedder: Embedder) -> None:
    assert embedder.similarity("good film", "GOOD  film") == pytest.approx(1, abs=1e-6)
    texts = ["bad film", "ada", "good film", "paris"]
    matches = embedder.search("good film", texts, limit=2)
    assert (matches[0].index, matches[0].text) == (2, "good film")
    assert matches[0].score == pytest.approx(1, abs=1e-6)
    scores = [float(embedder.predict("good film").vector @ embedder.predict(text).vector) for text in texts]
    assert matches[1].score == pytest.approx(sorted(scores)[-2], abs=1e-6)


@pytest.mark.parametrize("text", [None, 3, b"ada", ["ada"], "half \ud800", "a" * 1_000_001])
def test_predict_refuses_what_is_no_text(embedder: Embedder, text: object) -> None:
    with pytest.raises(InputError):
        embedder.predict(text)  # type: ignore[arg-type]


def test_embed_refuses_nothing(embedder: Embedder) -> None:
    with pytest.raises(InputError):
        embedder.embed([])


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=60))
def test_any_text_has_a_finite_unit_vector_or_is_refused(embedder: Embedder, text: str) -> None:
    vector = embedder.predict(text).vector
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"input": INPUT | {"attention_mask": None}}, TaskSpecError),
        ({"input": INPUT | {"token_types": "token_type_ids"}}, TaskSpecError),
        ({"input": INPUT | {"tokenizer": "other.json"}}, PackageError),
        ({"input": INPUT | {"tokenizer": "garbage.json"}}, DocumentError),
    ],
)
def test_embedder_refuses_an_engine_that_does_not_fit(
    tmp_path: Path, tokenizer: dict[str, bytes], change: dict[str, object], error: type[Exception]
) -> None:
    model = make_embedding_onnx(tmp_path / "model" / "model.onnx", VECTORS, pooled=True)
    assets = tokenizer | {"garbage.json": b"{}"}
    with (
        make_engine(tmp_path, model, EMBED | change, golden_tokens(), assets) as engine,
        pytest.raises(error),
    ):
        Embedder(engine)


def test_embedder_refuses_a_fixed_shape_that_it_would_not_pad_to(
    tmp_path: Path, tokenizer: dict[str, bytes]
) -> None:
    model = make_embedding_onnx(tmp_path / "model" / "model.onnx", VECTORS, pooled=True, length=8)
    with (
        make_engine(tmp_path, model, EMBED, golden_tokens(length=8), tokenizer) as engine,
        pytest.raises(TaskSpecError, match="12 tokens"),
    ):
        Embedder(engine)


def test_classifier_gives_the_best_label_and_calibrated_probabilities(classifier: TextClassifier) -> None:
    result = classifier.predict("a good film")
    assert (result.label, result.labels) == ("good", ("good",))
    assert result.confidence == pytest.approx(np.exp(4) / (np.exp(4) + 2), rel=1e-5)
    assert sum(result.probabilities.values()) == pytest.approx(1)
    assert json.loads(json.dumps(result.to_json()))["label"] == "good"
    first = result.draw().splitlines()[0]
    assert first.startswith("good")
    assert first.endswith("*")


def test_the_second_text_of_a_pair_has_types_of_its_own(classifier: TextClassifier) -> None:
    assert classifier.predict(("good", "bad")).label == "bad"
    assert classifier.predict(("bad", "good")).label == "good"


@pytest.mark.parametrize("x", [("a", "b", "c"), ("a", 3), None, ("a",)])
def test_classifier_refuses_what_is_neither_text_nor_pair(classifier: TextClassifier, x: object) -> None:
    with pytest.raises(InputError):
        classifier.predict(x)  # type: ignore[arg-type]


def classification(**changes: object) -> TextClassification:
    spec = parse_task(CLASSIFY | changes)
    assert isinstance(spec, TextClassification)
    return spec


def test_classifier_abstains_below_the_threshold() -> None:
    logits = np.array([1.0, 0.9, 0.8], np.float32)
    unsure = classify(logits, classification(abstain_below=0.5))
    assert (unsure.label, unsure.labels) == (None, ())
    assert unsure.confidence == pytest.approx(unsure.probabilities["good"])
    assert classify(logits * 10, classification(abstain_below=0.5)).label == "good"
    # At the threshold itself it does not abstain.
    assert classify(np.zeros(3), classification(abstain_below=1 / 3)).label == "good"


def test_temperature_changes_confidence_and_not_the_order() -> None:
    logits = np.array([2.0, 0.0, 1.0], np.float32)
    plain, soft = classify(logits, classification()), classify(logits, classification(temperature=4.0))
    assert soft.label == plain.label
    assert 1 / 3 < soft.confidence < plain.confidence
    assert soft.confidence == pytest.approx(np.exp(0.5) / np.exp([0.5, 0, 0.25]).sum())


def test_fitted_temperature_is_the_one_that_the_labels_were_drawn_with() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 4))
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (probability.cumsum(axis=1) < rng.uniform(size=(len(logits), 1))).sum(axis=1)
    for too_sure in (0.5, 1.0, 3.0):
        assert fit_temperature(logits * too_sure, labels) == pytest.approx(too_sure, rel=0.05)


@pytest.mark.parametrize(
    ("logits", "labels"),
    [(np.zeros((0, 2)), np.zeros(0, int)), (np.zeros((2, 2)), [0, 2]), (np.zeros((2, 2)), [0]), ([1.0], [0])],
)
def test_fit_temperature_refuses_what_does_not_fit(logits: object, labels: object) -> None:
    with pytest.raises(InputError):
        fit_temperature(logits, labels)  # type: ignore[arg-type]


def test_multi_label_gives_every_label_over_its_threshold() -> None:
    logits = np.array([0.1, 3.0, -5.0], np.float32)
    found = classify(logits, classification(multi_label=True))
    assert (found.label, found.labels) == ("bad", ("bad", "good"))
    assert found.probabilities["place"] == pytest.approx(1 / (1 + np.exp(5)), rel=1e-6)
    strict = classify(logits, classification(multi_label=True, thresholds=[0.6, 0.99, 0.001]))
    assert strict.labels == ("place",)
    assert classify(logits - 10, classification(multi_label=True)).label is None


def test_probabilities_are_finite_when_logits_are_huge() -> None:
    for multi_label in (False, True):
        found = classify(np.array([1e4, -1e4, 0]), classification(multi_label=multi_label))
        assert np.isfinite(list(found.probabilities.values())).all()
        assert found.label == "good"


@pytest.mark.parametrize(
    "change",
    [
        {"labels": ["one"]},
        {"temperature": 0.0},
        {"thresholds": [0.5, 0.5, 0.5]},
        {"multi_label": True, "thresholds": [0.5]},
        {"multi_label": True, "abstain_below": 0.5},
        {"abstain_below": 1.5},
        {"outputs": {"embedding": "logits"}},
        {"input": INPUT | {"max_length": 2}},
    ],
)
def test_spec_is_refused_when_it_makes_no_sense(change: dict[str, object]) -> None:
    with pytest.raises(TaskSpecError):
        parse_task(CLASSIFY | change)


def test_inputs_of_the_tiny_models_are_what_specs_name() -> None:
    spec = parse_task(CLASSIFY)
    assert set(spec.input.tensors) == set(token_inputs("N", "S", types=True))


def test_a_texts_pipeline_is_compared_from_the_body_to_the_answer(classifier: TextClassifier) -> None:
    """The build of a text engine measures it against plain torch, as that of an image engine does."""
    bodies = [b"good", b"bad"]
    answers: list[str | None] = []

    def hundredfold(body: bytes) -> None:
        for _ in range(100):
            answers.append(classifier.predict(body.decode()).label)

    found = measure_pipeline(classifier.engine, bodies, hundredfold, peer_name="slow", rounds=1)
    assert set(answers) == {"good", "bad"}
    assert (found.peer, found.num_images) == ("slow", 2)
    assert found.speedup > 5
