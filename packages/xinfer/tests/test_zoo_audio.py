"""Voice activity: sound in, windows, state, segments; Silero VAD where it is installed."""

from __future__ import annotations

import importlib.util
import io
import struct
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from xinfer import InputError, TaskSpecError, parse_task
from xinfer.preproc.sound import decode_wav, mono, resample
from xinfer.tasks.audio import VoiceActivity
from xinfer.zoo.audio import VoiceActivityDetector, frame, speech_segments
from xinfer.zoo.held_out import speech_like

from .zoo_engines import make_engine, save_onnx

RATE, WINDOW, CONTEXT = 1600, 50, 8
SPEC = {
    "task": "voice-activity",
    "version": 1,
    "input": {
        "name": "input",
        "kind": "audio",
        "sample_rate": RATE,
        "window": WINDOW,
        "context": CONTEXT,
        "sequence": True,
        "states": {"h": "hn"},
    },
    "outputs": {"probability": "probability"},
    "metric": "cosine",
}
SILERO = {
    "task": "voice-activity",
    "version": 1,
    "input": {
        "name": "input",
        "kind": "audio",
        "sample_rate": 16000,
        "window": 512,
        "context": 64,
        "sequence": True,
        "states": {"h": "hn", "c": "cn"},
    },
    "outputs": {"probability": "speech_probs"},
    "metric": "cosine",
}


def make_vad_onnx(path: Path, *, windows: int | str) -> Path:
    """Loudness as probability, plus a state that counts calls by 1e-3 (so that carrying it shows)."""
    nodes = [
        helper.make_node("Abs", ["input"], ["loud"]),
        helper.make_node("ReduceMean", ["loud", "last"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "gain"], ["scaled"]),
        helper.make_node("Clip", ["scaled", "zero", "most"], ["clipped"]),
        helper.make_node("Squeeze", ["h"], ["h0"]),
        helper.make_node("Add", ["clipped", "h0"], ["probability"]),
        helper.make_node("Add", ["h", "step"], ["hn"]),
    ]
    constants = {
        "last": np.array([1], np.int64),
        "gain": np.float32(2),
        "zero": np.float32(0),
        "most": np.float32(0.9),
        "step": np.full((1, 1, 1), 1e-3, np.float32),
    }
    inputs = {
        "input": (TensorProto.FLOAT, [windows, CONTEXT + WINDOW]),
        "h": (TensorProto.FLOAT, [1, "N", 1]),
    }
    return save_onnx(path, nodes, inputs, {"probability": [windows], "hn": [1, "N", 1]}, constants)


def golden(num_windows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "input": rng.normal(0, 0.3, (num_windows, CONTEXT + WINDOW)).astype(np.float32),
        "h": np.zeros((1, 1, 1), np.float32),
    }


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VoiceActivityDetector]:
    folder = tmp_path_factory.mktemp("vad")
    model = make_vad_onnx(folder / "model" / "model.onnx", windows="T")
    with VoiceActivityDetector(make_engine(folder, model, SPEC, golden(5))) as opened:
        yield opened


@pytest.fixture(scope="module")
def stepwise(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VoiceActivityDetector]:
    folder = tmp_path_factory.mktemp("vad1")
    model = make_vad_onnx(folder / "model" / "model.onnx", windows=1)
    spec = SPEC | {"input": SPEC["input"] | {"sequence": False}}
    with VoiceActivityDetector(make_engine(folder, model, spec, golden(1))) as opened:
        yield opened


def bursts(seconds: float, *loud: tuple[float, float], rate: int = RATE) -> np.ndarray:
    """A hum that is loud between the given seconds."""
    time = np.arange(int(seconds * rate)) / rate
    level = np.zeros_like(time)
    for start, end in loud:
        level[(time >= start) & (time < end)] = 0.6
    return (level * np.sin(2 * np.pi * 170 * time)).astype(np.float32)


def wav(samples: np.ndarray, rate: int, *, channels: int = 1) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.round(samples * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def test_segments_stand_where_it_is_loud(detector: VoiceActivityDetector) -> None:
    result = detector.predict(bursts(4, (0.5, 1.5), (2.5, 3.5)))
    window_s = WINDOW / RATE
    assert len(result.segments) == 2
    for segment, (start, end) in zip(result.segments, [(0.5, 1.5), (2.5, 3.5)], strict=True):
        assert segment.start_s == pytest.approx(start, abs=window_s + 0.03)
        assert segment.end_s == pytest.approx(end, abs=window_s + 0.03)
    assert result.duration_s == 4
    assert result.to_json()["speech_s"] == pytest.approx(2, abs=0.2)


def test_silence_has_no_segments(detector: VoiceActivityDetector) -> None:
    assert detector.predict(np.zeros(RATE, np.float32)).segments == ()


def test_file_array_and_other_rate_give_the_same_segments(
    detector: VoiceActivityDetector, tmp_path: Path
) -> None:
    expected = detector.predict(bursts(3, (1, 2))).segments
    (tmp_path / "sound.wav").write_bytes(wav(bursts(3, (1, 2)), RATE))
    stereo = np.stack([bursts(3, (1, 2), rate=4410)] * 2)
    for sound in (tmp_path / "sound.wav", wav(bursts(3, (1, 2)), RATE), (stereo, 4410)):
        (found,) = detector.predict(sound).segments
        assert found.start_s == pytest.approx(expected[0].start_s, abs=1.1 * WINDOW / RATE)
        assert found.end_s == pytest.approx(expected[0].end_s, abs=1.1 * WINDOW / RATE)


def test_pieces_give_what_the_whole_gives(stepwise: VoiceActivityDetector) -> None:
    sound = bursts(2, (0.3, 1.1))
    whole = stepwise.predict(sound)
    stream = stepwise.stream()
    pieces = np.split(sound, [1, 49, 50, 51, 730, 731, 2000])
    probability = np.concatenate([stream.push(piece) for piece in pieces])
    result = stream.finish()
    np.testing.assert_array_equal(result.probability, whole.probability)
    np.testing.assert_array_equal(probability, whole.probability[: len(probability)])
    assert result == whole
    # One call per window: the counting state went from call to call.
    quiet = whole.probability[-5:]
    np.testing.assert_allclose(np.diff(quiet), 1e-3, rtol=1e-3)


def test_context_is_the_end_of_the_window_before() -> None:
    spec = parse_task(SPEC)
    assert isinstance(spec, VoiceActivity)
    samples = np.arange(1, 121, dtype=np.float32)
    windows = frame(samples, spec)
    assert windows.shape == (3, CONTEXT + WINDOW)
    np.testing.assert_array_equal(windows[0, :CONTEXT], 0)
    np.testing.assert_array_equal(windows[1], np.arange(51 - CONTEXT, 101))
    np.testing.assert_array_equal(windows[2, CONTEXT + 20 :], 0)


def test_batch_answers_in_order(detector: VoiceActivityDetector) -> None:
    sounds = [bursts(2, (0.2 + 0.1 * index, 1.2)) for index in range(6)]
    found = detector.predict_batch(sounds)
    assert found == [detector.predict(sound) for sound in sounds]
    assert len({result.segments for result in found}) == 6


def test_prepare_and_interpret_agree_with_predict(detector: VoiceActivityDetector) -> None:
    sound = bursts(2, (0.5, 1.5))
    feeds, context = detector.prepare(sound)
    assert detector.interpret(detector.engine.infer(feeds), context) == detector.predict(sound)


def test_draw_is_an_svg_with_a_box_per_segment(detector: VoiceActivityDetector) -> None:
    root = ElementTree.fromstring(detector.predict(bursts(4, (0.5, 1.5), (2.5, 3.5))).draw())
    boxes = [node for node in root.iter() if node.get("fill-opacity") == "0.25"]
    assert len(boxes) == 2
    assert float(boxes[0].get("x", "0")) < float(boxes[1].get("x", "0"))


@pytest.mark.parametrize(
    "sound",
    [
        np.zeros(0, np.float32),
        np.zeros((2, 2, 2), np.float32),
        np.zeros(9, np.int32),
        np.full(9, np.nan, np.float32),
        np.array(["a"]),
        b"no sound",
        b"RIFF\0\0\0\0WAVE",
        b"RIFF\0\0\0\0WAVEdata\4\0\0\0\0\0\0\0",
        (np.zeros(9, np.float32), 0),
        "none.wav",
    ],
    ids=lambda value: type(value).__name__,
)
def test_predict_refuses_what_is_no_sound(detector: VoiceActivityDetector, sound: object) -> None:
    with pytest.raises(InputError):
        detector.predict(sound)  # type: ignore[arg-type]


def test_wav_of_every_kind_is_read() -> None:
    values = np.array([[0.5, -0.25, 0.125, -1.0]], np.float32)
    frames = {
        (1, 8): (values * 128 + 128).astype(np.uint8).tobytes(),
        (1, 16): (values * 2**15).astype("<i2").tobytes(),
        (1, 24): b"".join(int(v * 2**23).to_bytes(3, "little", signed=True) for v in values[0]),
        (1, 32): (values.astype(np.float64) * 2**31).astype("<i4").tobytes(),
        (3, 32): values.astype("<f4").tobytes(),
        (3, 64): values.astype("<f8").tobytes(),
    }
    for (kind, bits), body in frames.items():
        layout = struct.pack("<HHIIHH", kind, 2, 8000, 0, 0, bits)
        chunks = b"".join(
            name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
            for name, content in [(b"fmt ", layout), (b"LIST", b"odd"), (b"data", body)]
        )
        samples, rate = decode_wav(b"RIFF\0\0\0\0WAVE" + chunks)
        assert rate == 8000
        np.testing.assert_array_equal(samples, [[0.5, 0.125], [-0.25, -1.0]], err_msg=f"{kind} {bits}")


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_wav_garbage_is_refused_and_never_crashes(data: bytes) -> None:
    with pytest.raises(InputError):
        decode_wav(b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0" + data[:16].ljust(16, b"\xff") + b"data" + data)


@pytest.mark.parametrize(
    ("rate", "new_rate"), [(44100, 16000), (8000, 16000), (48000, 16000), (16000, 11025)]
)
def test_resample_keeps_low_tones_and_removes_what_would_alias(rate: int, new_rate: int) -> None:
    time, new_time = np.arange(rate) / rate, np.arange(new_rate) / new_rate
    low = resample(np.sin(2 * np.pi * 440 * time).astype(np.float32), rate, new_rate)
    assert low.shape == (new_rate,)
    inner = slice(200, -200)
    np.testing.assert_allclose(low[inner], np.sin(2 * np.pi * 440 * new_time)[inner], atol=1e-3)
    if new_rate < rate:
        above = 0.5 * new_rate * 1.15
        high = resample(np.sin(2 * np.pi * above * time).astype(np.float32), rate, new_rate)
        assert np.abs(high[inner]).max() < 1e-3


def test_mono_is_the_mean_of_the_channels() -> None:
    np.testing.assert_allclose(
        mono(np.array([[16384, 0], [0, 0]], np.int16), sample_rate=8000), [0.25, 0], atol=1e-7
    )


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 0.0},
        {"negative_threshold": 0.6},
        {"min_speech_s": -1.0},
        {"outputs": {"p": "probability"}},
        {"input": SPEC["input"] | {"context": WINDOW + 1}},
        {"input": {"name": "image", "kind": "image", "color": "RGB", "min_side": 1}},
    ],
)
def test_spec_is_refused_when_it_makes_no_sense(change: dict[str, object]) -> None:
    with pytest.raises(TaskSpecError):
        parse_task(SPEC | change)


def test_detector_refuses_an_engine_whose_inputs_differ(tmp_path: Path) -> None:
    model = make_vad_onnx(tmp_path / "model" / "model.onnx", windows="T")
    spec = SPEC | {"input": SPEC["input"] | {"states": {}}}
    with make_engine(tmp_path, model, spec, golden(2)) as engine, pytest.raises(TaskSpecError):
        VoiceActivityDetector(engine)


PROBABILITIES = st.lists(st.sampled_from([0.0, 0.2, 0.34, 0.36, 0.5, 0.9]), max_size=120)


@settings(deadline=None)
@given(PROBABILITIES, st.integers(0, 511))
def test_segments_are_ordered_and_within_the_sound(probability: list[float], cut: int) -> None:
    spec = parse_task(SILERO)
    assert isinstance(spec, VoiceActivity)
    num_samples = max(0, 512 * len(probability) - cut)
    edges = [edge for segment in speech_segments(probability, spec, num_samples) for edge in segment]
    assert edges == sorted(edges)
    assert all(0 <= edge <= num_samples for edge in edges)


needs_silero = pytest.mark.skipif(
    importlib.util.find_spec("silero_vad") is None or importlib.util.find_spec("torch") is None,
    reason="silero-vad (and torch, which it imports) is not installed",
)


@pytest.fixture(scope="module")
def silero_utils() -> Any:
    """Importing it sets torch to one thread for the whole process, which other tests must not inherit."""
    torch = pytest.importorskip("torch")
    num_threads = torch.get_num_threads()
    try:
        return pytest.importorskip("silero_vad.utils_vad")
    finally:
        torch.set_num_threads(num_threads)


@needs_silero
@settings(max_examples=150, deadline=None)
@given(probability=PROBABILITIES, cut=st.integers(0, 511))
def test_segments_are_those_of_the_published_algorithm(
    silero_utils: Any, probability: list[float], cut: int
) -> None:
    published = silero_utils.get_speech_timestamps_from_probs
    spec = parse_task(SILERO)
    assert isinstance(spec, VoiceActivity)
    num_samples = max(0, 512 * len(probability) - cut)
    expected = published(probability, audio_length_samples=num_samples)
    found = speech_segments(probability, spec, num_samples)
    assert [(int(s["start"]), int(s["end"])) for s in expected] == found


@pytest.fixture(scope="module")
def silero(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VoiceActivityDetector]:
    spec = importlib.util.find_spec("silero_vad")
    if spec is None or spec.origin is None:
        pytest.skip("silero-vad is not installed")
    folder = tmp_path_factory.mktemp("silero")
    model = folder / "model" / "model.onnx"
    model.parent.mkdir()
    model.write_bytes((Path(spec.origin).parent / "data" / "silero_vad_16k_sequence.onnx").read_bytes())
    task = parse_task(SILERO)
    assert isinstance(task, VoiceActivity)
    feeds = {
        "input": frame(speech_like(0.5, (0.1, 0.4)), task),
        "h": np.zeros((1, 1, 128), np.float32),
        "c": np.zeros((1, 1, 128), np.float32),
    }
    with VoiceActivityDetector(make_engine(folder, model, SILERO, feeds)) as opened:
        yield opened


@needs_silero
def test_silero_hears_synthesised_speech_and_not_the_silence(silero: VoiceActivityDetector) -> None:
    result = silero.predict(speech_like(6, (1.0, 3.0), (4.0, 5.5)))
    assert len(result.segments) == 2
    for segment, (start, end) in zip(result.segments, [(1.0, 3.0), (4.0, 5.5)], strict=True):
        assert segment.start_s == pytest.approx(start, abs=0.2)
        assert segment.end_s == pytest.approx(end, abs=0.2)
    assert silero.predict(1e-3 * np.random.default_rng(1).normal(size=48000)).segments == ()


@needs_silero
@pytest.mark.filterwarnings("default")  # silero's own
def test_silero_agrees_with_its_published_runner(silero: VoiceActivityDetector, silero_utils: Any) -> None:
    import torch

    utils = silero_utils
    published = utils.OnnxWrapper(
        str(Path(utils.__file__).parent / "data" / "silero_vad.onnx"), force_onnx_cpu=True
    )
    sound = speech_like(20, (1.0, 3.0), (4.0, 5.5), (8.0, 17.3))
    with torch.no_grad():
        expected = published.audio_forward(torch.from_numpy(sound)[None], 16000)[0].numpy()
        timestamps = utils.get_speech_timestamps(torch.from_numpy(sound), published)
    result = silero.predict(sound)
    np.testing.assert_allclose(result.probability, expected, atol=1e-4)
    assert [(round(s.start_s * 16000), round(s.end_s * 16000)) for s in result.segments] == [
        (int(stamp["start"]), int(stamp["end"])) for stamp in timestamps
    ]
