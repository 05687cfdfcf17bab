"""From user input to tensors."""

from xinfer.preproc.image import decode_image

__all__ = ["decode_image"]
