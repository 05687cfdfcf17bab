"""Uploading a folder as a dataset version: hash, ask what is missing, send only that, commit.

Running it again after an interruption sends what is still missing; running it again after success sends
nothing and answers with the version there is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from pydantic import ValidationError

from ignition_client.digests import digest_of_file
from ignition_client.errors import InputError
from ignition_client.http import HubHttp
from ignition_client.paths import safe_relative_path
from ignition_client.wire import BlobQuery, DatasetCommit, DatasetDetail, FileEntry, MissingBlobs

In = TypeVar("In")
Out = TypeVar("Out")

SLUG_HINT = "Names have lower-case letters, digits and hyphens, at most 63 characters."
_THREADS = 8
_QUERY_SIZE = 500
_IGNORED_NAMES = frozenset({"thumbs.db", "desktop.ini", "__macosx"})


class PushProgress(Protocol):
    """Called as files are hashed and uploaded."""

    def __call__(self, stage: Literal["hash", "upload"], done_bytes: int, total_bytes: int) -> None: ...


def push_folder(
    http: HubHttp, folder: Path, name: str, progress: PushProgress | None = None
) -> DatasetDetail:
    """Makes the folder's files a version of dataset `name`.

    Raises:
        InputError: No such folder, an empty one, a name that is not a slug, or a file that cannot be read.
        UnsafePathError: A file's name cannot be stored on every system.
        HubError, HubUnreachableError: What was sent so far stays; run it again to go on.
    """
    report: PushProgress = progress or (lambda *_: None)
    sources = find_files(folder)
    try:
        DatasetCommit(name=name, files=[])
    except ValidationError as error:
        raise InputError(
            "The name cannot be used.",
            value=name,
            hint=SLUG_HINT,
        ) from error

    sizes = {path: source.stat().st_size for path, source in sources.items()}
    total_bytes = sum(sizes.values())
    report("hash", 0, total_bytes)

    def hashed(path: str) -> FileEntry:
        try:
            digest = digest_of_file(sources[path])
        except OSError as error:
            raise InputError(f"The file cannot be read: {error.strerror}.", value=path) from error
        return FileEntry(path=path, digest=digest, size_bytes=sizes[path])

    files: list[FileEntry] = []
    done_bytes = 0

    def on_hashed(entry: FileEntry) -> None:
        nonlocal done_bytes
        files.append(entry)
        done_bytes += entry.size_bytes
        report("hash", done_bytes, total_bytes)

    _in_parallel(hashed, list(sources), on_hashed)
    files.sort(key=lambda entry: entry.path)

    missing = _missing(http, sorted({entry.digest for entry in files}))
    uploads = {entry.digest: entry for entry in files if entry.digest in missing}
    upload_bytes = sum(entry.size_bytes for entry in uploads.values())
    report("upload", 0, upload_bytes)

    def upload(entry: FileEntry) -> FileEntry:
        http.request("PUT", f"/v1/blobs/{entry.digest}", content=sources[entry.path])
        return entry

    sent_bytes = 0

    def on_uploaded(entry: FileEntry) -> None:
        nonlocal sent_bytes
        sent_bytes += entry.size_bytes
        report("upload", sent_bytes, upload_bytes)

    _in_parallel(upload, list(uploads.values()), on_uploaded)
    commit = DatasetCommit(name=name, files=files)
    return http.read(DatasetDetail, "POST", "/v1/datasets", body=commit, idempotent=True)


def find_files(folder: Path) -> dict[str, Path]:
    """The files to upload: safe relative path -> file, in order. Hidden files and folders are left out.

    A file instead of a folder, such as a table, is uploaded alone.

    Raises:
        InputError: There is no such folder or file, or it holds no files.
        UnsafePathError: A name cannot be stored on every system.
    """
    if folder.is_file():
        return {safe_relative_path(folder.name): folder}
    if not folder.is_dir():
        raise InputError("There is no such folder or file.", value=str(folder))
    found = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if any(part.startswith(".") or part.lower() in _IGNORED_NAMES for part in parts):
            continue
        if path.is_file():
            found[safe_relative_path("/".join(parts))] = path
    if not found:
        raise InputError("The folder holds no files.", value=str(folder))
    return found


def _missing(http: HubHttp, digests: Sequence[str]) -> set[str]:
    missing: set[str] = set()
    for start in range(0, len(digests), _QUERY_SIZE):
        query = BlobQuery(digests=list(digests[start : start + _QUERY_SIZE]))
        answer = http.read(MissingBlobs, "POST", "/v1/blobs/missing", body=query, idempotent=True)
        missing.update(answer.missing)
    return missing


def _in_parallel(work: Callable[[In], Out], items: Sequence[In], done: Callable[[Out], None]) -> None:
    """`done` is called on this thread; the first failure leaves out the rest and is raised."""
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="push") as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            for future in as_completed(futures):
                done(future.result())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
