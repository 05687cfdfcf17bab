"""A trained classifier on disk: ``model.safetensors``, ``model.json``, ``task.json`` (ARCHITECTURE, 10.3)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from xtorch.models.classifier import Classifier, ClassifierConfig
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

    Pillow opens and converts, torch resizes on a float tensor and runs the model eagerly in float32: the same
    weights and (to rounding) the same answers as `model`, without any of an engine's work.

    Args:
        model: From `load_model`.
        data: An encoded image.

    Returns:
        Probabilities float32 [C].
    """
    image = Image.open(io.BytesIO(data)).convert("RGB")
    x_CHW = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
    pre = model.preprocess
    with torch.inference_mode():
        x_NCHW = F.interpolate(
            x_CHW[None], size=(pre.size, pre.size), mode="bilinear", antialias=True, align_corners=False
        )
        probabilities_C: np.ndarray = model.backbone((x_NCHW - pre.mean) / pre.std).softmax(dim=1)[0].numpy()
    return probabilities_C
