"""Post-training quantisation and typed precisions: the recipes that the builder tries.

Which one is fastest and still right differs per model (see docs); all take and give files, hold no state and
are deterministic for their arguments.
"""

from xinfer.builders.quantise.calibration import CALIBRATIONS, Calibration
from xinfer.builders.quantise.half import to_bf16, to_fp16
from xinfer.builders.quantise.nncf_recipes import nncf_on_onnx, nncf_on_openvino
from xinfer.builders.quantise.onnxruntime_recipes import (
    onnxruntime_dynamic,
    onnxruntime_qdq,
    portable_qdq,
    prepare,
)
from xinfer.builders.quantise.smoothing import Smoothing, smooth

__all__ = [
    "CALIBRATIONS",
    "Calibration",
    "Smoothing",
    "nncf_on_onnx",
    "nncf_on_openvino",
    "onnxruntime_dynamic",
    "onnxruntime_qdq",
    "portable_qdq",
    "prepare",
    "smooth",
    "to_bf16",
    "to_fp16",
]
