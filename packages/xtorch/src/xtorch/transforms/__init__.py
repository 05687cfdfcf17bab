"""Augmentations for images (with boxes, masks and keypoints), audio and series, and appliers.

Everything random comes from the `numpy.random.Generator` that is handed in: the same state gives the same
result. `xtorch.data.loader.ExtendedDataLoader` hands every sample a generator of its own.
"""

from xtorch.transforms.base import (
    Compose,
    OneOf,
    RandomApply,
    ReplayCompose,
    Replayed,
    SomeOf,
    Transform,
)
from xtorch.transforms.color import (
    HSV,
    ColorJitter,
    GaussianBlur,
    GaussianNoise,
    JPEGArtifacts,
    Normalise,
    RandomErasing,
)
from xtorch.transforms.geometry import (
    Affine,
    CenterCrop,
    HorizontalFlip,
    Letterbox,
    RandomResizedCrop,
    Resize,
    Rotate90,
    VerticalFlip,
)
from xtorch.transforms.mixing import MixUp, Mosaic
from xtorch.transforms.sample import ImageSample

__all__ = [
    "HSV",
    "Affine",
    "CenterCrop",
    "ColorJitter",
    "Compose",
    "GaussianBlur",
    "GaussianNoise",
    "HorizontalFlip",
    "ImageSample",
    "JPEGArtifacts",
    "Letterbox",
    "MixUp",
    "Mosaic",
    "Normalise",
    "OneOf",
    "RandomApply",
    "RandomErasing",
    "RandomResizedCrop",
    "ReplayCompose",
    "Replayed",
    "Resize",
    "Rotate90",
    "SomeOf",
    "Transform",
    "VerticalFlip",
]
