"""Device and pinned host memory through cuda-python, without torch."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

from xinfer._extras import require
from xinfer.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Sequence


def runtime() -> Any:
    """cuda-python's runtime API. Raises MissingExtraError."""
    return require("cuda.bindings.runtime", "tensorrt")


def call(result: tuple[Any, ...]) -> Any:
    """The value of a call of cuda-python.

    Args:
        result: What it returned: an error code, then values.

    Raises:
        BackendError: The code is not success; out of memory has a hint.
    """
    error, *values = result
    if int(error) != 0:
        name = getattr(error, "name", str(error))
        raise BackendError(
            f"CUDA: {name}",
            value=int(error),
            hint="free GPU memory or use smaller batches" if "MemoryAllocation" in name else None,
        )
    return values[0] if len(values) == 1 else tuple(values) or None


class Buffer:
    """A tensor's place on the device and in pinned host memory; it grows when it has to."""

    def __init__(self) -> None:
        self._cudart = runtime()
        self.size_bytes = 0
        self.device = 0
        self._host = 0

    def reserve(self, size_bytes: int) -> None:
        """Makes room. Never empty: TensorRT wants an address for empty tensors too. Raises BackendError."""
        size_bytes = max(size_bytes, 1)
        if size_bytes > self.size_bytes:
            self.free()
            self.device = int(call(self._cudart.cudaMalloc(size_bytes)))
            self._host = int(call(self._cudart.cudaMallocHost(size_bytes)))
            self.size_bytes = size_bytes

    def host(self, shape: Sequence[int], dtype: str) -> np.ndarray:
        """The pinned memory as an array; valid until the next `reserve`."""
        size_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        block = (ctypes.c_uint8 * size_bytes).from_address(self._host)
        return np.ctypeslib.as_array(block).view(dtype).reshape(shape)

    def upload(self, array: np.ndarray, stream: Any) -> None:
        """Starts the copy of an array to the device."""
        self.reserve(array.nbytes)
        np.copyto(self.host(array.shape, str(array.dtype)), array)
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        call(self._cudart.cudaMemcpyAsync(self.device, self._host, array.nbytes, kind, stream))

    def download(self, size_bytes: int, stream: Any) -> None:
        """Starts the copy of the device's bytes to the host."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        call(self._cudart.cudaMemcpyAsync(self._host, self.device, size_bytes, kind, stream))

    def free(self) -> None:
        """Gives both back."""
        if self.device:
            call(self._cudart.cudaFree(self.device))
            self.device = 0
        if self._host:
            call(self._cudart.cudaFreeHost(self._host))
            self._host = 0
        self.size_bytes = 0
