"""Batches moved to a device while the one before is in use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from xtorch.data.loading.fetch import map_tensors


def moved(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """The batches on a device.

    On a CUDA device, the copy of the next batch runs on a stream of its own, beside the computation on this
    one; it needs page-locked memory for that.

    Args:
        batches: any structure of mappings, lists and tuples that holds tensors.
        device: where they go.
    """
    if device.type != "cuda":
        for batch in batches:
            yield map_tensors(batch, lambda tensor: tensor.to(device))
        return
    stream = torch.cuda.Stream(device)

    def copy(batch: Any) -> Any:
        with torch.cuda.stream(stream):
            return map_tensors(batch, lambda tensor: tensor.to(device, non_blocking=True))

    def ready(batch: Any) -> Any:
        current = torch.cuda.current_stream(device)
        current.wait_stream(stream)

        def in_use(tensor: torch.Tensor) -> torch.Tensor:
            # The allocator must not give the memory away while the computing stream still reads it.
            tensor.record_stream(current)
            return tensor

        return map_tensors(batch, in_use)

    iterator = iter(batches)
    following = [copy(batch) for batch in _take(iterator)]
    while following:
        batch = ready(following.pop())
        following = [copy(each) for each in _take(iterator)]
        yield batch


def _take(iterator: Iterator[Any]) -> list[Any]:
    """The next item in a list, or an empty one at the end."""
    for item in iterator:
        return [item]
    return []
