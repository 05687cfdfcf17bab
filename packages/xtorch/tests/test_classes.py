"""Which class an image has: folders in every nesting, and tables that list files."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from xtorch.data.classes import scan_classes
from xtorch.errors import DataError


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    return root


def classes(root: Path) -> dict[str, tuple[str, str | None]]:
    return {image.path: (image.name, image.part) for image in scan_classes(root).images}


def test_folders_are_classes(tmp_path: Path) -> None:
    root = touch(tmp_path, "cat/1.jpg", "cat/indoor/2.PNG", "dog/1.jpg", "dog/notes.txt", "loose.jpg")
    found = scan_classes(root)
    assert found.layout == "class_folders"
    assert classes(root) == {
        "cat/1.jpg": ("cat", None),
        "cat/indoor/2.PNG": ("cat", None),
        "dog/1.jpg": ("dog", None),
    }
    assert found.unlabelled == ["loose.jpg"]
    assert found.other_files == ["dog/notes.txt"]
    assert (found.num_files, found.size_bytes) == (5, 5)


def test_wrapping_folders_are_looked_through(tmp_path: Path) -> None:
    root = touch(tmp_path, "data/images/cat/1.jpg", "data/images/dog/1.jpg", "__MACOSX/cat/._1.jpg")
    assert {name for name, _ in classes(root).values()} == {"cat", "dog"}


def test_only_class_is_still_a_class(tmp_path: Path) -> None:
    assert classes(touch(tmp_path, "archive/cat/1.jpg", "archive/cat/2.jpg")) == {
        "archive/cat/1.jpg": ("cat", None),
        "archive/cat/2.jpg": ("cat", None),
    }


@pytest.mark.parametrize("order", ["{part}/{name}/{file}", "{name}/{part}/{file}"])
def test_parts_are_recognised_inside_and_outside_of_classes(tmp_path: Path, order: str) -> None:
    wanted = {
        order.format(part=part, name=name, file="1.jpg"): (name, "test" if part == "Test" else "train")
        for part in ("train", "VAL", "Test")
        for name in ("cat", "dog")
    }
    root = touch(tmp_path, *wanted)
    assert scan_classes(root).layout == "train_test"
    assert classes(root) == wanted


def test_class_may_be_called_train(tmp_path: Path) -> None:
    root = touch(tmp_path, "train/1.jpg", "test/1.jpg", "plane/1.jpg")
    assert {name for name, _ in classes(root).values()} == {"train", "test", "plane"}
    only = touch(tmp_path / "only", "train/cat/1.jpg", "train/dog/1.jpg")
    assert set(classes(only).values()) == {("cat", None), ("dog", None)}


def test_names_are_composed_unicode(tmp_path: Path) -> None:
    composed, decomposed = "Äpfel 🍎", unicodedata.normalize("NFD", "Äpfel 🍎")
    root = touch(tmp_path, f"{composed}/1.jpg", f"{decomposed}/2.jpg", "梨/1.jpg")
    assert {name for name, _ in classes(root).values()} == {composed, "梨"}


@pytest.mark.parametrize(
    "table",
    [
        "file,label\na.jpg,cat\nb.jpg,dog\nc.jpg,cat\nd.jpg,dog\n",
        "label;image\ncat;images/a.jpg\ndog;images/b.jpg\ncat;images/c.jpg\ndog;images/d.jpg\n",
        "id,Class_Name,width\na,cat,7\nb,dog,8\nc,cat,9\nd,dog,10\n",
        "path,animal\nimages\\a.jpg,cat\n./images/b.jpg,dog\nelsewhere/c.jpg,cat\nd.jpg,dog\n",
    ],
)
def test_table_lists_files_and_labels(tmp_path: Path, table: str) -> None:
    root = touch(tmp_path, *(f"images/{name}.jpg" for name in "abcd"))
    (root / "labels.csv").write_text(table)
    found = scan_classes(root)
    assert (found.layout, found.table) == ("label_table", "labels.csv")
    assert {path: name for path, (name, _) in classes(root).items()} == {
        "images/a.jpg": "cat",
        "images/b.jpg": "dog",
        "images/c.jpg": "cat",
        "images/d.jpg": "dog",
    }
    assert found.other_files == []


def test_table_names_parts_contradictions_and_files_that_are_not_there(tmp_path: Path) -> None:
    root = touch(tmp_path, *(f"{name}.jpg" for name in "abcdef"))
    (root / "labels.csv").write_text(
        "file,split,label\na.jpg,train,cat\nb.jpg,TEST,dog\nc.jpg,val,dog\nd.jpg,train,cat\n"
        "d.jpg,train,dog\nx.jpg,train,cat\ne.jpg,train,\n"
    )
    found = scan_classes(root)
    assert classes(root) == {
        "a.jpg": ("cat", "train"),
        "b.jpg": ("dog", "test"),
        "c.jpg": ("dog", "train"),
    }
    assert found.contradictions == ["d.jpg"]
    assert found.missing == ["labels.csv:7"]
    assert found.unlabelled == ["e.jpg", "f.jpg"]


@pytest.mark.parametrize("table", ["a,b\n1,2\n", "", "file,label\nnowhere.jpg,cat\n", "\x00\x01\x02"])
def test_table_that_lists_no_images_is_left_alone(tmp_path: Path, table: str) -> None:
    root = touch(tmp_path, "cat/1.jpg", "dog/1.jpg")
    (root / "readings.csv").write_text(table)
    found = scan_classes(root)
    assert found.layout == "class_folders"
    assert found.other_files == ["readings.csv"]


def test_folder_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        scan_classes(tmp_path / "nowhere")
    assert scan_classes(tmp_path).images == []
