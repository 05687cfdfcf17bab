"""Lay out the magnetic-tile data as its published anomaly-detection protocol uses it.

The training part is the list of 761 good images that DifferNet was trained on; all other images are the
test part: 191 good ones and 392 defective ones of five kinds.

    python examples/layout_magnetic_tile.py SRC DST

SRC holds ``MT_*/Imgs/*.jpg`` (abin24/Magnetic-tile-defect-datasets.) and ``differnet_train_ok.txt``.
DST gets ``train/ok``, ``test/ok`` and ``test/defective/<kind>``, as hard links where possible.

Sources: Huang, Qiu and Yuan, "Surface defect saliency of magnetic tile" (The Visual Computer 2020);
Rudolph, Wandt and Rosenhahn, "Same Same But DifferNet" (WACV 2021), section 4.1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections import Counter
from pathlib import Path

LIST = "differnet_train_ok.txt"
GOOD = "MT_Free"


def place(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def layout(source: Path, destination: Path) -> Counter[str]:
    """Lay out `source` below `destination`.

    Args:
        source: the published folder with the list of training images.
        destination: must be missing or empty.

    Returns:
        Number of images by folder: ``{"train/ok": 761, "test/ok": 191, "test/defective/crack": 57, ...}``.

    Raises:
        FileNotFoundError: the list, or an image that it names, is missing.
        FileExistsError: `destination` holds something already.
    """
    if destination.exists() and any(destination.iterdir()):
        raise FileExistsError(f"{destination} is not empty")
    listed = set((source / LIST).read_text(encoding="utf-8").split())
    images = sorted(source.glob("MT_*/Imgs/*.jpg"))
    missing = listed - {image.name for image in images if image.parts[-3] == GOOD}
    if missing:
        raise FileNotFoundError(f"{len(missing)} listed images are missing, e.g. {min(missing)}")
    counts: Counter[str] = Counter()
    for image in images:
        kind = image.parts[-3]
        if kind != GOOD:
            folder = f"test/defective/{kind.removeprefix('MT_').lower()}"
        else:
            folder = "train/ok" if image.name in listed else "test/ok"
        place(image, destination / folder / image.name)
        counts[folder] += 1
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
        print(f"layout_magnetic_tile: {error}", file=sys.stderr)
        return 2
    print(", ".join(f"{folder} {number}" for folder, number in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
