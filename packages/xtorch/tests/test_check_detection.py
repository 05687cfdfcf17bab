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

from xtorch.data.check_detection import check, inspect_detection
from xtorch.data.findings import CheckReport
from xtorch.data.splits_detection import split_detection
from xtorch.errors import DataError
from xtorch.tasks.detection import check as recipe_check

from .conftest import TEST_DATA
from .detection_data import (
    LABELS,
    Picture,
    coco_document,
    picture,
    pictures,
    save,
    voc_text,
    write_coco,
    write_csv,
    write_voc,
    write_yolo,
)

NUM = 24
YAML = "names: [disc, square]\n"


def codes(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {finding["code"]: finding for finding in report["findings"]}


def blocking(report: dict[str, Any]) -> list[str]:
    return [finding["code"] for finding in report["findings"] if finding["severity"] == "error"]


def test_clean_data_has_no_findings_but_that_it_is_little(tmp_path: Path) -> None:
    report = recipe_check(write_voc(tmp_path, pictures(NUM)))
    assert codes(report).keys() == {"image.few"}
    assert (report["item"], report["layout"], report["num_items"]) == ("images", "voc", NUM)
    assert [(entry["name"], entry["num_items"]) for entry in report["classes"]] == [
        ("disc", NUM),
        ("square", NUM),
    ]
    assert report["suits"] == ("object-detection",)
    assert set(report) == set(
        CheckReport(item="images", layout="", num_files=0, num_items=0, size_bytes=0).to_dict()
    )
    json.dumps(report, allow_nan=False)


def test_check_imports_no_torch() -> None:
    code = "import sys; from xtorch.tasks.detection import check; check; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_image_that_is_too_much_is_not_called_damaged(tmp_path: Path) -> None:
    write_csv(tmp_path, pictures(NUM))
    Image.fromarray(picture(0).pixels[..., 0].astype(np.float32)).save(tmp_path / "p000.png", format="TIFF")
    (tmp_path / "p001.png").write_bytes(b"")
    found = codes(check(tmp_path))
    assert found["image.unsupported"]["paths"] == ["p000.png"]
    assert found["image.corrupt"]["paths"] == ["p001.png"]


# --- dirty input: what is written, and the finding (severity, number) that it must give


def _boxes(edges: str, label: str = "disc") -> str:
    return f"p000.png,{label},{edges}\n"


def _with_row(root: Path, row: str) -> None:
    write_csv(root, pictures(NUM), extra=row)


def _image(root: Path, change: Callable[[np.ndarray, Path], None]) -> None:
    write_csv(root, pictures(NUM))
    change(picture(0).pixels, root / "p000.png")


def _unreadable(text: bytes, name: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        write_voc(root, pictures(NUM))
        (root / name).write_bytes(text)

    return write


def _changed_coco(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        write_coco(root, pictures(NUM))
        document: dict[str, Any] = coco_document(pictures(NUM))
        change(document)
        (root / "annotations.json").write_text(json.dumps(document))

    return write


def _overlapping(root: Path) -> None:
    data = pictures(NUM)
    write_voc(root, data, {"train": data[:16], "test": data[14:], "val": []})


def _leaking(root: Path) -> None:
    data = pictures(NUM)
    twin = Picture(name="twin", pixels=data[0].pixels, things=data[0].things)
    write_voc(root, [*data, twin], {"train": data[:16], "test": [*data[16:], twin]})


def _nearly_leaking(root: Path) -> None:
    data = pictures(NUM)
    pixels = data[0].pixels.copy()
    pixels[0, 0] = 0
    twin = Picture(name="twin", pixels=pixels, things=data[0].things)
    write_voc(root, [*data, twin], {"train": data[:16], "test": [*data[16:], twin]})


def _copies(root: Path) -> None:
    data = pictures(NUM)
    write_voc(root, [*data, Picture(name="z", pixels=data[3].pixels, things=data[3].things)])


def _contradiction(root: Path) -> None:
    data = pictures(NUM)
    things = (("square" if data[3].things[0][0] == "disc" else "disc", data[3].things[0][1]),)
    write_voc(root, [*data, Picture(name="z", pixels=data[3].pixels, things=things)])


def _one_class(root: Path) -> None:
    write_csv(root, [])
    rows = ["filename,class,xmin,ymin,xmax,ymax"]
    for each in pictures(NUM):
        save(root / f"{each.name}.png", each.pixels)
        rows += [f"{each.name}.png,disc,{','.join(map(str, each.things[0][1]))}"]
    (root / "boxes.csv").write_text("\n".join(rows))


def _imbalanced(root: Path) -> None:
    rows = "".join(
        _boxes(f"{10 + i % 9},{10 + i // 9},{60 + i % 9},{60 + i // 9}", "common") for i in range(230)
    )
    write_csv(root, pictures(NUM), extra=rows + "".join(_boxes(f"{i},1,50,40", "rare") for i in range(11)))


def _unlisted(root: Path) -> None:
    data = pictures(NUM + 2)
    write_voc(root, data, {"train": data[:14], "val": data[14:18], "test": data[18:NUM]})


def _listed_without_file(root: Path) -> None:
    _unlisted(root)
    names = root / "ImageSets/Main/val.txt"
    names.write_text(names.read_text() + "nobody\n")


DIRTY: dict[str, tuple[Callable[[Path], object], str, str, int]] = {
    "nothing at all": (lambda root: root.mkdir(parents=True, exist_ok=True), "image.none", "error", 0),
    "images only": (lambda root: save(root / "a.png", picture(0).pixels), "annotation.none", "error", 1),
    "too few": (lambda root: write_csv(root, pictures(5)), "image.too_few", "error", 5),
    "no usable box": (
        lambda root: (
            save(root / "p000.png", picture(0).pixels),
            (root / "a.csv").write_text("image,label,x1,y1,x2,y2\np000.png,disc,5,5,5,5\n"),
        ),
        "object.none",
        "error",
        0,
    ),
    "annotation without image": (
        lambda root: _with_row(root, "gone.png,disc,1,2,3,4\n"),
        "image.missing",
        "warning",
        1,
    ),
    "image without annotation": (
        lambda root: (write_csv(root, pictures(NUM)), save(root / "x.png", picture(99).pixels)),
        "image.unannotated",
        "warning",
        1,
    ),
    "truncated image": (
        lambda root: _image(root, lambda pixels, path: path.write_bytes(path.read_bytes()[:300])),
        "image.corrupt",
        "warning",
        1,
    ),
    "empty image file": (
        lambda root: _image(root, lambda pixels, path: path.write_bytes(b"")),
        "image.corrupt",
        "warning",
        1,
    ),
    "text as an image": (
        lambda root: _image(root, lambda pixels, path: path.write_text("hello")),
        "image.corrupt",
        "warning",
        1,
    ),
    "CMYK image": (
        lambda root: _image(
            root, lambda pixels, path: Image.fromarray(pixels).convert("CMYK").save(path, format="TIFF")
        ),
        "image.mixed_modes",
        "info",
        2,
    ),
    "16-bit image": (
        lambda root: _image(
            root, lambda pixels, path: Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(path)
        ),
        "image.mixed_modes",
        "info",
        2,
    ),
    "image with alpha": (
        lambda root: _image(root, lambda pixels, path: Image.fromarray(pixels).convert("RGBA").save(path)),
        "image.mixed_modes",
        "info",
        2,
    ),
    "floating-point image": (
        lambda root: _image(
            root,
            lambda pixels, path: Image.fromarray(pixels[..., 0].astype(np.float32)).save(path, format="TIFF"),
        ),
        "image.unsupported",
        "warning",
        1,
    ),
    "1-pixel image": (
        lambda root: _image(root, lambda pixels, path: Image.fromarray(pixels[:1, :1]).save(path)),
        "box.outside",
        "warning",
        2,
    ),
    "box outside": (lambda root: _with_row(root, _boxes("60,40,130,60")), "box.outside", "warning", 1),
    "box elsewhere": (
        lambda root: _with_row(root, _boxes("300,300,330,340")),
        "box.nothing_inside",
        "warning",
        1,
    ),
    "negative size": (lambda root: _with_row(root, _boxes("50,40,30,60")), "box.degenerate", "warning", 1),
    "no size": (lambda root: _with_row(root, _boxes("50,40,50,60")), "box.degenerate", "warning", 1),
    "NaN": (lambda root: _with_row(root, _boxes("nan,40,50,60")), "box.not_finite", "warning", 1),
    "infinite": (lambda root: _with_row(root, _boxes("1,40,inf,60")), "box.not_finite", "warning", 1),
    "words for numbers": (
        lambda root: _with_row(root, _boxes("one,40,50,60")),
        "box.not_finite",
        "warning",
        1,
    ),
    "half a box": (lambda root: _with_row(root, "p000.png,disc,1,2\n"), "box.incomplete", "warning", 1),
    "box without a class": (
        lambda root: _with_row(root, _boxes("1,2,30,40", "")),
        "class.unknown",
        "warning",
        1,
    ),
    "box drawn twice": (lambda root: _with_row(root, 2 * _boxes("1,2,30,40")), "box.duplicate", "warning", 1),
    "one place, two classes": (
        lambda root: _with_row(root, _boxes("1,2,40,40") + _boxes("1,2,40,41", "square")),
        "box.label_conflict",
        "warning",
        1,
    ),
    "tiny object": (lambda root: _with_row(root, _boxes("30,30,31,31")), "box.tiny", "warning", 1),
    "rare class": (lambda root: _with_row(root, _boxes("1,2,30,40", "unicorn")), "class.rare", "warning", 1),
    "imbalance": (_imbalanced, "class.imbalance", "warning", 4),
    "one class": (_one_class, "image.few", "warning", NUM),
    "unused class": (
        lambda root: write_yolo(root, pictures(NUM), yaml="names: [disc, square, ghost]\n"),
        "class.unused",
        "info",
        1,
    ),
    "class out of range": (
        lambda root: (
            write_yolo(root, pictures(NUM), yaml=YAML),
            (root / "labels/p000.txt").write_text("7 .5 .5 .2 .2\n-1 .5 .5 .2 .2\n"),
        ),
        "class.unknown",
        "warning",
        2,
    ),
    "image without objects": (
        lambda root: (write_yolo(root, pictures(NUM), yaml=YAML), (root / "labels/p000.txt").write_text("")),
        "image.empty",
        "info",
        1,
    ),
    "broken XML": (
        _unreadable(b"<annotation><object>", "Annotations/p000.xml"),
        "annotation.unreadable",
        "warning",
        1,
    ),
    "XML bomb": (
        _unreadable(b'<!DOCTYPE x [<!ENTITY a "b">]><annotation>&a;</annotation>', "Annotations/p000.xml"),
        "annotation.unreadable",
        "warning",
        1,
    ),
    "XML of no known encoding": (
        _unreadable(b'<?xml version="1.0" encoding="klingon"?><annotation/>', "Annotations/p000.xml"),
        "annotation.unreadable",
        "warning",
        1,
    ),
    "broken JSON": (
        lambda root: (write_coco(root, pictures(NUM)), (root / "more.json").write_text("{")),
        "annotation.unreadable",
        "warning",
        1,
    ),
    "deeply nested JSON": (
        lambda root: (write_coco(root, pictures(NUM)), (root / "more.json").write_text("[" * 200_000)),
        "annotation.unreadable",
        "warning",
        1,
    ),
    "COCO without a box": (
        _changed_coco(lambda d: d["annotations"][0].pop("bbox")),
        "box.incomplete",
        "warning",
        1,
    ),
    "COCO box of null": (
        _changed_coco(lambda d: d["annotations"][0].update(bbox=[1, 2, None, 4])),
        "box.not_finite",
        "warning",
        1,
    ),
    "COCO of an unknown image": (
        _changed_coco(lambda d: d["annotations"][0].update(image_id=999)),
        "annotation.unknown_image",
        "warning",
        1,
    ),
    "COCO of an unknown class": (
        _changed_coco(lambda d: d["annotations"][0].update(category_id=999)),
        "class.unknown",
        "warning",
        1,
    ),
    "COCO id used twice": (
        _changed_coco(lambda d: d["images"][1].update(id=0)),
        "annotation.id_twice",
        "warning",
        1,
    ),
    "path traversal": (
        _changed_coco(lambda d: d["images"][0].update(file_name="../../p000.png")),
        "annotation.unsafe_path",
        "error",
        1,
    ),
    "overlapping parts": (_overlapping, "split.overlap", "warning", 2),
    "copies in two parts": (_leaking, "duplicate.leakage", "warning", 1),
    "near copies in two parts": (_nearly_leaking, "duplicate.near_leakage", "warning", 2),
    "copies": (_copies, "duplicate.exact", "warning", 1),
    "copies with other boxes": (_contradiction, "duplicate.label_conflict", "warning", 2),
    "images in no part": (_unlisted, "split.unlisted", "info", 2),
    "list of unknown images": (
        _listed_without_file,
        "split.unknown_image",
        "warning",
        1,
    ),
}


@pytest.mark.parametrize("what", DIRTY)
def test_dirty_input_is_reported_with_a_hint(what: str, tmp_path: Path) -> None:
    write, code, severity, num = DIRTY[what]
    write(tmp_path)
    report = check(tmp_path)
    assert code in codes(report)
    finding = codes(report)[code]
    assert (finding["severity"], finding["num"]) == (severity, num)
    assert len(finding["hint"]) > 10
    assert "{" not in finding["title"]
    assert (severity == "error") == bool(blocking(report))
    json.dumps(report, allow_nan=False)


def test_a_missing_folder_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        check(tmp_path / "nowhere")
    assert caught.value.hint


# --- what may be used


def test_boxes_are_clipped_and_bad_ones_left_out(tmp_path: Path) -> None:
    rows = _boxes("60,40,130,60") + _boxes("50,40,30,60") + _boxes("nan,1,2,3")
    data = inspect_detection(write_csv(tmp_path, pictures(NUM), extra=rows))
    image = data.usable[0]
    assert data.labels == LABELS
    edges = (
        image.boxes * [image.width, image.height] * 1 if False else image.boxes * np.array([96, 72, 96, 72])
    )
    assert len(edges) == len(picture(0).things) + 1
    np.testing.assert_allclose(edges[-1], [60, 40, 96, 60])


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_turn_with_their_image_when_they_were_drawn_on_the_stored_one(
    orientation: int, tmp_path: Path
) -> None:
    from xinfer.preproc import decode_image

    data = pictures(NUM)
    write_voc(tmp_path, data)
    path = tmp_path / "JPEGImages/p000.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(data[0].pixels).save(path, exif=exif)
    inspected = inspect_detection(tmp_path)
    image = inspected.usable[0]
    assert (image.width, image.height) == (72, 96)
    assert codes(inspected.report.to_dict())["image.turned"]["num"] == 1
    pixels = decode_image(path.read_bytes(), min_side=32)
    for box, label in zip(image.boxes * np.array([72, 96, 72, 96]), image.labels, strict=True):
        left, top, right, bottom = box.round().astype(int)
        inside = pixels[top:bottom, left:right]
        # Squares fill their boxes with red, discs 78 % of them with green.
        wanted = (20, 220, 40) if LABELS[label] == "disc" else (230, 20, 30)
        assert (np.abs(inside.astype(int) - wanted).max(axis=2) < 3).mean() > 0.7


def test_boxes_stay_when_they_were_drawn_on_the_upright_image(tmp_path: Path) -> None:
    data = pictures(NUM)
    write_csv(tmp_path, data)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(data[0].pixels)).save(tmp_path / "p000.png", exif=exif)
    image = inspect_detection(tmp_path).usable[0]
    assert (image.width, image.height) == (96, 72)
    expected = np.array([box for _, box in data[0].things]) / [96, 72, 96, 72]
    np.testing.assert_allclose(image.boxes, expected)


def test_voc_difficult_and_coco_crowds_are_marked(tmp_path: Path) -> None:
    write_voc(tmp_path / "voc", pictures(NUM))
    text = voc_text(picture(0)).replace("</name>", "</name><difficult>1</difficult>", 1)
    (tmp_path / "voc/Annotations/p000.xml").write_text(text)
    _changed_coco(lambda d: d["annotations"][0].update(iscrowd=1))(tmp_path / "coco")
    for kind in ("voc", "coco"):
        assert inspect_detection(tmp_path / kind).usable[0].ignored.tolist() == [True, False]


# --- splits


def test_our_split_keeps_near_duplicates_together_and_classes_in_proportion(tmp_path: Path) -> None:
    data = pictures(60)
    twins = []
    for index in range(10):
        pixels = data[index].pixels.copy()
        pixels[0, 0] = 0
        twins.append(Picture(name=f"t{index:03d}", pixels=pixels, things=data[index].things))
    inspected = inspect_detection(write_voc(tmp_path, [*data, *twins]))
    parts = split_detection(inspected.usable, num_classes=2, seed=0)
    where = {Path(i.path).stem: name for name, images in parts.parts.items() for i in images}
    assert len(where) == 70
    assert all(where[f"p{index:03d}"] == where[f"t{index:03d}"] for index in range(10))
    counts = parts.counts(LABELS)
    for label in LABELS:
        share = counts["test"][label] / sum(part[label] for part in counts.values())
        assert 0.09 <= share <= 0.21
    again = split_detection(tuple(reversed(inspected.usable)), num_classes=2, seed=0)
    assert [i.path for i in again.test] == [i.path for i in parts.test]
    other = split_detection(inspected.usable, num_classes=2, seed=1)
    assert [i.path for i in other.test] != [i.path for i in parts.test]


def test_given_parts_are_honoured(tmp_path: Path) -> None:
    data = pictures(30)
    three = {"train": data[:20], "val": data[20:25], "test": data[25:]}
    for name, lists, test in (
        ("three", three, data[25:]),
        ("no_test", {"train": data[:20], "val": data[20:]}, data[20:]),
        ("no_val", {"train": data[:20], "test": data[20:]}, data[20:]),
    ):
        inspected = inspect_detection(write_voc(tmp_path / name, data, lists))
        parts = split_detection(inspected.usable, num_classes=2, seed=0)
        assert {Path(i.path).stem for i in parts.test} == {each.name for each in test}
        assert parts.validation
        assert len(parts.train) + len(parts.validation) + len(parts.test) == 30
    assert "own" in parts.protocol


def test_bccd_is_read_as_its_lists_say() -> None:
    root = TEST_DATA / "bccd" / "BCCD"
    if not root.is_dir():
        pytest.skip(f"no data in {root}: set IGNITION_TEST_DATA")
    inspected = inspect_detection(root)
    assert inspected.errors == []
    assert inspected.labels == ("Platelets", "RBC", "WBC")
    parts = split_detection(inspected.usable, num_classes=3, seed=0)
    assert {name: len(images) for name, images in parts.parts.items()} == {
        "train": 205,
        "validation": 87,
        "test": 72,
    }
