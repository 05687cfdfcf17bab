"""The check of image classification on data as people have it, and what training is left with."""

from __future__ import annotations

import io
import struct
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xinfer.preproc import decode_image
from xtorch.data.check_classification import ClassInspection, check, inspect_classes
from xtorch.data.class_splits import folds, split_classes
from xtorch.data.classes import scan_classes

_spec = util.spec_from_file_location("shapes", Path(__file__).with_name("shapes.py"))
assert _spec is not None
assert _spec.loader is not None
shapes = util.module_from_spec(_spec)
_spec.loader.exec_module(shapes)


def jpeg(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def shape(seed: int = 99, **size: int) -> Image.Image:
    return Image.fromarray(shapes.picture("disc", np.random.default_rng(seed), **size))


def bomb() -> bytes:
    """A PNG of a few hundred bytes that claims 60,000 x 60,000 pixels."""
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def save(image: Image.Image, path: Path, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def raw(name: str, data: Callable[[], bytes]) -> Callable[[Path], None]:
    def add(root: Path) -> None:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data())

    return add


def alpha(root: Path) -> None:
    image = shape().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    save(image, root / "disc/x.png")


def exif_rotated(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    save(shape(height=40, width=90), root / "disc/x.jpg", exif=exif)


def sixteen_bits(root: Path) -> None:
    values = np.random.default_rng(5).integers(0, 65536, (64, 70), dtype=np.uint16)
    save(Image.fromarray(values), root / "disc/x.png")


def animated(root: Path) -> None:
    frames = [shape(seed).quantize() for seed in (1, 2, 3)]
    save(frames[0], root / "disc/x.gif", save_all=True, append_images=frames[1:])


def same_in_two_classes(root: Path) -> None:
    (root / "square/x.png").write_bytes((root / "disc/000.png").read_bytes())


def same_twice(root: Path) -> None:
    (root / "disc/x.png").write_bytes((root / "disc/000.png").read_bytes())


def near_copy(source: Path, target: Path) -> None:
    """The same picture, one pixel a little lighter."""
    with Image.open(source) as image:
        pixels = np.array(image)
    pixels[0, 0] = np.minimum(pixels[0, 0], 250) + 3
    save(Image.fromarray(pixels), target)


def nearly_the_same(root: Path) -> None:
    near_copy(root / "disc/000.png", root / "disc/x.png")


def new_class(num: int) -> Callable[[Path], None]:
    def add(root: Path) -> None:
        for seed in range(num):
            save(shape(200 + seed), root / f"rare/{seed}.png")

    return add


def symlink_out(root: Path) -> None:
    (root / "disc/x.png").symlink_to(root / "nowhere.png")


USED, LEFT_OUT = True, False
DIRT: dict[str, tuple[Callable[[Path], None], str | None, bool]] = {
    # What is added; the finding that it must give; whether the added image is used.
    "zero bytes": (raw("disc/x.png", lambda: b""), "image.corrupt", LEFT_OUT),
    "truncated JPEG": (raw("disc/x.jpg", lambda: jpeg(shape())[:900]), "image.corrupt", LEFT_OUT),
    "truncated PNG": (
        lambda root: raw("disc/x.png", lambda: (root / "disc/000.png").read_bytes()[:700])(root),
        "image.corrupt",
        LEFT_OUT,
    ),
    "text called jpg": (raw("disc/x.jpg", lambda: b"hello there"), "image.corrupt", LEFT_OUT),
    "HTML called png": (raw("disc/x.png", lambda: b"<!doctype html><p>404"), "image.corrupt", LEFT_OUT),
    "decompression bomb": (raw("disc/x.png", bomb), "image.corrupt", LEFT_OUT),
    "a side of 20,000": (
        lambda root: save(Image.new("L", (20_000, 3), 90), root / "disc/x.png"),
        "image.corrupt",
        LEFT_OUT,
    ),
    "32-bit float": (
        lambda root: save(Image.new("F", (64, 64), 0.5), root / "disc/x.tiff"),
        "image.corrupt",
        LEFT_OUT,
    ),
    "32-bit integers": (
        lambda root: save(Image.fromarray(np.full((64, 64), 1 << 20, np.int32)), root / "disc/x.tiff"),
        "image.corrupt",
        LEFT_OUT,
    ),
    "dangling link": (symlink_out, None, LEFT_OUT),
    "text file": (raw("disc/readme.txt", lambda: b"hello"), "file.not_image", LEFT_OUT),
    "one pixel": (
        lambda root: save(Image.new("RGB", (1, 1), "red"), root / "disc/x.png"),
        "image.tiny",
        USED,
    ),
    "CMYK": (
        raw("disc/x.jpg", lambda: jpeg(shape().convert("CMYK"))),
        "image.mixed_modes",
        USED,
    ),
    "grey": (lambda root: save(shape().convert("L"), root / "disc/x.png"), "image.mixed_modes", USED),
    "one bit": (lambda root: save(shape().convert("1"), root / "disc/x.png"), "image.mixed_modes", USED),
    "palette": (lambda root: save(shape().quantize(), root / "disc/x.png"), "image.mixed_modes", USED),
    "alpha": (alpha, "image.mixed_modes", USED),
    "16 bits": (sixteen_bits, "image.mixed_modes", USED),
    "EXIF rotation": (exif_rotated, "image.mixed_sizes", USED),
    "animated GIF": (animated, "image.mixed_modes", USED),
    "PNG called jpg": (lambda root: save(shape(), root / "disc/x.jpg", format="PNG"), None, USED),
    "upper-case suffix": (lambda root: save(shape(), root / "disc/X.PNG"), None, USED),
    "long thin image": (
        lambda root: save(shape(height=8, width=4000), root / "disc/x.png"),
        "image.tiny",
        USED,
    ),
    "nested folders": (lambda root: save(shape(), root / "disc/a/b/c/x.png"), None, USED),
    "unicode name": (lambda root: save(shape(), root / "disc/наклейка 🍎 ü.png"), None, USED),
    "braces in a class": (lambda root: save(shape(), root / "{disc} {0}/x.png"), "class.too_few", LEFT_OUT),
    "same file twice": (same_twice, "duplicate.exact", LEFT_OUT),
    "same file in two classes": (same_in_two_classes, "duplicate.label_conflict", LEFT_OUT),
    "nearly the same": (nearly_the_same, "duplicate.near", USED),
    "no class": (lambda root: save(shape(), root / "x.png"), "label.none", LEFT_OUT),
    "class with one image": (new_class(1), "class.too_few", LEFT_OUT),
    "names that differ in case": (
        lambda root: save(shape(), root / "Disc/x.png"),
        "class.similar_names",
        LEFT_OUT,
    ),
    "empty folder": (lambda root: (root / "empty").mkdir(), None, LEFT_OUT),
    "hidden files": (raw(".DS_Store/x.png", lambda: b"x"), None, LEFT_OUT),
}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A clean dataset's files."""
    root = shapes.write(tmp_path_factory.mktemp("clean"), {"disc": 7, "square": 7})
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.png")}


def written(files: dict[str, bytes], root: Path) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def inspected(root: Path) -> ClassInspection:
    return inspect_classes(scan_classes(root))


def codes(inspection: ClassInspection) -> set[str]:
    return {finding["code"] for finding in inspection.report["findings"]}


def test_clean_data_gives_no_warning(clean: dict[str, bytes], tmp_path: Path) -> None:
    found = inspected(written(clean, tmp_path))
    assert codes(found) <= {"class.few", "image.mixed_sizes"}
    assert found.labels == ("disc", "square")
    assert len(found.usable) == found.report["num_items"] == 14
    assert [entry["num_items"] for entry in found.report["classes"]] == [7, 7]


@pytest.mark.parametrize("kind", DIRT)
def test_dirt_is_found_and_what_is_used_can_be_decoded(
    kind: str, clean: dict[str, bytes], tmp_path: Path
) -> None:
    add, code, used = DIRT[kind]
    root = written(clean, tmp_path)
    before = {image.path for image in inspected(root).usable}
    add(root)
    found = inspected(root)
    assert found.errors == []
    assert found.labels == ("disc", "square")
    if code is not None:
        assert code in codes(found)
    else:
        assert codes(found) <= {"class.few", "image.mixed_sizes"}
    paths = {image.path for image in found.usable}
    assert bool(paths - before) is used
    assert kind == "same file in two classes" or before <= paths
    for path in paths - before:
        pixels = decode_image((root / path).read_bytes(), min_side=128)
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3
    if kind == "EXIF rotation":
        (path,) = paths - before
        height, width, _ = decode_image((root / path).read_bytes(), min_side=128).shape
        assert height > width
    if kind == "same file in two classes":
        assert "disc/000.png" not in paths
    if kind == "nearly the same":
        groups = {image.path: image.group for image in found.usable}
        assert groups["disc/x.png"] == groups["disc/000.png"]


def test_all_dirt_at_once_leaves_something_to_train_on(clean: dict[str, bytes], tmp_path: Path) -> None:
    assert len(DIRT) >= 20
    root = written(clean, tmp_path)
    for number, (add, _, _) in enumerate(DIRT.values()):
        add(root)
        for path in list(root.rglob("x.*")):
            if path.is_file():
                path.rename(path.with_name(f"dirt{number}{path.suffix}"))
    found = inspected(root)
    assert found.errors == []
    assert found.labels == ("disc", "square")
    assert len({image.digest for image in found.usable}) == len(found.usable) > 20


@pytest.mark.parametrize(
    ("counts", "code"),
    [
        ({}, "image.none"),
        ({"disc": 30}, "class.one"),
        ({"disc": 30, "square": 2}, "class.one"),
        ({"train/disc": 9, "train/square": 2, "test/disc": 9, "test/square": 9}, "class.one"),
    ],
)
def test_data_that_cannot_be_learned_from_is_refused(
    counts: dict[str, int], code: str, tmp_path: Path
) -> None:
    found = inspected(shapes.write(tmp_path / "data", counts) if counts else tmp_path)
    assert [error.code for error in found.errors] == [code]


def test_images_without_folders_are_refused(tmp_path: Path) -> None:
    for seed in range(12):
        save(shape(seed), tmp_path / f"{seed}.png")
    assert [error.code for error in inspected(tmp_path).errors] == ["image.none"]


def test_given_test_part_is_checked(tmp_path: Path) -> None:
    root = shapes.write(
        tmp_path, {"train/disc": 9, "train/square": 9, "train/stripes": 9, "test/disc": 4, "test/square": 3}
    )
    for seed in range(2):
        save(shape(300 + seed), root / f"test/unknown/{seed}.png")
    (root / "test/disc/copy.png").write_bytes((root / "train/disc/000.png").read_bytes())
    found = inspected(root)
    assert found.errors == []
    assert {"test.unknown_class", "test.class_missing", "test.few", "duplicate.leakage"} <= codes(found)
    assert found.labels == ("disc", "square", "stripes")
    assert "train/disc/000.png" not in {image.path for image in found.usable}
    tested = [image for image in found.usable if image.part == "test"]
    assert {image.path.split("/")[1] for image in tested} == {"disc", "square"}
    assert {found.labels[image.label] for image in tested} == {"disc", "square"}


def test_table_problems_are_reported(tmp_path: Path) -> None:
    root = shapes.write(tmp_path, {"disc": 6, "square": 6})
    rows = [f"disc/{i:03d}.png,round" for i in range(6)] + [f"square/{i:03d}.png,angular" for i in range(6)]
    rows += ["disc/000.png,angular", "gone.png,round"]
    (root / "labels.csv").write_text("file,label\n" + "\n".join(rows) + "\n")
    found = inspected(root)
    assert found.report["layout"] == "label_table"
    assert {"label.contradiction", "label.missing_file"} <= codes(found)
    assert found.labels == ("angular", "round")
    assert found.report["facts"]["Labels from"] == "labels.csv"


def test_imbalance_is_reported(tmp_path: Path) -> None:
    found = inspected(shapes.write(tmp_path, {"disc": 56, "square": 5}))
    assert "class.imbalance" in codes(found)


def test_report_is_a_wire_model_and_names_its_files(tmp_path: Path, clean: dict[str, bytes]) -> None:
    wire = pytest.importorskip("ignition_client.wire", reason="the client is not installed")
    root = written(clean, tmp_path)
    DIRT["zero bytes"][0](root)
    report = wire.CheckReport.model_validate(check(root))
    (corrupt,) = [finding for finding in report.findings if finding.code == "image.corrupt"]
    assert list(corrupt.paths) == ["disc/x.png"]
    assert not report.blocking


def test_composed_and_decomposed_names_are_one_class(tmp_path: Path) -> None:
    for seed in range(8):
        name = unicodedata.normalize(("NFC", "NFD")[seed % 2], "Äpfel")
        save(shape(seed), tmp_path / name / f"{seed}.png")
    shapes.write(tmp_path, {"square": 6})
    assert inspected(tmp_path).labels == ("square", "Äpfel")


# ---------------------------------------------------------------------------------------------- splits


def test_split_is_stratified_disjoint_and_keeps_near_duplicates_together(tmp_path: Path) -> None:
    root = shapes.write(tmp_path, {"disc": 40, "square": 20, "stripes": 5})
    for index in range(0, 20, 2):
        near_copy(root / f"disc/{index:03d}.png", root / f"disc/near{index:03d}.png")
    found = inspected(root)
    parts = split_classes(found.usable, seed=3)
    listed = [image.path for part in parts.parts.values() for image in part]
    assert len(listed) == len(set(listed)) == len(found.usable)
    assert len({image.group for image in found.usable}) == len(found.usable) - 10
    where = {image.group: name for name, part in parts.parts.items() for image in part}
    for name, part in parts.parts.items():
        assert all(where[image.group] == name for image in part)
    counts = parts.counts(found.labels)
    assert min(counts["train"].values()) >= 3
    assert min(counts["validation"].values()) >= 1
    assert min(counts["test"].values()) >= 1
    assert counts["test"]["disc"] == pytest.approx(0.25 * 50, abs=3)
    assert split_classes(found.usable, seed=3) == parts
    assert split_classes(found.usable, seed=4) != parts


def test_given_test_part_is_exactly_the_test(tmp_path: Path) -> None:
    root = shapes.write(tmp_path, {"train/disc": 10, "train/square": 10, "test/disc": 4, "test/square": 4})
    parts = split_classes(inspected(root).usable, seed=0)
    assert {image.path.split("/")[0] for image in parts.test} == {"test"}
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (16, 4, 8)


def test_pictures_of_a_fixed_set_up_can_be_divided(tmp_path: Path) -> None:
    root = shapes.write(tmp_path, {"disc": 1, "square": 12})
    for index in range(1, 12):
        with Image.open(root / "disc/000.png") as image:
            pixels = np.array(image)
        pixels[0, index] ^= 8
        save(Image.fromarray(pixels), root / f"disc/{index:03d}.png")
    images = inspected(root).usable
    assert len({image.group for image in images if image.label == 0}) == 1
    parts = split_classes(images, seed=0)
    counts = parts.counts(("disc", "square"))
    assert all(counts[part]["disc"] > 0 for part in counts)
    assert "look alike" in parts.protocol
    assert len(set(folds([*parts.train, *parts.validation], 5, seed=0))) == 5


def test_folds_are_stratified_and_keep_near_duplicates_together(tmp_path: Path) -> None:
    root = shapes.write(tmp_path, {"disc": 20, "square": 10})
    near_copy(root / "disc/000.png", root / "disc/near.png")
    images = inspected(root).usable
    found = folds(images, 5, seed=1)
    for label in (0, 1):
        counts = Counter(int(fold) for fold, image in zip(found, images, strict=True) if image.label == label)
        assert len(counts) == 5
        assert max(counts.values()) - min(counts.values()) <= 2
    of = {image.path: int(fold) for fold, image in zip(found, images, strict=True)}
    assert of["disc/near.png"] == of["disc/000.png"]
