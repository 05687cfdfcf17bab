"""Make the demo's images: real photographs with damage that this script adds.

The photographs come out of the scikit-image wheel, so nothing is downloaded: paving bricks, gravel and
grass (512x512 grey, CC0) and ancient coins (Brooklyn Museum, no known copyright restrictions). Each
surface is cut into 64 tiles that do not overlap and that are enlarged threefold. A third of the tiles
of each surface is damaged: cracks, scratches, stains, and coins that lie where they should not. A
damaged tile's clean twin is left out, so no picture stands on both sides.

    python examples/make_samples.py FOLDER      # FOLDER/ok/*.jpg, FOLDER/defective/<kind>/*.jpg
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from skimage import data

SURFACES = ("brick", "gravel", "grass")
TILE_PX = 64
SCALE = 3
SIZE_PX = TILE_PX * SCALE

# (row, column) of coins in the 384x303 photograph that fill about the same circle.
COIN_CENTRES = ((51, 215), (119, 271), (124, 205), (193, 212), (194, 274), (196, 102))


def tiles(surface: str) -> list[Image.Image]:
    """The 64 tiles of a photograph, enlarged, row by row."""
    photo = Image.fromarray(getattr(data, surface)())
    return [
        photo.crop((x, y, x + TILE_PX, y + TILE_PX)).resize((SIZE_PX, SIZE_PX), Image.Resampling.LANCZOS)
        for y in range(0, photo.height, TILE_PX)
        for x in range(0, photo.width, TILE_PX)
    ]


def _walk(
    rng: np.random.Generator, *, num_steps: int, step_px: float, turn: float
) -> list[tuple[float, float]]:
    """A random walk that keeps its direction to some degree: the shape of a crack."""
    x, y = rng.uniform(0.2, 0.8, size=2) * SIZE_PX
    angle = rng.uniform(0, 2 * np.pi)
    points = [(float(x), float(y))]
    for _ in range(num_steps):
        angle += rng.normal(0, turn)
        x, y = x + step_px * np.cos(angle), y + step_px * np.sin(angle)
        points.append((float(x), float(y)))
    return points


def crack(tile: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A dark, jagged line of changing width."""
    layer = Image.new("L", tile.size, 0)
    draw = ImageDraw.Draw(layer)
    points = _walk(rng, num_steps=28, step_px=6, turn=0.55)
    for start, end in itertools.pairwise(points):
        draw.line((start, end), fill=255, width=int(rng.integers(2, 6)))
    return Image.composite(Image.new("L", tile.size, 18), tile, layer.filter(ImageFilter.GaussianBlur(0.7)))


def scratch(tile: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Two to four bright, nearly parallel strokes."""
    layer = Image.new("L", tile.size, 0)
    draw = ImageDraw.Draw(layer)
    angle = rng.uniform(0, np.pi)
    for _ in range(int(rng.integers(2, 5))):
        x, y = rng.uniform(0.25, 0.75, size=2) * SIZE_PX
        length, lean = rng.uniform(40, 85), angle + rng.normal(0, 0.06)
        dx, dy = length * np.cos(lean) / 2, length * np.sin(lean) / 2
        draw.line((x - dx, y - dy, x + dx, y + dy), fill=230, width=int(rng.integers(2, 4)))
    return Image.composite(Image.new("L", tile.size, 235), tile, layer.filter(ImageFilter.GaussianBlur(0.6)))


def stain(tile: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A soft, dark spill that hides most of the texture."""
    layer = Image.new("L", tile.size, 0)
    draw = ImageDraw.Draw(layer)
    x, y = rng.uniform(0.3, 0.7, size=2) * SIZE_PX
    for _ in range(9):
        r = rng.uniform(12, 26)
        cx, cy = x + rng.normal(0, 16), y + rng.normal(0, 16)
        draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=215)
    return Image.composite(Image.new("L", tile.size, 40), tile, layer.filter(ImageFilter.GaussianBlur(3)))


def coin(tile: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A photographed coin that lies on the surface."""
    photo = Image.fromarray(data.coins())
    row, column = COIN_CENTRES[int(rng.integers(len(COIN_CENTRES)))]
    r = 21
    piece = photo.crop((column - r, row - r, column + r, row + r)).resize((72, 72), Image.Resampling.LANCZOS)
    mask = Image.new("L", piece.size, 0)
    ImageDraw.Draw(mask).ellipse((3, 3, 69, 69), fill=255)
    out = tile.copy()
    x, y = (int(v) for v in rng.uniform(0.1, 0.5, size=2) * SIZE_PX)
    out.paste(piece.rotate(float(rng.uniform(0, 360))), (x, y), mask.filter(ImageFilter.GaussianBlur(1)))
    return out


DAMAGE: dict[str, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "crack": crack,
    "scratch": scratch,
    "stain": stain,
    "coin": coin,
}


def make_samples(folder: Path, *, seed: int = 0) -> dict[str, int]:
    """Write the images below `folder`.

    Args:
        folder: must be missing or empty; gets ``ok/`` and ``defective/<kind>/``.
        seed: decides which tiles are damaged and how.

    Returns:
        Number of images by class: ``{"ok": 129, "defective": 63}``.

    Raises:
        FileExistsError: `folder` holds something already.
    """
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty")
    rng = np.random.default_rng(seed)
    counts = {"ok": 0, "defective": 0}
    kinds = list(DAMAGE)
    for surface in SURFACES:
        pictures = tiles(surface)
        damaged = set(rng.choice(len(pictures), size=len(pictures) // 3, replace=False).tolist())
        for index, picture in enumerate(pictures):
            if index in damaged:
                kind = kinds[counts["defective"] % len(kinds)]
                picture = DAMAGE[kind](picture, rng)
                path = folder / "defective" / kind / f"{surface}_{index:02d}.jpg"
                counts["defective"] += 1
            else:
                path = folder / "ok" / f"{surface}_{index:02d}.jpg"
                counts["ok"] += 1
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path, quality=92)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        counts = make_samples(arguments.folder, seed=arguments.seed)
    except FileExistsError as error:
        print(f"make_samples: {error}; give an empty folder", file=sys.stderr)
        return 2
    print(f"{arguments.folder}: " + ", ".join(f"{number} {name}" for name, number in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
