"""Non-maximum suppression on the GPU, with the result of `xinfer.postproc.nms`.

Legend: N boxes, M candidates (best first), K kept boxes, D words of 32 candidates; 4 = x1, y1, x2, y2.

Two kernels: all pairs at once into rows of bits (who suppresses whom), then one program that walks the rows
in order of score. Fused multiply-add is off: overlap at the threshold must round as it does in NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xinfer._extras import require
from xinfer.errors import InputError

torch = require("torch", "gpu")
triton = require("triton", "gpu")

if TYPE_CHECKING:
    import triton.language as tl
else:
    tl = require("triton.language", "gpu")

ROWS = 64
"""Candidates per program of the first kernel."""
MAX_CANDIDATES = 65_536
"""Their rows of bits take half a gigabyte."""


@triton.jit
def _overlap_kernel(  # type: ignore[no-untyped-def]
    boxes_ptr, labels_ptr, bits_ptr, iou_threshold, num, words, rows: tl.constexpr
):
    i = tl.program_id(0) * rows + tl.arange(0, rows)
    word = tl.program_id(1)
    bit = tl.arange(0, 32)
    j = word * 32 + bit
    in_i, in_j = i < num, j < num
    ax1 = tl.load(boxes_ptr + i * 4, mask=in_i, other=0.0)[:, None]
    ay1 = tl.load(boxes_ptr + i * 4 + 1, mask=in_i, other=0.0)[:, None]
    ax2 = tl.load(boxes_ptr + i * 4 + 2, mask=in_i, other=0.0)[:, None]
    ay2 = tl.load(boxes_ptr + i * 4 + 3, mask=in_i, other=0.0)[:, None]
    bx1 = tl.load(boxes_ptr + j * 4, mask=in_j, other=0.0)[None, :]
    by1 = tl.load(boxes_ptr + j * 4 + 1, mask=in_j, other=0.0)[None, :]
    bx2 = tl.load(boxes_ptr + j * 4 + 2, mask=in_j, other=0.0)[None, :]
    by2 = tl.load(boxes_ptr + j * 4 + 3, mask=in_j, other=0.0)[None, :]
    width = tl.maximum(tl.minimum(ax2, bx2) - tl.maximum(ax1, bx1), 0.0)
    height = tl.maximum(tl.minimum(ay2, by2) - tl.maximum(ay1, by1), 0.0)
    area_a = tl.maximum(ax2 - ax1, 0.0) * tl.maximum(ay2 - ay1, 0.0)
    area_b = tl.maximum(bx2 - bx1, 0.0) * tl.maximum(by2 - by1, 0.0)
    intersection = width * height
    over = intersection > iou_threshold * (area_a + area_b - intersection)
    label_a = tl.load(labels_ptr + i, mask=in_i, other=0)[:, None]
    label_b = tl.load(labels_ptr + j, mask=in_j, other=0)[None, :]
    over = over & (label_a == label_b) & (j[None, :] > i[:, None]) & in_j[None, :]
    # No bit comes twice, so the sum is the union.
    packed = tl.sum(over.to(tl.int32) << bit[None, :], axis=1)
    tl.store(bits_ptr + i.to(tl.int64) * words + word, packed, mask=in_i)


@triton.jit
def _greedy_kernel(  # type: ignore[no-untyped-def]
    bits_ptr, kept_ptr, count_ptr, num, words, limit, width: tl.constexpr
):
    place = tl.arange(0, width)
    gone = tl.zeros((width,), tl.int32)
    count = 0
    for i in range(num):
        row = tl.load(bits_ptr + place, mask=place < words, other=0)
        # Moved on row by row: their product with the width overflows 32 bits.
        bits_ptr += words
        word = tl.sum(tl.where(place == i // 32, gone, 0), axis=0)
        stays = (((word >> (i % 32)) & 1) == 0) & (count < limit)
        gone = tl.where(stays, gone | row, gone)
        tl.store(kept_ptr + count, i, mask=stays)
        count += stays.to(tl.int32)
    tl.store(count_ptr, count)


def nms(
    boxes_N4: Any,
    scores_N: Any,
    labels_N: Any | None = None,
    *,
    iou_threshold: float = 0.45,
    score_threshold: float = 0.0,
    max_detections: int = 300,
    class_aware: bool = True,
) -> Any:
    """Which boxes stay; arguments and result as in `xinfer.postproc.nms`, in torch tensors of one device.

    Args:
        boxes_N4: float32.
        scores_N: float32.
        labels_N: int64.
        iou_threshold: 0..1.
        score_threshold: Boxes with a lower score are left out.
        max_detections: At most so many stay.
        class_aware: Whether boxes of different classes leave each other alone.

    Returns:
        int64 [K].

    Raises:
        InputError: Shapes, thresholds or the number of candidates do not fit.

    Source: the pairs-into-bits scheme is that of S. Ren et al., Faster R-CNN's published CUDA code
    (nms_kernel.cu); written anew.
    """
    if boxes_N4.ndim != 2 or boxes_N4.shape[1] != 4 or scores_N.shape != boxes_N4.shape[:1]:
        raise InputError(
            f"boxes [N,4] and scores [N] do not fit: {list(boxes_N4.shape)}, {list(scores_N.shape)}",
            value=list(boxes_N4.shape),
        )
    if labels_N is not None and labels_N.shape != scores_N.shape:
        raise InputError(f"labels must be [N], not {list(labels_N.shape)}", value=list(labels_N.shape))
    if not 0 <= iou_threshold <= 1 or max_detections < 1:
        raise InputError("iou_threshold must lie in 0..1 and max_detections be positive", value=iou_threshold)
    boxes_N4, scores_N = boxes_N4.float(), scores_N.float()
    good_N = (scores_N >= score_threshold) & scores_N.isfinite() & boxes_N4.isfinite().all(dim=1)
    candidates_M = good_N.nonzero()[:, 0]
    num = len(candidates_M)
    if num == 0:
        return candidates_M
    if num > MAX_CANDIDATES:
        raise InputError(
            f"{num} candidates are more than {MAX_CANDIDATES}", value=num, hint="raise score_threshold"
        )
    # Stable: equal scores stay in order of index.
    order_M = scores_N[candidates_M].sort(descending=True, stable=True).indices
    candidates_M = candidates_M[order_M]
    boxes_M4 = boxes_N4[candidates_M].contiguous()
    if labels_N is None or not class_aware:
        labels_M = torch.zeros_like(candidates_M)
    else:
        labels_M = labels_N[candidates_M].to(torch.int64).contiguous()
    words = triton.cdiv(num, 32)
    bits_MD = torch.empty((num, words), dtype=torch.int32, device=boxes_M4.device)
    _overlap_kernel[(triton.cdiv(num, ROWS), words)](
        boxes_M4, labels_M, bits_MD, iou_threshold, num, words, rows=ROWS, enable_fp_fusion=False
    )
    limit = min(num, max_detections)
    kept_K = torch.empty(limit + 1, dtype=torch.int64, device=boxes_M4.device)
    count = torch.empty(1, dtype=torch.int32, device=boxes_M4.device)
    _greedy_kernel[(1,)](
        bits_MD, kept_K, count, num, words, limit, width=triton.next_power_of_2(words), enable_fp_fusion=False
    )
    return candidates_M[kept_K[: int(count)]]
