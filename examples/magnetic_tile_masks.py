"""Lay out the magnetic-tile data for segmentation with a class for each kind of defect.

    python examples/magnetic_tile_masks.py SRC DST

SRC holds ``MT_*/Imgs/*.jpg`` with masks of the same names as PNG (abin24/Magnetic-tile-defect-datasets.),
which are white where a defect is. DST gets ``images/<kind>/`` as hard links where possible, ``masks/<kind>/``
whose values are the kinds' numbers, and ``classes.txt``. For defect or not, train on SRC as it is.

Source: Huang, Qiu and Yuan, "Surface defect saliency of magnetic tile" (The Visual Computer 2020).
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from layout_magnetic_tile import GOOD, place
from PIL import Image

KINDS = ("background", "blowhole", "break", "crack", "fray", "uneven")


def layout(source: Path, destination: Path) -> Counter[str]:
    """Lay out `source` below `destination`.

    Args:
        source: The published folder.
        destination: Must be missing or empty.

    Returns:
        Number of images by folder.

    Raises:
        FileNotFoundError: There are no images, or one has no mask.
        FileExistsError: `destination` holds something already.
    """
    if destination.exists() and any(destination.iterdir()):
        raise FileExistsError(f"{destination} is not empty")
    images = sorted(source.glob("MT_*/Imgs/*.jpg"))
    if not images:
        raise FileNotFoundError(f"{source} holds no MT_*/Imgs/*.jpg")
    counts: Counter[str] = Counter()
    for image in images:
        kind = image.parts[-3]
        name = "free" if kind == GOOD else kind.removeprefix("MT_").lower()
        number = 0 if kind == GOOD else KINDS.index(name)
        with Image.open(image.with_suffix(".png")) as mask:
            # The masks were JPEGs once: not only 0 and 255.
            marked_HW = np.asarray(mask.convert("L")) >= 128
        target = destination / "masks" / name / f"{image.stem}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((marked_HW * number).astype(np.uint8)).save(target)
        place(image, destination / "images" / name / image.name)
        counts[name] += 1
    lines = (f"{number} {name}\n" for number, name in enumerate(KINDS))
    (destination / "classes.txt").write_text("".join(lines), encoding="utf-8")
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("destination", type=Path)
    arguments = parser.parse_args()
    try:
        counts = layout(arguments.source, arguments.destination)
    except (FileNotFoundError, FileExistsError) as error:
        print(f"magnetic_tile_masks: {error}", file=sys.stderr)
        return 2
    print(", ".join(f"{folder} {number}" for folder, number in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
