"""The Open Inference Protocol as its most used client speaks it, and as nobody should."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import tritonclient.http as triton
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.utils import InferenceServerException

from xinfer import InferenceEngine

Gateway = Any  # the fixture of conftest.py, which no test module can import

KEY = "igne_test-key"
AUTH = {"X-API-Key": KEY}  # tritonclient adds headers to the dictionary it is given: give it copies
INFER = "/v2/models/tiny/infer"
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 24, 20, 3), dtype=np.uint8)


@pytest.fixture
def client(gateway: Gateway) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(f"127.0.0.1:{gateway.port}")
    yield client
    client.close()


@pytest.fixture(scope="module")
def expected(engine_file: Path) -> dict[str, np.ndarray]:
    with InferenceEngine.load(engine_file, require_signature=False) as engine:
        return engine.infer({"image": IMAGES})


def image_input(images: np.ndarray = IMAGES, *, binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput("image", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images, binary_data=binary)
    return tensor


def test_health_and_metadata_answer_without_a_key(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata()["name"] == "xinfer"


def test_health_is_json_that_kserves_client_reads(gateway: Gateway) -> None:
    assert gateway.request("GET", "/v2/health/live", None, {}).json == {"live": True}
    assert gateway.request("GET", "/v2/health/ready", None, {}).json == {"ready": True}
    assert gateway.request("HEAD", "/v2/health/ready", None, {}).status == 200


@pytest.mark.parametrize("version", ["", "1"])
def test_model_documents_describe_the_tensors(client: triton.InferenceServerClient, version: str) -> None:
    assert client.is_model_ready("tiny", version, headers=dict(AUTH))
    metadata = client.get_model_metadata("tiny", version, headers=dict(AUTH))
    assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
    assert {tensor["name"]: tensor["datatype"] for tensor in metadata["outputs"]} == {
        "score": "FP32",
        "anomaly_map": "FP32",
    }
    config = client.get_model_config("tiny", version, headers=dict(AUTH))
    assert config["input"] == [{"name": "image", "data_type": "TYPE_UINT8", "dims": [-1, -1, -1, 3]}]
    assert config["max_batch_size"] == 0


@pytest.mark.parametrize("binary_input", [True, False])
@pytest.mark.parametrize("binary_output", [True, False])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_infer_answers_like_the_engine(
    client: triton.InferenceServerClient,
    expected: dict[str, np.ndarray],
    binary_input: bool,
    binary_output: bool,
    compression: str | None,
) -> None:
    outputs = [triton.InferRequestedOutput(name, binary_data=binary_output) for name in expected]
    result = client.infer(
        "tiny",
        [image_input(binary=binary_input)],
        outputs=outputs,
        request_id="42",
        headers=dict(AUTH),
        request_compression_algorithm=compression,
    )
    assert result.get_response()["id"] == "42"
    for name, array in expected.items():
        np.testing.assert_allclose(result.as_numpy(name), array, rtol=1e-4, atol=1e-6)


def test_infer_answers_all_outputs_when_none_are_named(
    client: triton.InferenceServerClient, expected: dict[str, np.ndarray]
) -> None:
    result = client.infer("tiny", [image_input()], headers=dict(AUTH))
    assert {tensor["name"] for tensor in result.get_response()["outputs"]} == set(expected)


def test_infer_answers_only_the_outputs_that_are_named(client: triton.InferenceServerClient) -> None:
    outputs = [triton.InferRequestedOutput("score")]
    result = client.infer("tiny", [image_input()], outputs=outputs, headers=dict(AUTH))
    assert [tensor["name"] for tensor in result.get_response()["outputs"]] == ["score"]


def test_basic_auth_plugin_carries_the_key(client: triton.InferenceServerClient) -> None:
    from tritonclient.http.auth import BasicAuth

    client.register_plugin(BasicAuth("anyone", KEY))
    assert client.is_model_ready("tiny")


def test_statistics_and_index_show_the_models_of_the_key(client: triton.InferenceServerClient) -> None:
    before = client.get_inference_statistics("tiny", headers=dict(AUTH))["model_stats"][0]
    client.infer("tiny", [image_input()], headers=dict(AUTH))
    after = client.get_inference_statistics(headers=dict(AUTH))["model_stats"][0]
    assert after["inference_count"] == before["inference_count"] + 1
    assert after["inference_stats"]["success"]["ns"] > before["inference_stats"]["success"]["ns"]
    index = client.get_model_repository_index(headers=dict(AUTH))
    assert index == [{"name": "tiny", "version": "1", "state": "READY", "reason": ""}]
    with pytest.raises(InferenceServerException, match="key"):
        client.get_model_repository_index()


def test_load_and_unload_are_refused(client: triton.InferenceServerClient) -> None:
    for call in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match="Hub"):
            call("tiny", headers=dict(AUTH))


def test_infer_is_refused_without_the_key(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="no key"):
        client.infer("tiny", [image_input()])
    assert not client.is_model_ready("tiny")


def tensor(**changes: Any) -> dict[str, Any]:
    entry = {"name": "image", "datatype": "UINT8", "shape": [1, 1, 2, 3], "data": [0, 1, 2, 3, 4, 255]}
    return {key: value for key, value in {**entry, **changes}.items() if value is not None}


def message(*inputs: Any, **fields: Any) -> dict[str, Any]:
    return {"inputs": list(inputs), **fields}


def binary(size: Any, **changes: Any) -> dict[str, Any]:
    return tensor(data=None, parameters={"binary_data_size": size}, **changes)


BAD_MESSAGES: dict[str, tuple[Any, str]] = {
    "not an object": ([1], "JSON object"),
    "no inputs": ({}, "'inputs'"),
    "inputs not a list": ({"inputs": {"image": 1}}, "'inputs'"),
    "input not an object": (message(1), "'name'"),
    "nothing given": (message(), "missing inputs: image"),
    "wrong name": (message(tensor(name="x")), "no input 'x'"),
    "twice": (message(tensor(), tensor()), "twice"),
    "wrong datatype": (message(tensor(datatype="FP32")), "UINT8"),
    "no datatype": (message(tensor(datatype=None)), "UINT8"),
    "odd datatype": (message(tensor(datatype=["x"] * 99)), "UINT8"),
    "rank": (message(tensor(shape=[2, 3])), "shape"),
    "channels": (message(tensor(shape=[1, 1, 1, 6])), "shape"),
    "zero": (message(tensor(shape=[0, 1, 2, 3], data=[])), "positive"),
    "negative": (message(tensor(shape=[-1, -1, 2, 3])), "positive"),
    "boolean size": (message(tensor(shape=[True, 1, 2, 3])), "positive"),
    "float size": (message(tensor(shape=[1.0, 1, 2, 3])), "positive"),
    "overflow": (message(tensor(shape=[2**31 - 1, 2**31 - 1, 2**31 - 1, 3])), "values"),
    "too few": (message(tensor(data=[1, 2, 3])), "values"),
    "ragged": (message(tensor(data=[[1, 2], [3]])), "regular"),
    "nested otherwise": (message(tensor(data=[[0, 1, 2], [3, 4, 5]])), "nested"),
    "text": (message(tensor(data=["a"] * 6)), "not UINT8"),
    "null": (message(tensor(data=[None] * 6)), "not UINT8"),
    "fractions": (message(tensor(data=[0.5] * 6)), "not UINT8"),
    "booleans": (message(tensor(data=[True] * 6)), "not UINT8"),
    "out of range": (message(tensor(data=[0, 1, 2, 3, 4, 256])), "outside"),
    "below range": (message(tensor(data=[0, 1, 2, 3, 4, -1])), "outside"),
    "no data": (message(tensor(data=None)), "no 'data'"),
    "data not a list": (message(tensor(data="AAAA")), "no 'data'"),
    "binary without bytes": (message(binary(6)), "follow the JSON"),
    "binary size": (message(binary(5)), "needs 6 bytes"),
    "binary size not a number": (message(binary("6")), "binary_data_size"),
    "binary size negative": (message(binary(-6)), "binary_data_size"),
    "both": (message(tensor(parameters={"binary_data_size": 6})), "both"),
    "parameters": (message(tensor(parameters=[1])), "'parameters'"),
    "shared memory": (message(tensor(parameters={"shared_memory_region": "x"})), "shared memory"),
    "unknown output": (message(tensor(), outputs=[{"name": "x"}]), "no output 'x'"),
    "output twice": (message(tensor(), outputs=[{"name": "score"}] * 2), "twice"),
    "outputs not a list": (message(tensor(), outputs=1), "'outputs'"),
    "output not an object": (message(tensor(), outputs=["score"]), "'name'"),
    "classification": (
        message(tensor(), outputs=[{"name": "score", "parameters": {"classification": 1}}]),
        "classification",
    ),
    "binary_data": (message(tensor(), outputs=[{"name": "score", "parameters": {"binary_data": 1}}]), "true"),
    "id": (message(tensor(), id=1), "'id'"),
    "batch": (message(tensor(shape=[40, 1, 1, 3], data=[0] * 120)), "at most 32 images"),
    "side": (message(tensor(shape=[1, 1, 20_000, 3], data=[0] * 60_000)), "16384 pixels a side"),
}


@pytest.mark.parametrize("case", BAD_MESSAGES)
def test_bad_message_is_refused_with_its_reason(gateway: Gateway, case: str) -> None:
    value, reason = BAD_MESSAGES[case]
    reply = gateway.request("POST", INFER, orjson.dumps(value), AUTH)
    assert reply.status == 400, reply.body
    assert list(reply.json) == ["error"]
    assert reason in reply.json["error"]


GOOD = orjson.dumps(message(tensor()))
BAD_BODIES: dict[str, tuple[bytes, dict[str, str], int]] = {
    "empty": (b"", {}, 400),
    "not JSON": (b"{", {}, 400),
    "deep": (b"[" * 100_000, {}, 400),
    "not UTF-8": (b'{"inputs": "\xff"}', {}, 400),
    "header length beyond the body": (GOOD, {"Inference-Header-Content-Length": "99999"}, 400),
    "header length not a number": (GOOD, {"Inference-Header-Content-Length": "-1"}, 400),
    "header length huge": (GOOD, {"Inference-Header-Content-Length": "9" * 40}, 400),
    "bytes after the last tensor": (
        GOOD + b"xx",
        {"Inference-Header-Content-Length": str(len(GOOD))},
        400,
    ),
    "not gzip": (GOOD, {"Content-Encoding": "gzip"}, 400),
    "half gzip": (gzip.compress(GOOD)[:-9], {"Content-Encoding": "gzip"}, 400),
    "gzip and more": (gzip.compress(GOOD) + b"x", {"Content-Encoding": "gzip"}, 400),
    "unknown encoding": (GOOD, {"Content-Encoding": "br"}, 400),
    "bomb": (gzip.compress(bytes(60 * 2**20)), {"Content-Encoding": "gzip"}, 400),
    "deflate bomb": (zlib.compress(bytes(60 * 2**20)), {"Content-Encoding": "deflate"}, 400),
}


@pytest.mark.parametrize("case", BAD_BODIES)
def test_bad_body_is_refused(gateway: Gateway, case: str) -> None:
    body, headers, status = BAD_BODIES[case]
    reply = gateway.request("POST", INFER, body, {**AUTH, **headers})
    assert reply.status == status, reply.body
    assert reply.json["error"]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", "/v2/models/none/infer", AUTH, 404),
        ("POST", "/v2/models/none/infer", {}, 401),
        ("POST", INFER, {"X-API-Key": "x"}, 401),
        ("POST", "/v2/models/tiny/versions/7/infer", AUTH, 404),
        ("GET", "/v2/models/tiny/versions/7", AUTH, 404),
        ("GET", INFER, AUTH, 405),
        ("GET", "/v2/models/tiny", {}, 401),
        ("GET", "/v2/models/stats", {}, 401),
        ("GET", "/v2/nothing", AUTH, 404),
    ],
)
def test_errors_of_the_protocol_have_one_form(
    gateway: Gateway, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    reply = gateway.request(method, path, GOOD if method == "POST" else None, headers)
    assert reply.status == status
    assert list(reply.json) == ["error"]


def test_raw_deflate_is_understood(gateway: Gateway) -> None:
    stream = zlib.compressobj(wbits=-15)
    body = stream.compress(GOOD) + stream.flush()
    assert gateway.request("POST", INFER, body, {**AUTH, "Content-Encoding": "deflate"}).status == 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = ["name", "datatype", "shape", "data", "parameters"]


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, dict[str, str]]:
    """A valid request with some fields replaced, some bytes changed and some headers wrong."""
    entry = tensor() if draw(st.booleans()) else binary(6)
    for name in draw(st.lists(st.sampled_from(FIELDS), max_size=2)):
        entry[name] = draw(JSON)
    fields = {name: draw(JSON) for name in draw(st.lists(st.sampled_from(["outputs", "parameters", "id"])))}
    body = json.dumps(message(entry, **fields)).encode()
    headers = {}
    if draw(st.booleans()):
        length = draw(st.sampled_from([len(body)] * 3 + [0, 1, len(body) - 1, len(body) + 1]))
        headers["Inference-Header-Content-Length"] = str(length)
        body += draw(st.binary(max_size=8) | st.just(bytes(6)))
    if draw(st.integers(0, 3)) == 0 and body:
        position = draw(st.integers(0, len(body) - 1))
        body = body[:position] + draw(st.binary(max_size=3)) + body[position + 1 :]
    if encoding := draw(st.sampled_from([None, None, None, "gzip", "deflate"])):
        headers["Content-Encoding"] = encoding
        body = gzip.compress(body) if draw(st.booleans()) else zlib.compress(body)
    return body, headers


@settings(
    max_examples=250,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(request=requests())
def test_no_body_makes_the_gateway_fail(gateway: Gateway, request: tuple[bytes, dict[str, str]]) -> None:
    body, headers = request
    reply = gateway.request("POST", INFER, body, {**AUTH, **headers})
    assert reply.status in (200, 400), reply.body
    assert ("outputs" in reply.json_header) if reply.status == 200 else ("error" in reply.json)


def test_gateway_still_serves_after_all_this(
    gateway: Gateway, client: triton.InferenceServerClient, expected: dict[str, np.ndarray]
) -> None:
    result = client.infer("tiny", [image_input()], headers=dict(AUTH))
    np.testing.assert_allclose(result.as_numpy("score"), expected["score"], rtol=1e-4)
    assert "Traceback" not in gateway.log.read_text()


def test_credentials_in_basic_form_are_not_mistaken_for_base64(gateway: Gateway) -> None:
    headers = {"Authorization": "Basic " + base64.b64encode(KEY.encode()).decode()}
    assert gateway.request("GET", "/v2/models/tiny", None, headers).status == 401
