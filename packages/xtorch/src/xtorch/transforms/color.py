"""Transforms of pixel values; annotations stay as they are.

Legend: H height, W width, C channels (1, or 3 = RGB).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import simplejpeg

from xtorch.errors import DataError, SettingsError
from xtorch.transforms.base import DrawnTransform, draw_seed, interval, uniform
from xtorch.transforms.sample import ImageSample

_LEVELS = np.arange(256, dtype=np.float32)


class PixelTransform(DrawnTransform[ImageSample]):
    """Changes uint8 pixels [H,W,C] into others of the same shape."""

    @abstractmethod
    def pixels(self, image_HWC: np.ndarray, parameters: Mapping[str, Any]) -> np.ndarray:
        """New pixels, uint8 of the same shape."""

    def apply(self, sample: ImageSample, parameters: Mapping[str, Any]) -> ImageSample:
        if sample.image_HWC.dtype != np.uint8:
            raise DataError(
                f"{type(self).__name__} needs uint8 pixels.",
                value=str(sample.image_HWC.dtype),
                hint="put Normalise last",
            )
        pixels = self.pixels(sample.image_HWC, parameters)
        return replace(sample, image_HWC=pixels.reshape(sample.image_HWC.shape))


class ColorJitter(PixelTransform):
    """Changes brightness, contrast, saturation and hue, in this order.

    Args:
        brightness, contrast, saturation: the factor lies in 1-x..1+x, x in 0..1.
        hue: the rotation lies in -x..x turns of the colour circle, x in 0..0.5.

    Source: the enhancements of Pillow's `ImageEnhance`: a blend with black, with the mean grey level, with
    the grey image.
    """

    def __init__(
        self,
        *,
        brightness: float = 0.2,
        contrast: float = 0.2,
        saturation: float = 0.2,
        hue: float = 0.02,
    ) -> None:
        self.brightness = interval("brightness", (1 - brightness, 1 + brightness), least=0, most=2)
        self.contrast = interval("contrast", (1 - contrast, 1 + contrast), least=0, most=2)
        self.saturation = interval("saturation", (1 - saturation, 1 + saturation), least=0, most=2)
        self.hue = interval("hue", (-hue, hue), least=-0.5, most=0.5)

    def draw(self, sample: ImageSample, rng: np.random.Generator) -> dict[str, Any]:  # noqa: ARG002
        return {
            name: uniform(rng, getattr(self, name))
            for name in ("brightness", "contrast", "saturation", "hue")
        }

    def pixels(self, image_HWC: np.ndarray, parameters: Mapping[str, Any]) -> np.ndarray:
        bright_256 = (_LEVELS * parameters["brightness"]).clip(0, 255)
        grey_HW = (
            image_HWC[..., 0] if image_HWC.shape[2] == 1 else cv2.cvtColor(image_HWC, cv2.COLOR_RGB2GRAY)
        )
        mean = float(bright_256 @ np.bincount(grey_HW.ravel(), minlength=256) / grey_HW.size)
        contrast = parameters["contrast"]
        table_256 = np.rint(mean + (bright_256 - mean) * contrast).clip(0, 255).astype(np.uint8)
        result = np.asarray(cv2.LUT(image_HWC, table_256))
        if image_HWC.shape[2] == 1:
            return result
        saturation = parameters["saturation"]
        grey_HW3 = cv2.cvtColor(cv2.cvtColor(result, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        result = cv2.addWeighted(result, saturation, grey_HW3, 1 - saturation, 0)
        return shift_hsv(result, hue=parameters["hue"] * 180, saturation=0, value=0)


class HSV(PixelTransform):
    """Shifts hue, saturation and value, each with a probability of one half.

    Args:
        hue: greatest shift, in units of 2 degrees (0..180 is the whole circle).
        saturation, value: greatest shift, in levels of 0..255.

    Source: YOLOX's `augment_hsv` (Megvii, `yolox/data/data_augment.py`), with its defaults.
    """

    def __init__(self, *, hue: float = 5.0, saturation: float = 30.0, value: float = 30.0) -> None:
        self.hue = interval("hue", (-hue, hue), least=-90, most=90)
        self.saturation = interval("saturation", (-saturation, saturation), least=-255, most=255)
        self.value = interval("value", (-value, value), least=-255, most=255)

    def draw(self, sample: ImageSample, rng: np.random.Generator) -> dict[str, Any]:  # noqa: ARG002
        return {
            name: uniform(rng, getattr(self, name)) * int(rng.integers(2))
            for name in ("hue", "saturation", "value")
        }

    def pixels(self, image_HWC: np.ndarray, parameters: Mapping[str, Any]) -> np.ndarray:
        return shift_hsv(image_HWC, **parameters)


def shift_hsv(image_HWC: np.ndarray, *, hue: float, saturation: float, value: float) -> np.ndarray:
    """uint8 RGB [H,W,3] with shifted hue (units of 2 degrees), saturation and value; [H,W,1]: value only."""
    if not (hue or saturation or value):
        return image_HWC
    value_256 = (_LEVELS + value).clip(0, 255).astype(np.uint8)
    if image_HWC.shape[2] == 1:
        return np.asarray(cv2.LUT(image_HWC, value_256))
    hue_256 = np.rint(_LEVELS + hue) % 180
    saturation_256 = (_LEVELS + saturation).clip(0, 255)
    table_2563 = np.stack([hue_256, saturation_256, value_256], axis=1).astype(np.uint8)
    hsv_HW3 = cv2.LUT(cv2.cvtColor(image_HWC, cv2.COLOR_RGB2HSV), table_2563[:, None])
    return np.asarray(cv2.cvtColor(hsv_HW3, cv2.COLOR_HSV2RGB))


class GaussianBlur(PixelTransform):
    """Blurs with a Gaussian.

    Args:
        sigma: least and most standard deviation, in pixels.
    """

    def __init__(self, sigma: tuple[float, float] = (0.1, 2.0)) -> None:
        self.sigma = interval("sigma", sigma, least=1e-3, most=100)

    def draw(self, sample: ImageSample, rng: np.random.Generator) -> dict[str, Any]:  # noqa: ARG002
        return {"sigma": uniform(rng, self.sigma)}

    def pixels(self, image_HWC: np.ndarray, parameters: Mapping[str, Any]) -> np.ndarray:
        return np.asarray(cv2.GaussianBlur(image_HWC, (0, 0), parameters["sigma"]))


class GaussianNoise(PixelTransform):
    """Adds independent Gaussian noise to every value.

    Args:
        std: least and most standard deviation, in levels of 0..255.
    """

    def __init__(self, std: tuple[float, float] = (1.0, 10.0)) -> None:
        self.std = interval("std", std, least=0, most=255)

    def draw(self, sample: ImageSample, rng: np.random.Generator) -> dict[str, Any]:  # noqa: ARG002
        return {"std": uniform(rng, self.std), "seed": draw_seed(rng)}

    def pixels(self, image_HWC: np.ndarray, parameters: Mapping[str, Any]) -> np.ndarray:
        rng = np.random.default_rng(parameters["seed"])
        noise_HWC = rng.standard_normal(image_HWC.shape, dtype=np.float32)
        return np.rint(image_HWC + noise_HWC * parameters["std"]).clip(0, 255).astype(np.uint8)


class JPEGArtifacts(PixelTransform):
    """Compresses as JPEG and decodes again.

    Args:
        quality: least and most quality, 1..100.
    """

    def __init__(self, quality: tuple[int, int] = (30, 95)) -> None:
        low, high = interval("quality", quality, least=1, most=100)
        self.quality = int(low), int(high)

    def draw(self, sample: ImageSample, rng: np.random.Generator) -> dict[str, Any]:  # noqa: ARG002
        return {"quality": int(rng.integers(self.quality[0], self.quality[1] + 1))}

    def pixels(self, image_HWC: np.ndarray, parameters: Mapping[str, Any]) -> np.ndarray:
        color = "RGB" if image_HWC.shape[2] == 3 else "GRAY"
        data = simplejpeg.encode_jpeg(
            np.ascontiguousarray(image_HWC), quality=parameters["quality"], colorspace=color
        )
        return np.asarray(simplejpeg.decode_jpeg(data, color))


class RandomErasing(PixelTransform):
    """Covers a rectangle with noise or a grey level.

    Args:
        area: least and most share of the image's area.
        ratio: least and most aspect ratio, width / height.
        fill: grey level, or None for uniform noise.

    Source: Zhong et al., "Random Erasing Data Augmentation" (AAAI 2020), algorithm 1; with a level and a
    square also DeVries and Taylor, "Improved Regularization of CNNs with Cutout" (2017), section 3.
    """

    def __init__(
        self,
        *,
        area: tuple[float, float] = (0.02, 0.33),
        ratio: tuple[float, float] = (0.3, 3.3),
        fill: int | None = None,
    ) -> None:
        self.area = interval("area", area, least=0, most=1)
        self.ratio = interval("ratio", ratio, least=1e-2, most=1e2)
        if fill is not None and not 0 <= fill <= 255:
            raise SettingsError("fill must lie in 0..255.", value=fill)
        self.fill = fill

    def draw(self, sample: ImageSample, rng: np.random.Generator) -> dict[str, Any]:
        height, width = sample.size
        area = height * width * uniform(rng, self.area)
        ratio = math.exp(uniform(rng, (math.log(self.ratio[0]), math.log(self.ratio[1]))))
        # Cut to the image where the paper draws again: at most one attempt, nearly the same rectangles.
        box_width = min(width, max(1, round(math.sqrt(area * ratio))))
        box_height = min(height, max(1, round(math.sqrt(area / ratio))))
        x, y = int(rng.integers(width - box_width + 1)), int(rng.integers(height - box_height + 1))
        return {"box": [x, y, box_width, box_height], "seed": draw_seed(rng)}

    def pixels(self, image_HWC: np.ndarray, parameters: Mapping[str, Any]) -> np.ndarray:
        x, y, width, height = parameters["box"]
        result = image_HWC.copy()
        covered = result[y : y + height, x : x + width]
        if self.fill is not None:
            covered[...] = self.fill
        else:
            rng = np.random.default_rng(parameters["seed"])
            covered[...] = rng.integers(256, size=covered.shape, dtype=np.uint8)
        return result


class Normalise(DrawnTransform[ImageSample]):
    """uint8 [H,W,C] -> float32 [H,W,C], (x - mean) / std; comes last.

    Models that are exported normalise in their graph (`xtorch.models.resize.Preprocess`) and need uint8.

    Args:
        mean, std: of values in 0..255, for all channels or one each.
    """

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        self.mean_C, self.std_C = np.asarray(mean, np.float32), np.asarray(std, np.float32)
        if not (np.all(np.isfinite(self.mean_C)) and np.all(np.isfinite(self.std_C) & (self.std_C > 0))):
            raise SettingsError("mean must be finite and std positive.", value=[mean, std])

    def draw(self, sample: ImageSample, rng: np.random.Generator) -> dict[str, Any]:  # noqa: ARG002
        return {}

    def apply(self, sample: ImageSample, parameters: Mapping[str, Any]) -> ImageSample:  # noqa: ARG002
        image_HWC = (sample.image_HWC.astype(np.float32) - self.mean_C) / self.std_C
        return replace(sample, image_HWC=image_HWC)
