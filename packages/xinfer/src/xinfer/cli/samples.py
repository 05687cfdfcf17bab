"""Model inputs from files and folders, or made up where there are none.

Legend: N samples, H, W of an image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xinfer.errors import InputError
from xinfer.tasks import ImageInput, TaskSpec

Feeds = dict[str, np.ndarray]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
MAX_SAMPLES = 256
NUM_RANDOM = 8
NUM_RANDOM_CALIBRATION = 32


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One input of a model. A dimension of -1 is free."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def read_samples(
    path: Path, tensors: Sequence[Tensor], task: TaskSpec | None, *, limit: int = MAX_SAMPLES
) -> tuple[Feeds, ...]:
    """Samples from a file or a folder.

    Args:
        path: An ``.npz`` file (a key per input), an ``.npy`` file (of the only input), or a folder of
            such, or of images where the model takes one. An array with one axis more than its input, or
            whose first axis is longer than the input's 1, holds many samples.
        tensors: The model's inputs.
        task: Says how images come to the model's size, where there is one.
        limit: How many to take.

    Returns:
        One dict per sample, in the order of the files' names.

    Raises:
        InputError: There are none, or they do not fit the model.
    """
    samples: list[Feeds] = []
    for sample in _samples(path, tensors, task):
        samples.append(sample)
        if len(samples) == limit:
            break
    if not samples:
        raise InputError(
            f"{path} holds no samples",
            value=str(path),
            hint="give .npz or .npy files, or images where the model takes an image",
        )
    return tuple(samples)


def image_spec(tensors: Sequence[Tensor], task: TaskSpec | None) -> ImageInput | None:
    """How images become this model's input, None where it takes no images as they are."""
    if task is not None:
        return task.input if isinstance(task.input, ImageInput) else None
    if len(tensors) != 1:
        return None
    (tensor,) = tensors
    if tensor.dtype != "uint8" or len(tensor.shape) != 4 or tensor.shape[3] != 3:
        return None
    height, width = tensor.shape[1:3]
    if height > 0 and width > 0:
        return ImageInput(
            name=tensor.name, color="RGB", min_side=min(height, width), size=(height, width), mode="stretch"
        )
    return ImageInput(name=tensor.name, color="RGB", min_side=1 << 20)


def image_files(folder: Path) -> list[Path]:
    """The images below a folder, sorted by path."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)


def random_samples(
    tensors: Sequence[Tensor], shapes: Sequence[Mapping[str, tuple[int, ...]]], *, num: int, seed: int
) -> tuple[Feeds, ...]:
    """Random inputs, the same for the same seed.

    Args:
        tensors: The model's inputs.
        shapes: Input -> dimensions; samples take these in turn.
        num: How many.
        seed: Of the generator.

    Raises:
        InputError: An input's type is not one that numbers can be drawn for.
    """
    from xinfer.sources.shapes import feeds_for

    dtypes = {tensor.name: tensor.dtype for tensor in tensors}
    return tuple(
        feeds_for(shapes[index % len(shapes)], dtypes, seed=seed * 1_000_003 + index) for index in range(num)
    )


def _samples(path: Path, tensors: Sequence[Tensor], task: TaskSpec | None) -> Iterator[Feeds]:
    if path.is_file():
        yield from _from_file(path, tensors, task)
        return
    if not path.is_dir():
        raise InputError(f"there is no file or folder {path}", value=str(path))
    arrays = sorted(item for item in path.rglob("*") if item.suffix in (".npz", ".npy"))
    for file in arrays or image_files(path):
        yield from _from_file(file, tensors, task)


def _from_file(file: Path, tensors: Sequence[Tensor], task: TaskSpec | None) -> Iterator[Feeds]:
    if file.suffix.lower() in IMAGE_SUFFIXES:
        yield _from_image(file, tensors, task)
        return
    arrays = _arrays(file, tensors)
    wanted = {tensor.name for tensor in tensors}
    if arrays.keys() != wanted:
        raise InputError(
            f"{file.name} holds {sorted(arrays)}, the model takes {sorted(wanted)}", value=sorted(arrays)
        )
    split = {tensor.name: _split(arrays[tensor.name], tensor, file) for tensor in tensors}
    counts = {len(parts) for parts in split.values()}
    if len(counts) > 1:
        raise InputError(f"{file.name} holds different numbers of samples: {sorted(counts)}", value=file.name)
    for index in range(counts.pop()):
        yield {name: parts[index] for name, parts in split.items()}


def _from_image(file: Path, tensors: Sequence[Tensor], task: TaskSpec | None) -> Feeds:
    spec = image_spec(tensors, task)
    if spec is None:
        takes = ", ".join(f"{tensor.name}: {tensor.dtype} {list(tensor.shape)}" for tensor in tensors)
        raise InputError(
            f"{file.name} is an image, but the model does not take images as they are ({takes})",
            value=file.name,
            hint="give .npz samples that are preprocessed as the model wants them",
        )
    from xinfer.zoo.images import image_feeds

    return image_feeds(spec, file)[0]


def _arrays(file: Path, tensors: Sequence[Tensor]) -> dict[str, np.ndarray]:
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as opened:
                return {name: opened[name] for name in opened.files}
        if file.suffix == ".npy":
            if len(tensors) != 1:
                raise InputError(
                    f"{file.name} is one array, the model takes {[tensor.name for tensor in tensors]}",
                    value=file.name,
                    hint="give .npz files with a key per input",
                )
            return {tensors[0].name: np.load(file, allow_pickle=False)}
    except InputError:
        raise
    except Exception as error:
        # A damaged file reaches far into NumPy's and zipfile's code.
        raise InputError(f"{file.name} cannot be read: {error}", value=str(file)) from error
    raise InputError(
        f"{file.name} is neither .npz nor .npy nor an image", value=file.name, hint="give one of these"
    )


def _split(array: np.ndarray, tensor: Tensor, file: Path) -> list[np.ndarray]:
    """The samples in an array, each of the input's own number of axes."""
    array = _as_dtype(array, tensor, file)
    rank = len(tensor.shape)
    if array.ndim == rank + 1:
        return list(array)
    if array.ndim == rank and rank and tensor.shape[0] in (1, -1):
        return [array[index : index + 1] for index in range(len(array))]
    if array.ndim == rank:
        return [array]
    raise InputError(
        f"{file.name}: {tensor.name!r} has shape {list(array.shape)}, the model takes {list(tensor.shape)}",
        value=list(array.shape),
    )


def _as_dtype(array: np.ndarray, tensor: Tensor, file: Path) -> Any:
    wanted = np.dtype(tensor.dtype)
    if array.dtype == wanted:
        return array
    if not np.can_cast(array.dtype, wanted, "same_kind"):
        raise InputError(
            f"{file.name}: {tensor.name!r} is {array.dtype}, the model takes {wanted}", value=str(array.dtype)
        )
    return array.astype(wanted)
