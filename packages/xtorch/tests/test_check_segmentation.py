"""The data check of segmentation on clean and dirty folders; honest splits."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xtorch.data.check_segmentation import check, inspect_segmentation
from xtorch.data.findings import CheckReport, refuse
from xtorch.data.label_masks import IGNORED
from xtorch.data.splits_segmentation import split_segmentation
from xtorch.errors import DataError, LayoutError, TooFewImagesError

from .segmentation_data import (
    SQUARE,
    as_binary,
    as_colours,
    as_indices,
    as_numbers,
    save,
    scene,
    write,
)

NUM = 64


def codes(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {finding["code"]: finding for finding in report["findings"]}


@pytest.mark.parametrize("paint", [as_numbers, as_colours, as_indices])
def test_clean_data_has_no_findings(paint: Any, tmp_path: Path) -> None:
    report = check(write(tmp_path, NUM, paint=paint))
    assert not report["findings"]
    assert (report["item"], report["layout"], report["num_items"]) == ("images", "mask_folder", NUM)
    assert [entry["num_items"] for entry in report["classes"]] == [NUM, NUM, NUM]
    assert report["suits"] == ("image-segmentation",)
    assert "background" in report["facts"]["Share of pixels"]
    assert set(report) == set(
        CheckReport(item="images", layout="", num_files=0, num_items=0, size_bytes=0).to_dict()
    )
    json.dumps(report, allow_nan=False)


def test_check_imports_no_torch() -> None:
    code = "import sys; from xtorch.tasks.segmentation import check; check; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- dirty input: what is changed in a clean folder, and the finding (severity, number) that it must give


def image(root: Path, index: int = 0) -> Path:
    return root / f"images/p{index:03d}.png"


def mask(root: Path, index: int = 0) -> Path:
    return root / f"masks/p{index:03d}.png"


def repainted(paint: Callable[[np.ndarray], Any], *indices: int, suffix: str = "png", **options: Any) -> Any:
    """Other masks for some images; all where none is named."""

    def change(root: Path) -> None:
        for index in indices or range(NUM):
            mask(root, index).unlink()
            save(mask(root, index).with_suffix(f".{suffix}"), paint(scene(index).labels), **options)

    return change


def reshot(make: Callable[[np.ndarray], Image.Image], suffix: str = "png", **options: Any) -> Any:
    """Another file for the first image."""

    def change(root: Path) -> None:
        pixels = np.asarray(Image.open(image(root)))
        image(root).unlink()
        save(image(root).with_suffix(f".{suffix}"), make(pixels), **options)

    return change


def turned_image(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.ascontiguousarray(np.rot90(scene(0).pixels))
    image(root).unlink()
    save(image(root).with_suffix(".jpg"), stored, exif=exif)


def turned_image_and_mask(root: Path) -> None:
    turned_image(root)
    save(mask(root), np.ascontiguousarray(np.rot90(scene(0).labels)))


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())


def twin(root: Path) -> None:
    copy(image(root), root / "images/twin.png")
    copy(mask(root), root / "masks/twin.png")


def contradiction(root: Path) -> None:
    copy(image(root), root / "images/twin.png")
    copy(mask(root, 1), root / "masks/twin.png")


def near_twin(root: Path) -> None:
    pixels = scene(0).pixels.copy()
    pixels[0, 0] = 0
    save(root / "images/twin.png", pixels)
    copy(mask(root), root / "masks/twin.png")


def in_parts(root: Path, *, leak: bool = False, near: bool = False) -> None:
    """48 for training and 16 for testing."""
    for index in range(NUM):
        part = "train" if index < 48 else "test"
        for path in (image(root, index), mask(root, index)):
            target = path.parent / part / path.name
            target.parent.mkdir(exist_ok=True)
            path.rename(target)
    if leak or near:
        copy(root / "masks/train/p000.png", root / "masks/test/x.png")
        copy(root / "images/train/p000.png", root / "images/test/x.png")
    if near:
        pixels = scene(0).pixels.copy()
        pixels[0, 0] = 0
        save(root / "images/test/x.png", pixels)


def nothing_rare_in_test(root: Path) -> None:
    repainted(lambda x: as_numbers(np.where(x == SQUARE, 0, x).astype(np.uint8)), *range(48, NUM))(root)
    in_parts(root)


def void(labels: np.ndarray) -> Image.Image:
    labels = labels.copy()
    labels[:2] = 255
    return as_numbers(labels)


def smooth(labels: np.ndarray) -> Image.Image:
    return as_binary(labels).rotate(7, Image.Resampling.BICUBIC)


def noise(labels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*labels.shape, 3), np.uint8))


def without_square(root: Path) -> None:
    repainted(lambda x: as_numbers(np.where(x == SQUARE, 0, x).astype(np.uint8)), *range(4, NUM))(root)


def a_speck(root: Path) -> None:
    def speck(labels: np.ndarray) -> Image.Image:
        labels = np.where(labels == SQUARE, 0, labels).astype(np.uint8)
        labels[0, 0] = SQUARE if labels.sum() % 3 == 0 else labels[0, 0]
        return as_numbers(labels)

    repainted(speck)(root)


DIRTY: dict[str, tuple[Callable[[Path], object], str, str, int]] = {
    "an image without a mask": (lambda r: mask(r).unlink(), "image.unmasked", "warning", 1),
    "a mask without an image": (lambda r: image(r).unlink(), "mask.orphan", "warning", 1),
    "two masks": (lambda r: copy(mask(r), r / "masks/p000_mask.png"), "mask.spare", "warning", 1),
    "another shape": (lambda r: save(mask(r), scene(0).labels[:, :50]), "mask.size", "warning", 1),
    "half the size": (lambda r: save(mask(r), scene(0).labels[::2, ::2]), "mask.scaled", "info", 1),
    "a corrupt image": (
        lambda r: image(r).write_bytes(image(r).read_bytes()[:700]),
        "image.corrupt",
        "warning",
        1,
    ),
    "an empty image file": (lambda r: image(r).write_bytes(b""), "image.corrupt", "warning", 1),
    "a corrupt mask": (
        lambda r: mask(r).write_bytes(mask(r).read_bytes()[:60]),
        "mask.unreadable",
        "warning",
        1,
    ),
    "an empty mask file": (lambda r: mask(r).write_bytes(b""), "mask.unreadable", "warning", 1),
    "a mask of fractions": (
        repainted(lambda x: Image.fromarray(x.astype(np.float32) + 0.5), 0, suffix="tif"),
        "mask.unreadable",
        "warning",
        1,
    ),
    "an empty mask": (lambda r: save(mask(r), np.zeros((64, 80), np.uint8)), "mask.empty", "info", 1),
    "a photograph for a mask": (repainted(noise, 0), "mask.photograph", "warning", 1),
    "smooth edges": (repainted(smooth), "mask.blurred", "info", NUM),
    "jpeg masks": (repainted(as_binary, suffix="jpg"), "mask.blurred", "info", NUM),
    "coloured jpeg masks": (repainted(as_colours, suffix="jpg"), "mask.blurred", "info", NUM),
    "void": (repainted(void), "mask.void", "info", NUM),
    "ones and 255s": (
        lambda r: (
            repainted(as_binary, *range(32))(r),
            repainted(lambda x: as_numbers((x > 0).astype(np.uint8)), *range(32, NUM))(r),
        ),
        "mask.mixed_values",
        "warning",
        NUM,
    ),
    "a value that is not listed": (
        lambda r: (r / "classes.txt").write_text("0 background\n1 disc\n"),
        "mask.unknown_value",
        "warning",
        NUM,
    ),
    "a colour that is not listed": (
        lambda r: (
            repainted(as_colours)(r),
            (r / "class_dict.csv").write_text("name,r,g,b\nbackground,0,0,0\ndisc,220,20,60\n"),
        ),
        "mask.unknown_value",
        "warning",
        NUM,
    ),
    "a class without a pixel": (
        lambda r: (r / "classes.txt").write_text("background\ndisc\nsquare\nghost\n"),
        "class.unused",
        "info",
        1,
    ),
    "a list that does not fit": (
        lambda r: (repainted(as_colours)(r), (r / "classes.txt").write_text("a\nb\nc\nd\ne\n")),
        "classes.unmatched",
        "warning",
        5,
    ),
    "a list that says nothing": (
        lambda r: (r / "classes.txt").write_text("a\na\n"),
        "classes.unreadable",
        "warning",
        1,
    ),
    "a rare class": (without_square, "class.rare", "warning", 1),
    "a small class": (a_speck, "class.small", "warning", 1),
    "copies": (twin, "duplicate.exact", "warning", 1),
    "copies with other masks": (contradiction, "duplicate.mask_conflict", "warning", 2),
    "nearly the same": (near_twin, "duplicate.near", "info", 2),
    "the same in two parts": (lambda r: in_parts(r, leak=True), "duplicate.leakage", "warning", 1),
    "nearly the same in two parts": (
        lambda r: in_parts(r, near=True),
        "duplicate.near_leakage",
        "warning",
        2,
    ),
    "a class that is not tested": (nothing_rare_in_test, "split.no_test_pixels", "warning", 1),
    "an image turned by EXIF": (turned_image, "image.turned", "info", 1),
    "image and mask as stored": (turned_image_and_mask, "image.turned", "info", 1),
    "a single pixel": (
        lambda r: (save(image(r), np.zeros((1, 1, 3), np.uint8)), save(mask(r), np.zeros((1, 1), np.uint8))),
        "image.tiny",
        "warning",
        1,
    ),
    "alpha": (reshot(lambda p: Image.fromarray(p).convert("RGBA")), "image.mixed_modes", "info", 2),
    "cmyk": (reshot(lambda p: Image.fromarray(p).convert("CMYK"), "jpg"), "image.mixed_modes", "info", 2),
    "16 bits": (
        reshot(lambda p: Image.fromarray(p[..., 0].astype(np.uint16) * 257)),
        "image.mixed_modes",
        "info",
        2,
    ),
    "floating point": (
        reshot(lambda p: Image.fromarray(p[..., 0].astype(np.float32)), "tif"),
        "image.corrupt",
        "warning",
        1,
    ),
    "objects, not classes": (
        lambda r: copy(mask(r), r / "SegmentationObject/p000.png"),
        "mask.instances",
        "info",
        1,
    ),
    "a good image without a mask": (
        lambda r: save(r / "ok/x.png", scene(99).pixels),
        "mask.implied",
        "info",
        1,
    ),
    "other files": (lambda r: (r / "notes.md").write_text("x"), "file.not_image", "info", 1),
}
LEFT_OUT = {
    *("an image without a mask", "a mask without an image", "another shape", "a corrupt image"),
    *("an empty image file", "a corrupt mask", "an empty mask file", "a mask of fractions"),
    *("a photograph for a mask", "floating point"),
}


@pytest.mark.parametrize("name", DIRTY)
def test_dirty_data_is_found_and_never_crashes(name: str, tmp_path: Path) -> None:
    change, code, severity, num = DIRTY[name]
    change(write(tmp_path, NUM))
    data = inspect_segmentation(tmp_path)
    found = codes(data.report.to_dict())
    assert code in found, list(found)
    assert (found[code]["severity"], found[code]["num"]) == (severity, num)
    assert found[code]["hint"]
    assert not data.errors
    refuse(data.errors)
    used = {image.path.rsplit("/", 1)[-1].split(".")[0] for image in data.usable}
    assert ("p000" in used) == (name not in LEFT_OUT | {"copies with other masks", "the same in two parts"})
    parts = split_segmentation(data.usable, num_classes=len(data.labels), seed=0)
    assert all(parts.parts.values())


BLOCKING: dict[str, tuple[Callable[[Path], object], str, type[DataError]]] = {
    "nothing": (lambda r: r.mkdir(exist_ok=True), "image.none", LayoutError),
    "no masks": (lambda r: save(r / "a.png", scene(0).pixels), "mask.none", DataError),
    "few images": (lambda r: write(r, 8), "image.too_few", TooFewImagesError),
    "one class": (
        lambda r: write(r, 20, paint=lambda x: as_numbers(np.zeros_like(x))),
        "class.one",
        TooFewImagesError,
    ),
    "objects for classes": (
        lambda r: write(r, 20, paint=lambda x: patches(int(x.sum()))),
        "class.too_many",
        DataError,
    ),
    "masks of other pictures": (
        lambda r: write(r, 20, paint=lambda x: as_numbers(x[:20])),
        "image.too_few",
        TooFewImagesError,
    ),
}


def patches(seed: int) -> Image.Image:
    """Fifty flat patches of colours that no other picture has."""
    colours = np.random.default_rng(seed).integers(0, 256, (5, 10, 3), np.uint8)
    return Image.fromarray(colours.repeat(13, axis=0)[:64].repeat(8, axis=1))


@pytest.mark.parametrize("name", BLOCKING)
def test_what_would_ruin_the_result_blocks(name: str, tmp_path: Path) -> None:
    make, code, kind = BLOCKING[name]
    make(tmp_path)
    data = inspect_segmentation(tmp_path)
    assert [finding.code for finding in data.errors] == [code]
    assert not data.report.suits
    with pytest.raises(kind) as caught:
        refuse(data.errors)
    assert caught.value.hint


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        check(tmp_path / "none")


def test_pixels_of_each_class_are_those_of_the_masks(tmp_path: Path) -> None:
    data = inspect_segmentation(write(tmp_path, 14, paint=as_colours))
    assert data.labels == ("background", "#0082c8", "#dc143c")
    for index, image in enumerate(data.usable):
        truth = np.bincount(scene(index).labels.ravel(), minlength=3)[[0, 2, 1]]
        assert image.pixels.tolist() == truth.tolist()


def test_listed_classes_without_a_pixel_leave_the_numbers_dense(tmp_path: Path) -> None:
    write(tmp_path, 14)
    (tmp_path / "classes.txt").write_text("0 background\n9 ghost\n1 disc\n2 square\n")
    data = inspect_segmentation(tmp_path)
    assert data.labels == ("background", "disc", "square")
    assert data.report.facts["Classes from"] == "classes.txt"
    np.testing.assert_array_equal(data.legend.read(mask(tmp_path)), scene(0).labels)
    assert data.legend.classes[9] == IGNORED


# --- splits


def test_split_is_fixed_by_the_seed_and_keeps_classes_in_all_parts(tmp_path: Path) -> None:
    write(tmp_path, 40)
    repainted(lambda x: as_numbers(np.where(x == SQUARE, 0, x).astype(np.uint8)), *range(8, 40))(tmp_path)
    data = inspect_segmentation(tmp_path)
    first, second = (split_segmentation(data.usable, num_classes=3, seed=4) for _ in range(2))
    assert first == second
    assert first != split_segmentation(data.usable, num_classes=3, seed=5)
    paths = [image.path for part in first.parts.values() for image in part]
    assert len(paths) == len(set(paths)) == 40
    counts = first.counts(data.labels)
    assert all(counts[part][label] for part in counts for label in data.labels)
    assert sum(counts[part]["class 2"] for part in counts) == 8


def test_given_parts_are_kept_and_near_copies_stay_together(tmp_path: Path) -> None:
    in_parts(write(tmp_path / "given", NUM))
    data = inspect_segmentation(tmp_path / "given")
    parts = split_segmentation(data.usable, num_classes=3, seed=0)
    assert {image.path for image in parts.test} == {
        f"images/test/p{index:03d}.png" for index in range(48, NUM)
    }
    assert len(parts.train) + len(parts.validation) == 48
    write(tmp_path / "near", 30)
    for index in range(6):
        pixels = scene(index).pixels.copy()
        pixels[0, 0] = 0
        save(tmp_path / f"near/images/z{index:03d}.png", pixels)
        copy(mask(tmp_path / "near", index), tmp_path / f"near/masks/z{index:03d}.png")
    data = inspect_segmentation(tmp_path / "near")
    for seed in range(3):
        found = split_segmentation(data.usable, num_classes=3, seed=seed)
        where = {image.path[-8:]: part for part, images in found.parts.items() for image in images}
        assert all(where[f"p00{index}.png"] == where[f"z00{index}.png"] for index in range(6))


def test_a_fixed_camera_is_divided_all_the_same(tmp_path: Path) -> None:
    pixels = scene(0).pixels
    rng = np.random.default_rng(1)
    for index in range(20):
        save(
            tmp_path / f"images/{index}.png",
            (pixels + rng.integers(0, 2, pixels.shape)).clip(0, 255).astype(np.uint8),
        )
        save(tmp_path / f"masks/{index}.png", scene(0).labels)
    data = inspect_segmentation(tmp_path)
    assert codes(data.report.to_dict())["duplicate.near"]["num"] == 20
    parts = split_segmentation(data.usable, num_classes=3, seed=0)
    assert all(parts.parts.values())
    assert "fixed camera" in parts.protocol
