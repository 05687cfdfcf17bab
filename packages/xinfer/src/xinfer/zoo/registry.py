"""Which class runs which task; imported on demand, so that a task costs nothing until it is used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from xinfer.errors import TaskSpecError

if TYPE_CHECKING:
    from xinfer.zoo.base import TaskRunner

RUNNERS: dict[str, str] = {
    "image-classification": "xinfer.zoo.classification:ImageClassifier",
    "object-detection": "xinfer.zoo.detection:ObjectDetector",
    "semantic-segmentation": "xinfer.zoo.segmentation:Segmenter",
    "pose-estimation": "xinfer.zoo.pose:PoseEstimator",
    "face-detection": "xinfer.zoo.face:FaceDetector",
    "text-detection": "xinfer.zoo.ocr:TextDetector",
    "text-recognition": "xinfer.zoo.ocr:TextRecognizer",
    "depth-estimation": "xinfer.zoo.depth:DepthEstimator",
    "embedding": "xinfer.zoo.nlp:Embedder",
    "text-classification": "xinfer.zoo.nlp:TextClassifier",
    "token-classification": "xinfer.zoo.spans:NamedEntityRecognizer",
    "question-answering": "xinfer.zoo.spans:QuestionAnswering",
    "voice-activity": "xinfer.zoo.audio:VoiceActivityDetector",
    "forecast": "xinfer.zoo.timeseries:Forecaster",
}
"""Task -> ``module:class`` of its `TaskRunner`."""


def runner_for(task: str) -> type[TaskRunner[Any, Any]]:
    """The class that runs a task.

    Raises:
        TaskSpecError: No class runs it.
    """
    where = RUNNERS.get(task)
    if where is None:
        raise TaskSpecError(
            f"no class runs the task {task!r}", value=task, hint=f"known: {', '.join(sorted(RUNNERS))}"
        )
    module, _, name = where.partition(":")
    runner: type[TaskRunner[Any, Any]] = getattr(importlib.import_module(module), name)
    return runner
