"""The gateway against a Hub: a small real HTTP server that says what a test wants it to say."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from xinfer.package import EnginePackage
from xinfer.serve.config import GatewayConfig, parse_config
from xinfer.serve.errors import HubError, HubUnavailableError
from xinfer.serve.host import Catalogue, EngineHost
from xinfer.serve.hub_client import HubClient
from xinfer.serve.hub_sync import HubSync
from xinfer.serve.server import load_host
from xinfer.signing import generate_key

TOKEN = "gateway-token"
KEYS = ["first-key", "second-key"]
WAIT_S = 60


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class FakeHub:
    """Answers `/v1/gateway` as the wire protocol says; configurations are waited for, reports recorded."""

    etag: str = "0"
    endpoints: list[dict[str, Any]] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)
    reports: list[dict[str, Any]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    closing: bool = False
    num_failures: int = 0
    """So many of the next requests are answered 503."""
    port: int = 0

    def deploy(self, *endpoints: dict[str, Any]) -> None:
        with self.changed:
            self.etag = str(int(self.etag) + 1)
            self.endpoints = list(endpoints)
            self.changed.notify_all()

    def wait_for_report(self, number: int) -> dict[str, Any]:
        """The report with this number, counted from 1."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.reports) >= number, timeout=WAIT_S), self.reports
            return self.reports[number - 1]


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def refused(self) -> bool:
            if hub.num_failures:
                hub.num_failures -= 1
                self.answer(503, b"{}")
                return True
            if self.headers["Authorization"] != f"Bearer {TOKEN}":
                self.answer(401, b"{}")
                return True
            return False

        def do_GET(self) -> None:
            if self.refused():
                return
            url = urlsplit(self.path)
            if url.path == "/v1/gateway/config":
                etag = parse_qs(url.query, keep_blank_values=True)["etag"][0]
                with hub.changed:
                    hub.changed.wait_for(lambda: hub.etag != etag or hub.closing, timeout=20)
                    answer = {"etag": hub.etag, "endpoints": hub.endpoints, "of_a_newer_hub": 1}
                self.answer(200, json.dumps(answer).encode())
            elif (blob := hub.blobs.get(url.path.removeprefix("/v1/gateway/blobs/"))) is not None:
                self.answer(200, blob)
            else:
                self.answer(404, b"{}")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.refused():
                return
            assert self.path == "/v1/gateway/status"
            with hub.changed:
                hub.reports.append(json.loads(body))
                hub.changed.notify_all()
            self.answer(200, b"{}")

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield hub
    with hub.changed:
        hub.closing = True
        hub.changed.notify_all()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def endpoint(engine_file: Path, keys: tuple[Path, Path], hub: FakeHub) -> dict[str, Any]:
    """A deployable endpoint whose engine the Hub has."""
    data = engine_file.read_bytes()
    digest = f"sha256:{sha256(data)}"
    hub.blobs[digest] = data
    return {
        "name": "tiny",
        "engine_digest": digest,
        "key_sha256": [sha256(KEYS[0].encode())],
        "public_key_pem": keys[1].read_text(),
    }


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text(TOKEN + "\n")
    return tmp_path / "home"


def arguments(hub: FakeHub, home: Path) -> list[str]:
    return [
        "--hub-url", f"http://127.0.0.1:{hub.port}", "--token-file", str(home.parent / "token"),
        "--home", str(home), "--workers", "1",
    ]  # fmt: skip


def status(gateway: Any, png: bytes, key: str = KEYS[0], name: str = "tiny") -> int:
    path = f"/v1/endpoints/{name}/predict"
    return int(gateway.request("POST", path, png, {"X-API-Key": key}).status)


def test_gateway_follows_the_hub(
    start_gateway: Any, hub: FakeHub, home: Path, endpoint: dict[str, Any], png: bytes, tmp_path: Path
) -> None:
    with start_gateway(tmp_path / "log", *arguments(hub, home)) as gateway:
        assert hub.wait_for_report(1) == {"ready": [], "failed": {}}
        assert gateway.request("GET", "/v2/health/ready", None, {}).status == 200
        assert status(gateway, png) == 404

        hub.deploy(endpoint)
        assert hub.wait_for_report(2) == {"ready": ["tiny"], "failed": {}}
        assert status(gateway, png) == 200
        assert status(gateway, png, KEYS[1]) == 401

        hub.deploy({**endpoint, "key_sha256": [sha256(KEYS[1].encode())]})
        assert hub.wait_for_report(3) == {"ready": ["tiny"], "failed": {}}
        assert status(gateway, png) == 401
        assert status(gateway, png, KEYS[1]) == 200

        hub.deploy()
        assert hub.wait_for_report(4) == {"ready": [], "failed": {}}
        assert status(gateway, png, KEYS[1]) == 404
    assert gateway.process.returncode == 0
    assert list((home / "gateway" / "engines").iterdir()) == []
    assert "Traceback" not in gateway.log.read_text()


def test_gateway_serves_without_the_hub_what_it_served_before(
    start_gateway: Any, hub: FakeHub, home: Path, endpoint: dict[str, Any], png: bytes, tmp_path: Path
) -> None:
    hub.deploy(endpoint)
    with start_gateway(tmp_path / "log", *arguments(hub, home)):
        assert hub.wait_for_report(1)["ready"] == ["tiny"]
    saved = (home / "gateway" / "config.json").read_text()
    assert sha256(KEYS[0].encode()) in saved
    assert KEYS[0] not in saved

    leftover = home / "gateway" / "unpacked" / "xinfer-engine-killed"
    leftover.mkdir()
    hub.num_failures = 10**9
    with start_gateway(tmp_path / "log", *arguments(hub, home)) as gateway:
        while gateway.request("GET", "/v2/health/ready", None, {}).status != 200:
            assert gateway.process.poll() is None
        assert not leftover.exists()
        assert status(gateway, png) == 200
        assert status(gateway, png, "wrong") == 401
        hub.num_failures = 0
        assert hub.wait_for_report(2) == {"ready": ["tiny"], "failed": {}}


def failing(endpoint: dict[str, Any], hub: FakeHub, case: str, folder: Path) -> tuple[dict[str, Any], str]:
    """An endpoint that cannot be served, and the code that says why."""
    if case == "signed by another":
        generate_key(folder / "other.pem", folder / "other.pub.pem")
        return {**endpoint, "public_key_pem": (folder / "other.pub.pem").read_text()}, "signature.invalid"
    if case == "not a key":
        return {**endpoint, "public_key_pem": "none"}, "signature.bad_key"
    if case == "not an engine":
        digest = f"sha256:{sha256(b'not an engine')}"
        hub.blobs[digest] = b"not an engine"
        return {**endpoint, "engine_digest": digest}, "package.invalid"
    if case == "damaged on the way":
        digest = "sha256:" + "0" * 64
        hub.blobs[digest] = b"something else"
        return {**endpoint, "engine_digest": digest}, "blob.digest_mismatch"
    assert case == "not on the Hub"
    return {**endpoint, "engine_digest": "sha256:" + "1" * 64}, "hub.answer"


@pytest.mark.parametrize(
    "case", ["signed by another", "not a key", "not an engine", "damaged on the way", "not on the Hub"]
)
def test_failure_is_reported_and_the_old_engine_stays(
    hub: FakeHub, home: Path, endpoint: dict[str, Any], case: str, tmp_path: Path
) -> None:
    catalogue, sync = make_sync(hub, home)
    try:
        failed, again = sync.apply(config(endpoint))
        assert (failed, again) == ({}, False)
        before = catalogue.endpoints["tiny"]

        bad, code = failing(endpoint, hub, case, tmp_path)
        failed, again = sync.apply(config(bad, {**bad, "name": "second"}))
        assert {name: error["code"] for name, error in failed.items()} == {"tiny": code, "second": code}
        assert all(error["message"] for error in failed.values())
        assert not again
        assert catalogue.endpoints == {"tiny": before}
        assert before.host.acquire()
        before.host.release()
        files = list((home / "gateway" / "engines").iterdir())
        assert [path.stem for path in files] == [endpoint["engine_digest"].removeprefix("sha256:")]
    finally:
        catalogue.replace({})


def test_engine_file_is_fetched_again_when_it_was_damaged_on_disk(
    hub: FakeHub, home: Path, endpoint: dict[str, Any]
) -> None:
    catalogue, sync = make_sync(hub, home)
    path = home / "gateway" / "engines" / f"{endpoint['engine_digest'][7:]}.engine"
    path.parent.mkdir(parents=True)
    path.write_bytes(hub.blobs[endpoint["engine_digest"]][:-1])
    assert sync.apply(config(endpoint)) == ({}, False)
    assert catalogue.endpoints["tiny"].host.digest == endpoint["engine_digest"]
    catalogue.replace({})


def test_failed_download_is_tried_again_when_the_hub_was_away(
    hub: FakeHub, home: Path, endpoint: dict[str, Any]
) -> None:
    catalogue, sync = make_sync(hub, home)
    hub.num_failures = 2
    failed, again = sync.apply(config(endpoint))
    assert (failed["tiny"]["code"], again) == ("hub.unavailable", True)
    hub.num_failures = 1
    assert sync.apply(config(endpoint)) == ({}, False)
    catalogue.replace({})


def test_old_engine_drains_before_it_closes_when_a_new_one_takes_over(
    hub: FakeHub, home: Path, endpoint: dict[str, Any]
) -> None:
    catalogue, sync = make_sync(hub, home)
    sync.apply(config(endpoint))
    with catalogue.lease("tiny") as old:
        engine = old.host.engine
        catalogue.replace({})
        assert not old.host.acquire()
        assert engine.infer(engine.golden.inputs)  # type: ignore[attr-defined]
    for thread in threading.enumerate():
        if thread.name == "close-engine":
            thread.join()
    with pytest.raises(Exception, match="closed"):
        engine.infer(engine.golden.inputs)  # type: ignore[attr-defined]


def make_sync(hub: FakeHub, home: Path) -> tuple[Catalogue, HubSync]:
    def load(path: Path, public_key: bytes) -> EngineHost:
        return load_host(path, public_key, num_workers=1)

    catalogue = Catalogue()
    client = HubClient(f"http://127.0.0.1:{hub.port}", TOKEN)
    return catalogue, HubSync(client, catalogue, home / "gateway", load, download_pauses_s=(0,))


def config(*endpoints: dict[str, Any]) -> GatewayConfig:
    return parse_config(json.dumps({"etag": "1", "endpoints": endpoints}).encode())


VALID = {
    "name": "a",
    "engine_digest": "sha256:" + "0" * 64,
    "key_sha256": ["0" * 64],
    "public_key_pem": "",
}


@pytest.mark.parametrize(
    "document",
    [
        b"{",
        b"[]",
        b"{}",
        b'{"etag": 1, "endpoints": []}',
        b'{"etag": "1", "endpoints": {}}',
        b'{"etag": "1", "endpoints": [1]}',
        json.dumps({"etag": "1", "endpoints": [VALID, VALID]}).encode(),
        *(
            json.dumps({"etag": "1", "endpoints": [{**VALID, **change}]}).encode()
            for change in (
                {"name": "../a"},
                {"name": "A"},
                {"name": None},
                {"engine_digest": "sha256:../../etc/passwd"},
                {"engine_digest": "0" * 64},
                {"key_sha256": ["plain-key"]},
                {"key_sha256": "0" * 64},
                {"public_key_pem": None},
            )
        ),
    ],
)
def test_configuration_is_refused_when_it_is_malformed(document: bytes) -> None:
    with pytest.raises(HubError):
        parse_config(document)


def test_configuration_is_read_when_a_newer_hub_says_more() -> None:
    document = {"etag": "1", "more": 1, "endpoints": [{**VALID, "more": 1}]}
    assert parse_config(json.dumps(document).encode()).endpoints[0].name == "a"


def test_client_says_that_the_hub_is_away_when_nothing_listens(hub: FakeHub) -> None:
    client = HubClient(f"http://127.0.0.1:{hub.port}", TOKEN)
    client.close()
    with pytest.raises(HubUnavailableError):
        client.config("")


def test_client_says_so_when_its_token_is_refused(hub: FakeHub) -> None:
    with pytest.raises(HubError, match="401") as caught:
        HubClient(f"http://127.0.0.1:{hub.port}", "wrong").config("")
    assert not isinstance(caught.value, HubUnavailableError)


def test_waiting_call_ends_when_the_client_is_closed(hub: FakeHub) -> None:
    client = HubClient(f"http://127.0.0.1:{hub.port}", TOKEN)
    errors: list[HubUnavailableError] = []

    def wait() -> None:
        try:
            client.config(hub.etag)
        except HubUnavailableError as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    client.close()
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert len(errors) == 1


def test_engine_file_is_the_package_that_was_deployed(
    hub: FakeHub, home: Path, endpoint: dict[str, Any]
) -> None:
    client = HubClient(f"http://127.0.0.1:{hub.port}", TOKEN)
    client.download(endpoint["engine_digest"], home / "a.engine")
    assert EnginePackage.open(home / "a.engine").digest == endpoint["engine_digest"]
    assert [path.name for path in home.iterdir()] == ["a.engine"]
