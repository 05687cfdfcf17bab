"""Samples into batches: torch's default, without threads of its own, and for image samples too.

Shapes: N samples; the rest as in `xtorch.transforms.sample`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info
from torch.utils.data._utils.collate import collate as torch_collate
from torch.utils.data._utils.collate import default_collate_fn_map

from xtorch.transforms.sample import ImageSample


def collate(samples: Sequence[Any]) -> Any:
    """A batch: arrays, tensors and numbers stacked, strings listed; tuples, lists, mappings part by part.

    `ImageSample`s become a dict of ``image_NHWC`` (uint8; ``.permute(0, 3, 1, 2)`` is a channels-last
    [N,C,H,W] without a copy), ``mask_NHW``, ``target``, and lists, one entry for each image, of ``boxes``,
    ``labels``, ``keypoints`` and ``visible``; those that the samples have.
    """
    return torch_collate(list(samples), collate_fn_map=_FUNCTIONS)


def _stack_arrays(
    arrays: Sequence[np.ndarray],
    *,
    collate_fn_map: dict[Any, Any] | None = None,  # noqa: ARG001
) -> Any:
    if arrays[0].dtype.kind in "SUO":
        return list(arrays)
    # In a thread, torch.stack would start a team of threads beside the one that trains; NumPy does not.
    return torch.from_numpy(np.stack(arrays))


def _stack_tensors(
    tensors: Sequence[Tensor],
    *,
    collate_fn_map: dict[Any, Any] | None = None,  # noqa: ARG001
) -> Any:
    first = tensors[0]
    if get_worker_info() is None and _plain(first):
        return torch.from_numpy(np.stack([tensor.numpy() for tensor in tensors]))
    return torch_collate(list(tensors), collate_fn_map=default_collate_fn_map)


def _plain(tensor: Tensor) -> bool:
    return (
        tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and not tensor.requires_grad
        and tensor.dtype is not torch.bfloat16
    )


def _stack_images(
    samples: Sequence[ImageSample],
    *,
    collate_fn_map: dict[Any, Any] | None = None,  # noqa: ARG001
) -> dict[str, Any]:
    batch = {"image_NHWC": collate([sample.image_HWC for sample in samples])}
    if samples[0].mask_HW is not None:
        batch["mask_NHW"] = collate([sample.mask_HW for sample in samples])
    for key, field in (
        ("boxes", "boxes_N4"),
        ("labels", "labels_N"),
        ("keypoints", "keypoints_K2"),
        ("visible", "visible_K"),
    ):
        if getattr(samples[0], field) is not None:
            batch[key] = [torch.from_numpy(np.array(getattr(sample, field))) for sample in samples]
    if samples[0].target is not None:
        batch["target"] = collate([sample.target for sample in samples])
    return batch


_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    **default_collate_fn_map,
    np.ndarray: _stack_arrays,
    Tensor: _stack_tensors,
    ImageSample: _stack_images,
}
