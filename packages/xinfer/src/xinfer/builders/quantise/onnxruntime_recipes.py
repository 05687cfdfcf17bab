"""INT8 with ONNX Runtime's quantiser: QDQ files for its own CPU kernels, and portable ones."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xinfer._extras import require
from xinfer.builders.quantise.calibration import Calibration, activation_ranges
from xinfer.builders.quantise.onnx_graph import Graph, load_for_quantisation
from xinfer.errors import CalibrationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    Feeds = dict[str, np.ndarray]

_PRODUCTS = ["Conv", "ConvTranspose", "Gemm", "MatMul"]
_LAYERS = [*_PRODUCTS, "Add"]
_CONVOLUTIONAL = [*_LAYERS, "Clip", "Relu", "Concat", "AveragePool", "GlobalAveragePool", "MaxPool"]
_PORTABLE = [*_LAYERS, "AveragePool", "GlobalAveragePool", "MaxPool"]
QUANTISED_OPERATORS = frozenset({*_CONVOLUTIONAL, "Mul", "Sub"})
"""What any recipe quantises, NNCF's included; the readers of their outputs may be others."""


def onnxruntime_qdq(
    source: Path,
    destination: Path,
    samples: Sequence[Feeds],
    float_nodes: Sequence[str],
    *,
    reduce_range: bool,
    calibration: Calibration = "minmax",
    transformer: bool = False,
    inputs_only: bool = False,
) -> None:
    """ONNX Runtime's static quantiser: U8 activations, per-channel S8 weights.

    Args:
        source: The float model.
        destination: The file to write.
        samples: Calibration inputs, from training data.
        float_nodes: Names of nodes to leave in float.
        reduce_range: Seven-bit weights, for CPUs whose 8-bit dot product saturates (no VNNI).
        calibration: How activations' ranges are chosen. `minmax` keeps every value; `percentile` cuts the
            outermost 0.01 %; `entropy` minimises the divergence between the distributions.
        transformer: Only products with weights are quantised, and only their inputs: the sums that follow
            carry outliers that one range per tensor cannot hold. Best after `smooth`.
        inputs_only: Quantise what convolutions, products and residual sums read, and nothing else: for
            OpenVINO, which finds the rest of the pattern itself.

    Raises:
        CalibrationError: There are no samples.

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference" (CVPR 2018), section 2; `calibration.activation_ranges` for ranges.
    """
    quantization = require("onnxruntime.quantization", "onnxruntime")
    operators = _PRODUCTS if transformer else _LAYERS if inputs_only else _CONVOLUTIONAL
    _quantise(
        source,
        destination,
        samples,
        float_nodes,
        activation_type=quantization.QuantType.QUInt8,
        reduce_range=reduce_range,
        calibration=calibration,
        operators=operators,
        options={
            "ActivationSymmetric": False,
            "MatMulConstBOnly": transformer,
            "OpTypesToExcludeOutputQuantization": operators if transformer or inputs_only else [],
        },
    )


def portable_qdq(
    source: Path,
    destination: Path,
    samples: Sequence[Feeds],
    float_nodes: Sequence[str] = (),
    *,
    calibration: Calibration = "minmax",
    transformer: bool = False,
) -> None:
    """Explicit quantisation that TensorRT, OpenVINO and ONNX Runtime all read.

    S8 with zero point 0 everywhere, one scale per activation, one per output channel of weights, biases in
    float. Arguments as for `onnxruntime_qdq`. TensorRT takes nothing else; ONNX Runtime's CPU kernels are
    slow on it.

    Source: NVIDIA TensorRT developer guide, "Working with Quantized Types", explicit quantization.
    """
    quantization = require("onnxruntime.quantization", "onnxruntime")
    _quantise(
        source,
        destination,
        samples,
        float_nodes,
        activation_type=quantization.QuantType.QInt8,
        reduce_range=False,
        calibration=calibration,
        operators=_PRODUCTS if transformer else _PORTABLE,
        options={
            "ActivationSymmetric": True,
            "MatMulConstBOnly": transformer,
            # TensorRT has no INT32 DequantizeLinear.
            "QuantizeBias": False,
            # Pairs stand before layers only: between a convolution and its activation they prevent fusion.
            "OpTypesToExcludeOutputQuantization": _PORTABLE,
        },
    )


def onnxruntime_dynamic(
    source: Path, destination: Path, float_nodes: Sequence[str] = (), *, reduce_range: bool
) -> None:
    """INT8 weights and products, activations' ranges taken anew at every inference: no calibration.

    For transformers on ONNX Runtime's CPU kernels, where it is as fast as static ranges; OpenVINO and
    TensorRT do not run it. Only products with constant weights are quantised, U8 by S8, weights per channel.

    Args:
        source: The float model.
        destination: The file to write.
        float_nodes: Names of nodes to leave in float.
        reduce_range: Seven-bit weights, for CPUs whose 8-bit dot product saturates (no VNNI).
    """
    quantization = require("onnxruntime.quantization", "onnxruntime")
    with tempfile.TemporaryDirectory(prefix="xinfer-ort-") as folder, _quiet():
        prepared = Path(folder) / "prepared.onnx"
        prepare(source, prepared)
        quantization.quantize_dynamic(
            str(prepared),
            str(destination),
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            reduce_range=reduce_range,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=sorted(
                frozenset().union(*prepared_names(source, prepared, float_nodes).values())
            ),
            extra_options={"MatMulConstBOnly": True, "WeightSymmetric": True},
        )


def _quantise(
    source: Path,
    destination: Path,
    samples: Sequence[Feeds],
    float_nodes: Sequence[str],
    *,
    activation_type: Any,
    reduce_range: bool,
    calibration: Calibration,
    operators: list[str],
    options: dict[str, Any],
) -> None:
    if not samples:
        raise CalibrationError("quantisation needs at least one calibration sample")
    quantization = require("onnxruntime.quantization", "onnxruntime")
    with tempfile.TemporaryDirectory(prefix="xinfer-ort-") as folder, _quiet():
        prepared = Path(folder) / "prepared.onnx"
        prepare(source, prepared)
        ranges = None
        if calibration != "minmax":
            ranges = Path(folder) / "ranges.json"
            _write_ranges(ranges, activation_ranges(prepared, samples, operators, calibration))
        quantization.quantize_static(
            str(prepared),
            str(destination),
            _reader(quantization.CalibrationDataReader, samples),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=activation_type,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=reduce_range,
            op_types_to_quantize=operators,
            nodes_to_exclude=sorted(
                _sums_with_constants(prepared).union(*prepared_names(source, prepared, float_nodes).values())
            ),
            # Where this file stands, ONNX Runtime does not calibrate.
            calibration_cache_path=ranges,
            extra_options={"WeightSymmetric": True, **options},
        )
    _free_outputs(destination)


def _free_outputs(path: Path) -> None:
    """Takes the quantisers off the model's outputs: 256 levels for an answer cost accuracy for no gain."""
    graph = Graph(path)
    readers, dropped = graph.consumers(), set()
    for output in graph.outputs:
        dequantise = graph.producers.get(output)
        if dequantise is None or dequantise.op_type != "DequantizeLinear" or output in readers:
            continue
        quantise = graph.producers.get(dequantise.input[0])
        producer = None if quantise is None else graph.producers.get(quantise.input[0])
        if quantise is None or producer is None or len(readers[quantise.input[0]]) > 1:
            continue
        if len(readers[dequantise.input[0]]) == 1:
            names = [output if name == quantise.input[0] else name for name in producer.output]
            producer.output[:] = names
            dropped |= {quantise.name, dequantise.name}
    if dropped:
        graph.sequence = [node for node in graph.sequence if node.name not in dropped]
        graph.save(path)


def _write_ranges(path: Path, ranges: dict[str, tuple[float, float]]) -> None:
    calibrate = require("onnxruntime.quantization.calibrate", "onnxruntime")
    data = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    calibrate.save_tensors_data(calibrate.TensorsData(calibrate.CalibrationMethod.MinMax, data), path)


def _sums_with_constants(prepared: Path) -> set[str]:
    """Biases and masks: nothing to gain, ranges that ruin a scale, and OpenVINO 2026.4 crashes on some."""
    onnx = require("onnx", "build")
    graph = onnx.load(str(prepared), load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    return {node.name for node in graph.node if node.op_type == "Add" and constants.intersection(node.input)}


def prepare(source: Path, destination: Path) -> None:
    """The graph that the quantiser sees: constants folded, batch norms in their convolutions, shapes known.

    Args:
        source: The float model.
        destination: The file to write: standard ONNX, same inputs and outputs.
    """
    preprocess = require("onnxruntime.quantization.shape_inference", "onnxruntime")
    onnx = require("onnx", "build")
    with tempfile.TemporaryDirectory(prefix="xinfer-opset-") as folder:
        raised = Path(folder) / "model.onnx"
        onnx.save(load_for_quantisation(source), str(raised))
        preprocess.quant_pre_process(str(raised), str(destination), skip_symbolic_shape=True)


def prepared_names(source: Path, prepared: Path, wanted: Iterable[str]) -> dict[str, frozenset[str]]:
    """The names that nodes of `source` go by after `prepare`, which fuses and renames some.

    Args:
        source: The float model.
        prepared: What `prepare` made of it.
        wanted: Names of nodes in `source`.

    Returns:
        For each, the nodes of `prepared` that are it, make its outputs, or alone read its weights.
    """
    onnx = require("onnx", "build")
    before = onnx.load(str(source), load_external_data=False).graph
    after = onnx.load(str(prepared), load_external_data=False).graph
    names = dict.fromkeys(wanted)
    nodes = {node.name: node for node in before.node if node.name in names}
    readers = Counter(name for node in before.node for name in set(node.input))
    constants = {tensor.name for tensor in before.initializer if readers[tensor.name] == 1}
    by_tensor: dict[str, set[str]] = {}
    for node in after.node:
        for name in (*node.output, *constants.intersection(node.input)):
            by_tensor.setdefault(name, set()).add(node.name)
    found = {}
    for name in names:
        same = {node.name for node in after.node if node.name == name or node.name.startswith(f"{name}/")}
        own = nodes.get(name)
        tensors = () if own is None else (*own.output, *constants.intersection(own.input))
        found[name] = frozenset(same.union(*(by_tensor.get(tensor, ()) for tensor in tensors)))
    return found


def _reader(base: Any, samples: Sequence[Feeds]) -> Any:
    class Reader(base):
        def __init__(self) -> None:
            self._rest = iter(samples)

        def __len__(self) -> int:
            return len(samples)

        def get_next(self) -> Feeds | None:
            return next(self._rest, None)

    return Reader()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the quantiser, which logs through the root logger."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
