"""Small pictures with masks for tests: a light disc and a dark square on grey noise, masks of any kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

BACKGROUND, DISC, SQUARE = range(3)
COLOURS = np.array([(0, 0, 0), (220, 20, 60), (0, 130, 200)], np.uint8)
Paint = Callable[[np.ndarray], Image.Image]
"""From class numbers uint8 [H,W] to the picture that is saved."""


@dataclass(frozen=True)
class Scene:
    """A picture uint8 [H,W,3] and its classes uint8 [H,W]."""

    pixels: np.ndarray
    labels: np.ndarray


def scene(seed: int, *, width: int = 80, height: int = 64, square: bool = True) -> Scene:
    """A disc and, unless it is not wanted, a square; the same for the same seed."""
    rng = np.random.default_rng(seed)
    tint = rng.integers(90, 150)
    pixels = rng.normal(tint, 9, (height, width, 3))
    # A slope of its own: else all pictures are near duplicates of each other.
    pixels += np.linspace(-1, 1, width)[None, :, None] * rng.uniform(-45, 45)
    pixels += np.linspace(-1, 1, height)[:, None, None] * rng.uniform(-45, 45)
    labels = np.zeros((height, width), np.uint8)
    y_HW, x_HW = np.mgrid[:height, :width]
    radius = rng.integers(9, 15)
    y, x = rng.integers(radius, height - radius), rng.integers(radius, width - radius)
    labels[(y_HW - y) ** 2 + (x_HW - x) ** 2 <= radius**2] = DISC
    if square:
        side = int(rng.integers(12, 20))
        top, left = rng.integers(0, height - side), rng.integers(0, width - side)
        labels[top : top + side, left : left + side] = SQUARE
    pixels[labels == DISC] += 85
    pixels[labels == SQUARE] -= 75
    return Scene(pixels.clip(0, 255).astype(np.uint8), labels)


def as_numbers(labels: np.ndarray) -> Image.Image:
    """Class numbers as grey values."""
    return Image.fromarray(labels)


def as_colours(labels: np.ndarray) -> Image.Image:
    return Image.fromarray(COLOURS[labels])


def as_indices(labels: np.ndarray) -> Image.Image:
    """A palette, as Pascal VOC's masks have one."""
    image = Image.fromarray(labels)
    image.putpalette(COLOURS.tobytes())
    return image


def as_binary(labels: np.ndarray) -> Image.Image:
    """White where anything is."""
    return Image.fromarray(np.where(labels > 0, 255, 0).astype(np.uint8))


def save(path: Path, picture: Image.Image | np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def write(
    root: Path, num: int, *, paint: Paint = as_numbers, images: str = "images", masks: str = "masks"
) -> Path:
    """``images/p000.png`` and ``masks/p000.png`` of `num` scenes."""
    for index in range(num):
        made = scene(index)
        save(root / images / f"p{index:03d}.png", made.pixels)
        save(root / masks / f"p{index:03d}.png", paint(made.labels))
    return root
