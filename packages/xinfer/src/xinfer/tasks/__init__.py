"""Task specs: what turns user input into tensors and tensors into results, as data."""

from xinfer.tasks.anomaly import AnomalyDetection
from xinfer.tasks.spec import ImageInput, InputSpec, TaskSpec, parse_task

__all__ = ["AnomalyDetection", "ImageInput", "InputSpec", "TaskSpec", "parse_task"]
