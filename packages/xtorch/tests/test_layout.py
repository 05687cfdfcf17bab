from __future__ import annotations

from pathlib import Path

import pytest

from xtorch.data.layout import DEFECTIVE, OK, scan_image_folder
from xtorch.errors import DataError


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    return root


@pytest.mark.parametrize("ok", ["ok", "Good", "NORMAL"])
@pytest.mark.parametrize("bad", ["defective", "Bad", "defect", "anomaly"])
def test_scan_reads_both_classes_when_folders_have_synonyms(tmp_path: Path, ok: str, bad: str) -> None:
    found = scan_image_folder(touch(tmp_path, f"{ok}/a.jpg", f"{bad}/b.png"))
    assert found.layout == "ok_defective"
    assert {(image.path, image.label, image.kind) for image in found.images} == {
        (f"{ok}/a.jpg", OK, None),
        (f"{bad}/b.png", DEFECTIVE, None),
    }


def test_scan_keeps_kinds_when_defects_are_nested(tmp_path: Path) -> None:
    found = scan_image_folder(touch(tmp_path, "ok/a.jpg", "defective/crack/b.jpg", "scratch/c.jpg"))
    assert [(image.path, image.kind) for image in found.images if image.label == DEFECTIVE] == [
        ("defective/crack/b.jpg", "crack"),
        ("scratch/c.jpg", "scratch"),
    ]


def test_scan_reads_mvtec_and_leaves_masks_alone(tmp_path: Path) -> None:
    found = scan_image_folder(
        touch(
            tmp_path,
            "bottle/train/good/000.png",
            "bottle/test/good/000.png",
            "bottle/test/broken/000.png",
            "bottle/ground_truth/broken/000_mask.png",
            "bottle/readme.txt",
        )
    )
    assert found.layout == "train_test"
    assert {(image.path, image.part, image.label, image.kind) for image in found.images} == {
        ("bottle/train/good/000.png", "train", OK, None),
        ("bottle/test/good/000.png", "test", OK, None),
        ("bottle/test/broken/000.png", "test", DEFECTIVE, "broken"),
    }
    assert found.other_files == ("bottle/readme.txt",)


def test_scan_reads_kinds_when_test_has_a_defective_folder(tmp_path: Path) -> None:
    found = scan_image_folder(
        touch(tmp_path, "train/ok/a.jpg", "test/ok/b.jpg", "test/defective/fray/c.jpg", "val/ok/d.jpg")
    )
    assert [(image.path, image.part, image.kind) for image in found.images] == [
        ("test/defective/fray/c.jpg", "test", "fray"),
        ("test/ok/b.jpg", "test", None),
        ("train/ok/a.jpg", "train", None),
        ("val/ok/d.jpg", "train", None),
    ]


def test_scan_says_class_folders_when_none_is_good(tmp_path: Path) -> None:
    found = scan_image_folder(touch(tmp_path, "cats/a.jpg", "dogs/b.jpg"))
    assert found.layout == "class_folders"
    assert {image.class_name for image in found.images} == {"cats", "dogs"}
    assert {image.label for image in found.images} == {None}


@pytest.mark.parametrize("paths", [("a.jpg", "b.jpg"), ("photos/a.jpg", "photos/b.jpg"), ()])
def test_scan_says_unlabelled_when_there_are_no_folders(tmp_path: Path, paths: tuple[str, ...]) -> None:
    found = scan_image_folder(touch(tmp_path, *paths))
    assert found.layout == "unlabelled"
    assert len(found.images) == len(paths)


def test_scan_ignores_what_systems_leave_behind(tmp_path: Path) -> None:
    found = scan_image_folder(
        touch(tmp_path, "ok/a.jpg", "ok/.DS_Store", "ok/Thumbs.db", "__MACOSX/ok/._a.jpg", ".git/x.jpg")
    )
    assert [image.path for image in found.images] == ["ok/a.jpg"]
    assert found.num_files == 1


def test_scan_refuses_when_folder_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        scan_image_folder(tmp_path / "nowhere")
    assert caught.value.code == "data.invalid"
    assert caught.value.hint
