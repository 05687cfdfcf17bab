"""SmoothQuant: an equal float model whose activations are easier to quantise.

Source: Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language
Models" (ICML 2023), section 4, equations 3 and 4.

Legend of shapes: R rows of activations, K inputs of a layer, N outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xinfer._extras import require
from xinfer.builders.quantise.onnx_graph import Graph, run_and_keep
from xinfer.errors import CalibrationError, InputError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    Feeds = dict[str, np.ndarray]

_SMALLEST_RATIO = 1e-3
"""Scales stay within this of the largest of their layer, also for channels that calibration saw at zero."""

_ALPHAS = (0.5, 0.65, 0.8, 0.9)
_NUM_ROWS = 128
_WORTHWHILE = 0.7
"""Smoothing that leaves more than this part of the noise is not done."""


@dataclass(frozen=True, kw_only=True)
class Smoothing:
    """What was done to one activation.

    Attributes:
        tensor: The activation.
        layers: The layers that read it and had their weights scaled.
        folded: Whether the division went into the producer; otherwise it is a multiplication of its own.
        outlier_ratio: The largest channel's magnitude over the median channel's, before.
    """

    tensor: str
    layers: tuple[str, ...]
    folded: bool
    outlier_ratio: float


def smooth(
    source: Path,
    destination: Path,
    samples: Sequence[Feeds],
    *,
    alpha: float | None = None,
    min_outlier_ratio: float = 0.0,
    skip: Collection[str] = (),
) -> tuple[Smoothing, ...]:
    """Moves the differences between channels of activations into the weights that they meet.

    X W = (X diag(s)^-1) (diag(s) W) with s_j = max|X_j|^alpha / max|W_j|^(1 - alpha), for every MatMul and
    Gemm with constant weights. The division is folded into the layers before (normalisations, linear layers,
    through ReLU) where these feed nobody else, else it is a Mul of its own. Outputs stay the same to
    rounding.

    Args:
        source: The float model.
        destination: The file to write.
        samples: Calibration inputs, from training data.
        alpha: How much of the difficulty goes to the weights: 0.5 was published for large decoders, 0.8 is
            better for small encoders. When left out, several are tried for each activation, on some of its
            rows, and the one whose quantised product is closest is taken; none where the gain is small.
        min_outlier_ratio: Activations whose largest channel is less than this many times the median channel
            are left alone unless the division folds: a Mul costs time, and there is nothing to gain.
        skip: Names of layers to leave as they are, for example those that stay in float.

    Returns:
        What was smoothed.

    Raises:
        CalibrationError: There are no samples.
        InputError: `alpha` is not between 0 and 1.
    """
    if alpha is not None and not 0 <= alpha <= 1:
        raise InputError("alpha must be between 0 and 1", value=alpha)
    if not samples:
        raise CalibrationError("smoothing needs at least one calibration sample")
    graph = Graph(source)
    graph.refuse_control_flow()
    groups = _groups(graph, frozenset(skip))
    statistics = _observe(graph, list(groups), samples)
    done = []
    for tensor, layers in groups.items():
        seen = statistics.get(tensor)
        weights = [np.asarray(graph.constant(layer.input[1])) for layer in layers]
        w_K = np.max([_rows(layer, weight) for layer, weight in zip(layers, weights, strict=True)], axis=0)
        if seen is None or len(seen.high) != len(w_K):
            continue
        x_K = np.maximum(seen.high, -seen.low)
        median = float(np.median(x_K))
        ratio = float(x_K.max()) / median if median > 0 else float("inf")
        products = [
            weight.T if _is_transposed(layer) else weight
            for layer, weight in zip(layers, weights, strict=True)
        ]
        scale_K = _best_scales(seen, w_K, products) if alpha is None else _scales(x_K, w_K, alpha)
        if scale_K is None:
            continue
        edits = _absorb(graph, tensor, 1 / scale_K, {layer.name for layer in layers})
        if edits is None and ratio < min_outlier_ratio:
            continue
        if edits is None:
            _insert_mul(graph, tensor, layers, 1 / scale_K)
        for node, index, value in edits or ():
            node.input[index] = graph.add_constant(f"{node.input[index]}.smooth", value)
        for layer, weight in zip(layers, weights, strict=True):
            scaled = weight * (scale_K if _is_transposed(layer) else scale_K[:, None])
            layer.input[1] = graph.add_constant(f"{layer.input[1]}.smooth", scaled.astype(np.float32))
        done.append(
            Smoothing(
                tensor=tensor,
                layers=tuple(layer.name for layer in layers),
                folded=edits is not None,
                outlier_ratio=ratio,
            )
        )
    graph.save(destination)
    return tuple(done)


def _groups(graph: Graph, skip: Collection[str]) -> dict[str, list[Any]]:
    """Layers with constant float weights, by the activation that they read."""
    groups: dict[str, list[Any]] = {}
    for node in graph.sequence:
        if node.op_type not in ("MatMul", "Gemm") or node.domain not in ("", "ai.onnx") or node.name in skip:
            continue
        weight = graph.constant(node.input[1])
        if weight is None or weight.ndim != 2 or weight.dtype != np.float32:
            continue
        if node.input[0] in graph.initialisers or _attribute(node, "transA"):
            continue
        groups.setdefault(node.input[0], []).append(node)
    return groups


@dataclass(kw_only=True)
class _Seen:
    """What calibration saw of one activation: ranges per channel, and rows."""

    low: np.ndarray
    high: np.ndarray
    rows: list[np.ndarray]


def _observe(graph: Graph, tensors: Sequence[str], samples: Sequence[Feeds]) -> Mapping[str, _Seen]:
    """Ranges of each channel (the last axis), over the samples, and some rows."""
    found: dict[str, _Seen] = {}
    per_sample = max(1, _NUM_ROWS // len(samples))
    for values in run_and_keep(graph, tensors, samples):
        for name, value in values.items():
            if value.ndim < 2 or value.dtype != np.float32 or not value.size:
                continue
            x_RK = value.reshape(-1, value.shape[-1])
            low_K, high_K = x_RK.min(axis=0), x_RK.max(axis=0)
            rows = x_RK[:: max(1, len(x_RK) // per_sample)][:per_sample].copy()
            if name in found:
                seen = found[name]
                seen.low, seen.high = np.minimum(seen.low, low_K), np.maximum(seen.high, high_K)
                seen.rows.append(rows)
            else:
                found[name] = _Seen(low=low_K, high=high_K, rows=[rows])
    return found


def _best_scales(seen: _Seen, w_K: np.ndarray, weights_KN: Sequence[np.ndarray]) -> np.ndarray | None:
    """The scales whose quantised products are closest to the float ones, None where they hardly help."""
    x_RK, x_K = np.concatenate(seen.rows), np.maximum(seen.high, -seen.low)
    products = [(w_KN, x_RK @ w_KN) for w_KN in weights_KN]
    powers = [max(float(np.square(y_RN).mean()), 1e-30) for _, y_RN in products]

    def noise(scale_K: np.ndarray) -> float:
        low, high = float((seen.low / scale_K).min()), float((seen.high / scale_K).max())
        step = (max(high, 0) - min(low, 0)) / 255 or 1
        quantised_RK = np.round(x_RK / scale_K / step) * step
        total = 0.0
        for (w_KN, y_RN), power in zip(products, powers, strict=True):
            scaled_KN = w_KN * scale_K[:, None]
            step_N = np.maximum(np.abs(scaled_KN).max(axis=0) / 127, 1e-30)
            error = quantised_RK @ (np.round(scaled_KN / step_N) * step_N) - y_RN
            total += float(np.square(error).mean()) / power
        return total

    candidates = [_scales(x_K, w_K, alpha) for alpha in _ALPHAS]
    noises = [noise(scale_K) for scale_K in candidates]
    best = int(np.argmin(noises))
    return candidates[best] if noises[best] < _WORTHWHILE * noise(np.ones_like(x_K)) else None


def _rows(layer: Any, weight: np.ndarray) -> np.ndarray:
    """The largest absolute weight of each input channel."""
    largest_K: np.ndarray = np.abs(weight).max(axis=0 if _is_transposed(layer) else 1)
    return largest_K


def _scales(x_K: np.ndarray, w_K: np.ndarray, alpha: float) -> np.ndarray:
    usable_K = (x_K > 0) & (w_K > 0) & np.isfinite(x_K)
    scale_K = np.ones_like(x_K)
    if usable_K.any():
        scale_K[usable_K] = x_K[usable_K] ** alpha / w_K[usable_K] ** (1 - alpha)
        scale_K = np.maximum(scale_K, scale_K[usable_K].max() * _SMALLEST_RATIO)
    return scale_K.astype(np.float32)


def _absorb(
    graph: Graph, tensor: str, factor_K: np.ndarray, readers: Collection[str]
) -> list[tuple[Any, int, np.ndarray]] | None:
    """New constants (node, input, value) that multiply a tensor's last axis, None where that is not possible.

    Args:
        graph: Not changed.
        tensor: What is to be multiplied.
        factor_K: With what.
        readers: Names of the nodes that expect it; the tensor must have no others.
    """
    node = graph.producers.get(tensor)
    if node is None or tensor in graph.outputs or node.domain not in ("", "ai.onnx"):
        return None
    if any(reader.name not in readers for reader in graph.consumers().get(tensor, ())):
        return None
    constants = [graph.constant(name) for name in node.input]
    match node.op_type:
        case "LayerNormalization" if len(node.input) >= 2:
            rank_one = all(value is not None and value.ndim == 1 for value in constants[1:])
            if not rank_one:
                return None
            return [
                (node, index, _times(value, factor_K))
                for index, value in enumerate(constants)
                if index and value is not None
            ]
        case "Mul" | "Div" if constants[1] is not None and constants[0] is None:
            factor = factor_K if node.op_type == "Mul" else 1 / factor_K
            return [(node, 1, _times(constants[1], factor))]
        case "Mul" if constants[0] is not None and constants[1] is None:
            return [(node, 0, _times(constants[0], factor_K))]
        case "Add" if (constants[0] is None) != (constants[1] is None):
            index = 0 if constants[1] is None else 1
            before = _absorb(graph, node.input[1 - index], factor_K, {node.name})
            value = constants[index]
            return (
                None if before is None or value is None else [*before, (node, index, _times(value, factor_K))]
            )
        case "Relu" | "LeakyRelu" | "Identity" | "Dropout":
            return _absorb(graph, node.input[0], factor_K, {node.name})
        case "MatMul" | "Gemm" if constants[1] is not None and constants[1].ndim == 2:
            # Rows of a transposed weight are outputs.
            column = factor_K[:, None] if _is_transposed(node) else factor_K
            edits = [(node, 1, _times(constants[1], column))]
            if len(node.input) < 3 or not node.input[2]:
                return edits
            return None if constants[2] is None else [*edits, (node, 2, _times(constants[2], factor_K))]
    return None


def _insert_mul(graph: Graph, tensor: str, layers: Sequence[Any], factor_K: np.ndarray) -> None:
    onnx = require("onnx", "build")
    factor = graph.add_constant(f"{tensor}.factor", factor_K)
    output = graph.fresh(f"{tensor}.smooth")
    mul = onnx.helper.make_node("Mul", [tensor, factor], [output], graph.fresh(f"{layers[0].name}.smooth"))
    for layer in layers:
        layer.input[0] = output
    # Groups keep the graph's order.
    graph.sequence.insert(next(i for i, node in enumerate(graph.sequence) if node is layers[0]), mul)


def _times(value: np.ndarray | None, factor: np.ndarray) -> np.ndarray:
    assert value is not None
    product: np.ndarray = (value * factor).astype(value.dtype)
    return product


def _is_transposed(node: Any) -> bool:
    return node.op_type == "Gemm" and bool(_attribute(node, "transB"))


def _attribute(node: Any, name: str) -> int:
    return next((int(item.i) for item in node.attribute if item.name == name), 0)
