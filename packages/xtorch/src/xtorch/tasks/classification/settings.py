"""What a run may be asked to do differently."""

from __future__ import annotations

import math
from dataclasses import dataclass

from xtorch.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class ClassificationSettings:
    """
    Attributes:
        input_size: Side of the image that the network sees, in pixels; a multiple of 32.
        fine_tune: Whether the network's last blocks are trained too, where there is time for it.
        max_trials: Most settings of the head that are tried.
        review_cost: What it costs when a person looks at an image, as a share of what a wrong answer costs;
            it decides from which confidence on answers need no review.
    """

    input_size: int = 224
    fine_tune: bool = True
    max_trials: int = 20
    review_cost: float = 0.2

    def __post_init__(self) -> None:
        if not isinstance(self.input_size, int) or self.input_size % 32 or not 128 <= self.input_size <= 512:
            raise SettingsError(
                "input_size must be a multiple of 32 between 128 and 512.", value=self.input_size
            )
        if not isinstance(self.fine_tune, bool):
            raise SettingsError("fine_tune must be true or false.", value=self.fine_tune)
        if not isinstance(self.max_trials, int) or not 1 <= self.max_trials <= 200:
            raise SettingsError("max_trials must be between 1 and 200.", value=self.max_trials)
        if not math.isfinite(self.review_cost) or not 0 < self.review_cost < 1:
            raise SettingsError("review_cost must be between 0 and 1.", value=self.review_cost)
