"""From tensors to answers; NumPy only, unless a docstring names what else it needs."""

from xinfer.postproc.ctc import Transcript, beam_search, greedy_decode
from xinfer.postproc.nms import Kept, batched_nms, nms
from xinfer.postproc.scores import sigmoid, softmax, top_k

__all__ = [
    "Kept",
    "Transcript",
    "batched_nms",
    "beam_search",
    "greedy_decode",
    "nms",
    "sigmoid",
    "softmax",
    "top_k",
]
