"""What the vision tasks share: user input to pixels to feeds, coordinates back, sample images, building.

Legend: H, W of the user's image; h, w of what the network takes.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar, cast

import numpy as np

from xinfer._extras import require
from xinfer.preproc import Geometry, ImageProcessor, read_image
from xinfer.tasks import ImageInput, TaskSpec
from xinfer.zoo.base import BuildInput, Feeds, Outputs, ResultT, TaskRunner

if TYPE_CHECKING:
    from xinfer.builders.preprocessing import YoloxHead
    from xinfer.catalogue import Entry

Image = bytes | np.ndarray | str | os.PathLike[str]
"""Encoded bytes, [H,W,3] uint8 RGB pixels, or a path."""

SpecT = TypeVar("SpecT", bound=TaskSpec)
NUM_SAMPLES = 6


def read_pixels(image: Image, *, min_side: int) -> np.ndarray:
    """An image's pixels, [H,W,3] uint8 RGB; files may be decoded smaller, not below `min_side`.

    Raises:
        ImageDecodeError: It cannot be decoded.
        InputError: The array is not [H,W,3] uint8, or the file cannot be read.
    """
    return read_image(image, min_side_for=lambda _: min_side)[0]


def image_feeds(spec: ImageInput, image: Image) -> tuple[Feeds, Geometry]:
    """One image as the model takes it, and the way back.

    Raises:
        ImageDecodeError: It cannot be decoded.
        InputError: The array is not [H,W,3] uint8, or the file cannot be read.
    """
    if spec.size is not None:
        return sized_feeds(spec, spec.size, image)
    pixels_hw3, (height, width) = read_image(image, min_side_for=lambda _: spec.min_side)
    h, w = pixels_hw3.shape[:2]
    geometry = Geometry(
        original_height=height,
        original_width=width,
        height=h,
        width=w,
        scale_x=w / width,
        scale_y=h / height,
        offset_x=0.0,
        offset_y=0.0,
    )
    return {spec.name: pixels_hw3[None]}, geometry


def sized_feeds(spec: ImageInput, size: tuple[int, int], image: Image) -> tuple[Feeds, Geometry]:
    """As `image_feeds`, at another size than the spec's (height, width)."""
    assert spec.mode != "any"
    pixels_1hw3, geometry = _processor(size, spec.mode, spec.pad_value)(image)
    return {spec.name: pixels_1hw3}, geometry


@lru_cache(maxsize=64)
def _processor(
    size: tuple[int, int], mode: Literal["letterbox", "stretch", "crop"], pad_value: int
) -> ImageProcessor:
    """Normalising stands in the graph: pixels stay pixels."""
    return ImageProcessor(
        size, mode=mode, pad_value=pad_value, layout="NHWC", dtype="uint8", anchor="top-left"
    )


def sample_images(num: int = NUM_SAMPLES, *, size: tuple[int, int] = (480, 640), seed: int = 0) -> list[Any]:
    """Pictures with the statistics of photographs, for builds without data: [H,W,3] uint8 each.

    Good for comparing an engine with its source, not for calibrating INT8.

    Source: the dead-leaves model, A. Lee, D. Mumford, J. Huang, "Occlusion Models for Natural Images", IJCV
    2001, section 3: discs that occlude each other, radii drawn with density r**-3.
    """
    cv2 = require("cv2", "image")
    rng = np.random.default_rng(seed)
    height, width = size
    images = []
    for _ in range(num):
        canvas = np.full((height, width, 3), 127, np.uint8)
        low, high = 4.0, min(size) / 2
        # Inverse of the distribution function of r**-3 between low and high.
        radii = 1 / np.sqrt(rng.uniform(high**-2, low**-2, 1500))
        for radius in radii:
            colour = [int(value) for value in rng.integers(0, 256, 3)]
            centre = (int(rng.integers(0, width)), int(rng.integers(0, height)))
            cv2.circle(canvas, centre, int(radius), colour, -1)
        grain = rng.normal(0, 4, canvas.shape)
        images.append(np.clip(cv2.GaussianBlur(canvas, (3, 3), 0) + grain, 0, 255).astype(np.uint8))
    return images


class VisionRunner(TaskRunner[SpecT, ResultT], Generic[SpecT, ResultT]):
    """A task whose input is one image: encoded bytes, a path, or pixels [H,W,3] uint8 RGB."""

    HEADS: ClassVar[dict[str, type[YoloxHead]]] = {}
    """Name in the entry's settings -> the tail that the graph gets."""
    FLOAT_NODES: ClassVar[tuple[str, ...]] = ("preprocess/*", "decode/*")

    def prepare(self, x: Image) -> tuple[Feeds, Geometry]:
        """The image at the network's size, and the way back to the image's pixels."""
        return image_feeds(cast("ImageInput", self.task.input), x)

    @abstractmethod
    def interpret(self, outputs: Outputs, context: Geometry) -> ResultT:
        """The result for one image."""

    @classmethod
    def build_input(cls, entry: Entry, folder: Path) -> BuildInput:
        """Wraps the source so that it takes uint8 images; accuracy is agreement on generated pictures.

        Raises:
            FetchError: A file of the entry cannot be had.
            SourceModelError: The model cannot be wrapped.
        """
        from xinfer import catalogue

        assert entry.source is not None
        source = catalogue.fetch(entry.source, folder)
        assets = {name: catalogue.fetch(file, folder) for name, file in entry.assets.items()}
        task = entry.task_spec(**cls.spec_from(entry, source, assets))
        onnx = source if entry.preprocessing is None else cls._wrapped(entry, source, folder, task)
        return BuildInput(
            onnx=onnx,
            task=task,
            samples=cls.samples(task, sample_images()),
            float_nodes=cls.FLOAT_NODES,
            metric=str(entry.settings.get("build_metric", "cosine")),
            max_drop=float(entry.settings.get("max_drop", 0.01)),
        )

    @classmethod
    def samples(cls, task: TaskSpec, images: Iterable[Image]) -> tuple[Feeds, ...]:
        """Images as this task's model takes them."""
        return tuple(image_feeds(cast("ImageInput", task.input), image)[0] for image in images)

    @classmethod
    def spec_from(cls, entry: Entry, source: Path, assets: dict[str, Path]) -> dict[str, Any]:
        """Fields of the spec that stand in files: class names from the asset ``labels.json``."""
        del entry, source
        if "labels.json" not in assets:
            return {}
        from xinfer.package import read_labels

        return {"labels": list(read_labels(assets["labels.json"].read_bytes()))}

    @classmethod
    def _wrapped(cls, entry: Entry, source: Path, folder: Path, task: TaskSpec) -> Path:
        from xinfer.builders.preprocessing import wrap

        assert entry.preprocessing is not None
        head = entry.settings.get("head")
        return wrap(
            source,
            folder / f"{entry.id}.wrapped.onnx",
            entry.preprocessing,
            input_name=task.input.name,
            batch=entry.settings.get("batch"),
            outputs=entry.settings.get("outputs"),
            only_output=entry.settings.get("only_output"),
            head=None if head is None else cls.HEADS[head](),
        )
