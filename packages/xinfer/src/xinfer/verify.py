"""Accuracy metrics in NumPy, and the check of an engine against its golden pair.

Legend: N samples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xinfer.errors import InputError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from xinfer.engine import InferenceEngine
    from xinfer.tasks import AnomalyDetection

GOLDEN_MIN_COSINE = 0.999
GOLDEN_MAX_DIFFERENCE = 0.05
"""As a share of the output's span. The same artifact on the same kind of CPU differs far less."""


def image_auroc(scores_N: np.ndarray, labels_N: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a defective image scores higher than an ok one.

    Args:
        scores_N: Finite floats, higher is more anomalous.
        labels_N: 0 = ok, 1 = defective.

    Returns:
        A number in 0..1; ties count half.

    Raises:
        InputError: One of the classes is missing, or a score is not finite.

    Source: Hanley and McNeil, "The Meaning and Use of the Area under a ROC Curve", Radiology 143, 1982
    (the area equals the Mann-Whitney U statistic over the number of pairs).
    """
    scores_N, labels_N = np.asarray(scores_N, np.float64), np.asarray(labels_N).astype(bool)
    num_defective, num_ok = int(labels_N.sum()), int((~labels_N).sum())
    if not num_defective or not num_ok:
        raise InputError(
            "AUROC needs images of both classes",
            value={"ok": num_ok, "defective": num_defective},
        )
    if not np.isfinite(scores_N).all():
        raise InputError(
            "a score is not a finite number", value=scores_N[~np.isfinite(scores_N)][:3].tolist()
        )
    _, inverse_N, counts = np.unique(scores_N, return_inverse=True, return_counts=True)
    ranks_N = (np.cumsum(counts) - (counts - 1) / 2)[inverse_N]
    u = ranks_N[labels_N].sum() - num_defective * (num_defective + 1) / 2
    return float(u / (num_defective * num_ok))


def accuracy(predicted_N: np.ndarray, labels_N: np.ndarray) -> float:
    """Share of predictions that equal the label.

    Args:
        predicted_N, labels_N: Class indices.

    Returns:
        A number in 0..1.

    Raises:
        InputError: No samples, or different numbers of them.

    Source: Metz, "Basic Principles of ROC Analysis", Seminars in Nuclear Medicine 8, 1978, section 1.
    """
    predicted_N, labels_N = np.asarray(predicted_N), np.asarray(labels_N)
    if predicted_N.shape != labels_N.shape or predicted_N.size == 0:
        raise InputError(
            "accuracy needs one prediction per label", value=[list(predicted_N.shape), list(labels_N.shape)]
        )
    return float(np.mean(predicted_N == labels_N))


def cosine_agreement(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of the angle between two arrays, flattened.

    Args:
        a, b: Floats of one shape.

    Returns:
        A number in -1..1; 1 for two zero arrays, 0 if only one is zero.

    Raises:
        InputError: Different shapes.

    Source: Salton and McGill, "Introduction to Modern Information Retrieval", 1983, section 4.1.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        raise InputError("cosine agreement needs arrays of one shape", value=[list(a.shape), list(b.shape)])
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    if norms == 0:
        return 1.0 if not a.any() and not b.any() else 0.0
    return float(np.clip(np.vdot(a, b) / norms, -1.0, 1.0))


def anomaly_evaluator(
    task: AnomalyDetection, labels_N: Sequence[int]
) -> Callable[[Sequence[dict[str, np.ndarray]]], float]:
    """The `evaluate` that a build of an anomaly detector needs.

    Args:
        task: Names the score output; its metric is `image_auroc`.
        labels_N: 0 = ok, 1 = defective, in the samples' order.

    Returns:
        A function from the samples' outputs to the metric.
    """
    name = task.outputs["score"]
    truth_N = np.asarray(labels_N)

    def evaluate(outputs: Sequence[dict[str, np.ndarray]]) -> float:
        return image_auroc(np.concatenate([output[name].reshape(-1) for output in outputs]), truth_N)

    return evaluate


def check_golden(engine: InferenceEngine) -> float:
    """Runs the golden inputs and compares with what was recorded at build time.

    Args:
        engine: A loaded engine.

    Returns:
        The lowest cosine agreement over the outputs.

    Raises:
        VerificationError: An output differs more than kernels of one precision can.
    """
    # On all streams at once: each has a compiled graph of its own.
    runs = [engine.infer_async(engine.golden.inputs) for _ in range(engine.settings.num_streams)]
    return min(compare_outputs(run.result(), engine.golden.outputs) for run in runs)


def compare_outputs(outputs: Mapping[str, np.ndarray], recorded: Mapping[str, np.ndarray]) -> float:
    """Compares what an engine answers with what it answered before.

    Args:
        outputs: One array per output.
        recorded: The same, from an earlier run on the same inputs.

    Returns:
        The lowest cosine agreement over the outputs.

    Raises:
        VerificationError: An output differs more than kernels of one precision can.
    """
    lowest = 1.0
    for name, expected in recorded.items():
        found = outputs.get(name)
        if found is None or found.shape != expected.shape or not np.isfinite(found).all():
            raise VerificationError(f"output {name!r} is not what was recorded", value=name)
        cosine = cosine_agreement(found, expected)
        # A single number has no span of its own: then its size is the scale.
        span = float(np.ptp(expected)) or float(np.abs(expected).max()) or 1.0
        difference = float(np.abs(found.astype(np.float64) - expected).max()) / span
        if cosine < GOLDEN_MIN_COSINE or difference > GOLDEN_MAX_DIFFERENCE:
            raise VerificationError(
                f"output {name!r} differs from the recorded one: cosine {cosine:.4f}, "
                f"largest difference {difference:.1%} of its span",
                value={"cosine": cosine, "difference": difference},
                hint="the runtime's version or this CPU executes the engine differently; build it again here",
            )
        lowest = min(lowest, cosine)
    return lowest
