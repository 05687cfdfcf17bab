"""A trained segmenter on disk (ARCHITECTURE.md, 10.3), and the plain pipeline that is engines' peer."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

from xinfer.tasks import ImageInput, SemanticSegmentation
from xtorch.data.label_masks import MaskLegend
from xtorch.errors import WeightsError
from xtorch.models.segmenter import Segmenter, SegmenterConfig, normalised, scaled_logits
from xtorch.tasks.recipe import read_json
from xtorch.tasks.saved import load_weights, save_weights

METRIC = "mean_iou"
OUTPUT = "logits"


def save_model(model: Segmenter, folder: Path, legend: MaskLegend) -> None:
    """Writes ``model.safetensors`` and ``model.json``, with what the dataset's masks mean."""
    save_weights(model, folder, model.config.to_dict(), masks=legend.to_dict())


def load_model(folder: str | Path) -> Segmenter:
    """Rebuilds the torch model of a training output.

    Args:
        folder: Holds ``model.safetensors`` and ``model.json``.

    Returns:
        In evaluation mode, see `Segmenter`.

    Raises:
        WeightsError: A file is missing, or the two do not fit each other.
    """
    return load_weights(folder, Segmenter, lambda config: Segmenter(SegmenterConfig(**config)))


def load_legend(folder: Path) -> MaskLegend:
    """What the masks of the dataset mean that a model was trained on.

    Raises:
        WeightsError: ``model.json`` does not say it.
    """
    try:
        return MaskLegend.from_dict(read_json(folder / "model.json")["masks"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            "model.json does not say what masks mean.",
            value=folder.name,
            hint="the folder must be the output of a training run of this or an older version",
        ) from error


def segmentation_task(
    config: SegmenterConfig, labels: Sequence[str], *, background: int | None, threshold: float = 0.5
) -> SemanticSegmentation:
    """The task spec.

    Args:
        background: The class that is not drawn.
        threshold: With two classes: the probability from which on a pixel is of class 1.
    """
    return SemanticSegmentation(
        input=ImageInput(name="image", color="RGB", min_side=min(config.size)),
        outputs={"logits": OUTPUT},
        labels=tuple(labels),
        values="logits",
        threshold=threshold,
        background=None if background is None else labels[background],
        metric=METRIC,
    )


def logit(probability: float) -> float:
    """The logit of a probability; infinite at 0 and 1."""
    with np.errstate(divide="ignore"):
        return float(np.log(probability) - np.log1p(-probability))


class NaivePredict:
    """The pipeline that most people deploy: Pillow decodes, torch resizes, runs eagerly and compares.

    Args:
        model: From `load_model`.
        task: Its task.
    """

    def __init__(self, model: Segmenter, task: SemanticSegmentation) -> None:
        self._model, self._edge = model, logit(task.threshold)

    def __call__(self, data: bytes) -> np.ndarray:
        """The class of each pixel of an encoded image, uint8 [H,W]."""
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
        x_1CHW = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
        with torch.inference_mode():
            x_1CST = F.interpolate(
                x_1CHW, size=self._model.config.size, mode="bilinear", antialias=True, align_corners=False
            )
            scores_1KHW = scaled_logits(self._model.network(normalised(x_1CST)), (image.height, image.width))
            if self._model.config.num_logits == 1:
                return np.asarray((scores_1KHW[0, 1] >= self._edge).to(torch.uint8).numpy())
            return np.asarray(scores_1KHW[0].argmax(dim=0).to(torch.uint8).numpy())
