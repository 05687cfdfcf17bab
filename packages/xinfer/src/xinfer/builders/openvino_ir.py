"""ONNX -> OpenVINO IR."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from xinfer._extras import require
from xinfer.backends.openvino import MODEL_FILE


def convert(onnx_path: Path, artifact_dir: Path) -> None:
    """Writes IR with weights as they are; quantised graphs with their pairs folded.

    Args:
        onnx_path: Any ONNX model, with or without QuantizeLinear and DequantizeLinear.
        artifact_dir: Gets ``model.xml`` and ``model.bin``.
    """
    openvino = require("openvino", "openvino")
    model = openvino.Core().read_model(str(onnx_path))
    fold_quantisation(model)
    save(model, artifact_dir)


def save(model: Any, artifact_dir: Path) -> None:
    """Writes a model as IR, without the default compression of float weights to fp16."""
    openvino = require("openvino", "openvino")
    artifact_dir.mkdir(parents=True, exist_ok=True)
    openvino.save_model(model, str(artifact_dir / MODEL_FILE), compress_to_fp16=False)


def fold_quantisation(model: Any) -> int:
    """Folds each activation's quantise -> dequantise pair into one FakeQuantize.

    OpenVINO reads QuantizeLinear as FakeQuantize + Convert and DequantizeLinear as Convert + Subtract +
    Multiply. Left apart, 2026.4 mis-executes some of these around Concat and runs others slowly.
    Constants' dequantisation (weights) is left as it is.

    Args:
        model: An `openvino.Model`, changed in place.

    Returns:
        The number of pairs folded.

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference" (CVPR 2018), section 2.1: r = S(q - Z).
    """
    opset = require("openvino.opset13", "openvino")
    folded = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() != "FakeQuantize" or not all(
            node.input_value(index).get_node().get_type_name() == "Constant" for index in range(1, 5)
        ):
            continue
        input_low, input_high, output_low, output_high = (
            node.input_value(index).get_node().get_data() for index in range(1, 5)
        )
        for last, scale, zero_point in _dequantisations(node):
            fused = opset.fake_quantize(
                node.input_value(0),
                opset.constant(input_low),
                opset.constant(input_high),
                opset.constant(((output_low - zero_point) * scale).astype(np.float32)),
                opset.constant(((output_high - zero_point) * scale).astype(np.float32)),
                node.get_attributes()["levels"],
            )
            fused.set_friendly_name(last.get_friendly_name())
            for target in last.output(0).get_target_inputs():
                target.replace_source_output(fused.output(0))
            folded += 1
    model.validate_nodes_and_infer_types()
    return folded


def _dequantisations(quantise: Any) -> list[tuple[Any, Any, Any]]:
    """The ends of the chains Convert -> Convert -> [Subtract] -> Multiply behind a FakeQuantize."""
    found = []
    for narrow in _consumers(quantise, "Convert"):
        if narrow.get_element_type().get_type_name() not in ("u8", "i8"):
            continue
        for wide in _consumers(narrow, "Convert"):
            for node in _consumers(wide, "Subtract", "Multiply"):
                zero_point: Any = np.float32(0)
                ends = [node]
                if node.get_type_name() == "Subtract":
                    zero_point = _constant(node, 1)
                    ends = _consumers(node, "Multiply") if zero_point is not None else []
                for end in ends:
                    scale = _constant(end, 1)
                    if scale is not None:
                        found.append((end, scale, zero_point))
    return found


def _consumers(node: Any, *types: str) -> list[Any]:
    targets = [target.get_node() for target in node.output(0).get_target_inputs()]
    return [target for target in targets if target.get_type_name() in types]


def _constant(node: Any, index: int) -> Any:
    """An input's value if it is a constant, through what OpenVINO puts behind the constants of ONNX.

    That is a Convert behind integers, and a Reshape behind what has one value per channel.
    """
    source = node.input_value(index).get_node()
    if source.get_type_name() == "Constant":
        return source.get_data().astype(np.float32)
    if source.get_type_name() not in ("Convert", "Reshape"):
        return None
    value, shape = _constant(source, 0), source.output(0).get_partial_shape()
    if value is None or shape.is_dynamic:
        return None
    return value.reshape(tuple(shape.to_shape()))
