"""References to source models, and downloads: against a server on this machine, spoken to as if by https."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from xinfer.errors import SourceModelError
from xinfer.sources import reference, resolve_source
from xinfer.sources.reference import cache_folder, download

CONTENT = bytes(range(256)) * 40
DIGEST = hashlib.sha256(CONTENT).hexdigest()
URL = "https://models.example/net.onnx"


class Server(http.server.ThreadingHTTPServer):
    content = CONTENT
    cut: int | None = None
    ranges = True
    seen: list[str | None]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.seen.append(wanted)
        if self.path == "/missing":
            self.send_error(404)
            return
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "http://elsewhere.example/net.onnx")
            self.end_headers()
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if start >= len(self.server.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(self.server.content)}/*")
        self.send_header("Content-Length", str(len(self.server.content) - start))
        self.end_headers()
        self.wfile.write(self.server.content[start : self.server.cut])

    def log_message(self, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.seen = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    monkeypatch.setenv("XINFER_HOME", str(tmp_path / "home"))
    real = reference._secure_opener()

    class Opener:
        def open(self, request: urllib.request.Request, timeout: float) -> Any:
            path = request.selector
            local = urllib.request.Request(
                f"http://127.0.0.1:{server.server_port}{path}", headers=dict(request.header_items())
            )
            return real.open(local, timeout=timeout)

    monkeypatch.setattr(reference, "_secure_opener", Opener)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def refused(*args: Any, **options: Any) -> SourceModelError:
    with pytest.raises(SourceModelError) as caught:
        resolve_source(*args, **options)
    return caught.value


def test_download_is_kept_and_its_digest_recorded(server: Server) -> None:
    path = resolve_source(URL)
    assert path.read_bytes() == CONTENT
    record = json.loads((path.parent / "source.json").read_bytes())
    assert record == {"reference": URL, "sha256": DIGEST, "size_bytes": len(CONTENT)}
    assert resolve_source(URL) == path
    assert len(server.seen) == 1


def test_download_is_refused_when_it_changed_since_the_first(server: Server) -> None:
    path = resolve_source(URL)
    path.unlink()
    server.content = CONTENT[::-1]
    error = refused(URL)
    assert error.code == "build.source_model.digest"
    assert "first download" in error.message
    assert not path.exists()


def test_damaged_file_in_the_cache_is_fetched_again(server: Server) -> None:
    path = resolve_source(URL)
    path.write_bytes(b"damaged")
    assert resolve_source(URL).read_bytes() == CONTENT
    assert len(server.seen) == 2


@pytest.mark.parametrize("how", ["argument", "fragment"])
def test_download_is_refused_when_the_digest_is_another(server: Server, how: str) -> None:
    wrong = "0" * 64
    error = refused(URL, sha256=wrong) if how == "argument" else refused(f"{URL}#sha256={wrong}")
    assert error.code == "build.source_model.digest"
    assert resolve_source(f"{URL}#sha256={DIGEST}").read_bytes() == CONTENT
    assert refused(URL, sha256="short").code == "build.source_model.digest"


def test_interrupted_download_goes_on_where_it_ended(server: Server) -> None:
    server.cut = 5000
    assert refused(URL).code == "build.source_model.download"
    server.cut = None
    assert resolve_source(URL).read_bytes() == CONTENT
    assert server.seen == [None, "bytes=5000-"]


def test_interrupted_download_starts_anew_when_the_server_knows_no_ranges(server: Server) -> None:
    server.cut = 5000
    refused(URL)
    server.cut, server.ranges = None, False
    assert resolve_source(URL).read_bytes() == CONTENT


def test_whole_partial_file_is_used_when_nothing_is_left_to_fetch(server: Server) -> None:
    server.cut = 5000
    refused(URL)
    folder = next((cache_folder() / "sources").iterdir())
    (folder / "model.onnx.part").write_bytes(CONTENT)
    server.cut = None
    assert resolve_source(URL).read_bytes() == CONTENT


def test_missing_page_and_insecure_redirect_are_typed_errors(server: Server) -> None:
    assert refused("https://models.example/missing").code == "build.source_model.download"
    assert refused("https://models.example/away").code == "build.source_model.insecure"


@pytest.mark.parametrize(
    "text",
    [
        "http://models.example/a.onnx",
        "ftp://a/b",
        "file:///etc/hostname",
        "https:///a",
        "https://user:word@a/b",
    ],
)
def test_insecure_references_are_refused(text: str) -> None:
    assert refused(text).code == "build.source_model.insecure"


def test_endless_download_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "MAX_DOWNLOAD_BYTES", 1000)
    with pytest.raises(SourceModelError) as caught:
        download(URL)
    assert caught.value.code == "build.source_model.too_large"


def test_path_is_itself(tmp_path: Path) -> None:
    path = tmp_path / "odd:name.onnx"
    path.write_bytes(b"x")
    assert resolve_source(path) == path
    assert resolve_source(str(path)) == path
    assert refused(tmp_path / "none.onnx").code == "build.source_model.not_found"


class EntryPoint:
    def __init__(self, plugin: Any) -> None:
        self.name, self.plugin = "zoo", plugin

    def load(self) -> Any:
        return self.plugin


def install(monkeypatch: pytest.MonkeyPatch, plugin: Any) -> None:
    def entry_points(*, group: str, name: str | None = None) -> list[EntryPoint]:
        return [EntryPoint(plugin)] if group == "xinfer.sources" and name in (None, "zoo") else []

    monkeypatch.setattr(reference.metadata, "entry_points", entry_points)


def test_plugin_writes_the_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XINFER_HOME", str(tmp_path))

    def plugin(text: str, folder: Path) -> Path:
        assert text == "zoo:net@v1"
        (folder / "net.onnx").write_bytes(b"model")
        return folder / "net.onnx"

    install(monkeypatch, plugin)
    path = resolve_source("zoo:net@v1")
    assert path.read_bytes() == b"model"
    assert path.is_relative_to(tmp_path)


def test_plugin_faults_become_typed_errors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XINFER_HOME", str(tmp_path))
    install(monkeypatch, lambda text, folder: {}["absent"])
    assert "KeyError" in refused("zoo:net").message
    install(monkeypatch, lambda text, folder: folder / "none.onnx")
    assert refused("zoo:net").code == "build.source_model.plugin"


def test_missing_plugin_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, None)
    error = refused("xtorch:resnet50")
    assert error.code == "build.source_model.no_plugin"
    assert error.hint == "pip install ignition-xtorch"
    assert "zoo" in str(refused("other:thing").hint)
