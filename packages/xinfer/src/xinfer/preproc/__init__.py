"""From user input to tensors."""

from xinfer.preproc.geometry import Geometry
from xinfer.preproc.image import decode_image, read_image
from xinfer.preproc.processor import ImageProcessor

__all__ = ["Geometry", "ImageProcessor", "decode_image", "read_image"]
