"""The predict route, errors, limits and shutdown, against a real gateway process."""

from __future__ import annotations

import base64
import gzip
import http.client
import io
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from PIL import Image

from xinfer import AnomalyDetector
from xinfer.signing import generate_key

Gateway = Any  # the fixture of conftest.py, which no test module can import

KEY = "igne_test-key"
PREDICT = "/v1/endpoints/tiny/predict"
BODY_LIMIT = 20 * 2**20


def encoded(kind: str, size: tuple[int, int] = (64, 48), seed: int = 0, **options: Any) -> bytes:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(buffer, kind, **options)
    return buffer.getvalue()


JPEG = encoded("JPEG")
CUT_JPEG = encoded("JPEG", (320, 240))[:-2000]


def test_predict_answers_like_the_engine_when_the_key_is_right(gateway: Gateway, engine_file: Path) -> None:
    reply = gateway.request("POST", PREDICT, JPEG)
    assert reply.status == 200, reply.body
    answer = reply.json
    with AnomalyDetector(engine_file, require_signature=False) as detector:
        expected = detector.predict(JPEG)
    assert answer["verdict"] == expected.verdict
    assert answer["score"] == pytest.approx(expected.score, rel=1e-4)
    assert answer["confidence"] == pytest.approx(expected.confidence, rel=1e-4)
    assert answer["threshold"] == 0.5
    assert answer["image"] == {"width": 64, "height": 48}
    assert (answer["model"], answer["version"]) == ("tiny", 1)
    assert answer["engine"].startswith("sha256:")
    assert set(answer["timing_ms"]) == {"decode", "inference", "total"}
    assert "heatmap" not in answer


def test_predict_adds_the_heat_map_when_asked(gateway: Gateway) -> None:
    heatmap = gateway.request("POST", PREDICT + "?heatmap=png", JPEG).json["heatmap"]
    image = Image.open(io.BytesIO(base64.b64decode(heatmap["data_base64"])))
    assert image.format == "PNG"
    assert image.size == (heatmap["width"], heatmap["height"]) == (8, 8)


@pytest.mark.parametrize(
    ("exif_orientation", "expected"), [(1, (64, 48)), (6, (48, 64)), (3, (64, 48)), (8, (48, 64))]
)
def test_predict_names_the_upright_size_when_the_jpeg_is_turned(
    gateway: Gateway, exif_orientation: int, expected: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = exif_orientation
    size = gateway.request("POST", PREDICT, encoded("JPEG", exif=exif.tobytes())).json["image"]
    assert (size["width"], size["height"]) == expected


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer {KEY}"},
        {"X-API-Key": KEY},
        {"Authorization": "Basic " + base64.b64encode(f"user:{KEY}".encode()).decode()},
        {"X-API-Key": KEY, "Content-Type": "image/jpeg"},
        {"X-API-Key": KEY, "Content-Type": "application/x-www-form-urlencoded"},
    ],
)
def test_predict_accepts_each_way_to_send_the_key(gateway: Gateway, headers: dict[str, str]) -> None:
    assert gateway.request("POST", PREDICT, JPEG, headers).status == 200


AUTH = {"X-API-Key": KEY}
ERRORS: dict[str, tuple[str, str, bytes | None, dict[str, str], int, str]] = {
    "no key": ("POST", PREDICT, JPEG, {}, 401, "key.missing"),
    "no key, no endpoint": ("POST", "/v1/endpoints/none/predict", JPEG, {}, 401, "key.missing"),
    "wrong key": ("POST", PREDICT, JPEG, {"X-API-Key": "x"}, 401, "key.invalid"),
    "empty bearer": ("POST", PREDICT, JPEG, {"Authorization": "Bearer "}, 401, "key.missing"),
    "broken basic": ("POST", PREDICT, JPEG, {"Authorization": "Basic %%%"}, 401, "key.missing"),
    "unknown endpoint": ("POST", "/v1/endpoints/none/predict", JPEG, AUTH, 404, "endpoint.unknown"),
    "odd endpoint": ("POST", "/v1/endpoints/%00%ff..%2f/predict", JPEG, AUTH, 404, "path.unknown"),
    "unknown path": ("GET", "/nothing/here", None, AUTH, 404, "path.unknown"),
    "method": ("GET", PREDICT, None, AUTH, 405, "method.not_allowed"),
    "method with body": ("PUT", PREDICT, JPEG, AUTH, 405, "method.not_allowed"),
    "empty body": ("POST", PREDICT, b"", AUTH, 400, "body.empty"),
    "no body": ("POST", PREDICT, None, AUTH, 400, "body.empty"),
    "query": ("POST", PREDICT + "?heatmap=gif", JPEG, AUTH, 400, "query.invalid"),
    "text": ("POST", PREDICT, b"hello, world\n" * 20, AUTH, 422, "image.unreadable"),
    "truncated JPEG": ("POST", PREDICT, CUT_JPEG, AUTH, 422, "image.truncated"),
    "truncated PNG": ("POST", PREDICT, encoded("PNG", (99, 99))[:-900], AUTH, 422, "image.truncated"),
    "PDF": ("POST", PREDICT, b"%PDF-1.7\n" + b"0" * 99, AUTH, 422, "image.unsupported"),
    "too many pixels": ("POST", PREDICT, encoded("PNG", (8000, 7000)), AUTH, 422, "image.too_large"),
    "too long a side": ("POST", PREDICT, encoded("PNG", (20000, 20)), AUTH, 422, "image.too_large"),
    "too large": ("POST", PREDICT, b"\xff" * (BODY_LIMIT + 1), AUTH, 413, "body.too_large"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_problems_that_name_what_is_wrong(gateway: Gateway, case: str) -> None:
    method, path, body, headers, status, code = ERRORS[case]
    reply = gateway.request(method, path, body, headers)
    assert (reply.status, reply.json["code"]) == (status, code)
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json["status"] == status
    assert reply.json["title"]
    assert reply.json["detail"].endswith(".")
    assert reply.json["hint"]
    assert reply.json["request_id"] == reply.headers["x-request-id"]
    assert ("www-authenticate" in reply.headers) == (status == 401)
    assert ("allow" in reply.headers) == (status == 405)
    assert gateway.request("POST", PREDICT, JPEG).status == 200


def test_request_id_of_the_caller_is_kept_when_it_is_sane(gateway: Gateway) -> None:
    headers = {**AUTH, "X-Request-Id": "trace-1"}
    assert gateway.request("POST", PREDICT, JPEG, headers).headers["x-request-id"] == "trace-1"
    headers["X-Request-Id"] = "<script>"
    assert gateway.request("POST", PREDICT, JPEG, headers).headers["x-request-id"] != "<script>"


def test_streamed_body_over_the_limit_is_refused_when_its_length_was_not_declared(gateway: Gateway) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(30):
            yield bytes(2**20)

    reply = gateway.request("POST", PREDICT, chunks(), AUTH)
    # http.client encodes the chunks; the sender is not cut off before it can read the answer.
    assert (reply.status, reply.json["code"]) == (413, "body.too_large")
    assert reply.headers["connection"] == "close"


def test_declared_length_over_the_limit_is_refused_before_the_body_is_sent(gateway: Gateway) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as connection:
        connection.sendall(
            f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\n"
            f"Content-Length: {BODY_LIMIT + 1}\r\nExpect: 100-continue\r\n\r\n".encode()
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")


def test_connection_stays_usable_after_a_refused_request(gateway: Gateway) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    for headers, status in [({}, 401), (AUTH, 200), ({"X-API-Key": "x"}, 401), (AUTH, 200)]:
        connection.request("POST", PREDICT, JPEG, headers)
        response = connection.getresponse()
        response.read()
        assert response.status == status
    connection.close()


def test_every_answer_belongs_to_its_request_when_eight_threads_ask_at_once(
    gateway: Gateway, engine_file: Path
) -> None:
    bodies = [encoded(kind, (40 + seed, 32), seed) for seed in range(24) for kind in ("PNG", "JPEG")]
    with AnomalyDetector(engine_file, require_signature=False) as detector:
        expected = [detector.predict(body).score for body in bodies]
    assert len({round(score, 5) for score in expected}) > 40

    def ask(thread: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
        for index in np.random.default_rng(thread).permutation(len(bodies)):
            connection.request("POST", PREDICT, bodies[index], AUTH)
            answer = orjson.loads(connection.getresponse().read())
            assert answer["score"] == pytest.approx(expected[index], rel=1e-4)
            assert answer["image"]["width"] == 40 + index // 2
        connection.close()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, range(8)))


def test_callers_get_503_when_the_queue_is_full(
    start_gateway: Any, engine_file: Path, tmp_path: Path
) -> None:
    options = ("--name", "tiny", "--no-auth", "--workers", "1", "--max-queued", "1")
    with start_gateway(tmp_path / "log", engine_file, *options) as gateway:
        large = encoded("PNG", (3000, 3000))
        with ThreadPoolExecutor(8) as threads:
            replies = list(threads.map(lambda _: gateway.request("POST", PREDICT, large, {}), range(24)))
        refused = [reply for reply in replies if reply.status == 503]
        assert {reply.status for reply in replies} == {200, 503}
        assert all(reply.headers["retry-after"] == "1" for reply in refused)
        assert gateway.request("POST", PREDICT, JPEG, {}).status == 200


def test_gateway_asks_for_no_key_when_started_so_on_loopback(
    start_gateway: Any, engine_file: Path, tmp_path: Path
) -> None:
    with start_gateway(tmp_path / "log", engine_file, "--name", "tiny", "--no-auth") as gateway:
        assert gateway.request("POST", PREDICT, JPEG, {}).status == 200
        assert gateway.request("POST", "/v1/endpoints/none/predict", JPEG, {}).status == 404


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--no-auth", "--host", "0.0.0.0"], "this machine only"),
        ([], "--key-file or --no-auth"),
        (["--no-auth", "--name", "Not A Name"], "endpoint's name"),
        (["--no-auth", "--public-key", "missing.pem"], "public key"),
        (["--no-auth", "--port", "1"], "cannot listen"),
    ],
)
def test_start_is_refused_with_a_reason_when_asked_for_the_impossible(
    engine_file: Path, arguments: list[str], message: str
) -> None:
    if "1" in arguments and Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").exists():
        with socket.create_server(("127.0.0.1", 0)) as taken:
            arguments = [*arguments[:-1], str(taken.getsockname()[1])]
            result = start(engine_file, arguments)
    else:
        result = start(engine_file, arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def start(engine_file: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "xinfer.serve", str(engine_file), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_engine_is_refused_when_its_signature_is_another_keys(engine_file: Path, tmp_path: Path) -> None:
    generate_key(tmp_path / "other.pem", tmp_path / "other.pub.pem")
    result = start(engine_file, ["--no-auth", "--public-key", str(tmp_path / "other.pub.pem")])
    assert result.returncode == 2
    assert "signature" in result.stderr.lower()


def test_gateway_ends_when_stdin_closes(start_gateway: Any, engine_file: Path, tmp_path: Path) -> None:
    options = ("--name", "tiny", "--no-auth", "--exit-on-stdin-eof")
    with start_gateway(tmp_path / "log", engine_file, *options, stdin=subprocess.PIPE) as gateway:
        assert gateway.request("GET", "/healthz").json["status"] == "ok"
        assert gateway.process.stdin is not None
        gateway.process.stdin.close()
        assert gateway.process.wait(timeout=30) == 0


def test_requests_in_progress_are_answered_when_told_to_stop(
    start_gateway: Any, engine_file: Path, tmp_path: Path
) -> None:
    options = ("--name", "tiny", "--no-auth", "--workers", "1")
    with start_gateway(tmp_path / "log", engine_file, *options) as gateway:
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
        body = encoded("PNG", (4000, 4000), compress_level=1)
        connection.request("POST", PREDICT, body, {})
        # The answer to a request sent later on another connection shows that the first one has arrived.
        while 'status="' not in (text := gateway.request("GET", "/metrics", None, {}).body.decode()):
            if "xinfer_requests_in_flight 1" in text:
                break
        gateway.process.terminate()
        assert connection.getresponse().status == 200
        connection.close()
        assert gateway.process.wait(timeout=30) == 0


def test_metrics_count_what_happened(gateway: Gateway) -> None:
    def count(status: int) -> int:
        text = gateway.request("GET", "/metrics", None, {}).body.decode()
        prefix = f'xinfer_requests_total{{endpoint="tiny",status="{status}"}} '
        return next((int(line[len(prefix) :]) for line in text.splitlines() if line.startswith(prefix)), 0)

    before = count(200), count(422)
    gateway.request("POST", PREDICT, JPEG)
    gateway.request("POST", PREDICT, b"text")
    assert (count(200), count(422)) == (before[0] + 1, before[1] + 1)
    text = gateway.request("GET", "/metrics", None, {}).body.decode()
    assert 'xinfer_request_duration_seconds_bucket{endpoint="tiny",le="+Inf"}' in text


def test_metrics_hide_endpoint_names_when_asked_through_a_proxy_without_a_key(gateway: Gateway) -> None:
    forwarded = {"X-Forwarded-For": "203.0.113.7"}
    assert b"tiny" not in gateway.request("GET", "/metrics", None, forwarded).body
    assert gateway.request("GET", "/metrics", None, {**forwarded, **AUTH}).status == 200


def test_gzip_image_is_not_an_image(gateway: Gateway) -> None:
    reply = gateway.request("POST", PREDICT, gzip.compress(JPEG))
    assert (reply.status, reply.json["code"]) == (422, "image.unsupported")
