"""What models answer on images: all candidates on the test part.

Shapes: N images, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from xtorch.data.check import UsableImage
from xtorch.models.classifier import Classifier, ClassifierConfig
from xtorch.tasks.images import read_pixels

_BATCH = 8


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
            chunk = images[start : start + _BATCH]
            pixels = [read_pixels(root, image.path, config.input_size) for image in chunk]
            x_NCHW = torch.cat([models[0].preprocess(torch.from_numpy(each)[None]) for each in pixels])
            for logits, model in zip(found, models, strict=True):
                logits.append(model.backbone(x_NCHW))
    return [torch.cat(logits).numpy() for logits in found]
