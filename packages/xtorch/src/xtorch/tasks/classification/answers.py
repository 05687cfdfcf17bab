"""What models answer on images: all candidates on the test part, and an export against its source.

Shapes: N images, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from xtorch.data.check import UsableImage
from xtorch.errors import ParityError
from xtorch.export import OnnxModel
from xtorch.models.classifier import Classifier, ClassifierConfig
from xtorch.tasks.classification.features import read_pixels

_BATCH = 8
_TOLERANCE = 5e-3
"""As a share of the largest logit: float32 sums in another order differ by about 1e-5 of it."""


def answers(
    models: Sequence[Classifier], root: Path, images: Sequence[UsableImage], config: ClassifierConfig
) -> list[np.ndarray]:
    """Logits float32 [N,C] of each model; every image is decoded once.

    Raises:
        DataError: An image cannot be decoded.
    """
    found: list[list[torch.Tensor]] = [[] for _ in models]
    with torch.inference_mode():
        for start in range(0, len(images), _BATCH):
            pixels = [read_pixels(root, image.path, config) for image in images[start : start + _BATCH]]
            x_NCHW = torch.cat([models[0].preprocess(torch.from_numpy(each)[None]) for each in pixels])
            for logits, model in zip(found, models, strict=True):
                logits.append(model.backbone(x_NCHW))
    return [torch.cat(logits).numpy() for logits in found]


def check_parity(
    model: Classifier, path: Path, images: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Compares an exported classifier with its source.

    Args:
        model: The source, in evaluation mode.
        path: The ONNX file.
        images: uint8 [H,W,3], of any sizes.

    Returns:
        Logits of source and export, float32 [N,C] each.

    Raises:
        ParityError: Logits differ by more than rounding, or are not finite.
    """
    exported = OnnxModel(path)
    sources, onnxes = [], []
    for image_HW3 in images:
        batch_NHWC = np.ascontiguousarray(image_HW3[None])
        with torch.inference_mode():
            sources.append(model(torch.from_numpy(batch_NHWC)).numpy()[0])
        onnxes.append(exported(batch_NHWC)[0][0])
    source_NC, onnx_NC = np.stack(sources), np.stack(onnxes)
    worst = float(np.abs(source_NC - onnx_NC).max())
    limit = _TOLERANCE * max(1.0, float(np.abs(source_NC).max()))
    if not np.isfinite(onnx_NC).all() or not worst <= limit:
        raise ParityError(
            f"The exported model's logits differ from the source's by up to {worst:.2g}, not {limit:.2g}.",
            value=worst,
            hint="this is a defect of the export: report it with the versions of torch and onnxscript",
        )
    return source_NC, onnx_NC
