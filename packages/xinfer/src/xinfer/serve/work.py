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

from xinfer.errors import ImageDecodeError, InputError
from xinfer.preproc import Geometry, decode_image
from xinfer.preproc.image import MAX_PIXELS, MAX_SIDE
from xinfer.serve import bodies, oip
from xinfer.serve.errors import PROBLEMS, ProblemError, ProtocolError
from xinfer.serve.host import Endpoint, EngineHost
from xinfer.tasks import AnomalyDetection, TaskSpec
from xinfer.zoo.anomaly import interpret
from xinfer.zoo.base import TaskRunner

MAX_BATCH = 32
"""Images in one inference request: activations need memory in proportion to it."""


def predict(endpoint: Endpoint, body: bytes, *, content_type: str, heatmap: bool, started_s: float) -> bytes:
    """Answer one request in the task's own terms (ARCHITECTURE 10.7).

    Args:
        body: The input: an image's bytes, a text, a series (`bodies`).
        content_type: Of the body.
        heatmap: Add the anomaly map as PNG.
        started_s: `time.perf_counter()` when the request was complete; `timing_ms.total` counts from it.

    Returns:
        The answer as JSON.

    Raises:
        ProblemError: the body is not something that the model can judge.
    """
    task = endpoint.host.engine.task
    if task is None:
        raise ProblemError(
            "task.unsupported", f"Endpoint '{endpoint.name}' serves tensors only: call it under /v2."
        )
    if heatmap and not isinstance(task, AnomalyDetection):
        raise ProblemError("query.invalid", f"Endpoint '{endpoint.name}' has no heat map to give.")
    begun_s = time.perf_counter()
    if isinstance(task, AnomalyDetection):
        answer, infer_s, done_s = _judge(endpoint.host, task, body, heatmap=heatmap)
    else:
        answer, infer_s, done_s = _run(endpoint.host, task, body, content_type)
    identity = endpoint.host.engine.manifest.identity
    answer |= {
        "task": task.task,
        "model": identity.name,
        "version": identity.version,
        "engine": endpoint.host.digest,
        "timing_ms": {
            "decode": round((infer_s - begun_s) * 1e3, 3),
            "inference": round((done_s - infer_s) * 1e3, 3),
            "total": round((time.perf_counter() - started_s) * 1e3, 3),
        },
    }
    return orjson.dumps(answer)


def _judge(
    host: EngineHost, task: AnomalyDetection, body: bytes, *, heatmap: bool
) -> tuple[dict[str, Any], float, float]:
    """An anomaly detector's answer, and when its input was decoded and its inference done."""
    try:
        pixels_HW3 = decode_image(body, min_side=task.input.min_side)
    except ImageDecodeError as error:
        raise _unreadable(error) from error
    infer_s = time.perf_counter()
    outputs = host.engine.infer({task.input.name: pixels_HW3[None]})
    done_s = time.perf_counter()
    result = interpret(task, outputs)
    width, height = _stored_size(body, pixels_HW3)
    answer = {**result.to_json(), "image": {"width": width, "height": height}}
    if heatmap:
        png = result.heatmap_png()
        map_height, map_width = result.anomaly_map.shape
        answer["heatmap"] = {
            "media_type": "image/png",
            "width": map_width,
            "height": map_height,
            "data_base64": base64.b64encode(png).decode(),
        }
    return answer, infer_s, done_s


def _run(
    host: EngineHost, task: TaskSpec, body: bytes, content_type: str
) -> tuple[dict[str, Any], float, float]:
    """Any task's answer, and when its inputs were read and its inference done."""
    runner, kind = host.runner, task.input.kind
    assert runner is not None, "engines with a task are loaded with its runner"
    inputs = bodies.read(kind, body, content_type)
    try:
        if inputs.many or type(runner).predict is not TaskRunner.predict:
            infer_s = time.perf_counter()
            results = runner.predict_batch(inputs.items)
            done_s, contexts = time.perf_counter(), [None] * len(results)
        else:
            feeds, context = runner.prepare(inputs.items[0])
            infer_s = time.perf_counter()
            outputs = host.engine.infer(feeds)
            done_s = time.perf_counter()
            results, contexts = [runner.interpret(outputs, context)], [context]
    except ImageDecodeError as error:
        raise _unreadable(error) from error
    except InputError as error:
        hint = _sentence(error.hint) if error.hint else bodies.hint_of(kind)
        raise ProblemError("body.invalid", _sentence(error.message), hint=hint) from error
    if inputs.many:
        return {"results": [result.to_json() for result in results]}, infer_s, done_s
    answer: dict[str, Any] = dict(results[0].to_json())
    if isinstance(contexts[0], Geometry):
        answer["image"] = {"width": contexts[0].original_width, "height": contexts[0].original_height}
    return answer, infer_s, done_s


def _unreadable(error: ImageDecodeError) -> ProblemError:
    code = error.code if error.code in PROBLEMS else "image.unreadable"
    return ProblemError(code, _sentence(error.message), hint=error.hint and _sentence(error.hint))


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
