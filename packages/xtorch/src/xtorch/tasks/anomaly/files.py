"""A trained anomaly model on disk: ``model.safetensors``, ``model.json`` and ``task.json``.

The formats are those of ARCHITECTURE.md, 10.3 and 10.4.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from xtorch.models.anomaly import AnomalyConfig, AnomalyModel
from xtorch.tasks.images import plain_input
from xtorch.tasks.saved import load_weights, save_weights


def save_model(model: AnomalyModel, folder: Path) -> None:
    """Write ``model.safetensors`` and ``model.json``."""
    save_weights(model, folder, model.config.to_dict())


def load_model(folder: str | Path) -> AnomalyModel:
    """Rebuild the torch model of a training output.

    Args:
        folder: holds ``model.safetensors`` and ``model.json``.

    Returns:
        In evaluation mode: uint8 RGB [N,H,W,3] of any size -> (score float32 [N], map float32 [N,S,S]).

    Raises:
        WeightsError: a file is missing, or the two do not fit each other.
    """
    return load_weights(folder, AnomalyModel, _rebuilt)


def _rebuilt(config: dict[str, Any]) -> AnomalyModel:
    if "top_fraction" in config:  # one share, until version 0.1
        config["top_fractions"] = [config.pop("top_fraction")]
    tuples = {name: tuple(config[name]) for name in ("strides", "top_fractions")}
    return AnomalyModel(AnomalyConfig(**config | tuples))


def task_spec(
    config: AnomalyConfig,
    *,
    threshold: float,
    map_threshold: float,
    score_range: tuple[float, float],
) -> dict[str, Any]:
    """The task spec, ARCHITECTURE.md 10.4."""
    return {
        "task": "anomaly-detection",
        "version": 1,
        "input": {"name": "image", "kind": "image", "color": "RGB", "min_side": config.input_size},
        "outputs": {"score": "score", "map": "anomaly_map"},
        "labels": ["ok", "defective"],
        "threshold": threshold,
        "map_threshold": map_threshold,
        "score_range": list(score_range),
        "metric": "image_auroc",
    }


def naive_predict(model: AnomalyModel, data: bytes) -> tuple[float, np.ndarray]:
    """The pipeline that most people deploy, as the peer that engines are compared with.

    See `plain_input`; torch runs the model eagerly in float32. The same weights and (to rounding) the same
    scores as `model`.

    Args:
        model: from `load_model`.
        data: an encoded image.

    Returns:
        Score, and map float32 [S,S].
    """
    with torch.inference_mode():
        maps = model.backbone(plain_input(data, model.preprocess))
        score_N, map_NSS = model.tail(model.scorer(model.patches(maps)))
    return float(score_N), map_NSS[0].numpy()
