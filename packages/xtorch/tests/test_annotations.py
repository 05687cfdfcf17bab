from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from xtorch.data.annotations import DatasetFiles, RawImage, read_annotations
from xtorch.data.annotations.base import part_of
from xtorch.data.annotations.voc import parse_xml
from xtorch.errors import DataError

from .detection_data import (
    LABELS,
    Picture,
    coco_document,
    pictures,
    save,
    voc_text,
    write_coco,
    write_csv,
    write_voc,
    write_yolo,
)

DATA = pictures(4)
YAML = "names: [disc, square]\n"


def pixels_of(image: RawImage, each: Picture) -> list[tuple[str, tuple[int, ...]]]:
    width, height = each.size
    factors = (width, height, width, height)
    return [
        (
            box.label,
            tuple(round(e * (f if box.fractions else 1)) for e, f in zip(box.edges, factors, strict=True)),
        )
        for box in image.boxes
    ]


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("voc", lambda root: write_voc(root, DATA)),
        ("coco", lambda root: write_coco(root, DATA)),
        ("yolo", lambda root: write_yolo(root, DATA, yaml=YAML)),
        ("csv", lambda root: write_csv(root, DATA)),
        ("csv", lambda root: write_csv(root, DATA, fractions=True)),
    ],
)
def test_every_format_gives_the_same_boxes(name: str, write: Callable[[Path], Path], tmp_path: Path) -> None:
    found, others = read_annotations(write(tmp_path))
    assert found is not None
    assert (found.format, others, found.problems) == (name, (), [])
    by_name = {Path(path).stem: image for path, image in found.images.items()}
    assert by_name.keys() == {each.name for each in DATA}
    for each in DATA:
        assert pixels_of(by_name[each.name], each) == list(each.things)


def test_the_format_with_the_most_boxes_is_read_when_there_are_several(tmp_path: Path) -> None:
    write_voc(tmp_path, DATA)
    write_csv(tmp_path, DATA[:1])
    found, others = read_annotations(tmp_path)
    assert found is not None
    assert (found.format, others) == ("voc", ("csv",))


def test_voc_lists_give_parts_and_train_is_taken_rather_than_trainval(tmp_path: Path) -> None:
    lists = {"train": DATA[:1], "val": DATA[1:2], "trainval": DATA[:2], "test": DATA[2:3]}
    found, _ = read_annotations(write_voc(tmp_path, DATA, lists))
    assert found is not None
    parts = {Path(path).stem: image.parts for path, image in found.images.items()}
    assert parts == {"p000": {"train"}, "p001": {"validation"}, "p002": {"test"}, "p003": set()}
    assert found.has_splits


def test_voc_lists_for_other_tasks_divide_nothing(tmp_path: Path) -> None:
    write_voc(tmp_path, DATA, {"train": DATA[:3], "val": DATA[3:]})
    other = tmp_path / "ImageSets/Segmentation"
    other.mkdir()
    (other / "train.txt").write_text("p003\n")
    found, _ = read_annotations(tmp_path)
    assert found is not None
    parts = {Path(path).stem: image.parts for path, image in found.images.items()}
    assert parts == {"p000": {"train"}, "p001": {"train"}, "p002": {"train"}, "p003": {"validation"}}


def test_voc_lists_of_several_years_add_up(tmp_path: Path) -> None:
    for year, data in (("VOC2007", DATA[:2]), ("VOC2012", DATA[2:])):
        write_voc(tmp_path / year, data, {"train": data[:1], "val": data[1:]})
    found, _ = read_annotations(tmp_path)
    assert found is not None
    assert [image.parts for image in found.images.values()] == [{"train"}, {"validation"}] * 2


def test_coco_files_give_parts_by_their_names(tmp_path: Path) -> None:
    write_coco(tmp_path, DATA[:2], name="annotations/instances_train2017.json", images="train2017")
    write_coco(tmp_path, DATA[2:], name="annotations/instances_val2017.json", images="val2017")
    found, _ = read_annotations(tmp_path)
    assert found is not None
    parts = {path: image.parts for path, image in found.images.items()}
    assert parts["train2017/p000.png"] == {"train"}
    assert parts["val2017/p003.png"] == {"validation"}


@pytest.mark.parametrize(
    "yaml",
    [
        YAML + "train: images/train\nval: images/valid\n",
        YAML + "train: ../train_set/images/train\nval: ['../x/images/valid']\n",
        "names: {0: disc, 1: square}\ntrain: lists/a.txt\nval: lists/b.txt\n",
    ],
)
def test_yolo_yaml_gives_parts_and_names(yaml: str, tmp_path: Path) -> None:
    write_yolo(tmp_path, DATA[:3], part="train", yaml=yaml)
    write_yolo(tmp_path, DATA[3:], part="valid")
    for name, part, data in (("a", "train", DATA[:3]), ("b", "valid", DATA[3:])):
        (tmp_path / "lists").mkdir(exist_ok=True)
        lines = [f"./images/{part}/{each.name}.png" for each in data]
        (tmp_path / f"lists/{name}.txt").write_text("\n".join(lines))
    found, _ = read_annotations(tmp_path)
    assert found is not None
    assert found.labels == LABELS
    assert found.images["images/train/p002.png"].parts == {"train"}
    assert found.images["images/valid/p003.png"].parts == {"validation"}


def test_yolo_outlines_become_their_bounding_boxes_and_names_may_be_missing(tmp_path: Path) -> None:
    write_yolo(tmp_path, DATA[:1])
    (tmp_path / "labels/p000.txt").write_text("3 0.2 0.2 0.6 0.1 0.5 0.8\n1 0.5 0.5 0.2 0.2 0.97\n")
    found, _ = read_annotations(tmp_path)
    assert found is not None
    first, second = found.images["images/p000.png"].boxes
    assert (first.label, first.edges) == ("class 3", (0.2, 0.1, 0.6, 0.8))
    assert second.edges == pytest.approx((0.4, 0.4, 0.6, 0.6))


@pytest.mark.parametrize(
    ("text", "edges"),
    [
        ("image;label;x;y;width;height\np000.png;disc;10;20;5;6\n", (10, 20, 15, 26)),
        (
            "image\tcategory\tx_center\ty_center\twidth\theight\np000.png\tdisc\t10\t20\t4\t6\n",
            (8, 17, 12, 23),
        ),
        ("ImageID,LabelName,XMin,XMax,YMin,YMax\np000,disc,0.125,0.5,0.25,0.75\n", (0.125, 0.25, 0.5, 0.75)),
        ("images/p000.png,10,20,15,26,disc\n", (10, 20, 15, 26)),
        ("filename,width,height,class,xmin,ymin,xmax,ymax\np000.png,96,72,disc,1,2,3,4\n", (1, 2, 3, 4)),
    ],
)
def test_csv_columns_are_told_by_their_names(text: str, edges: tuple[float, ...], tmp_path: Path) -> None:
    save(tmp_path / "images/p000.png", DATA[0].pixels)
    (tmp_path / "table.csv").write_text(text)
    found, _ = read_annotations(tmp_path)
    assert found is not None
    (box,) = found.images["images/p000.png"].boxes
    assert (box.label, box.edges) == ("disc", edges)


def test_csv_gives_parts_and_images_without_objects(tmp_path: Path) -> None:
    for each in DATA:
        save(tmp_path / f"{each.name}.png", each.pixels)
    (tmp_path / "boxes.csv").write_text(
        "path,label,x1,y1,x2,y2,split\np000.png,disc,1,2,30,40,train\np001.png,,,,,,train\n"
        "p002.png,disc,1,2,30,40,VALID\n"
    )
    found, _ = read_annotations(tmp_path)
    assert found is not None
    assert found.images["p001.png"].boxes == []
    assert found.images["p002.png"].parts == {"validation"}
    assert found.problems == []


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_text_is_read_whatever_program_wrote_it(encoding: str, tmp_path: Path) -> None:
    save(tmp_path / "p000.png", DATA[0].pixels)
    text = "image,label,x1,y1,x2,y2\np000.png,Käse,1,2,30,40\n"
    (tmp_path / "boxes.csv").write_bytes(text.encode(encoding))
    found, _ = read_annotations(tmp_path)
    assert found is not None
    assert found.images["p000.png"].boxes[0].label == "Käse"


@pytest.mark.parametrize(
    "name", ["../secret.png", "..\\secret.png", "images/../../secret.png", "/etc/../secret.png"]
)
def test_names_that_lead_out_of_the_dataset_are_refused_in_every_format(name: str, tmp_path: Path) -> None:
    save(tmp_path / "secret.png", DATA[0].pixels)
    document = coco_document(DATA[:1])
    document["images"][0]["file_name"] = name
    for kind in ("voc", "coco", "csv"):
        root = tmp_path / kind
        save(root / "images/p009.png", DATA[1].pixels)
        if kind == "voc":
            (root / "a.xml").write_text(voc_text(DATA[0], filename=name))
        elif kind == "coco":
            (root / "a.json").write_text(json.dumps(document))
        else:
            (root / "a.csv").write_text(f"image,label,x1,y1,x2,y2\n{name},disc,1,2,3,4\n")
        found, _ = read_annotations(root)
        assert found is not None
        assert found.images == {}
        assert [problem.code for problem in found.problems] == ["annotation.unsafe_path"]


def test_absolute_names_of_other_machines_mean_the_file_of_that_name(tmp_path: Path) -> None:
    save(tmp_path / "images/p000.png", DATA[0].pixels)
    (tmp_path / "a.xml").write_text(voc_text(DATA[0], filename="C:\\Users\\me\\pictures\\p000.png"))
    found, _ = read_annotations(tmp_path)
    assert found is not None
    assert list(found.images) == ["images/p000.png"]


def test_links_out_of_the_dataset_are_not_followed(tmp_path: Path) -> None:
    save(tmp_path / "outside.png", DATA[0].pixels)
    root = write_voc(tmp_path / "data", DATA[:1])
    (root / "link.png").symlink_to(tmp_path / "outside.png")
    (root / "inner.png").symlink_to(root / "JPEGImages/p000.png")
    assert set(DatasetFiles(root).images) == {"JPEGImages/p000.png", "inner.png"}


def test_xml_entities_are_never_expanded(tmp_path: Path) -> None:
    bomb = (
        '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;&x;">]>'
        "<annotation><filename>p000.png</filename><object><name>&y;</name></object></annotation>"
    )
    for text in (bomb, '<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>'):
        with pytest.raises(ValueError, match="document type"):
            parse_xml(text.encode())
    write_voc(tmp_path, DATA[:2])
    (tmp_path / "Annotations/p000.xml").write_text(bomb)
    found, _ = read_annotations(tmp_path)
    assert found is not None
    assert [(p.code, p.where) for p in found.problems] == [("annotation.unreadable", "Annotations/p000.xml")]
    assert list(found.images) == ["JPEGImages/p001.png"]


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_annotations(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("train/a.jpg", "train"),
        ("data/images/val2017/a.jpg", "validation"),
        ("annotations/instances_test.json", "test"),
        ("train_of_thought/contest.jpg", "train"),
        ("images/test.jpg", None),
        ("contest/trains/a.jpg", None),
    ],
)
def test_parts_are_told_by_whole_words_of_folders(path: str, part: str | None) -> None:
    assert part_of(path) == part
