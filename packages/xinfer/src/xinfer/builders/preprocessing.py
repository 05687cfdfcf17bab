"""Preprocessing in the graph: a wrapped model takes uint8 RGB images [N,H,W,3]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What a network wants of an image; `wrap` puts it in front of the network.

    Attributes:
        size: Height and width that the network takes; None: any size.
        resize: ``outside``: the caller resizes (`ImageInput.size` and `.mode` say how) and the graph takes
            exactly `size`; ``graph``: images of any size, stretched to `size` in the graph.
        mean, std: `(x - mean) / std` of values in 0..255, in the network's channel order.
        color: The network's channel order; users always give RGB.
        layout: The network's axes.
    """

    size: tuple[int, int] | None = None
    resize: Literal["outside", "graph"] = "outside"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    color: Literal["RGB", "BGR"] = "RGB"
    layout: Literal["NCHW", "NHWC"] = "NCHW"

    def __post_init__(self) -> None:
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"size must be positive, not {list(self.size)}")
        if self.size is None and self.resize == "graph":
            raise ValueError("resizing in the graph needs a size")
        if 0 in self.std:
            raise ValueError("std must not be zero")
