"""The tensors of a source model: declared against real size, and weights outside the file."""

from __future__ import annotations

import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from xinfer.sources.walk import all_graphs, fault, graph_tensors, model_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xinfer.sources.limits import Limits

MODEL_FILE = "model.onnx"
EXTERNAL_FILE = "model.onnx.data"
_ALIGNMENT = 4096
_CHUNK = 16 << 20
_PACKED = {"int4": 2, "uint4": 2, "float4e2m1": 2, "int2": 4, "uint2": 4}
"""Elements in one byte."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What `check_tensors` counted."""

    num_parameters: int
    embedded_bytes: int
    external_bytes: int


def check_tensors(model: Any, source: Path | None, limits: Limits) -> Weights:
    """Checks that every tensor holds what it declares, inside the file or where it says.

    Args:
        model: An `onnx.ModelProto`, read without external data.
        source: The model's file; None: it came as bytes and may not point outside itself.
        limits: Bounds.

    Returns:
        Sizes.

    Raises:
        SourceModelError: ``.shape``, ``.too_large``, ``.malformed`` or ``.external_data``; names the tensor.
    """
    embedded = external = parameters = 0
    for what, tensor in model_tensors(model):
        count = _elements(what, tensor, limits)
        size = _size_bytes(what, tensor, count)
        if size is not None and size > limits.max_tensor_bytes:
            raise fault("too_large", f"{what} has {size} bytes", value=size)
        if tensor.data_location == tensor.EXTERNAL or tensor.external_data:
            location = locate(what, tensor, source, size)
            external += location.length
        else:
            embedded += _check_embedded(what, tensor, count, size)
    for _, tensor in graph_tensors(model.graph):
        parameters += math.prod(tensor.dims)
    for graph in all_graphs(model.graph):
        for sparse in graph.sparse_initializer:
            # Runtimes make them dense.
            if math.prod(max(size, 1) for size in sparse.dims) > limits.max_tensor_bytes // 8:
                name = sparse.values.name[:100]
                raise fault(
                    "too_large", f"sparse weight {name!r} has the shape {list(sparse.dims)[:8]}", value=name
                )
    if external > limits.max_external_bytes:
        raise fault("too_large", f"the weights outside the file have {external} bytes", value=external)
    for value in (*model.graph.input, *model.graph.output):
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if any(size < 0 for size in dims):
            raise fault("shape", f"{value.name[:100]!r} has a negative dimension", value=value.name[:100])
        if math.prod(max(size, 1) for size in dims) > limits.max_tensor_bytes:
            raise fault("too_large", f"{value.name[:100]!r} has the shape {dims[:8]}", value=value.name[:100])
    return Weights(num_parameters=parameters, embedded_bytes=embedded, external_bytes=external)


@dataclass(frozen=True, kw_only=True)
class Location:
    """Where the bytes of a tensor stand outside the model's file."""

    path: Path
    offset: int
    length: int

    def chunks(self) -> Iterator[bytes]:
        """The bytes, in pieces. Raises SourceModelError (``.external_data``) when the file shrinks."""
        # No link is followed that was put there after `locate` looked.
        with os.fdopen(os.open(self.path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb") as file:
            file.seek(self.offset)
            left = self.length
            while left:
                chunk = file.read(min(left, _CHUNK))
                if not chunk:
                    raise fault("external_data", f"{self.path.name} changed while it was read")
                left -= len(chunk)
                yield chunk


def locate(what: str, tensor: Any, source: Path | None, size: int | None) -> Location:
    """Where a tensor's external data stands.

    Args:
        what: The tensor's name for messages.
        tensor: An `onnx.TensorProto`.
        source: The model's file.
        size: Bytes that it must have.

    Returns:
        A regular file below the model's own folder, reached through no link, and the part of it.

    Raises:
        SourceModelError: ``.external_data``.
    """

    def refuse(why: str) -> Exception:
        return fault(
            "external_data",
            f"{what} is kept outside the file, {why}",
            value=location[:200],
            hint="keep the weights in the model's own folder, or export with them inside the file",
        )

    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if source is None:
        raise refuse("and a model given as bytes has no folder")
    parts = PurePosixPath(location.replace("\\", "/")).parts
    if not parts or ".." in parts or parts[0] == "/" or ":" in location or "\0" in location:
        raise refuse(f"at {location[:100]!r}, which is no path below the model's folder")
    if len(location) > 1024 or len(parts) > 16:
        raise refuse("under a path that is too long")
    path = source.resolve().parent
    try:
        for part in parts:
            path = path / part
            if stat.S_ISLNK(path.lstat().st_mode):
                raise refuse(f"behind the link {location[:100]!r}")
        status = path.stat()
    except OSError as error:
        raise refuse(f"in {location[:100]!r}: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise refuse(f"in {location[:100]!r}, which is no regular file")
    try:
        offset = int(entries.get("offset") or 0)
        length = int(entries.get("length") or (size if size is not None else -1))
    except ValueError:
        raise refuse("at an offset that is no number") from None
    if offset < 0 or length < 0 or offset + length > status.st_size:
        raise refuse(f"at {offset}+{length} of {location[:100]!r}, which has {status.st_size} bytes")
    if size is not None and length != size:
        raise refuse(f"in {length} bytes where its shape needs {size}")
    return Location(path=path, offset=offset, length=length)


def gather_inside(model: Any, source: Path | None) -> None:
    """Reads all external weights into the model. Raises SourceModelError (``.external_data``)."""
    for what, tensor in model_tensors(model):
        if not tensor.external_data and tensor.data_location != tensor.EXTERNAL:
            continue
        data = b"".join(locate(what, tensor, source, _declared(tensor)).chunks())
        del tensor.external_data[:]
        tensor.ClearField("data_location")
        tensor.raw_data = data


def gather_beside(model: Any, source: Path | None, folder: Path) -> None:
    """Copies all external weights, and large ones from inside, into one file beside the model.

    Args:
        model: An `onnx.ModelProto`; its tensors then point to that file.
        source: The model's file.
        folder: Where `EXTERNAL_FILE` is written.

    Raises:
        SourceModelError: ``.external_data``.
    """
    with (folder / EXTERNAL_FILE).open("xb") as out:
        for what, tensor in model_tensors(model):
            if tensor.external_data or tensor.data_location == tensor.EXTERNAL:
                chunks: Iterator[bytes] = locate(what, tensor, source, _declared(tensor)).chunks()
            elif len(tensor.raw_data) >= _ALIGNMENT:
                chunks = iter([tensor.raw_data])
            else:
                continue
            # Aligned, so that runtimes can map the file into memory.
            out.write(bytes(-out.tell() % _ALIGNMENT))
            start = out.tell()
            for chunk in chunks:
                out.write(chunk)
            end = out.tell()
            tensor.ClearField("raw_data")
            del tensor.external_data[:]
            for key, value in (("location", EXTERNAL_FILE), ("offset", start), ("length", end - start)):
                entry = tensor.external_data.add()
                entry.key, entry.value = key, str(value)
            tensor.data_location = tensor.EXTERNAL


def _declared(tensor: Any) -> int | None:
    return _size_bytes("", tensor, math.prod(tensor.dims))


def _elements(what: str, tensor: Any, limits: Limits) -> int:
    if len(tensor.dims) > 64:
        raise fault("shape", f"{what} has {len(tensor.dims)} dimensions", value=len(tensor.dims))
    if any(size < 0 for size in tensor.dims):
        raise fault("shape", f"{what} has a negative dimension", value=list(tensor.dims))
    count = math.prod(tensor.dims)
    if count > limits.max_tensor_bytes:
        raise fault("too_large", f"{what} has the shape {list(tensor.dims)[:8]}", value=count)
    return count


def _size_bytes(what: str, tensor: Any, count: int) -> int | None:
    """Bytes that so many elements take; None for text."""
    name = _type_name(tensor)
    if not name or name == "undefined":
        raise fault("malformed", f"{what} has no element type", value=tensor.data_type)
    if name == "string":
        return None
    if name in _PACKED:
        return math.ceil(count / _PACKED[name])
    import onnx

    return count * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def _type_name(tensor: Any) -> str:
    """ONNX's name of the element type in small letters, empty where the number means none."""
    import onnx

    try:
        return str(onnx.TensorProto.DataType.Name(tensor.data_type)).lower()
    except ValueError:
        return ""


def _check_embedded(what: str, tensor: Any, count: int, size: int | None) -> int:
    """Compares what is there with what is declared. Returns the bytes that are there."""
    fields = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
    found = {field: len(getattr(tensor, field)) for field in fields if len(getattr(tensor, field))}
    if tensor.HasField("raw_data"):
        if size is None:
            raise fault("malformed", f"{what} is text, kept as raw bytes")
        if len(tensor.raw_data) != size or found:
            raise fault(
                "shape",
                f"{what} declares {list(tensor.dims)[:8]}, {size} bytes, and holds {len(tensor.raw_data)}",
                value=list(tensor.dims)[:8],
            )
        return size
    held, name = sum(found.values()), _type_name(tensor)
    expected = 2 * count if name.startswith("complex") else math.ceil(count / _PACKED.get(name, 1))
    if held != expected:
        raise fault(
            "shape",
            f"{what} declares {list(tensor.dims)[:8]} and holds {held} values",
            value=list(tensor.dims)[:8],
        )
    return (size or 0) + sum(len(text) for text in tensor.string_data)
