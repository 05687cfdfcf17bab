"""The classifier on frozen features: logistic regression, tuned by cross-validation.

Shapes: N images, V views (as it is, mirrored), F features, C classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from xtorch.class_metrics import fit_temperature, log_loss, softmax
from xtorch.tune import Choice, Float, Outcome, Params, Search, Space, Trial, TrialRow, TuneResult, tune

SPACE: Space = {
    "inverse_penalty": Float(low=1e-4, high=10.0, log=True),
    "scale": Choice(options=("none", "standard")),
    "views": Choice(options=("as it is", "mirrored too")),
    "class_weight": Choice(options=("none", "balanced")),
}
PORTFOLIO: tuple[Params, ...] = (
    {"inverse_penalty": 0.3, "scale": "none", "views": "mirrored too", "class_weight": "none"},
    {"inverse_penalty": 0.003, "scale": "standard", "views": "mirrored too", "class_weight": "none"},
    {"inverse_penalty": 0.1, "scale": "none", "views": "mirrored too", "class_weight": "balanced"},
    {"inverse_penalty": 1.0, "scale": "none", "views": "as it is", "class_weight": "none"},
)
"""Settings of the head that are tried first: from weak to strong regularisation, as they usually do well."""
_MAX_ITERATIONS = 150
_PATIENCE = 8
_NEVER = -30.0
"""Logit of a class that no image showed."""


@dataclass(frozen=True, kw_only=True)
class LinearHead:
    """``features @ weight + bias`` are the logits; float32 [F,C] and [C]."""

    weight: np.ndarray
    bias: np.ndarray

    def logits(self, features_NF: np.ndarray) -> np.ndarray:
        """float32 [N,C]."""
        logits_NC: np.ndarray = features_NF @ self.weight + self.bias
        return logits_NC

    def tempered(self, temperature: float) -> LinearHead:
        """With logits divided by a temperature."""
        return LinearHead(weight=self.weight / temperature, bias=self.bias / temperature)


@dataclass(frozen=True, kw_only=True)
class TunedHead:
    """
    Attributes:
        params: The best settings.
        logits: Of every image by a head that did not see it (out-of-fold), float64 [N,C].
        temperature: That makes probabilities of these.
    """

    params: Params
    search: TuneResult
    logits: np.ndarray
    temperature: float

    @property
    def probabilities(self) -> np.ndarray:
        """Calibrated, out-of-fold, float64 [N,C]."""
        return softmax(self.logits / self.temperature)


def fit_head(features_NVF: np.ndarray, labels_N: np.ndarray, num_classes: int, params: Params) -> LinearHead:
    """Multinomial logistic regression with an L2 penalty; scaling is folded into its weights.

    Args:
        features_NVF: float32.
        labels_N: Of 0..C-1; a class without images is never answered.
        params: Of `SPACE`.
    """
    only = np.unique(labels_N)
    if len(only) == 1:
        bias_C = np.where(np.arange(num_classes) == only[0], 0.0, _NEVER).astype(np.float32)
        return LinearHead(weight=np.zeros((features_NVF.shape[2], num_classes), np.float32), bias=bias_C)
    views = features_NVF.shape[1] if params["views"] == "mirrored too" else 1
    x_MF = features_NVF[:, :views].reshape(-1, features_NVF.shape[2])
    y_M = np.repeat(labels_N, views)
    mean_F, std_F = np.zeros(x_MF.shape[1]), np.ones(x_MF.shape[1])
    if params["scale"] == "standard":
        mean_F, std_F = x_MF.mean(axis=0), np.maximum(x_MF.std(axis=0), 1e-3)
    model = LogisticRegression(
        # scikit-learn's C weighs every sample: views of one image are not more images.
        C=float(params["inverse_penalty"] or 0) / views,
        class_weight="balanced" if params["class_weight"] == "balanced" else None,
        max_iter=_MAX_ITERATIONS,
        tol=1e-3,
    )
    with warnings.catch_warnings():
        # A head that has not converged is judged like any other.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit((x_MF - mean_F) / std_F, y_M)
    coefficients, intercept = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # scikit-learn keeps the second class's only
        coefficients = np.concatenate([-coefficients / 2, coefficients / 2])
        intercept = np.concatenate([-intercept / 2, intercept / 2])
    weight_FC = np.zeros((x_MF.shape[1], num_classes))
    bias_C = np.full(num_classes, _NEVER)
    weight_FC[:, model.classes_] = (coefficients / std_F).T
    bias_C[model.classes_] = intercept - (coefficients / std_F) @ mean_F
    return LinearHead(weight=weight_FC.astype(np.float32), bias=bias_C.astype(np.float32))


def tune_head(
    features_NVF: np.ndarray,
    labels_N: np.ndarray,
    folds_N: np.ndarray,
    num_classes: int,
    *,
    budget_s: float,
    max_trials: int,
    seed: int,
    storage: Path | None = None,
    identity: str = "",
    on_trial: Callable[[TrialRow], None] | None = None,
) -> TunedHead:
    """Looks for the settings with the least calibrated log loss in cross-validation.

    Log loss, because of a hundred images accuracy comes in steps of a hundredth.

    Args:
        features_NVF, labels_N: Of all images but the test part's.
        folds_N: Fold of each.
        budget_s, max_trials, seed, identity: See `xtorch.tune.Search`.
        storage, on_trial: See `xtorch.tune.tune`.

    Raises:
        TuningError: No settings gave a result.
    """
    found: dict[int, np.ndarray] = {}

    def objective(trial: Trial) -> Outcome:
        logits_NC = out_of_fold(features_NVF, labels_N, folds_N, num_classes, trial.params)
        found[trial.number] = logits_NC
        temperature = fit_temperature(labels_N, logits_NC)
        accuracy = float((logits_NC.argmax(axis=1) == labels_N).mean())
        return Outcome(
            value=log_loss(labels_N, softmax(logits_NC / temperature)), measured={"top1": accuracy}
        )

    search = tune(
        objective,
        Search(
            space=SPACE,
            portfolio=PORTFOLIO,
            budget_s=budget_s,
            max_trials=max_trials,
            patience=_PATIENCE,
            min_delta=1e-3,
            direction="minimize",
            seed=seed,
            identity=identity,
        ),
        storage=storage,
        on_trial=on_trial,
    )
    best = search.best
    assert best is not None, "without constraints every complete trial is feasible"
    # A search that was taken up again does not know the logits of its earlier trials.
    logits_NC = found.get(best.number)
    if logits_NC is None:
        logits_NC = out_of_fold(features_NVF, labels_N, folds_N, num_classes, best.params)
    return TunedHead(
        params=best.params,
        search=search,
        logits=logits_NC,
        temperature=fit_temperature(labels_N, logits_NC),
    )


def out_of_fold(
    features_NVF: np.ndarray, labels_N: np.ndarray, folds_N: np.ndarray, num_classes: int, params: Params
) -> np.ndarray:
    """Logits float64 [N,C] of each image by a head that was fitted on the other folds."""
    logits_NC = np.empty((len(labels_N), num_classes))
    for fold in np.unique(folds_N):
        held_out = folds_N == fold
        head = fit_head(features_NVF[~held_out], labels_N[~held_out], num_classes, params)
        logits_NC[held_out] = head.logits(features_NVF[held_out, 0])
    return logits_NC
