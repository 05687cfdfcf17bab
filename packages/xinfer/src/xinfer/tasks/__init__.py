"""Task specs: what turns user input into tensors and tensors into results, as data."""

from xinfer.tasks.anomaly import AnomalyDetection
from xinfer.tasks.audio import AudioInput, VoiceActivity
from xinfer.tasks.classification import ImageClassification
from xinfer.tasks.depth import DepthEstimation
from xinfer.tasks.detection import ObjectDetection
from xinfer.tasks.face import FaceDetection
from xinfer.tasks.forecast import Forecasting, SeriesInput
from xinfer.tasks.ocr import TextDetection, TextRecognition
from xinfer.tasks.pose import PoseEstimation
from xinfer.tasks.segmentation import SemanticSegmentation
from xinfer.tasks.spec import ImageInput, InputSpec, TaskSpec, parse_task
from xinfer.tasks.text import (
    Embedding,
    ExtractiveAnswering,
    TextClassification,
    TextInput,
    TokenClassification,
)

__all__ = [
    "AnomalyDetection",
    "AudioInput",
    "DepthEstimation",
    "Embedding",
    "ExtractiveAnswering",
    "FaceDetection",
    "Forecasting",
    "ImageClassification",
    "ImageInput",
    "InputSpec",
    "ObjectDetection",
    "PoseEstimation",
    "SemanticSegmentation",
    "SeriesInput",
    "TaskSpec",
    "TextClassification",
    "TextDetection",
    "TextInput",
    "TextRecognition",
    "TokenClassification",
    "VoiceActivity",
    "parse_task",
]
