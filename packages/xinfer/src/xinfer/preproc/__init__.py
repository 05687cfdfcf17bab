"""From user input to tensors."""

from xinfer.preproc.geometry import Geometry
from xinfer.preproc.image import decode_image, read_image
from xinfer.preproc.processor import ImageProcessor
from xinfer.preproc.text import Tokenizer, TokenWindows

__all__ = ["Geometry", "ImageProcessor", "TokenWindows", "Tokenizer", "decode_image", "read_image"]
