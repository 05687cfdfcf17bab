"""Anomaly detection: is this part all right, and if not, where?

Legend: H height, W width of the image; h, w of the anomaly map.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from xinfer._extras import require
from xinfer.preproc import Geometry
from xinfer.tasks import AnomalyDetection
from xinfer.zoo.images import VisionRunner, read_pixels

MAX_HEAT_ALPHA = 0.85


@dataclass(frozen=True, kw_only=True)
class AnomalyResult:
    """What an anomaly detector says about one image.

    Attributes:
        verdict: `labels[1]` ("defective") when `score >= threshold`, else `labels[0]` ("ok").
        score: The model's score.
        threshold: The task's operating point.
        confidence: 0.5 at the threshold, rising linearly with the distance from it to 1.0 at the end of
            the task's `score_range` on that side. A ranking aid, not a probability.
        anomaly_map: [h,w] float32, the score of each place.
    """

    verdict: str
    score: float
    threshold: float
    confidence: float
    anomaly_map: np.ndarray = field(repr=False, compare=False)
    task: AnomalyDetection = field(repr=False)

    @property
    def defective(self) -> bool:
        """Whether the threshold is met."""
        return self.score >= self.threshold

    def heat(self) -> np.ndarray:
        """The map as [h,w] float32 in 0..1: 0 and 1 at the ends of `score_range`, 0.5 at `map_threshold`.

        Bent there because one far outlier among the scores would else leave every other defect cold.
        """
        low, high = self.task.score_range
        middle = self.task.map_threshold if low < self.task.map_threshold < high else (low + high) / 2
        return np.interp(self.anomaly_map, (low, middle, high), (0, 0.5, 1)).astype(np.float32)

    def heatmap_png(self) -> bytes:
        """The map as an RGBA PNG of its own size, to be laid over the image: hotter is more opaque.

        Source: colours are Turbo, A. Mikhailov, "Turbo, An Improved Rainbow Colormap for Visualization",
        Google AI Blog, 2019 (OpenCV's COLORMAP_TURBO).
        """
        cv2 = require("cv2", "image")
        heat_hw = self.heat()
        alpha_hw = np.round(heat_hw * MAX_HEAT_ALPHA * 255).astype(np.uint8)
        encoded, png = cv2.imencode(".png", np.dstack([_turbo_bgr(heat_hw), alpha_hw]))
        assert encoded
        return bytes(png)

    def draw(self, image: bytes | np.ndarray | str | os.PathLike[str]) -> np.ndarray:
        """The image with the heat laid over it and an outline where the map reaches `map_threshold`.

        Args:
            image: The same image as predicted: encoded bytes, [H,W,3] uint8 RGB, or a path.

        Returns:
            [H,W,3] uint8 RGB.

        Raises:
            ImageDecodeError: The image cannot be decoded.
        """
        cv2 = require("cv2", "image")
        pixels_HW3 = read_pixels(image, min_side=self.task.input.min_side)
        height, width = pixels_HW3.shape[:2]
        map_HW = cv2.resize(self.anomaly_map, (width, height), interpolation=cv2.INTER_LINEAR)
        heat_HW = cv2.resize(self.heat(), (width, height), interpolation=cv2.INTER_LINEAR)
        alpha_HW1 = heat_HW[:, :, None] * (MAX_HEAT_ALPHA * 0.7)
        colour_HW3 = _turbo_bgr(heat_HW)[:, :, ::-1]
        drawn_HW3 = np.round(pixels_HW3 * (1 - alpha_HW1) + colour_HW3 * alpha_HW1).astype(np.uint8)
        mask_HW = (map_HW >= self.task.map_threshold).astype(np.uint8)
        contours, _ = cv2.findContours(mask_HW, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        drawn_HW3 = np.ascontiguousarray(drawn_HW3)
        cv2.drawContours(drawn_HW3, contours, -1, (255, 40, 40), max(1, min(height, width) // 200))
        return drawn_HW3

    def to_json(self) -> dict[str, Any]:
        """Verdict, score, threshold and confidence, as the gateway answers them (ARCHITECTURE 10.7)."""
        return {
            "verdict": self.verdict,
            "score": self.score,
            "threshold": self.threshold,
            "confidence": self.confidence,
        }


class AnomalyDetector(VisionRunner[AnomalyDetection, AnomalyResult]):
    """Runs an anomaly detection engine on images: encoded bytes, paths, or pixels [H,W,3] uint8 RGB."""

    SPEC = AnomalyDetection

    def interpret(self, outputs: dict[str, np.ndarray], context: Geometry) -> AnomalyResult:
        """The first image's verdict with score, confidence and map."""
        del context
        return interpret(self.task, outputs)


def interpret(task: AnomalyDetection, outputs: dict[str, np.ndarray], *, index: int = 0) -> AnomalyResult:
    """Turns the model's outputs into a result.

    Args:
        task: The engine's task.
        outputs: What `InferenceEngine.infer` returned: score [N] and map [N,h,w].
        index: Which of the N images.

    Returns:
        The result of that image.
    """
    score = float(outputs[task.outputs["score"]][index])
    return AnomalyResult(
        verdict=task.labels[int(score >= task.threshold)],
        score=score,
        threshold=task.threshold,
        confidence=confidence(score, task),
        anomaly_map=outputs[task.outputs["map"]][index],
        task=task,
    )


def confidence(score: float, task: AnomalyDetection) -> float:
    """How far a score is from the threshold: 0.5 at it, 1.0 at the end of `score_range`, linear between.

    Args:
        score: Any finite number.
        task: Gives `threshold` and `score_range`.

    Returns:
        A number in 0.5..1.0, of the verdict that the score leads to.
    """
    low, high = task.score_range
    span = high - task.threshold if score >= task.threshold else task.threshold - low
    # A threshold outside the range seen leaves no scale on that side: then the whole range is the scale.
    if span <= 0:
        span = high - low
    return 0.5 + 0.5 * min(1.0, abs(score - task.threshold) / span)


def _turbo_bgr(heat_hw: np.ndarray) -> np.ndarray:
    cv2 = require("cv2", "image")
    return cast("np.ndarray", cv2.applyColorMap(np.round(heat_hw * 255).astype(np.uint8), cv2.COLORMAP_TURBO))
