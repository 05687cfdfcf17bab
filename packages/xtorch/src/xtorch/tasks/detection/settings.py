"""What a detection run may be asked to do differently."""

from __future__ import annotations

from dataclasses import dataclass

from xtorch.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class DetectionSettings:
    """Defaults are for a few hundred images and two cores."""

    architecture: str = "nano"
    """"nano", "tiny" or "small": larger ones are better and slower."""
    input_size: int = 416
    """Longer side of what the network sees, in pixels; a multiple of 32. Larger finds smaller objects."""
    weights: str = "auto"
    """What training starts from: "auto" (published COCO weights, if they can be had), "none", or a file."""
    epochs: int | None = None
    """Passes over the training images; None: as many as the budget holds."""
    batch_size: int = 8
    learning_rate: float = 1e-3
    mosaic: float = 0.5
    """Share of training scenes made of four images."""
    any_direction: bool = False
    """Whether images mean the same upside down, as seen from above or through a microscope: then they are
    learned that way too."""
    min_precision: float | None = None
    """Thresholds: the lowest with at least this precision on validation; None: the best F1."""

    def __post_init__(self) -> None:
        if self.architecture not in ("nano", "tiny", "small"):
            raise SettingsError("architecture must be nano, tiny or small.", value=self.architecture)
        for name in ("input_size", "batch_size", "epochs"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | None):
                raise SettingsError(f"{name} must be a whole number.", value=value)
        if not isinstance(self.any_direction, bool):
            raise SettingsError("any_direction must be true or false.", value=self.any_direction)
        if self.input_size % 32 or not 64 <= self.input_size <= 1280:
            raise SettingsError(
                "input_size must be a multiple of 32 between 64 and 1280.", value=self.input_size
            )
        if self.epochs is not None and not 1 <= self.epochs <= 1000:
            raise SettingsError("epochs must be between 1 and 1000.", value=self.epochs)
        if not 1 <= self.batch_size <= 64:
            raise SettingsError("batch_size must be between 1 and 64.", value=self.batch_size)
        if not 0 < self.learning_rate <= 0.1:
            raise SettingsError("learning_rate must be above 0 and at most 0.1.", value=self.learning_rate)
        if not 0 <= self.mosaic <= 1:
            raise SettingsError("mosaic must be between 0 and 1.", value=self.mosaic)
        if self.min_precision is not None and not 0 < self.min_precision < 1:
            raise SettingsError("min_precision must be between 0 and 1.", value=self.min_precision)
