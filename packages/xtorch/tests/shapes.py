"""Tiny pictures of three classes that differ in shape and colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("disc", "square", "stripes")


def picture(name: str, rng: np.random.Generator, *, height: int = 64, width: int = 72) -> np.ndarray:
    """uint8 [height,width,3]."""
    rows, columns = np.mgrid[:height, :width].astype(float)
    y, x = rng.uniform(0.4, 0.6) * height, rng.uniform(0.4, 0.6) * width
    side = min(height, width) * rng.uniform(0.2, 0.3)
    inside = {
        "disc": (rows - y) ** 2 + (columns - x) ** 2 < side**2,
        "square": (abs(rows - y) < side) & (abs(columns - x) < side),
        "stripes": ((columns + x) // max(2, side / 3)) % 2 == 0,
    }[name]
    colour = {"disc": (210, 70, 60), "square": (60, 180, 80), "stripes": (70, 80, 200)}[name]
    pixels = np.where(inside[..., None], np.array(colour), 120) + rng.normal(0, 12, (height, width, 3))
    return pixels.clip(0, 255).astype(np.uint8)


def write(root: Path, counts: dict[str, int], *, seed: int = 0) -> Path:
    """Pictures into folders: ``write(root, {"train/disc": 20})``; the last part names the shape."""
    rng = np.random.default_rng(seed)
    for folder, number in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for index in range(number):
            pixels = picture(folder.rsplit("/", 1)[-1], rng, height=64 + index % 3)
            Image.fromarray(pixels).save(root / folder / f"{index:03d}.png")
    return root
