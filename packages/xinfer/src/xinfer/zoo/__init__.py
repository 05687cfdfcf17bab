"""Typed tasks on top of engines."""

from xinfer.zoo.anomaly import AnomalyDetector, AnomalyResult

__all__ = ["AnomalyDetector", "AnomalyResult"]
