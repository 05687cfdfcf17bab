"""Images of a dataset, read as the engine will see them: for training, for builds, and as plain torch does.

Shapes: N images, H and W rows and columns, S side of a network's input.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from xinfer.errors import ImageDecodeError
from xinfer.preproc import decode_image
from xtorch.data.check import UsableImage
from xtorch.errors import DataError
from xtorch.models.resize import Preprocess

Item = Mapping[str, Any]
"""An entry of ``splits.json``: ``path`` relative to the dataset's root, and ``label``."""


def read_pixels(root: Path, path: str, min_side: int) -> np.ndarray:
    """An image as the engine will see it, uint8 RGB [H,W,3].

    Args:
        root: The dataset's folder.
        path: Of a file in it.
        min_side: As in the task spec.

    Raises:
        DataError: It cannot be decoded.
    """
    try:
        return decode_image((root / path).read_bytes(), min_side=min_side)
    except (ImageDecodeError, OSError) as error:
        raise DataError(
            f"{path} cannot be decoded: {error}", value=path, hint="remove the file or save it again"
        ) from error


def network_input(images: Sequence[np.ndarray], preprocess: Preprocess, batch_size: int) -> Tensor:
    """A batch that is always full: float32 [batch_size,3,S,S], channels last, with zeros behind the images.

    Kernels, and with them the last bits of what they compute, depend on the size of a batch. What is computed
    for an image must not: a run that was interrupted has other batches.

    Args:
        images: uint8 RGB [H,W,3] of any sizes; at least one, at most `batch_size`.
        preprocess: To the network's input.
        batch_size: Rows of the result.
    """
    rows = [preprocess(torch.from_numpy(image_HW3)[None]) for image_HW3 in images]
    rows += [torch.zeros_like(rows[0])] * (batch_size - len(rows))
    return torch.cat(rows).contiguous(memory_format=torch.channels_last)


def plain_input(data: bytes, preprocess: Preprocess) -> Tensor:
    """An encoded image as the pipeline that most people deploy prepares it: float32 [1,3,S,S].

    Pillow opens and converts, torch resizes on a float tensor: to rounding the same as `preprocess`, without
    any of an engine's work.
    """
    image = Image.open(io.BytesIO(data)).convert("RGB")
    x_CHW = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
    size = (preprocess.size, preprocess.size)
    x_NCHW = F.interpolate(x_CHW[None], size=size, mode="bilinear", antialias=True, align_corners=False)
    return (x_NCHW - preprocess.mean) / preprocess.std


def labelled_splits(parts: Mapping[str, Sequence[UsableImage]]) -> dict[str, list[dict[str, Any]]]:
    """``splits.json`` of images with one label each."""
    return {
        part: [{"path": image.path, "label": image.label} for image in images]
        for part, images in parts.items()
    }


class ImageItems:
    """Images of a dataset as feeds.

    Args:
        root: The dataset's folder.
        input_name: The model's input.
        min_side: As in the task spec.
    """

    def __init__(self, root: Path, input_name: str, min_side: int) -> None:
        self._root = root
        self._input_name = input_name
        self._min_side = min_side

    def take(
        self, items: Sequence[Item], *, max_bytes: int, max_num: int | None = None
    ) -> tuple[list[Item], list[dict[str, np.ndarray]]]:
        """Decodes items in order until there is enough.

        Returns:
            The items taken, and for each the model's input ``{name: uint8 [1,H,W,3]}``.

        Raises:
            DataError: An image cannot be decoded.
        """
        taken: list[Item] = []
        feeds: list[dict[str, np.ndarray]] = []
        for item in items[:max_num]:
            image_HW3 = read_pixels(self._root, item["path"], self._min_side)
            max_bytes -= image_HW3.nbytes
            if taken and max_bytes < 0:
                break
            taken.append(item)
            feeds.append({self._input_name: image_HW3[None]})
        return taken, feeds

    def encoded(self, items: Sequence[Item]) -> list[bytes]:
        return [(self._root / item["path"]).read_bytes() for item in items]


def alternating(items: Sequence[Item]) -> list[Item]:
    """All items, such that every beginning of the list has the labels in about the whole's shares."""
    by_label: dict[Any, list[Item]] = {}
    for item in items:
        by_label.setdefault(item["label"], []).append(item)
    placed = [
        ((index + 0.5) / len(group), str(label), item)
        for label, group in by_label.items()
        for index, item in enumerate(group)
    ]
    return [item for _, _, item in sorted(placed, key=lambda entry: entry[:2])]
