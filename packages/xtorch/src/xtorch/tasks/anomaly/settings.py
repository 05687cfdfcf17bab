"""What a run may be asked to do differently."""

from __future__ import annotations

from dataclasses import dataclass

from xtorch.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class AnomalySettings:
    """Settings of `run`; where to put "defective" begins with what a wrong answer costs.

    Raises:
        SettingsError: A value is out of range, or two contradict each other.
    """

    input_size: int = 256
    """Side of the image that the backbone sees, in pixels; a multiple of 32."""
    memory_size: int = 4000
    """Descriptors of good patches that the memory keeps."""
    top_fractions: tuple[float, ...] = (0.02, 0.1, 0.5)
    """Shares of an image's patches; the means of the strangest ones, averaged over the shares, are its score,
    where nothing else is clearly better."""
    candidates: tuple[str, ...] = ("memory", "gaussian", "head")
    """Which scorers compete."""
    max_false_alarm_rate: float | None = None
    """Largest share of good images that may be rejected."""
    max_miss_rate: float | None = None
    """Largest share of defective images that may pass; needs defective images."""

    def __post_init__(self) -> None:
        if self.input_size % 32 or not 128 <= self.input_size <= 512:
            raise SettingsError(
                "input_size must be a multiple of 32 between 128 and 512.", value=self.input_size
            )
        if not 64 <= self.memory_size <= 16_384:
            raise SettingsError("memory_size must be between 64 and 16384.", value=self.memory_size)
        if not self.top_fractions or not all(0 < fraction <= 1 for fraction in self.top_fractions):
            raise SettingsError(
                "top_fractions must be a list of shares above 0 and at most 1.",
                value=list(self.top_fractions),
            )
        unknown = set(self.candidates) - {"memory", "gaussian", "head"}
        if unknown or not set(self.candidates) & {"memory", "gaussian"}:
            raise SettingsError(
                "candidates must name memory or gaussian, and may name head.", value=list(self.candidates)
            )
        for name in ("max_false_alarm_rate", "max_miss_rate"):
            rate = getattr(self, name)
            if rate is not None and not 0 < rate < 1:
                raise SettingsError(f"{name} must be between 0 and 1, for example 0.01.", value=rate)
        if self.max_false_alarm_rate is not None and self.max_miss_rate is not None:
            raise SettingsError(
                "Only one of max_false_alarm_rate and max_miss_rate can be kept by one threshold.",
                value=[self.max_false_alarm_rate, self.max_miss_rate],
                hint="give the costlier mistake's; the report says what the other becomes",
            )
