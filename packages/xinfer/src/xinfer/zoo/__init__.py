"""Typed tasks on top of engines.

Importing this imports NumPy only; what a task needs (image decoding, tokenising) is imported when it runs.
"""

from xinfer.zoo.anomaly import AnomalyDetector, AnomalyResult
from xinfer.zoo.base import BuildInput, TaskRunner
from xinfer.zoo.classification import Classification, ImageClassifier
from xinfer.zoo.depth import Depth, DepthEstimator
from xinfer.zoo.detection import Detection, Detections, ObjectDetector
from xinfer.zoo.face import FaceDetector, Faces
from xinfer.zoo.ocr import OcrReader, Text, TextBoxes, TextDetector, TextLine, TextRecognizer
from xinfer.zoo.pose import Pose, PoseEstimator
from xinfer.zoo.registry import PIPELINES, RUNNERS, open_model, runner_for
from xinfer.zoo.segmentation import Segmentation, Segmenter

__all__ = [
    "PIPELINES",
    "RUNNERS",
    "AnomalyDetector",
    "AnomalyResult",
    "BuildInput",
    "Classification",
    "Depth",
    "DepthEstimator",
    "Detection",
    "Detections",
    "FaceDetector",
    "Faces",
    "ImageClassifier",
    "ObjectDetector",
    "OcrReader",
    "Pose",
    "PoseEstimator",
    "Segmentation",
    "Segmenter",
    "TaskRunner",
    "Text",
    "TextBoxes",
    "TextDetector",
    "TextLine",
    "TextRecognizer",
    "open_model",
    "runner_for",
]
