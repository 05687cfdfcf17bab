"""The protocol's codec alone: what one side writes the other side reads."""

from __future__ import annotations

import tracemalloc

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from xinfer.manifest import DATATYPES, TensorSpec
from xinfer.serve import keys, oip
from xinfer.serve.errors import ProtocolError
from xinfer.serve.work import _jpeg_size


@st.composite
def tensors(draw: st.DrawFn) -> np.ndarray:
    dtype = np.dtype(DATATYPES[draw(st.sampled_from(sorted(DATATYPES)))])
    shape = draw(nps.array_shapes(min_dims=1, max_dims=3, max_side=4))
    elements = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else None
    return draw(nps.arrays(dtype, shape, elements=elements))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(array=tensors(), binary=st.booleans())
def test_a_tensor_survives_the_wire_in_both_directions(array: np.ndarray, binary: bool) -> None:
    datatype = oip.datatype_of(array.dtype)
    spec = TensorSpec(name="x", datatype=datatype, shape=(-1,) * array.ndim)  # type: ignore[arg-type]
    request = oip.InferRequest(id="1", feeds={}, outputs=(oip.OutputRequest(name="x", binary=binary),))
    body, header_length = oip.encode_infer("m", "1", request, {"x": array})
    assert (header_length is not None) == binary
    message = orjson.loads(body[:header_length])
    assert (message["model_name"], message["model_version"], message["id"]) == ("m", "1", "1")
    # An output has the form of an input: send it back.
    header = orjson.dumps({"inputs": message["outputs"]})
    tail = body[header_length:] if header_length is not None else b""
    parsed = oip.parse_infer(header + tail, str(len(header)), [spec], [spec])
    assert parsed.feeds["x"].dtype == array.dtype
    np.testing.assert_array_equal(parsed.feeds["x"], array)
    assert parsed.outputs == (oip.OutputRequest(name="x", binary=False),)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(body=st.binary(max_size=200), header_length=st.none() | st.text(max_size=6))
def test_any_bytes_are_read_or_refused(body: bytes, header_length: str | None) -> None:
    spec = TensorSpec(name="x", datatype="UINT8", shape=(-1,))
    with pytest.raises(ProtocolError):
        oip.parse_infer(body, header_length, [spec], [spec])


def test_a_long_text_among_numbers_is_refused_without_reserving_its_length_for_each() -> None:
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1,))
    data = ["x" * 10_000, *[1] * 5_000]
    body = orjson.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [5_001], "data": data}]})
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="not FP32"):
            oip.parse_infer(body, None, [spec], [spec])
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 10_000_000


def test_several_binary_tensors_are_cut_in_order() -> None:
    specs = [TensorSpec(name=name, datatype="INT16", shape=(-1,)) for name in "ab"]
    inputs = [
        {"name": name, "datatype": "INT16", "shape": [size], "parameters": {"binary_data_size": 2 * size}}
        for name, size in (("b", 1), ("a", 2))
    ]
    header = orjson.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}})
    tail = np.array([7, 8, 9], "<i2").tobytes()
    request = oip.parse_infer(header + tail, str(len(header)), specs, specs)
    assert request.feeds["b"].tolist() == [7]
    assert request.feeds["a"].tolist() == [8, 9]
    assert all(output.binary for output in request.outputs)


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({}, None),
        ({b"authorization": b"Bearer abc"}, b"abc"),
        ({b"authorization": b"BEARER  abc "}, b"abc"),
        ({b"authorization": b"Token abc"}, None),
        ({b"authorization": b"Token abc", b"x-api-key": b"def"}, b"def"),
        ({b"authorization": b"Basic OmFiYw=="}, b"abc"),
        ({b"authorization": b"Basic YWJj"}, None),
        ({b"authorization": b"Basic \xff"}, None),
        ({b"x-api-key": b"  "}, None),
    ],
)
def test_key_is_found_where_callers_put_it(headers: dict[bytes, bytes], key: bytes | None) -> None:
    assert keys.presented_key(headers) == key


def test_key_is_accepted_when_any_of_the_digests_is_its_own() -> None:
    digests = [keys.key_digest(b"one"), keys.key_digest(b"two")]
    assert keys.accepts(digests, b"two")
    assert not keys.accepts(digests, b"three")
    assert not keys.accepts([], b"one")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.binary(max_size=40))
def test_jpeg_size_never_fails_on_any_bytes(data: bytes) -> None:
    size = _jpeg_size(b"\xff\xd8" + data)
    assert size is None or len(size) == 2
