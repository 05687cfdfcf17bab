"""Emulating a lower CPU level: ``XINFER_MAX_ISA=avx2``.

It hides the better instruction sets from detection, so engines that need them are refused, and tells oneDNN
(in OpenVINO and PyTorch), ATen and MKL not to use them. Measured with OpenVINO 2026.4 on a CPU with AVX-512:
convolutions go from ``brgconv_avx512_f32`` to ``brgconv_avx2_f32``, INT8 ones from ``brgconv_avx512_I8`` to
``jit_avx2_I8``, and bf16 is refused; OpenVINO's fp32 products of matrices (``gemm_mlas_f32``) and ONNX
Runtime's kernels (MLAS) choose by CPUID and cannot be told. So what ONNX Runtime measures under a mask is
this CPU's own speed, and only engines that need a hidden instruction set are refused. What AOTInductor
compiles under ``avx2`` has no instruction with 512-bit registers (counted in the disassembly).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from xinfer.errors import XInferError

if TYPE_CHECKING:
    from collections.abc import Iterable

VARIABLE = "XINFER_MAX_ISA"

_BASE = ("sse4_2",)
_AVX2 = (*_BASE, "avx2")
_AVX512 = (*_AVX2, "avx512f")
_VNNI = (*_AVX512, "avx512_vnni")
_BF16 = (*_VNNI, "avx512_bf16")
_LEVELS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "sse4_2": (_BASE, {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"}),
    "avx2": (_AVX2, {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}),
    "avx_vnni": (
        (*_AVX2, "avx_vnni"),
        {"ONEDNN_MAX_CPU_ISA": "AVX2_VNNI", "ATEN_CPU_CAPABILITY": "avx2"},
    ),
    "avx512f": (_AVX512, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}),
    "avx512_vnni": (_VNNI, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}),
    "avx512_bf16": (_BF16, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}),
}
"""Level -> the instruction sets that remain, and the variables that tell the runtimes."""

_MKL = {"sse4_2": "SSE4_2", "avx2": "AVX2", "avx_vnni": "AVX2"}


def visible(isa: tuple[str, ...]) -> tuple[str, ...]:
    """What remains of a CPU's instruction sets under ``XINFER_MAX_ISA``; all where it is not set.

    Raises:
        XInferError: The variable names no level (``target.bad_mask``).
    """
    level = os.environ.get(VARIABLE)
    if not level:
        return isa
    if level not in _LEVELS:
        raise XInferError(
            f"{VARIABLE}={level} names no CPU level",
            code="target.bad_mask",
            value=level,
            hint=f"known: {', '.join(_LEVELS)}",
        )
    return tuple(flag for flag in isa if flag in _LEVELS[level][0])


def hides(flags: Iterable[str]) -> bool:
    """Whether the mask, and not the CPU, may be why one of these instruction sets is missing."""
    level = os.environ.get(VARIABLE)
    return level in _LEVELS and not set(flags) <= set(_LEVELS[level][0])


def tell_runtimes() -> None:
    """Hands the mask on to the runtimes; call it before they are imported."""
    level = os.environ.get(VARIABLE)
    if not level:
        return
    visible(())
    # Not setdefault: a mask that a runtime does not know would let it run what detection denies.
    os.environ.update(_LEVELS[level][1])
    if level in _MKL:
        os.environ["MKL_ENABLE_INSTRUCTIONS"] = _MKL[level]
