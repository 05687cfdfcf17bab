"""Masks: which picture outlines which, how files of all kinds are read, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xtorch import check_image_folder
from xtorch.data.check import inspect_images
from xtorch.data.layout import scan_image_folder
from xtorch.data.masks import mask_problem, masks_at, read_mask


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    return root


def masks_of(root: Path) -> dict[str, str | None]:
    return {image.path: image.mask for image in scan_image_folder(root).images}


def outline(path: Path, size: tuple[int, int] = (80, 72), mode: str = "L") -> Path:
    """A white square of 10x10 on black, at the top left."""
    picture = Image.new("L", size, 0)
    picture.paste(255, (0, 0, 10, 10))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.convert(mode).save(path)
    return path


def test_masks_of_mvtec_are_found_by_kind_and_name(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *("train/good/000.png", "test/good/000.png", "test/hole/000.png", "test/scratch/000.png"),
        *("ground_truth/hole/000_mask.png", "ground_truth/scratch/000_mask.png"),
    )
    assert masks_of(tmp_path) == {
        "train/good/000.png": None,
        "test/good/000.png": None,
        "test/hole/000.png": "ground_truth/hole/000_mask.png",
        "test/scratch/000.png": "ground_truth/scratch/000_mask.png",
    }


def test_masks_beside_their_images_are_no_images(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *("ok/a.jpg", "ok/a.png", "defective/b.jpg", "defective/b.png", "defective/c.png"),
        *("defective/d.png", "defective/d_mask.png", "defective/e_mask.png"),
    )
    assert masks_of(tmp_path) == {
        "ok/a.jpg": None,
        "defective/b.jpg": "defective/b.png",
        "defective/c.png": None,
        "defective/d.png": "defective/d_mask.png",
    }
    assert scan_image_folder(tmp_path).orphan_masks == ("defective/e_mask.png",)


def test_masks_in_one_folder_belong_to_defective_images(tmp_path: Path) -> None:
    touch(tmp_path, "ok/1.jpg", "defective/1.jpg", "defective/2.jpg", "masks/1.png", "masks/3.png")
    assert masks_of(tmp_path) == {"ok/1.jpg": None, "defective/1.jpg": "masks/1.png", "defective/2.jpg": None}
    assert scan_image_folder(tmp_path).orphan_masks == ("masks/3.png",)


def test_pictures_of_the_same_name_are_images_where_no_folder_says_ok(tmp_path: Path) -> None:
    touch(tmp_path, "cats/a.jpg", "cats/a.png", "dogs/b.jpg")
    assert len(scan_image_folder(tmp_path).images) == 3


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16"])
def test_mask_is_read_in_every_colour_mode(tmp_path: Path, mode: str) -> None:
    path = outline(tmp_path / "mask.png", mode="L" if mode == "I;16" else mode)
    if mode == "I;16":
        deep = np.asarray(Image.open(path)).astype(np.uint16) * 257
        Image.fromarray(deep).save(path)
    mask_HW = read_mask(path)
    assert mask_HW.shape == (72, 80)
    assert mask_HW.sum() == 100
    assert mask_HW[:10, :10].all()


def test_mask_of_ones_and_zeros_is_read(tmp_path: Path) -> None:
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").sum() == 8


def test_mask_with_soft_edges_is_read_and_a_photograph_is_not(tmp_path: Path) -> None:
    path = outline(tmp_path / "soft.jpg")
    assert 90 <= read_mask(path).sum() <= 110
    noise = np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    with pytest.raises(ValueError, match="no mask"):
        read_mask(tmp_path / "photo.png")


def test_mask_problems_are_told(tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    Image.new("RGB", (80, 72), 90).save(image)
    Image.new("L", (80, 72), 0).save(tmp_path / "empty.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert mask_problem(image, outline(tmp_path / "good.png")) is None
    assert mask_problem(image, outline(tmp_path / "half.png", (40, 36))) is None
    assert mask_problem(image, outline(tmp_path / "wide.png", (80, 40))) == "size"
    assert mask_problem(image, tmp_path / "empty.png") == "empty"
    assert mask_problem(image, tmp_path / "broken.png") == "unreadable"


def test_mask_fits_an_image_that_is_shown_turned(tmp_path: Path) -> None:
    image = Image.new("RGB", (72, 80), 90)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert mask_problem(tmp_path / "turned.jpg", outline(tmp_path / "m.png", (80, 72))) is None
    assert mask_problem(tmp_path / "turned.jpg", outline(tmp_path / "n.png", (72, 80))) == "size"


def test_masks_are_scaled_by_their_nearest_pixels(tmp_path: Path) -> None:
    outline(tmp_path / "m.png", (40, 20))
    scaled = masks_at(tmp_path, ["m.png", None], 80)
    assert scaled[1] is None
    assert scaled[0] is not None
    assert scaled[0].shape == (80, 80)
    assert scaled[0].sum() == 20 * 40


def test_check_reports_masks_and_leaves_out_the_bad_ones(plates: Any) -> None:
    root = plates({"ok": 22, "defective/hole": 6})
    for index, size in enumerate([(80, 72), (80, 73), (80, 40)]):
        outline(root / f"ground_truth/hole/plate_{index:03d}_mask.png", size)
    Image.new("L", (80, 72)).save(root / "ground_truth/hole/plate_003_mask.png")
    (root / "ground_truth/hole/plate_004_mask.png").write_bytes(b"")
    outline(root / "ground_truth/hole/plate_099_mask.png")
    findings = {finding["code"]: finding for finding in check_image_folder(root)["findings"]}
    assert {code: finding["num"] for code, finding in findings.items() if code.startswith("mask.")} == {
        **{"mask.found": 2, "mask.size": 1, "mask.empty": 1, "mask.unreadable": 1, "mask.orphan": 1}
    }
    usable = inspect_images(scan_image_folder(root)).usable
    assert len(usable) == 28
    assert sum(image.mask is not None for image in usable) == 2
