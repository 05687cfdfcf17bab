"""Typed tasks on top of engines.

Everything but the runner itself is imported when it is first asked for: a task's tools (image decoding,
tokenising) are extras.
"""

from xinfer.zoo.anomaly import AnomalyDetector, AnomalyResult
from xinfer.zoo.base import BuildInput, TaskRunner
from xinfer.zoo.registry import RUNNERS, runner_for

__all__ = ["RUNNERS", "AnomalyDetector", "AnomalyResult", "BuildInput", "TaskRunner", "runner_for"]
