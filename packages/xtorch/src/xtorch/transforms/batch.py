"""Mixing within a batch of images for classification: the `batch_transform` of `ExtendedDataLoader`.

Shapes: N images, H height, W width, C channels, K classes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from xtorch.errors import DataError, SettingsError


class _BatchMix(ABC):
    """Batches as `collate` makes them of `ImageSample`s: ``image_NHWC`` uint8 or float32, ``target`` classes.

    Args:
        num_classes: ``target`` becomes float32 [N,K], shares of classes, for `cross_entropy`.
        alpha: the share of the other image is drawn from Beta(alpha, alpha).
    """

    def __init__(self, num_classes: int, alpha: float) -> None:
        if num_classes < 1 or not alpha > 0:
            raise SettingsError("num_classes and alpha must be positive.", value=(num_classes, alpha))
        self.num_classes, self.alpha = num_classes, alpha

    def __call__(self, batch: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """The batch, each image mixed with another one."""
        image_NHWC, target = batch["image_NHWC"], batch["target"]
        if target.ndim == 1:
            target = F.one_hot(target.long(), self.num_classes)
        if target.shape != (len(image_NHWC), self.num_classes):
            raise DataError("target must be classes [N] or shares [N,K].", value=list(target.shape))
        target_NK = target.to(torch.float32)
        order_N = torch.from_numpy(rng.permutation(len(image_NHWC)))
        drawn = float(rng.beta(self.alpha, self.alpha))
        mixed_NHWC, share = self.mix(image_NHWC, image_NHWC[order_N], drawn, rng)
        mixed_NK = target_NK * (1 - share) + target_NK[order_N] * share
        return {**batch, "image_NHWC": mixed_NHWC, "target": mixed_NK}

    @abstractmethod
    def mix(
        self, image_NHWC: torch.Tensor, other_NHWC: torch.Tensor, share: float, rng: np.random.Generator
    ) -> tuple[torch.Tensor, float]:
        """The mixed images, and the share of the others in them."""


class BatchMixUp(_BatchMix):
    """Blends each image with another one of the batch.

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization" (ICLR 2018), section 2.
    """

    def __init__(self, num_classes: int, alpha: float = 0.2) -> None:
        super().__init__(num_classes, alpha)

    def mix(
        self,
        image_NHWC: torch.Tensor,
        other_NHWC: torch.Tensor,
        share: float,
        rng: np.random.Generator,  # noqa: ARG002
    ) -> tuple[torch.Tensor, float]:
        mixed_NHWC = image_NHWC.float() * (1 - share) + other_NHWC.float() * share
        if image_NHWC.dtype == torch.uint8:
            mixed_NHWC = mixed_NHWC.round()
        return mixed_NHWC.to(image_NHWC.dtype), share


class BatchCutMix(_BatchMix):
    """Puts a rectangle of another image of the batch into each.

    Source: Yun et al., "CutMix" (ICCV 2019), section 3.1.
    """

    def __init__(self, num_classes: int, alpha: float = 1.0) -> None:
        super().__init__(num_classes, alpha)

    def mix(
        self, image_NHWC: torch.Tensor, other_NHWC: torch.Tensor, share: float, rng: np.random.Generator
    ) -> tuple[torch.Tensor, float]:
        height, width = image_NHWC.shape[1:3]
        half_height, half_width = (side * math.sqrt(share) / 2 for side in (height, width))
        y, x = rng.uniform(0, height), rng.uniform(0, width)
        rows = slice(max(0, round(y - half_height)), min(height, round(y + half_height)))
        columns = slice(max(0, round(x - half_width)), min(width, round(x + half_width)))
        mixed_NHWC = image_NHWC.clone()
        mixed_NHWC[:, rows, columns] = other_NHWC[:, rows, columns]
        # What the image's edge cuts off does not count.
        area = max(0, rows.stop - rows.start) * max(0, columns.stop - columns.start)
        return mixed_NHWC, area / (height * width)
