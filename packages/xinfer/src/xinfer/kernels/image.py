"""uint8 images, as a decoder gives them, to the float planes that models take: one read, one write.

Legend: B images, H height, W width, P pixels of an image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from xinfer._extras import require
from xinfer.errors import InputError
from xinfer.preproc.processor import ImageProcessor

torch = require("torch", "gpu")
triton = require("triton", "gpu")

if TYPE_CHECKING:
    import triton.language as tl
else:
    tl = require("triton.language", "gpu")

BLOCK = 1024
"""Pixels per program."""


@triton.jit
def _normalise_kernel(  # type: ignore[no-untyped-def]
    pixels_ptr, tables_ptr, out_ptr, num_pixels, flip: tl.constexpr, block: tl.constexpr
):
    image = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * block + tl.arange(0, block)
    inside = pixel < num_pixels
    source = pixels_ptr + image * num_pixels * 3 + pixel * 3
    for channel in tl.static_range(3):
        value = tl.load(source + channel, mask=inside, other=0).to(tl.int32)
        target = 2 - channel if flip else channel
        looked_up = tl.load(tables_ptr + target * 256 + value, mask=inside, other=0.0)
        place = out_ptr + (image * 3 + target) * num_pixels + pixel
        tl.store(place, looked_up.to(out_ptr.dtype.element_ty), mask=inside)


def normalise(
    pixels_BHW3: Any,
    processor: ImageProcessor,
    *,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
) -> Any:
    """Normalises and lays out images that have the model's size already.

    Args:
        pixels_BHW3: torch uint8 RGB, contiguous.
        processor: Gives scale, mean, std and the order of the channels; its layout must be "NCHW".
        dtype: Of the result.

    Returns:
        torch [B,3,H,W] on the same device; in float32 bit for bit what `processor` gives.

    Raises:
        InputError: Not such a tensor or processor.
    """
    if pixels_BHW3.dtype != torch.uint8 or pixels_BHW3.ndim != 4 or pixels_BHW3.shape[3] != 3:
        raise InputError(
            f"pixels must be [B,H,W,3] uint8, not {pixels_BHW3.dtype} {list(pixels_BHW3.shape)}",
            value=list(pixels_BHW3.shape),
        )
    if processor.layout != "NCHW":
        raise InputError("the kernel writes NCHW", value=processor.layout)
    pixels_BHW3 = pixels_BHW3.contiguous()
    batch, height, width, _ = pixels_BHW3.shape
    tables_3x256 = torch.from_numpy(processor.tables_3x256).to(pixels_BHW3.device)
    out_B3HW = torch.empty((batch, 3, height, width), dtype=getattr(torch, dtype), device=pixels_BHW3.device)
    if out_B3HW.numel():
        grid = (triton.cdiv(height * width, BLOCK), batch)
        _normalise_kernel[grid](
            pixels_BHW3,
            tables_3x256,
            out_B3HW,
            height * width,
            flip=processor.color == "BGR",
            block=BLOCK,
            enable_fp_fusion=False,
        )
    return out_B3HW
