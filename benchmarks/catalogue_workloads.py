"""What the catalogue's models are measured on: real inputs, true answers where there are any, and agreement.

Photographs are of COCO val2017 (128, with boxes) and of the clothing data (200 held out, 600 to calibrate
with); texts are of AG News, lines of text are its headlines, written with Pillow's own font onto paper, with
some noise.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from xinfer.postproc.boxes import iou_matrix
from xinfer.zoo.metrics import Objects, average_precision
from xinfer.zoo.ocr import squeeze

Results = Sequence[Any]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One entry's measurement.

    Attributes:
        inputs: What the task's `predict` takes; the first `num_labelled` have true answers.
        calibration: The same, never measured on; empty: INT8 is not tried.
        metric: Name of what `score` measures against the truth; None: there is no truth here.
        score: From the results of the labelled inputs to 0..1.
        agreement: From the results of the engine and of the source model to 0..1.
        settings: Fields of the task spec that metrics need changed (weak detections count).
    """

    inputs: list[Any]
    agreement: Callable[[Results, Results], float]
    calibration: list[Any] = field(default_factory=list)
    metric: str | None = None
    score: Callable[[Results], float] | None = None
    num_labelled: int = 0
    settings: dict[str, Any] = field(default_factory=dict)


def coco(data: Path) -> list[tuple[Path, Objects]]:
    """The photographs and their true boxes as fractions of the image: class, box."""
    folder, pairs = data / "coco128_val", []
    for path in sorted((folder / "images").glob("*.jpg")):
        label = folder / "labels" / f"{path.stem}.txt"
        rows = np.loadtxt(label, ndmin=2) if label.is_file() else np.zeros((0, 5))
        centre, half = rows[:, 1:3], rows[:, 3:5] / 2
        boxes = np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)
        pairs.append((path, Objects(boxes=boxes, classes=rows[:, 0].astype(int))))
    return pairs


def clothing(data: Path, part: str) -> list[Path]:
    """Photographs of the clothing data, the classes in turns."""
    classes = [sorted(folder.glob("*.jpg")) for folder in sorted((data / "clothing" / part).iterdir())]
    return [path for row in zip_longest(*classes) for path in row if path is not None]


def objects(result: Any, classes: bool = True) -> Objects:
    """A result with boxes as fractions of the image."""
    size = np.tile(result.image_size[::-1], 2).astype(np.float32)
    labels = result.classes if classes else np.zeros(len(result), int)
    return Objects(boxes=result.boxes / size, classes=labels, scores=result.scores)


def overlap_f1(found: Sequence[Objects], wanted: Sequence[Objects]) -> float:
    """F1 of boxes that meet their counterparts with an overlap of at least one half, one to one."""
    hits = sum(
        _matches(one.boxes[one.classes == label], other.boxes[other.classes == label])
        for one, other in zip(found, wanted, strict=True)
        for label in np.unique(other.classes)
    )
    total = sum(len(each.boxes) for each in (*found, *wanted))
    return 2 * hits / total if total else 1.0


def _matches(found_N4: np.ndarray, wanted_M4: np.ndarray) -> int:
    if not len(found_N4) or not len(wanted_M4):
        return 0
    overlap_NM, hits = iou_matrix(found_N4, wanted_M4), 0
    while overlap_NM.max() >= 0.5:
        row, column = np.unravel_index(int(overlap_NM.argmax()), overlap_NM.shape)
        overlap_NM[row], overlap_NM[:, column], hits = 0, 0, hits + 1
    return hits


def text_likeness(found: str, wanted: str) -> float:
    """1 less the edit distance over the longer length; spaces do not count.

    Source: V. Levenshtein, "Binary codes capable of correcting deletions, insertions, and reversals", 1966.
    """
    found, wanted = found.replace(" ", ""), wanted.replace(" ", "")
    row = list(range(len(wanted) + 1))
    for i, a in enumerate(found, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(wanted, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    longest = max(len(found), len(wanted))
    return 1 - row[-1] / longest if longest else 1.0


def headlines(data: Path, num: int) -> list[str]:
    """Beginnings of news items, in ASCII, at most 36 characters."""
    texts = []
    with (data / "ag_news" / "test.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.reader(file):
            words = row[1].split()
            while words and len(" ".join(words)) > 36:
                words.pop()
            text = " ".join(words)
            if len(text) > 12 and text.isascii():
                texts.append(text)
    return texts[:num]


def line_image(text: str, seed: int) -> np.ndarray:
    """One written line, [H,W,3] uint8."""
    rng = np.random.default_rng(seed)
    font = ImageFont.load_default(int(rng.integers(24, 44)))
    left, top, right, bottom = font.getbbox(text)
    paper = tuple(int(value) for value in rng.integers(215, 256, 3))
    page = Image.new("RGB", (int(right - left) + 24, int(bottom - top) + 18), paper)
    ink = tuple(int(value) for value in rng.integers(0, 70, 3))
    ImageDraw.Draw(page).text((12 - left, 8 - top), text, fill=ink, font=font)
    noisy = np.asarray(page, np.float32) + rng.normal(0, 6, (page.height, page.width, 1))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def page_image(texts: Sequence[str], seed: int) -> tuple[np.ndarray, Objects]:
    """Lines on a page, and where they stand, as fractions."""
    rng = np.random.default_rng(seed)
    width, height = 800, 600
    page = Image.new("RGB", (width, height), tuple(int(value) for value in rng.integers(215, 256, 3)))
    draw, boxes, y = ImageDraw.Draw(page), [], 30
    for text in texts:
        font = ImageFont.load_default(int(rng.integers(20, 36)))
        x = int(rng.integers(20, 120))
        box = draw.textbbox((x, y), text, font=font)
        draw.text((x, y), text, fill=tuple(int(value) for value in rng.integers(0, 70, 3)), font=font)
        boxes.append(box)
        y += int(rng.integers(70, 100))
    fractions = np.array(boxes, np.float32) / [width, height, width, height]
    return np.asarray(page), Objects(boxes=fractions.astype(np.float32), classes=np.zeros(len(boxes), int))


def _outline_boxes(result: Any) -> Objects:
    corners = result.outlines / np.array(result.image_size[::-1], np.float32)
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).reshape(-1, 4)
    return Objects(boxes=boxes, classes=np.zeros(len(boxes), int))


def same_label(engine: Results, source: Results) -> float:
    """Share of inputs with the same best label."""
    return float(np.mean([a.label == b.label for a, b in zip(engine, source, strict=True)]))


def detector(data: Path, num: int) -> Workload:
    """Objects in photographs: AP50 on COCO's, agreement on all."""
    pairs = coco(data)[:num]
    truths = [truth for _, truth in pairs]
    return Workload(
        inputs=[*(path for path, _ in pairs), *clothing(data, "test")[: max(0, num - len(pairs))]],
        calibration=[*clothing(data, "train")[:64]],
        metric="ap50",
        score=lambda results: float(
            np.mean(list(average_precision([objects(r) for r in results], truths[: len(results)]).values()))
        ),
        num_labelled=len(pairs),
        agreement=lambda a, b: overlap_f1(_strong(a, True), _strong(b, True)),
        settings={"score_threshold": 0.01},
    )


def _strong(results: Results, classes: bool) -> list[Objects]:
    """What is shown to a user: detections of at least 0.3."""
    found = [objects(result, classes) for result in results]
    return [
        Objects(boxes=each.boxes[keep], classes=each.classes[keep], scores=each.scores[keep])
        for each in found
        if each.scores is not None
        for keep in [each.scores >= 0.3]
    ]


def faces(data: Path, num: int) -> Workload:
    """Faces in photographs: agreement only."""
    inputs = [*(path for path, _ in coco(data)), *clothing(data, "test")][:num]
    return Workload(
        inputs=inputs,
        calibration=clothing(data, "train")[:48],
        agreement=lambda a, b: overlap_f1([objects(r, False) for r in a], [objects(r, False) for r in b]),
    )


GARMENTS = {
    "dress": {578, 601, 655, 689}, "hat": {439, 452, 515, 793, 808}, "longsleeve": {474, 610, 841},
    "outwear": {474, 568, 617, 735, 841, 869}, "pants": {608}, "shirt": {474, 610, 697, 834},
    "shoes": {502, 514, 630, 770, 774, 788}, "shorts": {842}, "skirt": {601, 655, 689}, "t-shirt": {610},
}  # fmt: skip
"""Class of the clothing data -> ImageNet's classes that name such a thing; rough, the same for both sides."""


def classifier(data: Path, num: int) -> Workload:
    """Garments in photographs: is the best of ImageNet's labels one that names such a thing?"""
    paths = clothing(data, "test")[:num]
    wanted = [GARMENTS[path.parent.name] for path in paths]
    return Workload(
        inputs=paths,
        calibration=clothing(data, "train")[:128],
        metric="garment_accuracy",
        score=lambda results: float(
            np.mean([int(r.probabilities.argmax()) in w for r, w in zip(results, wanted, strict=False)])
        ),
        num_labelled=len(paths),
        agreement=same_label,
    )


def text_lines(data: Path, num: int) -> Workload:
    """Written headlines, read: likeness to what was written."""
    texts = headlines(data, num + 32)
    images = [line_image(text, seed) for seed, text in enumerate(texts)]
    return Workload(
        inputs=images[:num],
        calibration=images[num:],
        metric="character_accuracy",
        score=lambda results: float(
            np.mean([text_likeness(r.text, text) for r, text in zip(results, texts, strict=False)])
        ),
        num_labelled=num,
        agreement=lambda a, b: float(
            np.mean([text_likeness(x.text, y.text) for x, y in zip(a, b, strict=True)])
        ),
    )


def text_direction(data: Path, num: int) -> Workload:
    """Written headlines, every other one upside down."""
    lines = [line_image(text, seed) for seed, text in enumerate(headlines(data, num + 64))]
    # As `OcrReader` does it.
    images = [squeeze(line, (48, 192)) for line in lines]
    images = [np.ascontiguousarray(im[::-1, ::-1]) if i % 2 else im for i, im in enumerate(images)]
    wanted = ["180" if index % 2 else "0" for index in range(num)]
    return Workload(
        inputs=images[:num],
        calibration=images[num:],
        metric="accuracy",
        score=lambda results: float(
            np.mean([r.label == label for r, label in zip(results, wanted, strict=False)])
        ),
        num_labelled=num,
        agreement=same_label,
    )


def text_pages(data: Path, num: int) -> Workload:
    """Pages of written headlines: where the lines stand."""
    texts = headlines(data, 2000)
    pages = [page_image([texts[(6 * i + row) % len(texts)] for row in range(6)], i) for i in range(num + 16)]
    truths = [truth for _, truth in pages]
    return Workload(
        inputs=[image for image, _ in pages[:num]],
        calibration=[image for image, _ in pages[num:]],
        metric="line_f1",
        score=lambda results: overlap_f1([_outline_boxes(r) for r in results], truths[: len(results)]),
        num_labelled=num,
        agreement=lambda a, b: overlap_f1([_outline_boxes(r) for r in a], [_outline_boxes(r) for r in b]),
    )


def news(data: Path, num: int) -> Workload:
    """News items: does the nearest of the others treat of the same topic?"""
    with (data / "ag_news" / "test.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[: num + 96]
    texts, topics_N = (
        [f"{title}. {text}" for _, title, text in rows],
        np.array([row[0] for row in rows[:num]]),
    )

    def same_topic(results: Results) -> float:
        vectors_ND = np.stack([result.vector for result in results])
        cosines_NN = vectors_ND @ vectors_ND.T
        np.fill_diagonal(cosines_NN, -np.inf)
        return float(np.mean(topics_N[cosines_NN.argmax(1)] == topics_N))

    return Workload(
        inputs=texts[:num],
        calibration=texts[num:],
        metric="nearest_topic_accuracy",
        score=same_topic,
        num_labelled=num,
        agreement=lambda a, b: float(np.mean([x.vector @ y.vector for x, y in zip(a, b, strict=True)])),
    )


WORKLOADS: dict[str, Callable[[Path, int], Workload]] = {
    "efficientnet-lite0-imagenet": classifier,
    "mobilenet-v2-imagenet": classifier,
    "yolox-nano-coco": detector,
    "centerface": faces,
    "ppocr-v4-det": text_pages,
    "ppocr-v4-rec": text_lines,
    "ppocr-v2-cls": text_direction,
    "all-minilm-l6-v2": news,
}
"""Entry -> its workload. Entries without one are measured on their own held-out samples, by cosine."""
