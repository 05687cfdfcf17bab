"""Ranges of activations that do not follow every outlier.

ONNX Runtime's own histograms grow with the range that they meet: one outlier, and calibration takes minutes.
Here a sample of each tensor's values is kept instead, in one pass and in bounded memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from xinfer.builders.quantise.onnx_graph import Graph, run_and_keep

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    Feeds = dict[str, np.ndarray]

Calibration = Literal["minmax", "percentile", "entropy"]
CALIBRATIONS: tuple[Calibration, ...] = ("minmax", "percentile", "entropy")

_KEPT_VALUES = 200_000
"""Of each tensor, over all samples."""
_CUT = 1e-4
"""The part of the values at each end that percentile calibration leaves outside."""
_NUM_BINS, _NUM_LEVELS, _STEP = 2048, 128, 8
_FEWEST_VALUES = 10 * _NUM_BINS
"""Fewer say nothing about a distribution in so many bins; then every value counts."""


def activation_ranges(
    model: Path,
    samples: Sequence[Feeds],
    operators: Collection[str],
    method: Literal["percentile", "entropy"],
    *,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Ranges of the float tensors that some operators read and make.

    Args:
        model: The float model, with types of its tensors.
        samples: Calibration inputs.
        operators: Types of the nodes in question.
        method: `percentile` cuts the outermost 0.01 % at each end; `entropy` cuts where the distribution
            after quantisation diverges least.
        seed: Of the values that are kept.

    Returns:
        Lowest and highest value by tensor.

    Source: Migacz, "8-bit Inference with TensorRT" (GTC 2017); Wu et al., "Integer Quantization for Deep
    Learning Inference: Principles and Empirical Evaluation" (2020), section 3.3.
    """
    graph = Graph(model)
    tensors = list(
        dict.fromkeys(
            name
            for node in graph.sequence
            if node.op_type in operators
            for name in (*node.input, *node.output)
            if name and name not in graph.initialisers
        )
    )
    generator = np.random.default_rng(seed)
    share = max(1, _KEPT_VALUES // len(samples))
    pools: dict[str, list[np.ndarray]] = {}
    for values in run_and_keep(graph, tensors, samples):
        for name, value in values.items():
            if value.dtype == np.float32 and value.size:
                flat = value.ravel()
                chosen = flat if flat.size <= share else flat[generator.integers(0, flat.size, share)]
                pools.setdefault(name, []).append(chosen[np.isfinite(chosen)])
    find = _percentiles if method == "percentile" else _least_divergence
    return {name: find(np.concatenate(pool)) for name, pool in pools.items()}


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    if not values.size:
        return 0.0, 0.0
    low, high = np.quantile(values, [_CUT, 1 - _CUT])
    return float(low), float(high)


def _least_divergence(values: np.ndarray) -> tuple[float, float]:
    """The threshold on magnitudes whose quantised distribution is closest to the original one."""
    magnitudes = np.abs(values)
    largest = float(magnitudes.max(initial=0))
    if largest == 0 or values.size < _FEWEST_VALUES:
        return float(values.min(initial=0)), float(values.max(initial=0))
    counts, _ = np.histogram(magnitudes, bins=_NUM_BINS, range=(0, largest))
    # The spike of exact zeros behind a ReLU costs nothing to represent, and would outweigh everything.
    counts[0] = counts[1]
    ends = range(_NUM_LEVELS, _NUM_BINS + 1, _STEP)
    best = min(ends, key=lambda end: _divergence(counts, end))
    threshold = largest * best / _NUM_BINS
    return max(float(values.min()), -threshold), min(float(values.max()), threshold)


def _divergence(counts: np.ndarray, end: int) -> float:
    """Kullback-Leibler divergence of `counts` cut at `end` from what the levels can say of it."""
    kept = counts[:end].astype(np.float64)
    reference = kept.copy()
    # What lies outside saturates into the last bin.
    reference[-1] += counts[end:].sum()
    starts = np.arange(_NUM_LEVELS) * end // _NUM_LEVELS
    level = np.searchsorted(starts, np.arange(end), side="right") - 1
    filled = kept > 0
    sums = np.bincount(level, kept, _NUM_LEVELS)
    num_filled = np.bincount(level, filled, _NUM_LEVELS)
    means = np.divide(sums, num_filled, out=np.zeros(_NUM_LEVELS), where=num_filled > 0)
    candidate = np.where(filled, means[level], 0)
    p, q = reference / reference.sum(), candidate / max(candidate.sum(), 1e-30)
    used = p > 0
    return float((p[used] * np.log(p[used] / np.maximum(q[used], 1e-12))).sum())
