"""Small pictures with coloured things in them, written in every annotation format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

LABELS = ("disc", "square")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Pixels uint8 [H,W,3], and (label, (left, top, right, bottom)) of each thing."""

    name: str
    pixels: np.ndarray
    things: tuple[tuple[str, tuple[int, int, int, int]], ...]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pixels.shape[1], self.pixels.shape[0]


def picture(index: int, *, width: int = 96, height: int = 72, num: int = 2) -> Picture:
    """Noise with squares (red) and discs (green); the same for the same arguments."""
    rng = np.random.default_rng([index, width, height])
    # Broad random waves: no two pictures look nearly the same.
    rows, columns = np.mgrid[:height, :width]
    wave = np.zeros((height, width))
    for _ in range(6):
        down, right = rng.uniform(-0.2, 0.2, 2)
        wave += rng.uniform(10, 25) * np.sin(down * rows + right * columns + rng.uniform(0, 6))
    pixels = (110 + wave[..., None] + rng.normal(0, 4, (height, width, 3))).clip(0, 255)
    things = []
    for place in range(num):
        label = LABELS[(index + place) % 2]
        side = int(rng.integers(16, 27))
        left = int(rng.integers(0, width // num - side)) + place * width // num
        top = int(rng.integers(0, height - side))
        inside = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
        if label == "disc":
            middle = (top + side / 2 - 0.5, left + side / 2 - 0.5)
            inside &= (rows - middle[0]) ** 2 + (columns - middle[1]) ** 2 <= (side / 2) ** 2
        pixels[inside] = (20, 220, 40) if label == "disc" else (230, 20, 30)
        things.append((label, (left, top, left + side, top + side)))
    return Picture(name=f"p{index:03d}", pixels=pixels.astype(np.uint8), things=tuple(things))


def pictures(num: int, *, start: int = 0) -> list[Picture]:
    return [picture(index) for index in range(start, start + num)]


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def voc_text(each: Picture, *, filename: str | None = None) -> str:
    width, height = each.size
    objects = "".join(
        f"<object><name>{label}</name><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax>"
        f"<ymax>{box[3]}</ymax></bndbox></object>"
        for label, box in each.things
    )
    return (
        f"<annotation><filename>{filename or each.name + '.png'}</filename><size><width>{width}</width>"
        f"<height>{height}</height><depth>3</depth></size>{objects}</annotation>"
    )


def write_voc(root: Path, data: Sequence[Picture], lists: dict[str, Sequence[Picture]] | None = None) -> Path:
    for each in data:
        save(root / "JPEGImages" / f"{each.name}.png", each.pixels)
        (root / "Annotations").mkdir(parents=True, exist_ok=True)
        (root / "Annotations" / f"{each.name}.xml").write_text(voc_text(each))
    for name, members in (lists or {}).items():
        (root / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
        (root / f"ImageSets/Main/{name}.txt").write_text("".join(f"{each.name}\n" for each in members))
    return root


def coco_document(data: Sequence[Picture]) -> dict[str, list[dict[str, object]]]:
    return {
        "images": [
            {"id": index, "file_name": f"{each.name}.png", "width": each.size[0], "height": each.size[1]}
            for index, each in enumerate(data)
        ],
        "categories": [{"id": 7 + index, "name": label} for index, label in enumerate(LABELS)],
        "annotations": [
            {
                "id": 100 * index + place,
                "image_id": index,
                "category_id": 7 + LABELS.index(label),
                "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                "iscrowd": 0,
            }
            for index, each in enumerate(data)
            for place, (label, box) in enumerate(each.things)
        ],
    }


def write_coco(
    root: Path, data: Sequence[Picture], *, name: str = "annotations.json", images: str = "images"
) -> Path:
    for each in data:
        save(root / images / f"{each.name}.png", each.pixels)
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(coco_document(data)))
    return root


def yolo_text(each: Picture) -> str:
    width, height = each.size
    return "".join(
        f"{LABELS.index(label)} {(box[0] + box[2]) / 2 / width:.8f} {(box[1] + box[3]) / 2 / height:.8f} "
        f"{(box[2] - box[0]) / width:.8f} {(box[3] - box[1]) / height:.8f}\n"
        for label, box in each.things
    )


def write_yolo(root: Path, data: Sequence[Picture], *, part: str = "", yaml: str | None = None) -> Path:
    for each in data:
        save(root / "images" / part / f"{each.name}.png", each.pixels)
        label = root / "labels" / part / f"{each.name}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(yolo_text(each))
    if yaml is not None:
        (root / "data.yaml").write_text(yaml)
    return root


def write_csv(root: Path, data: Sequence[Picture], *, fractions: bool = False, extra: str = "") -> Path:
    rows = ["filename,class,xmin,ymin,xmax,ymax"]
    for each in data:
        save(root / f"{each.name}.png", each.pixels)
        width, height = each.size if fractions else (1, 1)
        for label, box in each.things:
            edges = [box[0] / width, box[1] / height, box[2] / width, box[3] / height]
            rows.append(",".join([f"{each.name}.png", label, *map(str, edges)]))
    (root / "boxes.csv").write_text("\n".join(rows) + "\n" + extra)
    return root
