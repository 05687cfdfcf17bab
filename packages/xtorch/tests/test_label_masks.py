"""Masks of every kind become class numbers; what their values mean is found out, or read from a list."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xtorch.data.class_list import ClassEntry, is_class_list, read_class_list
from xtorch.data.label_masks import (
    IGNORED,
    MaskLegend,
    read_raw_mask,
    resized_mask,
    upright_mask,
)
from xtorch.data.mask_classes import Understood, mask_facts, understand
from xtorch.errors import DataError

from .segmentation_data import as_binary, as_colours, as_indices, as_numbers, save, scene

LABELS = scene(3).labels


def coloured_alpha(labels: np.ndarray) -> Image.Image:
    image = as_colours(labels).convert("RGBA")
    image.putalpha(Image.fromarray(np.where(labels > 0, 255, 0).astype(np.uint8)))
    return image


def only_alpha(labels: np.ndarray) -> Image.Image:
    image = Image.new("RGBA", labels.shape[::-1], (10, 20, 30, 0))
    image.putalpha(as_binary(labels))
    return image


KINDS: dict[str, tuple[Any, str, list[int]]] = {
    "numbers": (as_numbers, "value", [0, 1, 2]),
    "one bit": (lambda x: Image.fromarray(x > 0), "value", [0, 1]),
    "white": (as_binary, "value", [0, 255]),
    "palette": (as_indices, "index", [0, 1, 2]),
    "colours": (as_colours, "colour", [0, 0x0082C8, 0xDC143C]),
    "grey as colours": (lambda x: as_binary(x).convert("RGB"), "value", [0, 255]),
    "grey with alpha": (lambda x: as_binary(x).convert("LA"), "value", [0, 255]),
    "colours with alpha": (coloured_alpha, "colour", [0, 0x0082C8, 0xDC143C]),
    "alpha alone": (only_alpha, "value", [0, 255]),
    "16 bits": (lambda x: Image.fromarray(x.astype(np.uint16) * 300), "value", [0, 300, 600]),
    "32 bits": (lambda x: Image.fromarray(x.astype(np.int32)), "value", [0, 1, 2]),
    "whole floats": (lambda x: Image.fromarray(x.astype(np.float32)), "value", [0, 1, 2]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_masks_of_every_kind_are_read(kind: str, tmp_path: Path) -> None:
    paint, expected, codes = KINDS[kind]
    suffix = "tif" if kind in ("32 bits", "whole floats") else "png"
    raw = read_raw_mask(save(tmp_path / f"a.{suffix}", paint(LABELS)))
    assert raw.kind == expected
    assert np.unique(raw.codes_HW).tolist() == codes
    assert raw.codes_HW.shape == LABELS.shape


def test_masks_turned_by_exif_stand_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "a.png", as_numbers(np.ascontiguousarray(np.rot90(LABELS))), exif=exif)
    np.testing.assert_array_equal(read_raw_mask(path).codes_HW, LABELS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.png", b""),
        ("text.png", b"no picture"),
        ("cut.png", "cut"),
        ("fractions.tif", Image.fromarray(np.full((4, 4), 0.5, np.float32))),
        ("beyond.tif", Image.fromarray(np.full((4, 4), 70000, np.int32))),
        ("negative.tif", Image.fromarray(np.full((4, 4), -1, np.int32))),
    ],
)
def test_what_is_no_mask_is_refused(name: str, content: Any, tmp_path: Path) -> None:
    path = tmp_path / name
    if isinstance(content, Image.Image):
        content.save(path)
    elif content == "cut":
        buffer = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 9, (90, 90), np.uint8)).save(buffer, "PNG")
        path.write_bytes(buffer.getvalue()[:900])
    else:
        path.write_bytes(content)
    with pytest.raises(DataError):
        read_raw_mask(path)
    assert mask_facts(path).error


def understood(
    root: Path, *pictures: Image.Image, entries: list[ClassEntry] | None = None, suffix: str = "png"
) -> tuple[Understood, list[Path]]:
    paths = [save(root / f"{index:03d}.{suffix}", picture) for index, picture in enumerate(pictures)]
    return understand([mask_facts(path) for path in paths], entries or ()), paths


def many(paint: Any, num: int = 6) -> list[Image.Image]:
    return [paint(scene(seed).labels) for seed in range(num)]


@pytest.mark.parametrize(
    ("paint", "names"),
    [
        (as_numbers, ("background", "class 1", "class 2")),
        (as_indices, ("background", "class 1", "class 2")),
        (as_colours, ("background", "#0082c8", "#dc143c")),
        (as_binary, ("background", "foreground")),
    ],
)
def test_classes_are_made_up_where_nobody_names_them(
    paint: Any, names: tuple[str, ...], tmp_path: Path
) -> None:
    found, paths = understood(tmp_path, *many(paint))
    assert (found.names, found.background) == (names, 0)
    assert not any([found.photographs, found.unknown, found.blurred, found.void, found.mixed])
    numbers = found.legend.read(paths[0])
    truth = scene(0).labels
    if paint is as_colours:
        truth = np.array([0, 2, 1], np.uint8)[truth]
    np.testing.assert_array_equal(numbers, (truth > 0) if paint is as_binary else truth)
    again = MaskLegend.from_dict(found.legend.to_dict())
    assert again == found.legend


def test_smooth_edges_become_the_nearest_class(tmp_path: Path) -> None:
    def smooth(labels: np.ndarray) -> Image.Image:
        large = as_binary(labels).resize((640, 512), Image.Resampling.NEAREST)
        return large.resize((80, 64), Image.Resampling.BICUBIC).rotate(5, Image.Resampling.BILINEAR)

    found, paths = understood(tmp_path, *many(smooth))
    assert found.names == ("background", "foreground")
    assert len(found.blurred) == 6
    numbers = found.legend.read(paths[0])
    grey = np.asarray(Image.open(paths[0]))
    assert set(np.unique(numbers)) == {0, 1}
    np.testing.assert_array_equal(numbers[grey > 135], 1)
    np.testing.assert_array_equal(numbers[grey < 120], 0)


@pytest.mark.parametrize(("paint", "num"), [(as_binary, 2), (as_colours, 3)])
def test_jpeg_masks_are_understood_by_their_peaks(paint: Any, num: int, tmp_path: Path) -> None:
    found, paths = understood(tmp_path, *many(paint), suffix="jpg")
    assert len(found.names) == num
    assert found.background == 0
    assert not found.photographs
    numbers = found.legend.read(paths[1])
    truth = scene(1).labels
    truth = (truth > 0).astype(np.uint8) if num == 2 else np.array([0, 2, 1], np.uint8)[truth]
    assert (numbers == truth).mean() > 0.97


def test_photographs_among_masks_are_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    photograph = Image.fromarray(rng.integers(0, 256, (64, 80, 3), np.uint8))
    grey = Image.fromarray(rng.integers(0, 256, (64, 80), np.uint8))
    found, _ = understood(tmp_path, *many(as_binary), photograph, grey)
    assert found.photographs == {6, 7}
    assert found.names == ("background", "foreground")
    assert not found.blurred
    blurred, _ = understood(tmp_path / "jpg", *many(as_binary), photograph, suffix="jpg")
    assert blurred.photographs == {6}
    # A few shades cover all greys: what tells is how little of a photograph lies close to them.
    shaded = np.full((64, 80), 255, np.uint8)
    shaded[8:56, 10:70] = np.linspace(20, 230, 60)[None, :]
    blurred, _ = understood(tmp_path / "grey", *many(as_binary), Image.fromarray(shaded), grey, suffix="jpg")
    assert blurred.photographs == {6, 7}
    assert blurred.names == ("background", "foreground")


def test_255_beside_numbers_is_not_labelled(tmp_path: Path) -> None:
    def bordered(labels: np.ndarray) -> Image.Image:
        labels = labels.copy()
        labels[:3] = 255
        return as_numbers(labels)

    found, paths = understood(tmp_path, *many(bordered))
    assert found.void
    assert found.names == ("background", "class 1", "class 2")
    assert (found.legend.read(paths[0])[:3] == IGNORED).all()
    listed = [
        ClassEntry(name=name, value=value) for name, value in (("sky", 0), ("a", 1), ("b", 2), ("edge", 255))
    ]
    found, paths = understood(tmp_path / "listed", *many(bordered), entries=listed)
    assert not found.void
    assert found.names == ("sky", "a", "b", "edge")
    assert (found.legend.read(paths[0])[:3] == 3).all()


def test_ones_here_and_255s_there_are_one_class(tmp_path: Path) -> None:
    ones = many(lambda x: as_numbers((x > 0).astype(np.uint8)), 3)
    found, paths = understood(tmp_path, *ones, *many(as_binary)[3:])
    assert found.mixed
    assert found.names == ("background", "foreground")
    for index, path in enumerate(paths):
        np.testing.assert_array_equal(found.legend.read(path), scene(index).labels > 0)


def test_palettes_that_differ_are_read_as_colours(tmp_path: Path) -> None:
    def other(labels: np.ndarray) -> Image.Image:
        swapped = np.array([0, 2, 1], np.uint8)[labels]
        image = Image.fromarray(swapped)
        image.putpalette(bytes([0, 0, 0, 0, 130, 200, 220, 20, 60]))
        return image

    found, paths = understood(tmp_path, *many(as_indices, 3), *many(other)[3:])
    assert found.legend.kind == "colour"
    for index, path in enumerate(paths):
        np.testing.assert_array_equal(found.legend.read(path), np.array([0, 2, 1])[scene(index).labels])


def test_objects_instead_of_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="different values") as caught:
        understood(tmp_path, *[patches(index) for index in range(4)])
    assert "which object" in str(caught.value.hint)


def patches(index: int) -> Image.Image:
    """Fifty flat patches of colours that no other picture has."""
    rng = np.random.default_rng(index)
    colours = rng.integers(0, 256, (5, 10, 3), np.uint8)
    return Image.fromarray(colours.repeat(12, axis=0).repeat(8, axis=1))


LISTS: dict[str, tuple[str, list[tuple[str, int | None, int | None]]]] = {
    "classes.txt": (
        "background\ncrack\n\nrust\n",
        [("background", None, None), ("crack", None, None), ("rust", None, None)],
    ),
    "labels.txt": ("0 background\n7: crack\n", [("background", 0, None), ("crack", 7, None)]),
    "names.txt": ("class 1\nclass 2\n", [("class 1", None, None), ("class 2", None, None)]),
    "_classes.csv": (
        "Pixel Value, Class\n0, background\n1, crack\n",
        [("background", 0, None), ("crack", 1, None)],
    ),
    "class_dict.csv": (
        "name,r,g,b\nroad,64,128,64\nsky,0,0,1\n",
        [("road", None, 0x408040), ("sky", None, 1)],
    ),
    "label_colors.txt": (
        "64 128 64\tAnimal\n192 0 128\tArch way\n",
        [("Animal", None, 0x408040), ("Arch way", None, 0xC00080)],
    ),
    "labelmap.txt": (
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:10,20,30::\n",
        [("background", None, 0), ("car", None, 0x0A141E)],
    ),
    "classes.json": ('{"0": "background", "3": "crack"}', [("background", 0, None), ("crack", 3, None)]),
    "labels.json": ('["background", "crack"]', [("background", None, None), ("crack", None, None)]),
    "label_map.json": (
        '[{"id": 2, "name": "crack"}, {"name": "rust", "color": [1, 2, 3]}]',
        [("crack", 2, None), ("rust", None, 0x010203)],
    ),
    "palette.json": ('{"crack": [255, 0, 0]}', [("crack", None, 0xFF0000)]),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_classes_are_read(name: str) -> None:
    text, expected = LISTS[name]
    assert is_class_list(f"set/{name}")
    found = read_class_list(name, text.encode())
    assert [(entry.name, entry.value, entry.colour) for entry in found] == expected


@pytest.mark.parametrize("text", ["", "a\na\n", "{", '{"a": "b"}', '{"a": 1.5}', "[1, 2]", "\x00\xff"])
def test_lists_that_say_nothing_give_nothing(text: str) -> None:
    name = "classes.json" if text[:1] in "{[" else "classes.txt"
    assert read_class_list(name, text.encode("latin-1")) == []
    assert read_class_list("classes.txt", b"x\n" * (1 << 20)) == []


@pytest.mark.parametrize(
    ("paint", "entries", "names"),
    [
        (as_numbers, [("sky", None), ("disc", None), ("square", None)], ("sky", "disc", "square")),
        (as_numbers, [("disc", None), ("square", None)], ("background", "disc", "square")),
        (as_numbers, [("square", 2), ("disc", 1), ("bg", 0)], ("square", "disc", "bg")),
        (as_binary, [("rust", None)], ("background", "rust")),
        (as_binary, [("none", None), ("rust", None)], ("none", "rust")),
    ],
)
def test_listed_names_are_used(
    paint: Any, entries: list[tuple[str, int | None]], names: tuple[str, ...], tmp_path: Path
) -> None:
    listed = [ClassEntry(name=name, value=value) for name, value in entries]
    found, paths = understood(tmp_path, *many(paint), entries=listed)
    assert found.names == names
    assert not found.unmatched
    numbers = found.legend.read(paths[0])
    disc = names.index(next(name for name in names if name in ("disc", "rust")))
    marked = scene(0).labels == 1 if "disc" in names else scene(0).labels > 0
    np.testing.assert_array_equal(numbers == disc, marked)


def test_values_that_a_list_lacks_are_ignored_and_a_list_that_fits_nothing_is_not_used(
    tmp_path: Path,
) -> None:
    listed = [ClassEntry(name="sky", value=0), ClassEntry(name="disc", value=1)]
    found, paths = understood(tmp_path, *many(as_numbers), entries=listed)
    assert len(found.unknown) == 6
    numbers = found.legend.read(paths[0])
    np.testing.assert_array_equal(numbers == IGNORED, scene(0).labels == 2)
    colours = [ClassEntry(name="disc", colour=0xDC143C), ClassEntry(name="rest", colour=0)]
    found, paths = understood(tmp_path / "colours", *many(as_colours), entries=colours)
    assert (found.legend.read(paths[0]) == IGNORED).sum() == (scene(0).labels == 2).sum()
    wrong = [ClassEntry(name=name) for name in "abcdefg"]
    found, _ = understood(tmp_path / "wrong", *many(as_colours), entries=wrong)
    assert found.unmatched
    assert found.names == ("background", "#0082c8", "#dc143c")


def test_masks_follow_their_images_turns_and_sizes() -> None:
    stored = LABELS
    upright = np.rot90(stored, -1)
    height, width = upright.shape
    turned = upright_mask(stored, width=width, height=height, orientation=6)
    assert turned is not None
    np.testing.assert_array_equal(turned, upright)
    same = upright_mask(np.ascontiguousarray(upright), width=width, height=height, orientation=6)
    assert same is not None
    np.testing.assert_array_equal(same, upright)
    assert upright_mask(stored, width=width, height=height, orientation=1) is None
    half = resized_mask(stored, 32, 40)
    assert half.shape == (32, 40)
    assert set(np.unique(half)) <= {0, 1, 2}
    assert resized_mask(stored, *stored.shape) is stored


def test_a_coloured_mask_is_not_taken_for_values(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", as_colours(LABELS))
    with pytest.raises(DataError, match="coloured"):
        MaskLegend(kind="value", classes={0: 0}).read(path)
