"""What a worker thread does for one request: bytes -> tensors -> engine -> answer. No HTTP here.

Legend: N images, H height, W width.
"""

from __future__ import annotations

import base64
import struct
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from xinfer.errors import ImageDecodeError
from xinfer.preproc import decode_image
from xinfer.preproc.image import MAX_PIXELS, MAX_SIDE
from xinfer.serve import oip
from xinfer.serve.errors import PROBLEMS, ProblemError, ProtocolError
from xinfer.serve.host import Endpoint
from xinfer.tasks import AnomalyDetection
from xinfer.zoo.anomaly import interpret

MAX_BATCH = 32
"""Images in one inference request: activations need memory in proportion to it."""


def predict(endpoint: Endpoint, body: bytes, *, heatmap: bool, started_s: float) -> bytes:
    """Judge one encoded image (ARCHITECTURE 10.7).

    Args:
        body: The image's bytes.
        heatmap: Add the anomaly map as PNG.
        started_s: `time.perf_counter()` when the request was complete; `timing_ms.total` counts from it.

    Returns:
        The answer as JSON.

    Raises:
        ProblemError: the bytes are not an image that the model can judge.
    """
    engine, task = endpoint.host.engine, endpoint.host.engine.task
    if not isinstance(task, AnomalyDetection):
        raise ProblemError(
            "task.unsupported",
            f"Endpoint '{endpoint.name}' serves {task.task if task else 'tensors only'}: call it under /v2.",
        )
    decode_s = time.perf_counter()
    try:
        pixels_HW3 = decode_image(body, min_side=task.input.min_side)
    except ImageDecodeError as error:
        code = error.code if error.code in PROBLEMS else "image.unreadable"
        raise ProblemError(
            code, _sentence(error.message), hint=error.hint and _sentence(error.hint)
        ) from error
    infer_s = time.perf_counter()
    outputs = engine.infer({task.input.name: pixels_HW3[None]})
    done_s = time.perf_counter()
    result = interpret(task, outputs)
    width, height = _stored_size(body, pixels_HW3)
    identity = engine.manifest.identity
    answer: dict[str, Any] = {
        **result.to_json(),
        "model": identity.name,
        "version": identity.version,
        "engine": endpoint.host.digest,
        "image": {"width": width, "height": height},
    }
    if heatmap:
        png = result.heatmap_png()
        map_height, map_width = result.anomaly_map.shape
        answer["heatmap"] = {
            "media_type": "image/png",
            "width": map_width,
            "height": map_height,
            "data_base64": base64.b64encode(png).decode(),
        }
    answer["timing_ms"] = {
        "decode": round((infer_s - decode_s) * 1e3, 3),
        "inference": round((done_s - infer_s) * 1e3, 3),
        "total": round((time.perf_counter() - started_s) * 1e3, 3),
    }
    return orjson.dumps(answer)


def infer(
    endpoint: Endpoint, body: bytes, *, header_length: str | None, encoding: str, limit_bytes: int
) -> tuple[bytes, int | None]:
    """Answer one Open Inference request.

    Args:
        body: As it came, perhaps compressed.
        header_length: Value of `Inference-Header-Content-Length`.
        encoding: Value of `Content-Encoding`.
        limit_bytes: Most that the body may unpack to.

    Returns:
        The response's body and the length of its JSON header (None: all JSON).

    Raises:
        ProtocolError: the request does not follow the protocol or does not fit the model.
    """
    io = endpoint.host.engine.manifest.io
    body = oip.decompress(body, encoding, limit_bytes=limit_bytes)
    request = oip.parse_infer(body, header_length, io.inputs, io.outputs)
    _check_size(request.feeds)
    results = endpoint.host.engine.infer(request.feeds)
    return oip.encode_infer(endpoint.name, endpoint.version, request, results)


def _check_size(feeds: Mapping[str, np.ndarray]) -> None:
    """Refuse images that fit the body's limit but not the memory that the engine would need."""
    for name, array in feeds.items():
        if array.ndim != 4 or array.dtype != np.uint8:
            continue
        batch, height, width, _ = array.shape
        if batch > MAX_BATCH or max(height, width) > MAX_SIDE or batch * height * width > MAX_PIXELS:
            raise ProtocolError(
                f"input '{name}': at most {MAX_BATCH} images, {MAX_SIDE} pixels a side and {MAX_PIXELS} "
                f"pixels in all; the request has {list(array.shape)}"
            )


def _stored_size(body: bytes, pixels_HW3: np.ndarray) -> tuple[int, int]:
    """Width and height of the upright image; the decoder may have returned a JPEG smaller than it is."""
    height, width = pixels_HW3.shape[:2]
    size = _jpeg_size(body)
    if size is None:
        return width, height
    # An EXIF orientation turned the image if long and short side have changed places.
    turned = (size[0] > size[1]) != (width > height) and size[0] != size[1] and width != height
    return size[::-1] if turned else size


def _jpeg_size(body: bytes) -> tuple[int, int] | None:
    """(width, height) from a JPEG's frame header; None where there is none.

    Source: ITU-T T.81, B.1.1.4 (marker segments) and B.2.2 (frame header).
    """
    offset = 2
    while body[:2] == b"\xff\xd8" and offset + 9 <= len(body) and body[offset] == 0xFF:
        marker = body[offset + 1]
        if marker == 0xFF:
            offset += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", body, offset + 5)
            return width, height
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:
            offset += 2
        else:
            offset += 2 + int.from_bytes(body[offset + 2 : offset + 4], "big")
    return None


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith(".") else text + "."
