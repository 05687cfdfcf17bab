"""Source models: ONNX files, torch modules, references to either; shapes and facts."""

from xinfer.sources.facts import OnnxFacts, SourceGraph, ValueFacts
from xinfer.sources.limits import Limits
from xinfer.sources.onnx_source import OnnxReader, OnnxSource, read_onnx
from xinfer.sources.reference import resolve_source
from xinfer.sources.shapes import ShapeProfile, apply_static, feeds_for, parse_profiles, parse_shapes
from xinfer.sources.torch_source import from_torch

__all__ = [
    "Limits",
    "OnnxFacts",
    "OnnxReader",
    "OnnxSource",
    "ShapeProfile",
    "SourceGraph",
    "ValueFacts",
    "apply_static",
    "feeds_for",
    "from_torch",
    "parse_profiles",
    "parse_shapes",
    "read_onnx",
    "resolve_source",
]
