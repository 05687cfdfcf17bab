"""Metrics that are told of one batch after another: for whole epochs without keeping every output.

They take NumPy arrays and know nothing of torch. Their state can be saved and added up over processes.

Shapes: N samples (or pixels), K classes; `...` any further axes, which count as samples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from sklearn.metrics import roc_auc_score

from xtorch.errors import SettingsError


class StreamingMetric(ABC):
    """Base: `update` with every batch, `compute` at the end, `reset` before the next epoch."""

    def __init__(self) -> None:
        self.reset()

    @abstractmethod
    def reset(self) -> None:
        """Forget everything."""

    @abstractmethod
    def update(self, predictions: np.ndarray, targets: np.ndarray) -> None:
        """Take in a batch."""

    @abstractmethod
    def compute(self) -> float:
        """The metric of all batches since `reset`; NaN where it is not defined."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Numbers and arrays that hold everything so far."""

    @abstractmethod
    def add(self, state: Mapping[str, Any]) -> None:
        """Take in what another object of the same settings has seen, given its `state`."""


class _Sums(StreamingMetric):
    """A total and a weight."""

    def reset(self) -> None:
        self._total = self._weight = 0.0

    def compute(self) -> float:
        return self._total / self._weight if self._weight else float("nan")

    def state(self) -> dict[str, Any]:
        return {"total": self._total, "weight": self._weight}

    def add(self, state: Mapping[str, Any]) -> None:
        self._total += state["total"]
        self._weight += state["weight"]


class Accuracy(_Sums):
    """Share of samples whose class is among the `top_k` highest scores.

    `update` takes scores [N,K] and classes [N]; of scores for pixels [N,K,H,W], classes [N,H,W].
    """

    def __init__(self, *, top_k: int = 1) -> None:
        super().__init__()
        if top_k < 1:
            raise SettingsError("top_k must be at least 1.", value=top_k)
        self.top_k = top_k

    def update(self, predictions: np.ndarray, targets: np.ndarray) -> None:
        if self.top_k == 1:
            hit = predictions.argmax(axis=1) == targets
        else:
            k = min(self.top_k, predictions.shape[1])
            best = np.argpartition(-predictions, k - 1, axis=1)[:, :k]
            hit = (best == np.expand_dims(targets, 1)).any(axis=1)
        self._total += float(hit.sum())
        self._weight += float(hit.size)


class MeanAbsoluteError(_Sums):
    """Mean of ``|prediction - target|`` over arrays of one shape."""

    def update(self, predictions: np.ndarray, targets: np.ndarray) -> None:
        self._total += float(np.abs(predictions.astype(np.float64) - targets).sum())
        self._weight += float(targets.size)


class RootMeanSquaredError(_Sums):
    """Root of the mean of ``(prediction - target)^2`` over arrays of one shape."""

    def update(self, predictions: np.ndarray, targets: np.ndarray) -> None:
        self._total += float(np.square(predictions.astype(np.float64) - targets).sum())
        self._weight += float(targets.size)

    def compute(self) -> float:
        return float(np.sqrt(super().compute()))


class _Counts(StreamingMetric):
    """A confusion matrix. `update` takes scores [N,K,...] and classes [N,...]; classes outside 0..K-1 are
    ignored (255 for pixels without a label)."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        super().__init__()

    def reset(self) -> None:
        self.counts_KK = np.zeros((self.num_classes, self.num_classes), dtype=np.int64)
        """Rows: the true class; columns: the predicted one."""

    def update(self, predictions: np.ndarray, targets: np.ndarray) -> None:
        predicted, true = predictions.argmax(axis=1).ravel(), targets.ravel()
        known = (true >= 0) & (true < self.num_classes)
        pairs = true[known].astype(np.int64) * self.num_classes + predicted[known]
        self.counts_KK += np.bincount(pairs, minlength=self.num_classes**2).reshape(self.counts_KK.shape)

    def state(self) -> dict[str, Any]:
        return {"counts": self.counts_KK}

    def add(self, state: Mapping[str, Any]) -> None:
        self.counts_KK = self.counts_KK + state["counts"]


class F1(_Counts):
    """F1 over classes: the mean of each class's, weighted by its samples or not ("macro").

    A class that is neither there nor predicted does not count; one without a hit has 0.
    """

    def __init__(self, num_classes: int, *, average: Literal["macro", "weighted"] = "macro") -> None:
        super().__init__(num_classes)
        if average not in ("macro", "weighted"):
            raise SettingsError("average must be macro or weighted.", value=average)
        self.average = average

    def compute(self) -> float:
        hits_K = np.diag(self.counts_KK)
        true_K, predicted_K = self.counts_KK.sum(axis=1), self.counts_KK.sum(axis=0)
        seen = true_K + predicted_K > 0
        if not seen.any():
            return float("nan")
        f1_K = 2 * hits_K[seen] / (true_K + predicted_K)[seen]
        return float(np.average(f1_K, weights=true_K[seen] if self.average == "weighted" else None))


class MeanIoU(_Counts):
    """Intersection over union, averaged over the classes that are there or predicted.

    Source: Everingham et al., "The PASCAL Visual Object Classes Challenge" (IJCV 2015), section 4.1.3.
    """

    def compute(self) -> float:
        hits_K = np.diag(self.counts_KK)
        union_K = self.counts_KK.sum(axis=1) + self.counts_KK.sum(axis=0) - hits_K
        seen = union_K > 0
        return float((hits_K[seen] / union_K[seen]).mean()) if seen.any() else float("nan")


class AUROC(StreamingMetric):
    """Area under the ROC curve of scores [N] for labels 0 or 1 [N]. Exact, so it keeps every score.

    Source: Hanley and McNeil, "The meaning and use of the area under a ROC curve" (Radiology 1982).
    """

    def reset(self) -> None:
        self._scores: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []

    def update(self, predictions: np.ndarray, targets: np.ndarray) -> None:
        self._scores.append(predictions.ravel().astype(np.float64))
        self._labels.append(targets.ravel().astype(np.int64))

    def compute(self) -> float:
        state = self.state()
        if len(np.unique(state["labels"])) < 2:
            return float("nan")
        return float(roc_auc_score(state["labels"], state["scores"]))

    def state(self) -> dict[str, Any]:
        return {
            "scores": np.concatenate([np.empty(0), *self._scores]),
            "labels": np.concatenate([np.empty(0, dtype=np.int64), *self._labels]),
        }

    def add(self, state: Mapping[str, Any]) -> None:
        self._scores.append(state["scores"])
        self._labels.append(state["labels"])
