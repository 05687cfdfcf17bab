"""Tasks on sound: where somebody speaks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from xinfer.tasks.spec import InputSpec, TaskSpec


@InputSpec.VARIANTS.add("audio")
@dataclass(frozen=True, kw_only=True)
class AudioInput(InputSpec):
    """One channel of sound in -1..1, cut into windows: float32 [T,context+window] or [1,context+window].

    Attributes:
        sample_rate: Samples per second that the model takes; other rates are resampled.
        window: New samples per step.
        context: Samples of the step before that stand in front of them (zeros at the start).
        sequence: Whether one inference takes all T windows, or one window at a time.
        states: The model's state inputs -> the outputs that hold them after a step; zeros at the start.
    """

    kind: Literal["audio"] = "audio"
    sample_rate: int
    window: int
    context: int = 0
    sequence: bool = False
    states: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.sample_rate < 1 or self.window < 1 or not 0 <= self.context <= self.window:
            raise ValueError("sample_rate and window must be positive, context within 0..window")

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the model's inputs that it feeds."""
        return (self.name, *self.states)


@TaskSpec.VARIANTS.add("voice-activity")
@dataclass(frozen=True, kw_only=True)
class VoiceActivity(TaskSpec):
    """Where somebody speaks. `outputs.probability` has one value per window.

    Attributes:
        threshold: Speech starts at a window of at least this probability ...
        negative_threshold: ... and may end at one below this; default: 0.15 less than `threshold`.
        min_speech_s: Shorter segments are dropped.
        min_silence_s: Shorter pauses do not end a segment.
        pad_s: Segments are widened by this much on both sides, where neighbours leave room.
    """

    task: Literal["voice-activity"] = "voice-activity"
    input: AudioInput
    threshold: float = 0.5
    negative_threshold: float | None = None
    min_speech_s: float = 0.25
    min_silence_s: float = 0.1
    pad_s: float = 0.03
    metric: Literal["cosine", "frame_accuracy"] = "cosine"

    def __post_init__(self) -> None:
        self.require_outputs("probability")
        if not 0 < self.threshold < 1 or not 0 < self.exit_threshold <= self.threshold:
            raise ValueError("thresholds must be within 0..1, the negative one not above the other")
        if min(self.min_speech_s, self.min_silence_s, self.pad_s) < 0:
            raise ValueError("durations must not be negative")

    @property
    def exit_threshold(self) -> float:
        """Speech may end at a window below this."""
        if self.negative_threshold is not None:
            return self.negative_threshold
        return max(self.threshold - 0.15, 0.01)
