"""Antialiased bilinear resize as two matrix products, the same in torch and in every runtime.

Runtimes disagree on ONNX `Resize`: OpenVINO ignores its `antialias`. The weights are therefore computed
in the graph, for any input size; in integers, because a runtime that computes in bfloat16 would round
positions above 256 to whole pixels.

Source: the triangle filter of Pillow's `Image.resize(BILINEAR)` (`libImaging/Resample.c`,
`precompute_coeffs`), without its rounding to 8 bits between the two passes.

Shapes: N images, C channels, H and W rows and columns in, S and T rows and columns out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def resize_weights(size_in: int, size_out: int, *, device: torch.device | None = None) -> Tensor:
    """Weights of an antialiased linear resize along one axis.

    Args:
        size_in: number of input samples; may be symbolic in an export.
        size_out: number of output samples.

    Returns:
        float32 [size_out, size_in]; every row sums to 1.
    """
    out_S1 = torch.arange(size_out, dtype=torch.int64, device=device)[:, None]
    in_1H = torch.arange(size_in, dtype=torch.int64, device=device)[None, :]
    # Distance between centres, and the triangle's half-width (the larger of 1 and the scale), both times
    # 2 * size_out.
    distance_SH = ((2 * in_1H + 1) * size_out - (2 * out_S1 + 1) * size_in).abs()
    reach_11 = (2 * in_1H[:, -1:] + 2).clamp(min=2 * size_out)  # a tensor: size_in may be symbolic
    weights_SH = (reach_11 - distance_SH).clamp(min=0)
    total_S1 = weights_SH.sum(dim=1, keepdim=True)
    return weights_SH.to(torch.float32) / total_S1.to(torch.float32)


def resize(x_NCHW: Tensor, height: int, width: int) -> Tensor:
    """Resize float32 [N,C,H,W] to [N,C,height,width]."""
    rows_SH = resize_weights(x_NCHW.shape[2], height, device=x_NCHW.device)
    columns_TW = resize_weights(x_NCHW.shape[3], width, device=x_NCHW.device)
    return torch.matmul(rows_SH, torch.matmul(x_NCHW, columns_TW.T))


class Preprocess(nn.Module):
    """uint8 RGB [N,H,W,3] of any size -> normalised float32 [N,3,size,size].

    Args:
        size: side of the output, in pixels; the aspect ratio is not kept.
        mean, std: (x - mean) / std of values in 0..255.
    """

    def __init__(self, size: int, *, mean: float, std: float) -> None:
        super().__init__()
        self.size, self.mean, self.std = size, mean, std

    def forward(self, image_NHWC: Tensor) -> Tensor:
        x_NCHW = image_NHWC.permute(0, 3, 1, 2).to(torch.float32)
        return resize((x_NCHW - self.mean) / self.std, self.size, self.size)
