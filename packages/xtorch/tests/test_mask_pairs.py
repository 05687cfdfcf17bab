"""Which picture is the mask of which, by places and names alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from xtorch.data.mask_pairs import MaskFolder, scan_masks
from xtorch.errors import DataError


def scanned(root: Path, *names: str, texts: dict[str, str] | None = None) -> MaskFolder:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not opened")
    for name, text in (texts or {}).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return scan_masks(root)


def pairs(folder: MaskFolder) -> dict[str, tuple[str | None, str | None]]:
    return {image.path: (image.mask, image.part) for image in folder.images}


@pytest.mark.parametrize(
    ("image", "mask", "part", "layout"),
    [
        ("images/a.jpg", "masks/a.png", None, "mask_folder"),
        ("images/a.jpg", "masks/a_mask.png", None, "mask_folder"),
        ("images/a.jpg", "annotations/a-label.png", None, "mask_folder"),
        ("set/images/a.JPG", "set/Masks/A.PNG", None, "mask_folder"),
        ("JPEGImages/a.jpg", "SegmentationClass/a.png", None, "mask_folder"),
        ("train/images/a.jpg", "train/masks/a.png", "train", "mask_folder"),
        ("images/val/a.jpg", "masks/val/a.png", "validation", "mask_folder"),
        ("test/hole/a.png", "ground_truth/hole/a_mask.png", "test", "mask_folder"),
        ("a.jpg", "a_mask.png", None, "mask_beside"),
        ("a.png", "a_gt.png", None, "mask_beside"),
        ("MT_Crack/Imgs/a.jpg", "MT_Crack/Imgs/a.png", None, "mask_beside"),
        ("x/a.jpg", "x/a.bmp", None, "mask_beside"),
        ("a/ä.jpg", "masks/a/ä.png", None, "mask_folder"),
    ],
)
def test_an_image_finds_its_mask(
    image: str, mask: str, part: str | None, layout: str, tmp_path: Path
) -> None:
    folder = scanned(tmp_path, image, mask)
    assert pairs(folder) == {image: (mask, part)}
    assert folder.layout == layout
    assert not folder.unmasked
    assert not folder.orphans


def test_same_names_in_several_folders_are_told_apart(tmp_path: Path) -> None:
    folder = scanned(
        tmp_path,
        *("images/train/1.jpg", "images/test/1.jpg", "masks/train/1.png", "masks/test/1.png"),
        *("images/extra/1.jpg", "masks/extra/1.png"),
    )
    assert pairs(folder) == {
        "images/train/1.jpg": ("masks/train/1.png", "train"),
        "images/test/1.jpg": ("masks/test/1.png", "test"),
        "images/extra/1.jpg": ("masks/extra/1.png", None),
    }


def test_what_has_no_partner_is_listed(tmp_path: Path) -> None:
    folder = scanned(
        tmp_path,
        *("images/a.jpg", "images/b.jpg", "masks/a.png", "masks/a_mask.png", "masks/c.png"),
        *("SegmentationObject/a.png", "notes.md"),
    )
    assert pairs(folder) == {"images/a.jpg": ("masks/a.png", None)}
    assert folder.unmasked == ["images/b.jpg"]
    assert folder.spare == ["masks/a_mask.png"]
    assert folder.orphans == ["masks/c.png"]
    assert folder.instances == ["SegmentationObject/a.png"]
    assert folder.other_files == ["notes.md"]


def test_good_images_need_no_mask_where_others_have_one(tmp_path: Path) -> None:
    folder = scanned(
        tmp_path, "test/good/1.png", "test/hole/1.png", "ground_truth/hole/1_mask.png", "train/good/2.png"
    )
    assert pairs(folder) == {
        "test/good/1.png": (None, "test"),
        "test/hole/1.png": ("ground_truth/hole/1_mask.png", "test"),
        "train/good/2.png": (None, "train"),
    }
    alone = scanned(tmp_path / "alone", "good/1.png", "good/2.png")
    assert not alone.images
    assert len(alone.unmasked) == 2


def test_lists_of_names_say_the_parts(tmp_path: Path) -> None:
    names = [
        f"{folder}/{i}.{suffix}"
        for i in range(4)
        for folder, suffix in (("JPEGImages", "jpg"), ("SegmentationClass", "png"))
    ]
    folder = scanned(
        tmp_path,
        *names,
        texts={
            "ImageSets/Segmentation/train.txt": "0\n1\n",
            "ImageSets/Segmentation/val.txt": "1\nJPEGImages/2.jpg SegmentationClass/2.png\nmissing\n",
        },
    )
    assert [part for _, part in pairs(folder).values()] == ["train", "validation", "validation", None]
    assert not folder.other_files


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        scan_masks(tmp_path / "none")
