"""Task specs: what turns user input into tensors and tensors into results, as data."""

from xinfer.tasks.anomaly import AnomalyDetection
from xinfer.tasks.classification import ImageClassification
from xinfer.tasks.depth import DepthEstimation
from xinfer.tasks.detection import ObjectDetection
from xinfer.tasks.face import FaceDetection
from xinfer.tasks.ocr import TextDetection, TextRecognition
from xinfer.tasks.pose import PoseEstimation
from xinfer.tasks.segmentation import SemanticSegmentation
from xinfer.tasks.spec import ImageInput, InputSpec, TaskSpec, parse_task

__all__ = [
    "AnomalyDetection",
    "DepthEstimation",
    "FaceDetection",
    "ImageClassification",
    "ImageInput",
    "InputSpec",
    "ObjectDetection",
    "PoseEstimation",
    "SemanticSegmentation",
    "TaskSpec",
    "TextDetection",
    "TextRecognition",
    "parse_task",
]
