"""What is in this image?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xinfer.postproc.scores import sigmoid, softmax, top_k
from xinfer.preproc import Geometry
from xinfer.tasks import ImageClassification
from xinfer.zoo import drawing
from xinfer.zoo.base import Outputs
from xinfer.zoo.images import Image, VisionRunner, read_pixels

TOP = 5
_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "softmax": softmax,
    "sigmoid": sigmoid,
    "none": np.asarray,
}


@dataclass(frozen=True, kw_only=True)
class Classification:
    """What a classifier says about one image.

    Attributes:
        label: The most probable label.
        probability: Its probability.
        probabilities: float32 [C], in the labels' order.
        fitting: The labels that fit: the best one, or with ``sigmoid`` all from the threshold on.
    """

    label: str
    probability: float
    fitting: tuple[str, ...]
    probabilities: np.ndarray = field(repr=False, compare=False)
    task: ImageClassification = field(repr=False)

    def top(self, num: int = TOP) -> list[tuple[str, float]]:
        """The most probable labels with their probabilities, best first."""
        classes, probabilities = top_k(self.probabilities, num)
        return [
            (self.task.labels[index], probability)
            for index, probability in zip(classes.tolist(), probabilities.tolist(), strict=True)
        ]

    def draw(self, image: Image) -> np.ndarray:
        """The image, [H,W,3] uint8 RGB, with the best labels in its corner."""
        drawn_HW3 = read_pixels(image, min_side=self.task.input.min_side)
        text = ", ".join(f"{label} {probability:.0%}" for label, probability in self.top(2))
        return drawing.caption(drawn_HW3, (0, 0), text, (20, 20, 20))

    def to_json(self) -> dict[str, Any]:
        """Label, probability, the fitting labels and the top five."""
        return {
            "label": self.label,
            "probability": self.probability,
            "labels": list(self.fitting),
            "top": [{"label": label, "probability": probability} for label, probability in self.top()],
        }


class ImageClassifier(VisionRunner[ImageClassification, Classification]):
    """Names what an image shows."""

    SPEC = ImageClassification

    def interpret(self, outputs: Outputs, context: Geometry) -> Classification:
        """The first image's labels."""
        del context
        scores_C = outputs[self.task.outputs["scores"]][0].astype(np.float32)
        probabilities_C = _ACTIVATIONS[self.task.activation](scores_C)
        best = int(probabilities_C.argmax())
        fitting = [best]
        if self.task.activation == "sigmoid":
            fitting = [int(index) for index in np.flatnonzero(probabilities_C >= self.task.threshold)]
        return Classification(
            label=self.task.labels[best],
            probability=float(probabilities_C[best]),
            fitting=tuple(self.task.labels[index] for index in fitting),
            probabilities=probabilities_C,
            task=self.task,
        )
