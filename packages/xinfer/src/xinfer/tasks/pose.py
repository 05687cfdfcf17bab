"""Pose estimation: an image of one person (or hand, animal, ...) in; keypoints out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from xinfer.tasks.detection import require_fractions
from xinfer.tasks.spec import ImageInput, TaskSpec


@TaskSpec.VARIANTS.add("pose-estimation")
@dataclass(frozen=True, kw_only=True)
class PoseEstimation(TaskSpec):
    """`outputs.heatmaps` is [N,K,h,w], a map of probabilities for each keypoint; `labels` are their names.

    Attributes:
        score_threshold: A keypoint below it is not seen.
        skeleton: Pairs of keypoints that are joined when drawn, by their place in `labels`.
    """

    task: Literal["pose-estimation"] = "pose-estimation"
    input: ImageInput
    score_threshold: float = 0.3
    skeleton: tuple[tuple[int, int], ...] = ()
    metric: str = "pck"

    def __post_init__(self) -> None:
        self.require_outputs("heatmaps")
        require_fractions(score_threshold=self.score_threshold)
        if not self.labels:
            raise ValueError("labels must not be empty")
        if any(not 0 <= end < len(self.labels) for pair in self.skeleton for end in pair):
            raise ValueError("skeleton names a keypoint that is none of the labels")
