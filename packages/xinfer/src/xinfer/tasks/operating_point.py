"""Thresholds for an engine whose scores are not quite the source model's.

Quantisation keeps the order of scores well (the metric is gated) but may stretch or shift them. A threshold
chosen on the source model's scores is therefore carried over by rank: it comes to lie between the same two
validation samples as before.

Source: quantile matching of score distributions; Kolen & Brennan, *Test Equating, Scaling, and Linking*
(3rd ed., 2014), section 2.5 (equipercentile equating), here on paired samples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from xinfer.tasks.anomaly import AnomalyDetection

Outputs = dict[str, np.ndarray]

CLEAR_SHARE = 0.05
"""Of `score_range`: a sample whose source score is at least this far from the threshold is clear."""
_MAX_MAP_VALUES = 100_000


def carried_over(value: float, source_N: np.ndarray, engine_N: np.ndarray) -> float:
    """Where `value` lies among the engine's scores, if it lies here among the source model's.

    Args:
        value: A threshold on the source model's scale.
        source_N: Scores of the source model, float [N], N >= 1.
        engine_N: Scores of the engine for the same samples, float [N].

    Returns:
        The threshold on the engine's scale: interpolated between the neighbours of the same rank; outside the
        scores seen, at the same distance from the outermost one.
    """
    source_N, engine_N = np.sort(np.ravel(source_N)), np.sort(np.ravel(engine_N))
    if value <= source_N[0]:
        return float(engine_N[0] + (value - source_N[0]))
    if value >= source_N[-1]:
        return float(engine_N[-1] + (value - source_N[-1]))
    return float(np.interp(value, source_N, engine_N))


def for_engine(
    task: AnomalyDetection, source: Sequence[Outputs], engine: Sequence[Outputs]
) -> AnomalyDetection:
    """The task spec with its thresholds and score range on the engine's scale.

    Args:
        task: As chosen on the source model.
        source, engine: Outputs for the same validation samples, in order; never of the test part.
    """
    scores = [np.concatenate([np.ravel(o[task.outputs["score"]]) for o in side]) for side in (source, engine)]
    maps = [np.concatenate([np.ravel(o[task.outputs["map"]]) for o in side]) for side in (source, engine)]
    stride = max(1, maps[0].size // _MAX_MAP_VALUES)
    low, high = (carried_over(edge, *scores) for edge in task.score_range)
    return dataclasses.replace(
        task,
        threshold=carried_over(task.threshold, *scores),
        map_threshold=carried_over(task.map_threshold, *(values[::stride] for values in maps)),
        score_range=(low, high) if low < high else task.score_range,
    )


def verdict_agreement(
    task: AnomalyDetection,
    source: Sequence[Outputs],
    engine_task: AnomalyDetection,
    engine: Sequence[Outputs],
) -> tuple[float, float]:
    """How often an engine's verdicts are the source model's.

    Close to the threshold the source model's own verdict hangs on rounding (bf16 changes it too), so what
    is gated is the second number; the first is what the receipt reports.

    Args:
        task, source: Thresholds of the source model and its outputs, in the samples' order.
        engine_task, engine: The same of the engine.

    Returns:
        The share among all samples, and among the clear ones (of all where none is clear).
    """
    name = task.outputs["score"]
    source_N, engine_N = (np.concatenate([np.ravel(o[name]) for o in side]) for side in (source, engine))
    same_N = (engine_N >= engine_task.threshold) == (source_N >= task.threshold)
    low, high = task.score_range
    clear_N = np.abs(source_N - task.threshold) >= CLEAR_SHARE * (high - low)
    return float(same_N.mean()), float(same_N[clear_N].mean() if clear_N.any() else same_N.mean())
