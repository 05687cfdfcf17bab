"""From tensors to answers; NumPy only, unless a docstring names what else it needs."""

from xinfer.postproc.nms import Kept, batched_nms, nms

__all__ = ["Kept", "batched_nms", "nms"]
