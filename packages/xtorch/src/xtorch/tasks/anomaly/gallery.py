"""The report's gallery: the worst mistakes as pictures, with their anomaly maps laid over them.

Shapes: N images, S side of a map, H and W rows and columns of a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from xtorch.data.check import UsableImage
from xtorch.data.layout import LABELS
from xtorch.data.masks import read_mask
from xtorch.tasks.images import read_pixels
from xtorch.tasks.report import Picture

_WORST = 12
_PICTURE_PX = 256


def heatmap_overlay(image_HW3: np.ndarray, map_SS: np.ndarray, *, low: float, high: float) -> Image.Image:
    """A picture with a map (or mask) laid over it: transparent at `low`, red at `high`.

    Args:
        image_HW3: uint8.
        map_SS: Float or bool, of any height and width.
        low, high: Values of the map.
    """
    picture = Image.fromarray(image_HW3)
    level = np.clip((map_SS.astype(np.float32) - low) / max(high - low, 1e-6), 0.0, 1.0)
    mask = Image.fromarray((level * 255).astype(np.uint8)).resize(picture.size, Image.Resampling.BICUBIC)
    level_HW1 = np.asarray(mask, dtype=np.float32)[..., None] / 255
    # Yellow turns into red as the level rises.
    colour_HW3 = np.concatenate(
        [np.full_like(level_HW1, 255), 220 * (1 - level_HW1), np.zeros_like(level_HW1)], axis=2
    )
    blend_HW3 = image_HW3 * (1 - 0.65 * level_HW1) + colour_HW3 * (0.65 * level_HW1)
    return Image.fromarray(blend_HW3.round().astype(np.uint8))


def worst_mistakes(
    root: Path,
    folder: Path,
    images: Sequence[UsableImage],
    scores_N: np.ndarray,
    maps_NSS: np.ndarray,
    *,
    threshold: float,
    map_range: tuple[float, float],
) -> list[Picture]:
    """The images on the wrong side of the threshold, the furthest first, as written pictures.

    Where there are few mistakes, the narrowest right decisions follow, so that there is always something
    to look at.

    Args:
        root: The dataset's folder.
        folder: Output folder; pictures go into its ``report/``.
        images: Test images, N.
        scores_N: Their scores.
        maps_NSS: Their maps.
        threshold: Of the decision.
        map_range: Map values that are drawn as nothing and as red.
    """
    labels_N = np.array([image.label for image in images])
    wrongness_N = np.where(labels_N == 1, threshold - scores_N, scores_N - threshold)
    order = np.argsort(-wrongness_N, kind="stable")[:_WORST]
    (folder / "report").mkdir(parents=True, exist_ok=True)
    gallery = []
    for rank, index in enumerate(int(i) for i in order):
        image, answer = images[index], int(scores_N[index] >= threshold)
        picture = Image.fromarray(read_pixels(root, image.path, _PICTURE_PX))
        picture.thumbnail((_PICTURE_PX, _PICTURE_PX), Image.Resampling.BICUBIC)
        overlay = heatmap_overlay(np.asarray(picture), maps_NSS[index], low=map_range[0], high=map_range[1])
        drawn = {f"worst_{rank:02d}.jpg": picture, f"worst_{rank:02d}_map.jpg": overlay}
        if image.mask is not None:
            mask_HW = read_mask(root / image.mask)
            drawn[f"worst_{rank:02d}_mask.jpg"] = heatmap_overlay(np.asarray(picture), mask_HW, low=0, high=1)
        for name, content in drawn.items():
            content.save(folder / "report" / name, quality=88)
        gallery.append(
            Picture(
                caption=image.path,
                truth=LABELS[image.label] + (f" ({image.kind})" if image.kind else ""),
                answer=LABELS[answer],
                right=answer == image.label,
                images=list(drawn),
                note=f"score {scores_N[index]:.3f}, threshold {threshold:.3f}",
            )
        )
    return gallery
