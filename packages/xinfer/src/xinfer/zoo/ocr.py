"""What does it say, and where? Finding lines of text, reading one line, and both together.

Legend: N lines; T steps and C characters of a reader's output; h, w of a map.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from xinfer._extras import require
from xinfer.errors import CatalogueError
from xinfer.postproc.ctc import greedy_decode
from xinfer.preproc import Geometry
from xinfer.preproc.image import read_image
from xinfer.tasks import ImageInput, TaskSpec, TextDetection, TextRecognition
from xinfer.zoo import drawing
from xinfer.zoo.base import Feeds, Outputs
from xinfer.zoo.classification import ImageClassifier
from xinfer.zoo.images import Image, VisionRunner, image_feeds, read_pixels, sized_feeds

if TYPE_CHECKING:
    from xinfer.catalogue import Entry

MIN_BOX_SIDE = 3
"""Of the map's pixels: smaller spots are noise (PP-OCR's `min_size`)."""
TALL = 1.5
"""A crop this much taller than wide is text that runs downwards."""
UPSIDE_DOWN = 0.9
"""From this probability on a line is turned around."""
_SAMPLE_LINES = ("Invoice No. 20417", "Total 1,284.50 EUR", "BEST BEFORE 07.11.26", "fragile - this side up",
                 "Lot A7-3392", "Hello, world!", "Platform 9", "SERIAL 00X-17")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TextBoxes:
    """Lines of text in one image, in reading order.

    Attributes:
        outlines: float32 [N,4,2]: upper left, upper right, lower right, lower left corner, in the text's own
            direction, in the image's pixels.
        scores: float32 [N].
        image_size: Height and width of the image.
    """

    outlines: np.ndarray = field(compare=False)
    scores: np.ndarray = field(compare=False)
    image_size: tuple[int, int]
    task: TextDetection = field(repr=False)

    def __len__(self) -> int:
        return len(self.scores)

    def draw(self, image: Image) -> np.ndarray:
        """The image, [H,W,3] uint8 RGB, with the outlines."""
        return _draw(image, self.outlines, [""] * len(self), self.image_size, self.task.input.min_side)

    def to_json(self) -> dict[str, Any]:
        """Image size, outlines and scores."""
        return {
            "image": {"width": self.image_size[1], "height": self.image_size[0]},
            "lines": [
                {"outline": outline, "score": score}
                for outline, score in zip(self.outlines.tolist(), self.scores.tolist(), strict=True)
            ],
        }


@dataclass(frozen=True, kw_only=True)
class TextLine:
    """One line that was read; `score` is the mean probability of its characters."""

    text: str
    score: float

    def draw(self, image: Image) -> np.ndarray:
        """The image, [H,W,3] uint8 RGB, with the text in its corner."""
        return drawing.caption(read_pixels(image, min_side=1), (0, 0), self.text, (20, 20, 20))

    def to_json(self) -> dict[str, Any]:
        """Text and score."""
        return {"text": self.text, "score": self.score}


@dataclass(frozen=True, kw_only=True)
class Text:
    """What an image says, in reading order; `outlines` as in `TextBoxes`."""

    lines: tuple[TextLine, ...]
    outlines: np.ndarray = field(compare=False)
    image_size: tuple[int, int]

    def __str__(self) -> str:
        return "\n".join(line.text for line in self.lines)

    def draw(self, image: Image) -> np.ndarray:
        """The image, [H,W,3] uint8 RGB, with outlines and texts (only ASCII can be drawn)."""
        return _draw(image, self.outlines, [line.text for line in self.lines], self.image_size, 1)

    def to_json(self) -> dict[str, Any]:
        """Image size, the whole text and its lines."""
        return {
            "image": {"width": self.image_size[1], "height": self.image_size[0]},
            "text": str(self),
            "lines": [
                {**line.to_json(), "outline": outline}
                for line, outline in zip(self.lines, self.outlines.tolist(), strict=True)
            ],
        }


class TextDetector(VisionRunner[TextDetection, TextBoxes]):
    """Finds lines of text."""

    SPEC = TextDetection

    def interpret(self, outputs: Outputs, context: Geometry) -> TextBoxes:
        """The first image's lines.

        Source: Liao et al., "Real-time Scene Text Detection with Differentiable Binarization" (AAAI 2020),
        "Inference": spots of the map, grown by area x ratio / perimeter.
        """
        cv2 = require("cv2", "image")
        task = self.task
        map_hw = outputs[task.outputs["map"]][0, 0]
        spots_hw = cv2.dilate((map_hw > task.threshold).astype(np.uint8), np.ones((2, 2), np.uint8))
        contours, _ = cv2.findContours(spots_hw, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
        outlines, scores = [], []
        for contour in contours[: task.max_boxes]:
            centre, (width, height), angle = cv2.minAreaRect(contour)
            if min(width, height) < MIN_BOX_SIDE:
                continue
            score = _mean_inside(cv2, map_hw, cv2.boxPoints((centre, (width, height), angle)))
            if score < task.box_threshold:
                continue
            # Growing a rectangle with round corners and taking the smallest rectangle around it again.
            grow = 2 * width * height * task.unclip_ratio / (2 * (width + height))
            size = (width + grow, height + grow)
            outlines.append(upright(cv2.boxPoints((centre, size, angle))))
            scores.append(score)
        corners_N42 = np.array(outlines, np.float32).reshape(-1, 4, 2)
        corners_N42 *= np.array([context.width, context.height], np.float32) / map_hw.shape[::-1]
        corners_N42 = context.points_to_original(corners_N42, clip=True)
        order = reading_order(corners_N42)
        return TextBoxes(
            outlines=corners_N42[order],
            scores=np.array(scores, np.float32)[order],
            image_size=(context.original_height, context.original_width),
            task=task,
        )

    @classmethod
    def samples(cls, task: TaskSpec, images: Iterable[Image]) -> tuple[Feeds, ...]:
        """The images with lines of text on them."""
        assert isinstance(task.input, ImageInput)
        written = [_page(read_pixels(image, min_side=1), seed) for seed, image in enumerate(images)]
        return tuple(image_feeds(task.input, page)[0] for page in written)


class TextRecognizer(VisionRunner[TextRecognition, TextLine]):
    """Reads an image of one line of text."""

    SPEC = TextRecognition

    def prepare(self, x: Image) -> tuple[Feeds, Geometry]:
        """The line at the network's height, its width padded to one of few widths."""
        return line_feeds(self.task, x)

    def interpret(self, outputs: Outputs, context: Geometry) -> TextLine:
        """The first image's text."""
        del context
        probabilities_1TC = outputs[self.task.outputs["probabilities"]][:1]
        (read,) = greedy_decode(probabilities_1TC, charset=self.task.labels)
        return TextLine(text=read.text, score=read.score)

    @classmethod
    def spec_from(cls, entry: Entry, source: Path, assets: dict[str, Path]) -> dict[str, Any]:
        """The characters stand in the model's metadata; blank comes first and the space last."""
        metadata = require("onnx", "build").load(str(source)).metadata_props
        characters = next((prop.value for prop in metadata if prop.key == "character"), None)
        if characters is None:
            return super().spec_from(entry, source, assets)
        return {"labels": ["", *characters.splitlines(), " "]}

    @classmethod
    def samples(cls, task: TaskSpec, images: Iterable[Image]) -> tuple[Feeds, ...]:
        """Lines of text, written onto the images."""
        assert isinstance(task, TextRecognition)
        lines = []
        for text, image in zip(_SAMPLE_LINES, images, strict=False):
            pixels_HW3 = np.ascontiguousarray(read_pixels(image, min_side=1)[:60, :420])
            lines.append(_write(pixels_HW3, text, (10, 42), 1.1, (250, 250, 250)))
        return tuple(line_feeds(task, line)[0] for line in lines)


class OcrReader:
    """Finds and reads the text in images. Thread-safe; a context manager.

    Args:
        model: A catalogue id whose parts are `detector`, `recognizer` and, if there is one, `orientation`;
            None: the three are given.
        detector, recognizer: The two engines; runners, engine files or ids.
        orientation: Tells lines that stand upside down: a classifier of the labels 0 and 180.
        min_score: Lines that were read with less are left out.
        load_options: Passed to `InferenceEngine.load`.

    Raises:
        CatalogueError: There is no such id, or it has no such parts.
        XInferError: Whatever loading or building raises.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        detector: TextDetector | str | os.PathLike[str] | None = None,
        recognizer: TextRecognizer | str | os.PathLike[str] | None = None,
        orientation: ImageClassifier | str | os.PathLike[str] | None = None,
        min_score: float = 0.5,
        **load_options: Any,
    ) -> None:
        if model is not None:
            from xinfer import catalogue

            parts = catalogue.get(model).parts
            detector = detector or parts.get("detector")
            recognizer = recognizer or parts.get("recognizer")
            orientation = orientation or parts.get("orientation")
        if detector is None or recognizer is None:
            raise CatalogueError(
                "reading needs a detector and a recognizer", value=model, hint='try OcrReader("ppocr-v4")'
            )
        self.min_score = min_score
        self.detector = (
            detector if isinstance(detector, TextDetector) else TextDetector(detector, **load_options)
        )
        try:
            self.recognizer = (
                recognizer
                if isinstance(recognizer, TextRecognizer)
                else TextRecognizer(recognizer, **load_options)
            )
            self.orientation = (
                orientation
                if orientation is None or isinstance(orientation, ImageClassifier)
                else ImageClassifier(orientation, **load_options)
            )
        except BaseException:
            self.close()
            raise

    def predict(self, x: Image) -> Text:
        """The text of one image: encoded bytes, a path, or pixels [H,W,3] uint8 RGB.

        Raises:
            ImageDecodeError: It cannot be decoded.
            InputError: The array is not [H,W,3] uint8, or the file cannot be read.
        """
        # Reading needs every pixel, so files are decoded at their full size once.
        pixels_HW3, _ = read_image(x, min_side_for=max)
        found = self.detector.predict(pixels_HW3)
        crops = [cut(pixels_HW3, outline) for outline in found.outlines]
        if self.orientation is not None:
            size = self.orientation.task.input.size
            turned = self.orientation.predict_batch([squeeze(crop, size) for crop in crops])
            crops = [
                crop[::-1, ::-1] if said.label == "180" and said.probability > UPSIDE_DOWN else crop
                for crop, said in zip(crops, turned, strict=True)
            ]
        lines = self.recognizer.predict_batch([np.ascontiguousarray(crop) for crop in crops])
        kept = [index for index, line in enumerate(lines) if line.text and line.score >= self.min_score]
        return Text(
            lines=tuple(lines[index] for index in kept),
            outlines=found.outlines[kept],
            image_size=found.image_size,
        )

    def predict_batch(self, xs: Iterable[Image]) -> list[Text]:
        """The texts of many images, in order."""
        return [self.predict(x) for x in xs]

    def close(self) -> None:
        """Closes the engines."""
        for name in ("detector", "recognizer", "orientation"):
            part = getattr(self, name, None)
            if part is not None:
                part.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def line_feeds(task: TextRecognition, image: Image) -> tuple[Feeds, Geometry]:
    """A line of text as the reader takes it: scaled to its height, its width the next of few.

    Few widths, because runtimes prepare anew for every shape they meet.
    """
    assert task.input.size is not None
    pixels_HW3, _ = read_image(image, min_side_for=max)
    height, least = task.input.size
    width = -(-pixels_HW3.shape[1] * height // pixels_HW3.shape[0])
    width = max(least, min(task.max_width, -(-width // task.width_step) * task.width_step))
    return sized_feeds(task.input, (height, width), pixels_HW3)


def cut(image_HW3: np.ndarray, outline_42: np.ndarray) -> np.ndarray:
    """The part of an image within an outline, straightened; text that runs downwards is laid down."""
    cv2 = require("cv2", "image")
    (a, b, c, d) = outline_42.astype(np.float32)
    width = max(1, round(float(max(np.linalg.norm(a - b), np.linalg.norm(d - c)))))
    height = max(1, round(float(max(np.linalg.norm(a - d), np.linalg.norm(b - c)))))
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    matrix = cv2.getPerspectiveTransform(outline_42.astype(np.float32), corners)
    crop: np.ndarray = cv2.warpPerspective(
        image_HW3, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    return np.rot90(crop) if height >= TALL * width else crop


def squeeze(line_HW3: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """A line that is longer than the network's shape, squeezed to it; others as they are.

    PP-OCR's orientation classifier was trained so (its `resize_norm_img`).
    """
    height, width = line_HW3.shape[:2]
    longest = width if size is None else max(1, round(height * size[1] / size[0]))
    if width <= longest:
        return np.ascontiguousarray(line_HW3)
    squeezed: np.ndarray = require("cv2", "image").resize(np.ascontiguousarray(line_HW3), (longest, height))
    return squeezed


def upright(corners_42: np.ndarray) -> np.ndarray:
    """The corners of a rectangle in the order upper left, upper right, lower right, lower left."""
    by_x = corners_42[np.argsort(corners_42[:, 0], kind="stable")]
    left, right = by_x[:2], by_x[2:]
    (a, d), (b, c) = (side[np.argsort(side[:, 1], kind="stable")] for side in (left, right))
    return np.array([a, b, c, d])


def reading_order(outlines_N42: np.ndarray) -> np.ndarray:
    """Rows from top to bottom, each from left to right; int64 [N].

    Lines stand in one row when the middle of one lies within the inner half of the row's first.
    """
    if not len(outlines_N42):
        return np.zeros(0, np.int64)
    top_N, bottom_N = outlines_N42[:, :, 1].min(axis=1), outlines_N42[:, :, 1].max(axis=1)
    middle_N, left_N = (top_N + bottom_N) / 2, outlines_N42[:, :, 0].min(axis=1)
    rows: list[list[int]] = []
    for index in np.argsort(middle_N, kind="stable").tolist():
        first = rows[-1][0] if rows else None
        if first is not None and middle_N[index] - middle_N[first] < (bottom_N[first] - top_N[first]) / 4:
            rows[-1].append(index)
        else:
            rows.append([index])
    return np.array([index for row in rows for index in sorted(row, key=lambda item: left_N[item])], np.int64)


def _mean_inside(cv2: Any, map_hw: np.ndarray, corners_42: np.ndarray) -> float:
    height, width = map_hw.shape
    left, top = np.clip(np.floor(corners_42.min(axis=0)).astype(int), 0, [width - 1, height - 1])
    right, bottom = np.clip(np.ceil(corners_42.max(axis=0)).astype(int), 0, [width - 1, height - 1])
    mask = np.zeros((bottom - top + 1, right - left + 1), np.uint8)
    cv2.fillPoly(mask, [(corners_42 - [left, top]).astype(np.int32)], 1)
    return float(cv2.mean(np.ascontiguousarray(map_hw[top : bottom + 1, left : right + 1]), mask)[0])


def _draw(
    image: Image, outlines_N42: np.ndarray, texts: list[str], size: tuple[int, int], min_side: int
) -> np.ndarray:
    drawn_HW3 = read_pixels(image, min_side=max(min_side, 256))
    scale_2 = np.array(drawn_HW3.shape[1::-1]) / size[::-1]
    for index, (outline, text) in enumerate(zip(outlines_N42, texts, strict=True)):
        drawn_HW3 = drawing.polygon(drawn_HW3, outline * scale_2, text, drawing.colour(index))
    return drawn_HW3


def _page(image_HW3: np.ndarray, seed: int) -> np.ndarray:
    for row in range(4):
        text = _SAMPLE_LINES[(seed + row) % len(_SAMPLE_LINES)]
        where = (20 + 15 * row, round(image_HW3.shape[0] * (row + 0.7) / 4))
        image_HW3 = _write(image_HW3, text, where, 1.2, (255, 255, 255) if row % 2 else (0, 0, 0))
    return image_HW3


def _write(
    image_HW3: np.ndarray, text: str, where: tuple[int, int], scale: float, rgb: tuple[int, int, int]
) -> np.ndarray:
    cv2 = require("cv2", "image")
    image_HW3 = np.ascontiguousarray(image_HW3).copy()
    edge = tuple(255 - value for value in rgb)
    for colour, thickness in ((edge, 7), (rgb, 2)):
        cv2.putText(image_HW3, text, where, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, thickness, cv2.LINE_AA)
    return image_HW3
