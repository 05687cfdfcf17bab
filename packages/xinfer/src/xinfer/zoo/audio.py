"""Tasks on sound: where somebody speaks.

Legend: S samples, T windows, W samples of a window with its context.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xinfer.errors import InputError, TaskSpecError
from xinfer.preproc.sound import mono
from xinfer.tasks.audio import VoiceActivity
from xinfer.zoo.base import BuildInput, Feeds, Outputs, TaskRunner
from xinfer.zoo.svg import Chart

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from xinfer.catalogue import Entry

Sound = bytes | np.ndarray | tuple[np.ndarray, int] | str | os.PathLike[str]

MAX_WINDOWS = 512
"""Of one inference, where the model takes a sequence: bounds memory at no cost in speed."""


@dataclass(frozen=True, kw_only=True)
class SpeechSegment:
    """Somebody speaks from `start_s` to `end_s`, in seconds from the beginning."""

    start_s: float
    end_s: float


@dataclass(frozen=True, kw_only=True)
class VoiceActivityResult:
    """Where somebody speaks.

    Attributes:
        segments: In order, not overlapping.
        duration_s: Of the whole sound.
        probability: [T] float32: that somebody speaks in each window.
        window_s: Length of a window.
        threshold: The task's.
    """

    segments: tuple[SpeechSegment, ...]
    duration_s: float
    probability: np.ndarray = field(repr=False, compare=False)
    window_s: float
    threshold: float

    @property
    def speech_s(self) -> float:
        """Seconds of speech in all."""
        return sum(segment.end_s - segment.start_s for segment in self.segments)

    def to_json(self) -> dict[str, Any]:
        """Segments and durations, in seconds rounded to milliseconds."""
        return {
            "segments": [
                {"start_s": round(segment.start_s, 3), "end_s": round(segment.end_s, 3)}
                for segment in self.segments
            ],
            "duration_s": round(self.duration_s, 3),
            "speech_s": round(self.speech_s, 3),
        }

    def draw(self) -> str:
        """Probability over time with the segments behind it, as an SVG document."""
        chart = Chart(
            title=f"Speech: {self.speech_s:.1f} of {self.duration_s:.1f} s",
            x_range=(0, max(self.duration_s, self.window_s)),
            y_range=(0, 1),
            x_label="seconds",
            height=220,
        )
        for segment in self.segments:
            chart.span(segment.start_s, segment.end_s, "#2e8b57")
        times = (np.arange(len(self.probability)) + 0.5) * self.window_s
        chart.line(times, self.probability, "#1f4e9c")
        chart.line(np.array(chart.x_range), np.full(2, self.threshold), "#b33", dash="4 3")
        return chart.render()


class VoiceActivityDetector(TaskRunner[VoiceActivity, VoiceActivityResult]):
    """Finds speech in sound, whole (`predict`) or as it comes in (`stream`)."""

    SPEC = VoiceActivity

    def setup(self) -> None:
        """Reads the shapes of the model's state."""
        shapes = {spec.name: spec.shape for spec in self.engine.manifest.io.inputs}
        missing = [name for name in self.task.input.tensors if name not in shapes]
        if missing or len(shapes) != len(self.task.input.tensors):
            raise TaskSpecError(
                f"the model takes {sorted(shapes)}, the task feeds {sorted(self.task.input.tensors)}",
                value=sorted(shapes),
            )
        self._state_shapes = {
            name: tuple(max(size, 1) for size in shapes[name]) for name in self.task.input.states
        }

    def predict(self, x: Sound) -> VoiceActivityResult:
        """Finds speech.

        Args:
            x: WAV bytes or path, samples [S] or [C,S] at the task's rate, or samples and their rate.

        Returns:
            The segments.

        Raises:
            InputError: The sound cannot be read or is empty.
        """
        stream = self.stream()
        stream.push(self._samples(x))
        return stream.finish()

    def predict_batch(self, xs: Iterable[Sound]) -> list[VoiceActivityResult]:
        """The results for many sounds, in order; as many at once as the engine has streams."""
        with ThreadPoolExecutor(self.engine.settings.num_streams, "xinfer-voice") as pool:
            return list(pool.map(self.predict, xs))

    def stream(self) -> VoiceStream:
        """For sound that comes in piece by piece; the model's state is carried on."""
        return VoiceStream(self)

    def prepare(self, x: Sound) -> tuple[Feeds, int]:
        """Feeds of the first inference: all windows where the model takes a sequence, else the first one."""
        samples_S = self._samples(x)
        windows_TW = frame(samples_S, self.task)
        first_TW = windows_TW if self.task.input.sequence else windows_TW[:1]
        return {self.task.input.name: first_TW, **self.first_state()}, samples_S.size

    def interpret(self, outputs: Outputs, context: int) -> VoiceActivityResult:
        """The result of `prepare`'s inference; `context` is the number of samples."""
        probability_T = outputs[self.task.outputs["probability"]].ravel()
        return self.result(probability_T, context)

    def result(self, probability_T: np.ndarray, num_samples: int) -> VoiceActivityResult:
        """Probabilities of all windows as segments."""
        rate = self.task.input.sample_rate
        return VoiceActivityResult(
            segments=tuple(
                SpeechSegment(start_s=start / rate, end_s=end / rate)
                for start, end in speech_segments(probability_T, self.task, num_samples)
            ),
            duration_s=num_samples / rate,
            probability=np.asarray(probability_T, np.float32),
            window_s=self.task.input.window / rate,
            threshold=self.task.threshold,
        )

    def first_state(self) -> Feeds:
        """The model's state before the first window."""
        return {name: np.zeros(shape, np.float32) for name, shape in self._state_shapes.items()}

    def _samples(self, x: Sound) -> np.ndarray:
        samples_S = mono(x, sample_rate=self.task.input.sample_rate)
        if samples_S.size == 0:
            raise InputError("the sound is empty", value=0)
        return samples_S

    @classmethod
    def build_input(cls, entry: Entry, folder: Path) -> BuildInput:
        """The model as it is, measured on synthesised speech-like sound and noise."""
        from xinfer.zoo.held_out import sound_build_input

        return sound_build_input(entry, folder)


class VoiceStream:
    """Sound as it comes in. Not thread-safe; one per source of sound.

    Args:
        detector: Whose engine runs.
    """

    def __init__(self, detector: VoiceActivityDetector) -> None:
        self._detector = detector
        self._state = detector.first_state()
        self._context_S = np.zeros(detector.task.input.context, np.float32)
        self._rest_S = np.zeros(0, np.float32)
        self._probability: list[np.ndarray] = []
        self._num_samples = 0

    def push(self, samples_S: np.ndarray) -> np.ndarray:
        """Takes the next samples.

        Args:
            samples_S: [S] float32 at the task's rate, any number of them.

        Returns:
            [T] float32: probability of speech in each window that became complete, perhaps none.
        """
        window = self._detector.task.input.window
        self._num_samples += samples_S.size
        pending_S = np.concatenate([self._rest_S, np.asarray(samples_S, np.float32)])
        complete = pending_S.size // window * window
        self._rest_S = pending_S[complete:]
        return self._run(pending_S[:complete])

    def finish(self) -> VoiceActivityResult:
        """Fills the last window with silence and gives the result of everything since the start."""
        if self._rest_S.size:
            window = self._detector.task.input.window
            self._run(np.pad(self._rest_S, (0, window - self._rest_S.size)))
            self._rest_S = self._rest_S[:0]
        probability_T = np.concatenate(self._probability) if self._probability else np.zeros(0, np.float32)
        return self._detector.result(probability_T, self._num_samples)

    def _run(self, samples_S: np.ndarray) -> np.ndarray:
        task = self._detector.task
        if samples_S.size == 0:
            return np.zeros(0, np.float32)
        windows_TW = frame(samples_S, task, self._context_S)
        self._context_S = windows_TW[-1, windows_TW.shape[1] - task.input.context :]
        step = MAX_WINDOWS if task.input.sequence else 1
        found = []
        for first in range(0, len(windows_TW), step):
            feeds = {task.input.name: windows_TW[first : first + step], **self._state}
            outputs = self._detector.engine.infer(feeds)
            self._state = {name: outputs[after] for name, after in task.input.states.items()}
            found.append(outputs[task.outputs["probability"]].ravel())
        probability_T = np.concatenate(found)
        self._probability.append(probability_T)
        return probability_T


def frame(samples_S: np.ndarray, task: VoiceActivity, context_S: np.ndarray | None = None) -> np.ndarray:
    """Cuts sound into the model's windows.

    Args:
        samples_S: [S] float32; the last window is filled with silence.
        task: Gives window and context.
        context_S: What came before; default: silence.

    Returns:
        [T,context+window] float32: each window with the end of the one before in front of it.
    """
    window, context = task.input.window, task.input.context
    num_windows = -(-samples_S.size // window)
    before_S = np.zeros(context, np.float32) if context_S is None else context_S
    padded_S = np.pad(samples_S, (0, num_windows * window - samples_S.size))
    joined_S = np.concatenate([before_S, padded_S]).astype(np.float32)
    view = np.lib.stride_tricks.sliding_window_view(joined_S, context + window)[::window]
    return np.ascontiguousarray(view)


def speech_segments(
    probability_T: Sequence[float] | np.ndarray, task: VoiceActivity, num_samples: int
) -> list[tuple[int, int]]:
    """Probabilities as segments: two thresholds, pauses bridged, short segments dropped, the rest widened.

    Args:
        probability_T: One per window.
        task: Thresholds and durations.
        num_samples: Of the sound; segments end there at the latest.

    Returns:
        Start and end of each segment in samples, in order, not overlapping.

    Source: the algorithm published with Silero VAD 6.2 (`get_speech_timestamps_from_probs`, MIT), without its
        limit on a segment's length.
    """
    rate, window = task.input.sample_rate, task.input.window
    min_speech, min_silence = task.min_speech_s * rate, task.min_silence_s * rate
    found: list[tuple[int, int]] = []
    start: int | None = None
    silence: int | None = None
    for index, probability in enumerate(probability_T):
        now = index * window
        if probability >= task.threshold:
            silence = None
            start = now if start is None else start
        elif start is not None and probability < task.exit_threshold:
            silence = now if silence is None else silence
            if now - silence >= min_silence:
                if silence - start > min_speech:
                    found.append((start, silence))
                start = silence = None
    if start is not None and num_samples - start > min_speech:
        found.append((start, num_samples))
    return _widened(found, task.pad_s * rate, num_samples)


def _widened(segments: list[tuple[int, int]], pad: float, num_samples: int) -> list[tuple[int, int]]:
    starts, ends = [start for start, _ in segments], [end for _, end in segments]
    for index in range(len(segments)):
        if index == 0:
            starts[0] = int(max(0, starts[0] - pad))
        if index == len(segments) - 1:
            ends[index] = int(min(num_samples, ends[index] + pad))
        elif (gap := starts[index + 1] - ends[index]) < 2 * pad:
            ends[index] += gap // 2
            starts[index + 1] -= gap // 2
        else:
            ends[index] = int(min(num_samples, ends[index] + pad))
            starts[index + 1] = int(max(0, starts[index + 1] - pad))
    return list(zip(starts, ends, strict=True))
