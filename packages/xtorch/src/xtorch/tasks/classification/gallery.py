"""Pictures in the report: the worst mistakes, with what spoke for the wrong answer, and doubtful labels.

Shapes: N images, C classes, h and w rows and columns of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from xtorch.class_metrics import suspicious_labels
from xtorch.data.check import UsableImage
from xtorch.models.classifier import Classifier
from xtorch.tasks.anomaly.gallery import heatmap_overlay
from xtorch.tasks.images import read_pixels
from xtorch.tasks.report import Picture, Table

_WORST = 12
_SUSPICIOUS_SHOWN = 8
_SUSPICIOUS_LISTED = 50
_PICTURE_PX = 256


def worst_mistakes(
    root: Path,
    folder: Path,
    images: Sequence[UsableImage],
    labels: Sequence[str],
    probabilities_NC: np.ndarray,
    model: Classifier,
) -> list[Picture]:
    """Wrong answers, the most confident first, each with a heat map of what spoke for the answer.

    Where there are few mistakes, the narrowest right answers follow: there is always something to see.

    Args:
        root: The dataset's folder.
        folder: Output folder; pictures go into its ``report/``.
        images: Test images, N.
        labels: Names of the classes.
        probabilities_NC: The model's.
    """
    truth_N = np.array([image.label for image in images])
    answers_N = probabilities_NC.argmax(axis=1)
    own_N = probabilities_NC[np.arange(len(images)), truth_N]
    second_N = np.argsort(-probabilities_NC, axis=1, kind="stable")[:, 1]
    margin_N = own_N - np.where(answers_N == truth_N, 1 - own_N, probabilities_NC.max(axis=1))
    shown = []
    for rank, index in enumerate(int(i) for i in np.argsort(margin_N, kind="stable")[:_WORST]):
        image, answer = images[index], int(answers_N[index])
        names = (f"worst_{rank:02d}.jpg", f"worst_{rank:02d}_map.jpg")
        pixels = read_pixels(root, image.path, model.config.input_size)
        with torch.inference_mode():
            map_hw = model.activation_maps(torch.from_numpy(pixels)[None], torch.tensor([answer]))[0].numpy()
        other = int(second_N[index]) if answer == image.label else image.label
        picture = _small(pixels)
        high = float(map_hw.max())
        overlay = heatmap_overlay(np.asarray(picture), map_hw, low=max(0.0, 0.25 * high), high=high)
        _save(picture, folder, names[0])
        _save(overlay, folder, names[1])
        shown.append(
            Picture(
                caption=image.path,
                truth=labels[image.label],
                answer=labels[answer],
                right=answer == image.label,
                images=names,
                note=f"{labels[answer]} {probabilities_NC[index, answer]:.0%}, "
                f"{labels[other]} {probabilities_NC[index, other]:.0%}; marked: what spoke for the answer",
            )
        )
    return shown


def doubtful_labels(
    root: Path,
    folder: Path,
    images: Sequence[UsableImage],
    labels: Sequence[str],
    probabilities_NC: np.ndarray,
    model: Classifier,
) -> tuple[list[Picture], Table | None]:
    """Training images whose label may be wrong, as pictures and as a table; see `suspicious_labels`.

    Args:
        images: Training and validation images, N.
        probabilities_NC: Of models that did not see the image.
    """
    given_N = np.array([image.label for image in images])
    picks = [int(index) for index in suspicious_labels(given_N, probabilities_NC)]
    answers_N = probabilities_NC.argmax(axis=1)
    pictures = []
    for rank, index in enumerate(picks[:_SUSPICIOUS_SHOWN]):
        image, name = images[index], f"label_{rank:02d}.jpg"
        _save(_small(read_pixels(root, image.path, model.config.input_size)), folder, name)
        pictures.append(
            Picture(
                caption=image.path,
                truth=labels[image.label],
                answer=labels[answers_N[index]],
                right=False,
                images=(name,),
                note="Is the label right? Models that did not see this training image say otherwise.",
            )
        )
    if not picks:
        return [], None
    table = Table(
        id="doubtful_labels",
        title="Labels that may be wrong",
        columns=["image", "label", "probability", "more likely", "probability"],
        rows=[
            [
                images[index].path,
                labels[given_N[index]],
                float(probabilities_NC[index, given_N[index]]),
                labels[answers_N[index]],
                float(probabilities_NC[index].max()),
            ]
            for index in picks[:_SUSPICIOUS_LISTED]
        ],
        note=f"{len(picks)} of {len(images)} training images, the most doubtful first. Correcting labels "
        "often helps more than any setting.",
    )
    return pictures, table


def _small(pixels_HW3: np.ndarray) -> Image.Image:
    picture = Image.fromarray(pixels_HW3)
    picture.thumbnail((_PICTURE_PX, _PICTURE_PX), Image.Resampling.BICUBIC)
    return picture


def _save(picture: Image.Image, folder: Path, name: str) -> None:
    (folder / "report").mkdir(parents=True, exist_ok=True)
    picture.save(folder / "report" / name, quality=88)
