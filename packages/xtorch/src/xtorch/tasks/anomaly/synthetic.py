"""Damage drawn into good images, to choose by where there are no real defects.

What is chosen with it is never reported as if it had been measured on real defects.

Sources: pieces and scars are those of Li et al., "CutPaste: Self-Supervised Learning for Anomaly Detection
and Localization" (CVPR 2021), sections 3.1 and 3.2; stains those of Zavrtanik et al., "DRAEM: A
Discriminatively Trained Reconstruction Embedding for Surface Anomaly Detection" (ICCV 2021), section 3.2,
filled with a turned and recoloured good image instead of a texture data set; shades use the same noise to
change brightness only.

Shapes: H and W rows and columns of an image, h and w those of a piece.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

_MIN_AREA, _MAX_AREA = 0.003, 0.3
"""Share of the image that is damaged; drawn evenly on a logarithmic scale."""

Damage = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def perlin_noise(height: int, width: int, cells: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise around 0, float64 [height,width], with `cells` periods along each axis.

    Source: Perlin, "An image synthesizer" (SIGGRAPH 1985), with the fade curve of "Improving noise" (2002).
    """
    angles = rng.uniform(0, 2 * np.pi, (cells + 1, cells + 1))
    gradients = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    y_H, x_W = (np.arange(size) * (cells / size) for size in (height, width))
    rows, columns = y_H.astype(int), x_W.astype(int)
    down, right = (y_H - rows)[:, None], (x_W - columns)[None, :]

    def corner(row: int, column: int) -> np.ndarray:
        gradient_HW2 = gradients[(rows + row)[:, None], (columns + column)[None, :]]
        return gradient_HW2[..., 0] * (down - row) + gradient_HW2[..., 1] * (right - column)

    fade_down, fade_right = (t**3 * (t * (6 * t - 15) + 10) for t in (down, right))
    top = corner(0, 0) * (1 - fade_right) + corner(0, 1) * fade_right
    bottom = corner(1, 0) * (1 - fade_right) + corner(1, 1) * fade_right
    noise: np.ndarray = top * (1 - fade_down) + bottom * fade_down
    return noise


def _area(rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(np.log(_MIN_AREA), np.log(_MAX_AREA))))


def _recoloured(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Contrast up to 30 % and brightness up to 40 grey levels away, float64 of the same shape."""
    middle = pixels.mean(axis=(0, 1))
    recoloured: np.ndarray = (pixels - middle) * rng.uniform(0.7, 1.3) + middle + rng.uniform(-40, 40)
    return recoloured


def _pasted(
    image_HW3: np.ndarray, piece_hw3: np.ndarray, mask_hw: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The piece at a random place, weighted by its mask (0..1)."""
    height, width = (min(a, b) for a, b in zip(piece_hw3.shape[:2], image_HW3.shape[:2], strict=True))
    y = int(rng.integers(image_HW3.shape[0] - height + 1))
    x = int(rng.integers(image_HW3.shape[1] - width + 1))
    weight = mask_hw[:height, :width, None]
    result = image_HW3.astype(np.float64)
    under = result[y : y + height, x : x + width]
    result[y : y + height, x : x + width] = under * (1 - weight) + piece_hw3[:height, :width] * weight
    return result


def _cut(source_HW3: np.ndarray, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    height, width = min(height, source_HW3.shape[0]), min(width, source_HW3.shape[1])
    y = int(rng.integers(source_HW3.shape[0] - height + 1))
    x = int(rng.integers(source_HW3.shape[1] - width + 1))
    return source_HW3[y : y + height, x : x + width]


def _piece(image_HW3: np.ndarray, _source_HW3: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A rectangle of the image itself, recoloured, somewhere else."""
    area = _area(rng) * image_HW3.shape[0] * image_HW3.shape[1]
    aspect = np.exp(rng.uniform(np.log(0.3), np.log(3.3)))
    height, width = max(1, round((area * aspect) ** 0.5)), max(1, round((area / aspect) ** 0.5))
    piece_hw3 = _recoloured(_cut(image_HW3, height, width, rng), rng)
    return _pasted(image_HW3, piece_hw3, np.ones(piece_hw3.shape[:2]), rng)


def _scar(image_HW3: np.ndarray, _source_HW3: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A long, thin, turned strip."""
    side = min(image_HW3.shape[:2])
    height = max(1, round(side * rng.uniform(0.008, 0.06)))
    width = max(2, round(side * rng.uniform(0.1, 0.5)))
    piece_hw3 = _recoloured(_cut(image_HW3, height, width, rng), rng).clip(0, 255).astype(np.uint8)
    alpha = Image.new("L", (piece_hw3.shape[1], piece_hw3.shape[0]), 255)
    angle = float(rng.uniform(0, 180))
    turned = Image.fromarray(piece_hw3).rotate(angle, Image.Resampling.BILINEAR, expand=True)
    mask = alpha.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    return _pasted(image_HW3, np.asarray(turned, np.float64), np.asarray(mask, np.float64) / 255, rng)


def _stain(image_HW3: np.ndarray, source_HW3: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An irregular region through which another good image shows, turned and recoloured."""
    height, width = image_HW3.shape[:2]
    noise_HW = perlin_noise(height, width, int(rng.integers(2, 9)), rng)
    mask_HW1 = (noise_HW > np.quantile(noise_HW, 1 - _area(rng)))[..., None]
    other = Image.fromarray(np.rot90(source_HW3, int(rng.integers(1, 4)))).resize((width, height))
    filling_HW3 = _recoloured(np.asarray(other, np.float64), rng)
    opacity = rng.uniform(0.3, 1.0)
    stained: np.ndarray = image_HW3 * (1 - opacity * mask_HW1) + filling_HW3 * (opacity * mask_HW1)
    return stained


def _shade(image_HW3: np.ndarray, _source_HW3: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A smooth change of brightness, brighter or darker, that fades out."""
    height, width = image_HW3.shape[:2]
    noise_HW = perlin_noise(height, width, int(rng.integers(2, 5)), rng)
    edge = np.quantile(noise_HW, 1 - _area(rng))
    level_HW1 = ((noise_HW - edge) / max(float(noise_HW.max() - edge), 1e-9)).clip(0, 1)[..., None]
    shaded: np.ndarray = image_HW3 + level_HW1 * float(rng.choice([-1, 1]) * rng.uniform(30, 90))
    return shaded


DAMAGES: dict[str, Damage] = {"piece": _piece, "scar": _scar, "stain": _stain, "shade": _shade}


def damaged(image_HW3: np.ndarray, source_HW3: np.ndarray, *, kind: str, seed: int) -> np.ndarray:
    """A good image with damage drawn into it.

    Args:
        image_HW3: uint8 RGB of any size.
        source_HW3: Another good image, uint8 RGB of any size; stains are filled with it.
        kind: Of `DAMAGES`.
        seed: The same gives the same.

    Returns:
        uint8 RGB [H,W,3].
    """
    rng = np.random.default_rng(seed)
    result = DAMAGES[kind](image_HW3, source_HW3, rng)
    return np.asarray(result).round().clip(0, 255).astype(np.uint8)
