"""Monocular depth: an image in, the depth of each pixel out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from xinfer.tasks.spec import ImageInput, TaskSpec


@TaskSpec.VARIANTS.add("depth-estimation")
@dataclass(frozen=True, kw_only=True)
class DepthEstimation(TaskSpec):
    """`outputs.depth` is [N,h,w] or [N,1,h,w].

    Attributes:
        scale: ``inverse-relative``: greater is nearer, without unit (disparity up to scale and shift);
            ``metres``: greater is farther.
    """

    task: Literal["depth-estimation"] = "depth-estimation"
    input: ImageInput
    scale: Literal["inverse-relative", "metres"] = "inverse-relative"
    metric: str = "cosine"

    def __post_init__(self) -> None:
        self.require_outputs("depth")
