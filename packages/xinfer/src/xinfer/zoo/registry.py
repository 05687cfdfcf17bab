"""Which class runs which task; imported on demand, so that a task costs nothing until it is used."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from xinfer.errors import TaskSpecError

if TYPE_CHECKING:
    from xinfer.zoo.base import TaskRunner

RUNNERS: dict[str, str] = {
    "anomaly-detection": "xinfer.zoo.anomaly:AnomalyDetector",
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

PIPELINES: dict[str, str] = {"ocr": "xinfer.zoo.ocr:OcrReader"}
"""Task of an entry with parts -> ``module:class``, built from the entry's id."""


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
    runner: type[TaskRunner[Any, Any]] = _class(where)
    return runner


def open_model(model: str | os.PathLike[str], **load_options: Any) -> Any:
    """Whatever runs a catalogue id or an engine file: an object with `predict`, `predict_batch` and `close`.

    Args:
        model: An id of the catalogue, or the path of an engine file, whose task spec says what it is.
        load_options: Passed to `InferenceEngine.load`.

    Raises:
        CatalogueError: There is no such id.
        TaskSpecError: The engine has no task spec, or no class runs it.
        XInferError: Whatever loading or building raises.
    """
    from xinfer.engine import InferenceEngine
    from xinfer.zoo import resolve

    if isinstance(model, str) and resolve.is_id(model):
        from xinfer import catalogue

        entry = catalogue.get(model)
        pipeline = PIPELINES.get(entry.task)
        return (_class(pipeline) if pipeline else runner_for(entry.task))(model, **load_options)
    engine = InferenceEngine.load(model, **load_options)
    try:
        if engine.task is None:
            raise TaskSpecError(
                "the engine has no task spec: it takes and gives tensors", value=os.fspath(model)
            )
        return runner_for(engine.task.task)(engine)
    except BaseException:
        engine.close()
        raise


def _class(where: str) -> Any:
    module, _, name = where.partition(":")
    return getattr(importlib.import_module(module), name)
