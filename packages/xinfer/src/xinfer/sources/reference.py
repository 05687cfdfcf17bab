"""Where source models come from: a file, a URL, or a plugin's reference such as ``xtorch:resnet50``.

$XINFER_HOME/sources/           default: ~/.cache/xinfer
    <sha256 of the reference>/
        source.json             {"reference", "sha256", "size_bytes"}: what the first download gave
        model.onnx              written whole or not at all
        model.onnx.part         what an interrupted download left; the next one goes on from there
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xinfer.errors import SourceModelError, XInferError
from xinfer.sources.walk import fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GROUP = "xinfer.sources"
PROVIDERS = {"xtorch": "ignition-xtorch", "hf": "ignition-xtorch"}
"""Packages that are known to provide a scheme."""

MAX_DOWNLOAD_BYTES = 64 << 30
_CHUNK = 1 << 20
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):(.+)", re.DOTALL)
_DIGEST = re.compile(r"[0-9a-f]{64}")


def cache_folder() -> Path:
    """The folder of what was downloaded: ``$XINFER_HOME``, or ``~/.cache/xinfer``."""
    return Path(os.environ.get("XINFER_HOME") or Path.home() / ".cache" / "xinfer")


def resolve_source(
    reference: str | os.PathLike[str], *, sha256: str | None = None, timeout_s: float = 60.0
) -> Path:
    """Finds the file that a reference means, and fetches it where it is not here yet.

    Args:
        reference: A path; ``https://...``, optionally with ``#sha256=<64 hex digits>``; or ``<scheme>:...``
            for a plugin of the entry point group ``xinfer.sources``, a callable
            ``(reference, folder) -> path of an ONNX file in that folder``.
        sha256: Digest that a download must have. Without one, the first download's digest is recorded
            and every later one must have it too.
        timeout_s: For the connection, and for each silence on it.

    Returns:
        A file. It was not looked into: `read_onnx` does that.

    Raises:
        SourceModelError: ``build.source_model.not_found``, ``.no_plugin``, ``.plugin`` (it failed),
            ``.insecure`` (plain HTTP), ``.download``, ``.digest`` or ``.too_large``.
    """
    text = os.fspath(reference)
    match = _SCHEME.fullmatch(text)
    # One letter is a drive. A file that exists is meant even with a colon in its name.
    if match is None or Path(text).exists():
        path = Path(text)
        if not path.is_file():
            raise fault("not_found", f"there is no file {text[:200]!r}", value=text[:500])
        return path
    scheme = match[1]
    if scheme == "https":
        url, _, fragment = text.partition("#")
        if fragment.startswith("sha256="):
            sha256 = sha256 or fragment.removeprefix("sha256=")
        return download(url, sha256=sha256, timeout_s=timeout_s)
    if scheme in ("http", "ftp", "file", "data"):
        raise fault("insecure", f"{scheme}: is not accepted", value=text[:500], hint="use https, or a path")
    return _ask_plugin(scheme, text)


def download(
    url: str, *, sha256: str | None = None, timeout_s: float = 60.0, opener: Callable[..., Any] | None = None
) -> Path:
    """Fetches a file into the cache, resumes what was interrupted, and checks its digest.

    Args:
        url: ``https://...``.
        sha256: Digest that it must have, with or without ``sha256:``; default: as recorded the first time.
        timeout_s: For the connection, and for each silence on it.
        opener: Like `urllib.request.urlopen`; default: one that follows redirects to https only.

    Returns:
        The file.

    Raises:
        SourceModelError: ``build.source_model.insecure``, ``.download``, ``.digest`` or ``.too_large``.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.username or parts.password:
        raise fault("insecure", "only plain https URLs are accepted", value=parts.hostname)
    wanted = (sha256 or "").removeprefix("sha256:").lower()
    if sha256 is not None and not _DIGEST.fullmatch(wanted):
        raise fault("digest", "a SHA-256 digest has 64 hexadecimal digits", value=sha256[:100])
    folder = cache_folder() / "sources" / hashlib.sha256(url.encode()).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    path, part, record = folder / "model.onnx", folder / "model.onnx.part", folder / "source.json"
    with _locked(folder):
        return _download_into(url, path, part, record, wanted, timeout_s, opener or _secure_opener().open)


def _download_into(
    url: str, path: Path, part: Path, record: Path, wanted: str, timeout_s: float, opener: Callable[..., Any]
) -> Path:
    known = _recorded(record)
    if path.exists() and known and (not wanted or wanted == known) and _sha256(path) == known:
        return path
    expected = wanted or known
    _fetch(url, part, timeout_s, opener)
    found = _sha256(part)
    if expected and found != expected:
        part.unlink()
        since = "" if wanted else ", which the first download had"
        host = urllib.parse.urlsplit(url).hostname
        raise fault(
            "digest",
            f"{host} sent a file with the digest {found[:12]}..., not {expected[:12]}...{since}",
            value=found,
            hint="give sha256=... of the file that you trust" if not wanted else None,
        )
    part.replace(path)
    document = {"reference": url, "sha256": found, "size_bytes": path.stat().st_size}
    fresh = record.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    fresh.replace(record)
    return path


def _fetch(url: str, part: Path, timeout_s: float, opener: Callable[..., Any]) -> None:
    """Downloads into `part`, from where it ends."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "ignition-xinfer"})  # noqa: S310 - https only
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        try:
            answer = opener(request, timeout=timeout_s)
        except urllib.error.HTTPError as error:
            with error:
                if error.code != 416 or not have:
                    raise
            # Nothing follows what is here: it is whole, or another file's, and its digest will tell.
            return
        with answer:
            resumed = answer.status == 206 and _starts_at(answer, have)
            if have and not resumed and answer.status == 206:
                raise fault("download", "the server sent another part of the file than was asked for")
            length = answer.headers.get("Content-Length")
            total = (have if resumed else 0) + (int(length) if length else 0)
            if total > MAX_DOWNLOAD_BYTES:
                raise fault("too_large", f"the file has {total} bytes", value=total)
            written = have if resumed else 0
            with part.open("ab" if resumed else "wb") as file:
                while chunk := answer.read(_CHUNK):
                    written += len(chunk)
                    if written > MAX_DOWNLOAD_BYTES:
                        raise fault("too_large", "the file does not end", value=written)
                    file.write(chunk)
            if length and written != total:
                raise fault(
                    "download", f"the connection ended after {written} of {total} bytes", value=written,
                    hint="try again: the download goes on from there",
                )  # fmt: skip
    except XInferError:
        raise
    except Exception as error:
        # urllib, http.client and ssl share no base class.
        host = urllib.parse.urlsplit(url).hostname
        raise fault("download", f"the download from {host} failed: {error}"[:300], value=host) from error


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps other processes from appending to the same partial file, where the system has such locks."""
    with (folder / "lock").open("wb") as file:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _starts_at(answer: Any, offset: int) -> bool:
    return str(answer.headers.get("Content-Range", "")).startswith(f"bytes {offset}-")


class _HttpsRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urllib.parse.urlsplit(newurl).scheme != "https":
            fp.close()
            raise fault("insecure", "the server redirects to a place without https", value=req.host)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _secure_opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_HttpsRedirects)


def _recorded(record: Path) -> str:
    """The digest of the first download, empty where there was none."""
    with contextlib.suppress(OSError, ValueError):
        document = json.loads(record.read_bytes())
        digest = document.get("sha256") if isinstance(document, dict) else None
        if isinstance(digest, str) and _DIGEST.fullmatch(digest):
            return digest
    return ""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _ask_plugin(scheme: str, reference: str) -> Path:
    """Has a plugin write the model."""
    found = list(metadata.entry_points(group=GROUP, name=scheme))
    if not found:
        package = PROVIDERS.get(scheme)
        known = sorted({entry.name for entry in metadata.entry_points(group=GROUP)} | {"https"})
        raise fault(
            "no_plugin",
            f"nothing that is installed reads {scheme}: references",
            value=reference[:200],
            hint=f"pip install {package}" if package else f"known are a path, and {', '.join(known)}:",
        )
    folder = cache_folder() / "sources" / hashlib.sha256(reference.encode()).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        path = Path(found[0].load()(reference, folder))
    except XInferError:
        raise
    except Exception as error:
        # A plugin's errors are its own; xInfer knows none of their classes.
        raise _plugin_fault(
            reference, f"{type(error).__name__}: {error}", getattr(error, "hint", None)
        ) from error
    if not path.is_file():
        raise _plugin_fault(reference, "it wrote no file", None)
    return path


def _plugin_fault(reference: str, reason: str, hint: str | None) -> SourceModelError:
    text = f"{reference[:100]!r} gives no model: {reason}"[:500]
    return fault("plugin", text, value=reference[:200], hint=hint)
