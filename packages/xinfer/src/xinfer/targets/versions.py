"""Versions of installed runtimes, and ranges of versions."""

from __future__ import annotations

import re
from importlib import metadata

_BUILDS = {
    "onnxruntime": (
        "onnxruntime", "onnxruntime-gpu", "onnxruntime-migraphx", "onnxruntime-rocm", "onnxruntime-directml",
    ),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "openvino": ("openvino", "openvino-nightly"),
}  # fmt: skip
"""Runtime -> the distributions that provide it."""


def installed_version(package: str) -> str | None:
    """The installed version of a distribution, or of another build of the same runtime; None if absent."""
    for name in _BUILDS.get(package, (package,)):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def version_in_range(version: str, version_range: str) -> bool:
    """Whether a release number meets every clause of a range such as ``>=2026.4,<2027``.

    Args:
        version: For example ``2026.4.1``; what follows the digits and dots is ignored.
        version_range: Clauses of ``>=``, ``<``, ``==``, joined by commas.

    Raises:
        ValueError: A clause is not understood.
    """
    have = _release(version)
    for clause in version_range.split(","):
        match = re.fullmatch(r"\s*(>=|<|==)\s*([0-9][0-9.]*)\s*", clause)
        if not match:
            raise ValueError(f"not a version range: {version_range!r}")
        operator, want = match[1], _release(match[2])
        width = max(len(have), len(want))
        left, right = (number + (0,) * (width - len(number)) for number in (have, want))
        if not {">=": left >= right, "<": left < right, "==": left == right}[operator]:
            return False
    return True


def _release(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else (0,)
