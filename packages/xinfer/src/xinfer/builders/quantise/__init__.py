"""Post-training quantisation and typed precisions: the recipes that the builder tries.

All take and give files, hold no state and are deterministic for their arguments. No recipe is best
everywhere. What was seen on a CPU with VNNI, one thread:

- Convolutional networks (ResNet-50, EfficientNet-lite0, U-Net): on OpenVINO
  `onnxruntime_qdq(inputs_only=True)` and NNCF with symmetric ranges lead, the others follow within 5 to 20 %.
  ONNX Runtime needs its own recipe with everything between the layers quantised too.
- Transformers (MiniLM): the recipe for convolutions collapses (cosine to float 0.36), `transformer=True`
  gives 0.992, after `smooth` 0.998, as NNCF does. On OpenVINO NNCF is the fastest, on ONNX Runtime
  `onnxruntime_dynamic`.
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
