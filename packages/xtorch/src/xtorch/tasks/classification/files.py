"""A trained classifier on disk: ``model.safetensors``, ``model.json``, ``task.json`` (ARCHITECTURE, 10.3)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xtorch.models.classifier import Classifier, ClassifierConfig
from xtorch.tasks.images import plain_input
from xtorch.tasks.saved import load_weights, save_weights


def save_model(model: Classifier, folder: Path) -> None:
    """Writes ``model.safetensors`` and ``model.json``."""
    save_weights(model, folder, model.config.to_dict())


def load_model(folder: str | Path) -> Classifier:
    """Rebuilds the torch model of a training output.

    Args:
        folder: Holds ``model.safetensors`` and ``model.json``.

    Returns:
        In evaluation mode: uint8 RGB [N,H,W,3] of any size -> logits float32 [N,C].

    Raises:
        WeightsError: A file is missing, or the two do not fit each other.
    """
    return load_weights(folder, Classifier, lambda config: Classifier(ClassifierConfig(**config)))


def task_spec(config: ClassifierConfig, labels: Sequence[str]) -> dict[str, Any]:
    """The task spec, ARCHITECTURE.md 10.4: logits out, already divided by the temperature."""
    return {
        "task": "image-classification",
        "version": 1,
        "input": {"name": "image", "kind": "image", "color": "RGB", "min_side": config.input_size},
        "outputs": {"scores": "logits"},
        "labels": list(labels),
        "activation": "softmax",
        "metric": "top1",
    }


def naive_predict(model: Classifier, data: bytes) -> np.ndarray:
    """The pipeline that most people deploy, as the peer that engines are compared with.

    See `plain_input`; torch runs the model eagerly in float32. The same weights and (to rounding) the same
    answers as `model`.

    Args:
        model: From `load_model`.
        data: An encoded image.

    Returns:
        Probabilities float32 [C].
    """
    with torch.inference_mode():
        logits_1C = model.backbone(plain_input(data, model.preprocess))
        probabilities_C: np.ndarray = logits_1C.softmax(dim=1)[0].numpy()
    return probabilities_C
