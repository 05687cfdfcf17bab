"""Engines from a Hub, against a server that answers as the Hub's registry does."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from xinfer import hub
from xinfer.errors import HubError
from xinfer.targets import HardwareTarget

CONTENT = b"an engine" * 1000
HERE = HardwareTarget.detect().name


def row(model: str = "ada/tiles", target: str = HERE, content: bytes = CONTENT, **changes: object) -> dict:
    return {
        "id": "e1",
        "model": model,
        "target": target,
        "current": True,
        "digest": "sha256:" + hashlib.sha256(content).hexdigest(),
        "size_bytes": len(content),
    } | changes


class FakeHub(BaseHTTPRequestHandler):
    rows: list[dict]
    downloads = 0

    def do_GET(self) -> None:
        if self.headers["Authorization"] != "Bearer ignk_good":
            self.send_error(401)
            return
        if self.path == "/v1/engines":
            body = json.dumps(self.rows).encode()
        else:
            type(self).downloads += 1
            body = CONTENT
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[FakeHub]]:
    handler = type("Handler", (FakeHub,), {"rows": [row()], "downloads": 0})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("IGNITION_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("IGNITION_API_KEY", "ignk_good")
    monkeypatch.setenv("XINFER_HOME", str(tmp_path / "home"))
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("name", ["tiles", "ada/tiles"])
def test_engine_is_downloaded_once_when_the_hub_has_it(served: type[FakeHub], name: str) -> None:
    path = hub.download_engine(name)
    assert path.read_bytes() == CONTENT
    assert hub.find_engine(name) == path
    assert served.downloads == 1


def test_nothing_is_found_when_no_hub_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IGNITION_URL", raising=False)
    assert hub.find_engine("tiles") is None
    with pytest.raises(HubError) as caught:
        hub.download_engine("tiles")
    assert caught.value.code == "hub.not_configured"


def test_targets_are_named_when_the_hub_has_only_others(served: type[FakeHub]) -> None:
    served.rows = [row(target="cuda-sm_87")]
    assert hub.find_engine("tiles") is None
    with pytest.raises(HubError) as caught:
        hub.download_engine("tiles")
    assert "cuda-sm_87" in str(caught.value.hint)


def test_owner_is_asked_for_when_two_have_the_name(served: type[FakeHub]) -> None:
    served.rows = [row(), row(model="bob/tiles", id="e2")]
    with pytest.raises(HubError) as caught:
        hub.find_engine("tiles")
    assert "bob/tiles" in str(caught.value.hint)


def test_nothing_is_kept_when_other_bytes_come(served: type[FakeHub], tmp_path: Path) -> None:
    served.rows = [row(content=b"something else")]
    with pytest.raises(HubError, match="another file"):
        hub.download_engine("tiles", cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_key_is_asked_for_when_the_hub_refuses(
    served: type[FakeHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IGNITION_API_KEY", "wrong")
    with pytest.raises(HubError) as caught:
        hub.find_engine("tiles")
    assert caught.value.value == 401
    assert "IGNITION_API_KEY" in str(caught.value.hint)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "file:///etc/passwd", "nonsense"])
def test_error_is_typed_when_the_hub_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("IGNITION_URL", url)
    with pytest.raises(HubError):
        hub.find_engine("tiles")
