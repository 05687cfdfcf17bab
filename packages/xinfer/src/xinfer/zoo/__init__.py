"""Typed tasks on top of engines.

Importing this imports NumPy only; what a task needs (image decoding, tokenising) is imported when it runs.
"""

from xinfer.zoo.anomaly import AnomalyDetector, AnomalyResult
from xinfer.zoo.audio import SpeechSegment, VoiceActivityDetector, VoiceActivityResult
from xinfer.zoo.base import BuildInput, TaskRunner
from xinfer.zoo.classification import Classification, ImageClassifier
from xinfer.zoo.depth import Depth, DepthEstimator
from xinfer.zoo.detection import Detection, Detections, ObjectDetector
from xinfer.zoo.face import FaceDetector, Faces
from xinfer.zoo.nlp import Embedder, EmbeddingResult, TextClassificationResult, TextClassifier
from xinfer.zoo.ocr import OcrReader, Text, TextBoxes, TextDetector, TextLine, TextRecognizer
from xinfer.zoo.pose import Pose, PoseEstimator
from xinfer.zoo.registry import PIPELINES, RUNNERS, open_model, runner_for
from xinfer.zoo.segmentation import Segmentation, Segmenter
from xinfer.zoo.spans import AnswerResult, EntitiesResult, NamedEntityRecognizer, QuestionAnswering
from xinfer.zoo.timeseries import Forecaster, ForecastResult

__all__ = [
    "PIPELINES",
    "RUNNERS",
    "AnomalyDetector",
    "AnomalyResult",
    "AnswerResult",
    "BuildInput",
    "Classification",
    "Depth",
    "DepthEstimator",
    "Detection",
    "Detections",
    "Embedder",
    "EmbeddingResult",
    "EntitiesResult",
    "FaceDetector",
    "Faces",
    "ForecastResult",
    "Forecaster",
    "ImageClassifier",
    "NamedEntityRecognizer",
    "ObjectDetector",
    "OcrReader",
    "Pose",
    "PoseEstimator",
    "QuestionAnswering",
    "Segmentation",
    "Segmenter",
    "SpeechSegment",
    "TaskRunner",
    "Text",
    "TextBoxes",
    "TextClassificationResult",
    "TextClassifier",
    "TextDetector",
    "TextLine",
    "TextRecognizer",
    "VoiceActivityDetector",
    "VoiceActivityResult",
    "open_model",
    "runner_for",
]
