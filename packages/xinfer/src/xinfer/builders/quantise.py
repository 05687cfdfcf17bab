"""Post-training INT8 quantisation: the recipes that the builder tries."""

from __future__ import annotations

import logging
import random
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xinfer._extras import require
from xinfer.builders import openvino_ir

if TYPE_CHECKING:
    from collections.abc import Sequence

    Feeds = dict[str, np.ndarray]


def nncf_on_onnx(
    source: Path, destination: Path, samples: Sequence[Feeds], float_nodes: Sequence[str], *, seed: int
) -> None:
    """NNCF on the ONNX graph: an ONNX file with QDQ nodes, patterns chosen for OpenVINO.

    Args:
        source: The float model.
        destination: The file to write.
        samples: Calibration inputs, from training data.
        float_nodes: Names of nodes to leave in float.
        seed: Of the samples that NNCF draws from activations.
    """
    onnx = require("onnx", "build")
    model = onnx.load(str(source))
    onnx.save(_nncf(model, samples, sorted(float_nodes), seed), str(destination))


def nncf_on_openvino(
    source: Path, artifact_dir: Path, samples: Sequence[Feeds], float_nodes: Sequence[str], *, seed: int
) -> None:
    """NNCF on OpenVINO's own graph: IR with FakeQuantize nodes. Arguments as for `nncf_on_onnx`."""
    openvino = require("openvino", "openvino")
    model = openvino.Core().read_model(str(source))
    wanted = set(float_nodes)
    # One ONNX node becomes several operations, named after it: conv, conv/WithoutBiases, ...
    names = [
        name
        for name in (node.get_friendly_name() for node in model.get_ordered_ops())
        if name in wanted or name.rpartition("/")[0] in wanted
    ]
    openvino_ir.save(_nncf(model, samples, names, seed), artifact_dir)


def _nncf(model: Any, samples: Sequence[Feeds], ignored: list[str], seed: int) -> Any:
    # NNCF samples activations with these two generators.
    random.seed(seed)
    np.random.seed(seed)
    nncf = require("nncf", "build")
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return nncf.quantize(
        model,
        nncf.Dataset(list(samples)),
        subset_size=len(samples),
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(names=ignored, validate=False),
    )


def onnxruntime_qdq(
    source: Path,
    destination: Path,
    samples: Sequence[Feeds],
    float_nodes: Sequence[str],
    *,
    reduce_range: bool,
) -> None:
    """ONNX Runtime's static quantiser: U8 activations, per-channel S8 weights, min-max calibration.

    Args:
        source, destination, samples, float_nodes: As for `nncf_on_onnx`.
        reduce_range: Seven-bit weights, for CPUs whose 8-bit dot product saturates (no VNNI).
    """
    quantization = require("onnxruntime.quantization", "onnxruntime")
    preprocess = require("onnxruntime.quantization.shape_inference", "onnxruntime")
    logging.getLogger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="xinfer-ort-") as folder:
        prepared = Path(folder) / "prepared.onnx"
        preprocess.quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(destination),
            _reader(quantization.CalibrationDataReader, samples),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=reduce_range,
            op_types_to_quantize=[
                "Conv",
                "Gemm",
                "MatMul",
                "Add",
                "Clip",
                "Relu",
                "Concat",
                "AveragePool",
                "MaxPool",
            ],
            nodes_to_exclude=sorted(float_nodes),
            extra_options={"WeightSymmetric": True, "ActivationSymmetric": False},
        )


def _reader(base: Any, samples: Sequence[Feeds]) -> Any:
    class Reader(base):
        def __init__(self) -> None:
            self._rest = iter(samples)

        def get_next(self) -> Feeds | None:
            return next(self._rest, None)

    return Reader()
