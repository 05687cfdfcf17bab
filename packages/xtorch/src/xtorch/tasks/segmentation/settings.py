"""What a segmentation run may be asked to do differently."""

from __future__ import annotations

import math
from dataclasses import dataclass

from xtorch.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class SegmentationSettings:
    """Defaults are for a few hundred images and two cores.

    Attributes:
        input_size: Longer side of what the network sees, in pixels; a multiple of 32. Larger finds smaller
            things, and takes longer.
        backbone: "efficientnet_lite0" begins with ImageNet's weights, "unet" with random ones; "auto" is the
            first where its weights are installed.
        any_direction: Whether images mean the same upside down and turned, as seen from above or through a
            microscope: then they are learned in all directions.
        miss_cost: With two classes: what a missed pixel of the second costs, as a multiple of one that is
            marked wrongly; the threshold follows. None: the best mean IoU.
        epochs: Rounds of training; None: as many as the budget holds.
        learning_rate: The highest, of new layers; pretrained ones get less.
    """

    input_size: int = 256
    backbone: str = "auto"
    any_direction: bool = False
    miss_cost: float | None = None
    epochs: int | None = None
    batch_size: int = 8
    learning_rate: float = 2e-3

    def __post_init__(self) -> None:
        if not isinstance(self.input_size, int) or self.input_size % 32 or not 64 <= self.input_size <= 1024:
            raise SettingsError(
                "input_size must be a multiple of 32 between 64 and 1024.", value=self.input_size
            )
        if self.backbone not in ("auto", "efficientnet_lite0", "unet"):
            raise SettingsError("backbone must be auto, efficientnet_lite0 or unet.", value=self.backbone)
        if not isinstance(self.any_direction, bool):
            raise SettingsError("any_direction must be true or false.", value=self.any_direction)
        if self.miss_cost is not None and not (math.isfinite(self.miss_cost) and self.miss_cost > 0):
            raise SettingsError("miss_cost must be above 0.", value=self.miss_cost)
        if self.epochs is not None and not 1 <= self.epochs <= 1000:
            raise SettingsError("epochs must be between 1 and 1000.", value=self.epochs)
        if not 2 <= self.batch_size <= 64:
            raise SettingsError("batch_size must be between 2 and 64.", value=self.batch_size)
        if not 0 < self.learning_rate <= 0.1:
            raise SettingsError("learning_rate must be above 0 and at most 0.1.", value=self.learning_rate)
