"""Open Inference Protocol v2, REST with the binary tensor extension: bytes in, tensors out and back.

Pure functions: no I/O, no engine, no HTTP. Every fault of the input is a `ProtocolError`
whose message is meant for the caller.

Source: Open Inference Protocol, "Predict Protocol - Version 2" (REST); Triton's binary tensor data
extension, whose request is a JSON header followed by the tensors as little-endian bytes.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from xinfer.manifest import DATATYPES, TensorSpec
from xinfer.serve.errors import ProtocolError

# The wire is little-endian whatever the machine is.
DTYPES = {name: np.dtype(code).newbyteorder("<") for name, code in DATATYPES.items()}

_JSON_TYPES: dict[str, set[type]] = {"b": {bool}, "u": {int}, "i": {int}, "f": {int, float}}
"""Kind of a NumPy dtype -> what JSON may hold for it."""

HEADER_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True, kw_only=True)
class OutputRequest:
    name: str
    binary: bool


@dataclass(frozen=True, kw_only=True)
class InferRequest:
    """A checked request: `feeds` fit the model's inputs, `outputs` are some of its outputs."""

    id: str | None
    feeds: dict[str, np.ndarray]
    outputs: tuple[OutputRequest, ...]


def decompress(body: bytes, encoding: str, *, limit_bytes: int) -> bytes:
    """Undo `Content-Encoding`; refuses bodies that unpack to more than `limit_bytes`.

    Raises:
        ProtocolError: unknown encoding, damaged stream, or too much inside.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise ProtocolError(f"content encoding '{encoding[:40]}' is not supported; use gzip, deflate or none")
    # 47: zlib or gzip by header. Some clients send deflate without the zlib header: -15.
    raw_deflate = encoding == "deflate" and (
        len(body) < 2 or body[0] & 0x0F != 8 or (body[0] << 8 | body[1]) % 31
    )
    stream = zlib.decompressobj(-15 if raw_deflate else 47)
    try:
        data = stream.decompress(body, limit_bytes + 1)
    except zlib.error as error:
        raise ProtocolError(f"the body is not valid {encoding}") from error
    if len(data) > limit_bytes:
        raise ProtocolError(f"the body unpacks to more than {limit_bytes} bytes")
    if not stream.eof or stream.unused_data:
        raise ProtocolError(f"the {encoding} body is truncated or has something after its end")
    return data


def parse_infer(
    body: bytes,
    header_length: str | None,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> InferRequest:
    """Read an infer request for a model with these inputs and outputs.

    Args:
        body: JSON, or JSON and binary tensors; already decompressed.
        header_length: value of `Inference-Header-Content-Length`; None means all of `body` is JSON.

    Raises:
        ProtocolError: anything that the protocol or the model does not allow.
    """
    header, binary = _split(body, header_length)
    try:
        message = orjson.loads(header)
    except orjson.JSONDecodeError as error:
        raise ProtocolError(f"the request is not valid JSON: {error}") from error
    if not isinstance(message, dict):
        raise ProtocolError("the request must be a JSON object")
    request_id = message.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise ProtocolError("'id' must be a string")
    feeds = _parse_inputs(message.get("inputs"), binary, {spec.name: spec for spec in inputs})
    return InferRequest(id=request_id, feeds=feeds, outputs=_parse_outputs(message, outputs))


def encode_infer(
    model: str, version: str, request: InferRequest, results: Mapping[str, np.ndarray]
) -> tuple[bytes, int | None]:
    """Write an infer response.

    Returns:
        The body, and the length of its JSON header (None when all of it is JSON).
    """
    entries: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for wanted in request.outputs:
        array = np.ascontiguousarray(results[wanted.name])
        datatype = datatype_of(array.dtype)
        entry: dict[str, Any] = {"name": wanted.name, "datatype": datatype, "shape": list(array.shape)}
        if wanted.binary:
            blob = array.astype(DTYPES[datatype], copy=False).tobytes()
            entry["parameters"] = {"binary_data_size": len(blob)}
            blobs.append(blob)
        else:
            # orjson has no half floats.
            values = array.astype(np.float32) if array.dtype == np.float16 else array
            entry["data"] = values.ravel()
        entries.append(entry)
    message: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": entries}
    if request.id is not None:
        message["id"] = request.id
    header = orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join([header, *blobs]), (len(header) if blobs else None)


def datatype_of(dtype: np.dtype[Any]) -> str:
    """The protocol's name of a NumPy dtype."""
    return next(name for name, known in DTYPES.items() if known == dtype)


def _split(body: bytes, header_length: str | None) -> tuple[bytes, bytes]:
    if header_length is None:
        return body, b""
    if not header_length.isascii() or not header_length.isdigit() or len(header_length) > 12:
        raise ProtocolError(f"{HEADER_LENGTH} must be a number of bytes")
    length = int(header_length)
    if length > len(body):
        raise ProtocolError(f"{HEADER_LENGTH} is {length} but the body has only {len(body)} bytes")
    return body[:length], body[length:]


def _parse_inputs(entries: Any, binary: bytes, specs: Mapping[str, TensorSpec]) -> dict[str, np.ndarray]:
    if not isinstance(entries, list):
        raise ProtocolError("'inputs' must be a list of tensors")
    feeds: dict[str, np.ndarray] = {}
    offset = 0
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise ProtocolError("every input must be an object with a 'name'")
        spec = specs.get(entry["name"])
        if spec is None:
            raise ProtocolError(
                f"the model has no input '{entry['name'][:80]}'; its inputs are: {', '.join(specs)}"
            )
        if spec.name in feeds:
            raise ProtocolError(f"input '{spec.name}' is given twice")
        shape = _checked_shape(entry, spec)
        size_bytes = _binary_size(entry)
        if size_bytes is None:
            feeds[spec.name] = _from_json(entry.get("data"), shape, spec)
            continue
        if "data" in entry:
            raise ProtocolError(f"input '{spec.name}' has both 'data' and 'binary_data_size'")
        dtype = DTYPES[spec.datatype]
        if size_bytes != math.prod(shape) * dtype.itemsize:
            raise ProtocolError(
                f"input '{spec.name}': shape {list(shape)} of {spec.datatype} needs "
                f"{math.prod(shape) * dtype.itemsize} bytes, binary_data_size is {size_bytes}"
            )
        if offset + size_bytes > len(binary):
            raise ProtocolError(
                f"input '{spec.name}' needs {size_bytes} bytes, {len(binary) - offset} follow the JSON"
            )
        feeds[spec.name] = np.frombuffer(binary, dtype, math.prod(shape), offset).reshape(shape)
        offset += size_bytes
    if missing := [name for name in specs if name not in feeds]:
        raise ProtocolError(f"missing inputs: {', '.join(missing)}")
    if offset != len(binary):
        raise ProtocolError(f"{len(binary) - offset} bytes follow the last tensor")
    return feeds


def _checked_shape(entry: dict[str, Any], spec: TensorSpec) -> tuple[int, ...]:
    if entry.get("datatype") != spec.datatype:
        raise ProtocolError(
            f"input '{spec.name}' is {spec.datatype}, the request says {str(entry.get('datatype'))[:40]}"
        )
    shape = entry.get("shape")
    if not isinstance(shape, list) or not all(type(size) is int and 0 < size < 2**31 for size in shape):
        raise ProtocolError(f"input '{spec.name}': 'shape' must be a list of positive integers")
    if len(shape) != len(spec.shape) or any(
        known not in (-1, size) for known, size in zip(spec.shape, shape, strict=True)
    ):
        raise ProtocolError(f"input '{spec.name}' has shape {list(spec.shape)}, the request says {shape[:8]}")
    return tuple(shape)


def _parameters(entry: dict[str, Any]) -> dict[str, Any]:
    parameters = entry.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise ProtocolError("'parameters' must be an object")
    return parameters


def _binary_size(entry: dict[str, Any]) -> int | None:
    parameters = _parameters(entry)
    if any(key.startswith("shared_memory") for key in parameters):
        raise ProtocolError("shared memory is not supported; send the tensor in the body")
    size = parameters.get("binary_data_size")
    if size is None:
        return None
    if type(size) is not int or size < 0:
        raise ProtocolError("'binary_data_size' must be a number of bytes")
    return size


def _from_json(data: Any, shape: tuple[int, ...], spec: TensorSpec) -> np.ndarray:
    """Flat or nested lists -> array; the values must fit the datatype exactly (integers in range)."""
    dtype = DTYPES[spec.datatype]
    if not isinstance(data, list):
        raise ProtocolError(f"input '{spec.name}' has no 'data' list and no 'binary_data_size'")
    try:
        # As objects first: one long text among numbers would make NumPy reserve its length for each of them.
        values = np.array(data, dtype=object)
        types = set(map(type, values.flat))
    except ValueError as error:
        raise ProtocolError(f"input '{spec.name}': 'data' is not a regular list of numbers") from error
    if list in types:
        raise ProtocolError(f"input '{spec.name}': 'data' is not a regular list of numbers")
    if not types <= _JSON_TYPES[dtype.kind]:
        raise ProtocolError(f"input '{spec.name}': 'data' holds values that are not {spec.datatype}")
    if values.size != math.prod(shape):
        raise ProtocolError(
            f"input '{spec.name}': shape {list(shape)} has {math.prod(shape)} values, 'data' {values.size}"
        )
    if values.ndim > 1 and values.shape != shape:
        raise ProtocolError(
            f"input '{spec.name}': 'data' is nested as {list(values.shape)}, not {list(shape)}"
        )
    try:
        return values.astype(dtype).reshape(shape)
    except OverflowError as error:
        raise ProtocolError(f"input '{spec.name}': 'data' holds values outside {spec.datatype}") from error


def _parse_outputs(message: dict[str, Any], specs: Sequence[TensorSpec]) -> tuple[OutputRequest, ...]:
    binary_default = _flag(_parameters(message), "binary_data_output")
    entries = message.get("outputs")
    if entries is None or entries == []:
        return tuple(OutputRequest(name=spec.name, binary=binary_default) for spec in specs)
    if not isinstance(entries, list):
        raise ProtocolError("'outputs' must be a list")
    names = [spec.name for spec in specs]
    wanted: dict[str, OutputRequest] = {}
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise ProtocolError("every output must be an object with a 'name'")
        name = entry["name"]
        if name not in names:
            raise ProtocolError(f"the model has no output '{name[:80]}'; its outputs are: {', '.join(names)}")
        if name in wanted:
            raise ProtocolError(f"output '{name}' is asked for twice")
        parameters = _parameters(entry)
        if parameters.get("classification"):
            raise ProtocolError("the classification extension is not supported; read the tensor")
        if any(key.startswith("shared_memory") for key in parameters):
            raise ProtocolError("shared memory is not supported; read the tensor from the body")
        binary = _flag(parameters, "binary_data", binary_default)
        wanted[name] = OutputRequest(name=name, binary=binary)
    return tuple(wanted.values())


def _flag(parameters: dict[str, Any], key: str, default: bool = False) -> bool:
    value = parameters.get(key, default)
    if not isinstance(value, bool):
        raise ProtocolError(f"'{key}' must be true or false")
    return value
