"""A job's folder (ARCHITECTURE 10.2): what the agent writes for the job, and reads from it."""

from __future__ import annotations

import codecs
import json
import shutil
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ignition_client.digests import atomic_file, digest_of_file
from ignition_client.errors import InputError
from ignition_client.paths import safe_relative_path
from ignition_client.wire import FileEntry, JobError, JobEvent, Lease

MAX_RESULT_BYTES = 8 * 1024 * 1024
_READ_BYTES = 256 * 1024


class JobResult(BaseModel):
    """``result.json``, the last thing a job writes."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    status: Literal["succeeded", "failed", "cancelled"]
    result: dict[str, Any] = {}
    error: JobError | None = None
    retryable: bool = False
    message: str = ""


class JobFolder:
    """The folder of one attempt; `create` makes it, `remove` forgets it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.inputs = path / "inputs"
        self.outputs = path / "outputs"
        self.log = path / "job.log"
        self.events = path / "events.jsonl"

    @classmethod
    def create(cls, jobs: Path, lease: Lease, *, cache_dir: Path, signing_key: Path) -> JobFolder:
        """Makes ``<jobs>/<job>-<epoch>/`` with ``job.json``.

        Raises:
            UnsafePathError: The job's id is not a plain name.
        """
        folder = cls(jobs / safe_relative_path(f"{lease.job_id}-{lease.epoch}".replace("/", "_")))
        shutil.rmtree(folder.path, ignore_errors=True)
        for directory in (folder.inputs, folder.outputs):
            directory.mkdir(parents=True)
        folder.log.touch()
        folder.events.touch()
        job = {
            "kind": lease.kind.value,
            "job_id": lease.job_id,
            "epoch": lease.epoch,
            "spec": lease.spec,
            "cache_dir": str(cache_dir),
            "signing_key": str(signing_key),
        }
        with atomic_file(folder.path / "job.json", mode=0o600) as file:
            file.write(json.dumps(job, indent=1).encode())
        return folder

    def write_log(self, line: str) -> None:
        """Appends a line of the agent's own; only while the job does not run."""
        with self.log.open("a", encoding="utf-8") as file:
            file.write(f"[agent] {line}\n")

    def result(self) -> JobResult | None:
        """What the job says came of it; None if it ended without saying.

        Raises:
            InputError: ``result.json`` is not what it should be.
        """
        path = self.path / "result.json"
        try:
            if path.stat().st_size > MAX_RESULT_BYTES:
                raise InputError(
                    "The job's result.json is too large.", code="job.bad_result", value=path.name
                )
            return JobResult.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise InputError(
                f"The job's result.json cannot be read: {error.errors()[0]['msg']}.", code="job.bad_result"
            ) from error

    def output_files(self) -> list[FileEntry]:
        """Everything below ``outputs/``, with digests, by path.

        Raises:
            InputError: There is something that is not a regular file, or an unsafe name.
        """
        entries = []
        for path in sorted(self.outputs.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                continue
            relative = path.relative_to(self.outputs).as_posix()
            if path.is_symlink() or not path.is_file():
                raise InputError("A job's outputs are regular files.", code="job.bad_output", value=relative)
            entries.append(
                FileEntry(
                    path=safe_relative_path(relative),
                    digest=digest_of_file(path),
                    size_bytes=path.stat().st_size,
                )
            )
        return entries

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


class LogTailer:
    """Reads a growing log as UTF-8 text; `offset` counts the bytes of the text handed out so far.

    Bytes that are not UTF-8 become U+FFFD, so offsets are those of the text, not of the file.
    """

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        self.offset = 0
        self._path = path
        self._position = 0
        self._max_bytes = max_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._chunk = ""
        self._closed = False

    def peek(self, *, final: bool = False) -> str:
        """The next text, empty if there is none; the same again until `advance`.

        Args:
            final: Nothing will be written any more: hand out an unfinished last character, too.
        """
        if self._chunk or self._closed:
            return self._chunk
        with self._path.open("rb") as file:
            file.seek(self._position)
            data = file.read(_READ_BYTES)
        self._position += len(data)
        self._chunk = self._decoder.decode(data, final=final and len(data) < _READ_BYTES)
        if self._chunk and self.offset + len(self._chunk.encode()) > self._max_bytes:
            self._chunk = (
                f"\n[agent] The log is longer than {self._max_bytes:,} bytes; the rest is not kept.\n"
            )
            self._closed = True
        return self._chunk

    def advance(self) -> None:
        """The text was delivered."""
        self.offset += len(self._chunk.encode())
        self._chunk = ""


class EventTailer:
    """Reads ``events.jsonl`` as it grows; a line counts once it is complete."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self._events: list[JobEvent] = []

    def peek(self) -> list[JobEvent]:
        """Events not delivered yet; the same again (and newer ones) until `advance`."""
        with self._path.open("rb") as file:
            file.seek(self._position)
            data = file.read(_READ_BYTES)
        complete = data[: data.rfind(b"\n") + 1]
        if not complete and len(data) == _READ_BYTES:
            complete = data  # no event is that long: skip it
        self._position += len(complete)
        for line in complete.splitlines():
            try:
                self._events.append(JobEvent.model_validate_json(line))
            except ValidationError:
                continue  # progress is a courtesy; a line that cannot be read must not end the job
        return list(self._events)

    def advance(self, num: int) -> None:
        """The first `num` events were delivered."""
        del self._events[:num]
