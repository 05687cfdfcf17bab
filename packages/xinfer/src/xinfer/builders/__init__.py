"""Building engines: a search over backends, precisions and settings, measured on the target."""

from xinfer.builders.builder import EngineBuilder
from xinfer.builders.measure import measure_pipeline
from xinfer.builders.pack import BuiltEngine

__all__ = ["BuiltEngine", "EngineBuilder", "measure_pipeline"]
