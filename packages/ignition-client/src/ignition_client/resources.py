"""What a Hub has, kind by kind: the attributes of `Ignition`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

import httpx

from ignition_client.digests import write_verified
from ignition_client.errors import (
    HubFailureError,
    HubUnreachableError,
    InputError,
    WaitTimeoutError,
    WorkFailedError,
)
from ignition_client.events import parse_events
from ignition_client.http import HubHttp, parse_answer
from ignition_client.paths import safe_relative_path
from ignition_client.push import PushProgress, push_folder
from ignition_client.wire import (
    Dataset,
    DatasetDetail,
    Endpoint,
    Engine,
    EngineDetail,
    InboxMessage,
    Job,
    JobEvent,
    LogTail,
    Model,
    NewKey,
    Run,
    RunSnapshot,
    RunStatus,
    Template,
)

T = TypeVar("T")

_STREAM_READ_TIMEOUT_S = 60.0
_RECONNECT_FOR_S = 120.0


class DownloadProgress(Protocol):
    def __call__(self, done_bytes: int, total_bytes: int) -> None: ...


class _Resource:
    def __init__(self, http: HubHttp) -> None:
        self._http = http

    def _get(self, kind: type[T], path: str, **params: str | int) -> T:
        return self._http.read(kind, "GET", path, params=params)


class Templates(_Resource):
    """Foundry's recipes."""

    def list(self) -> list[Template]:
        return self._get(list[Template], "/v1/templates")


class Datasets(_Resource):
    """Versioned, content-addressed files."""

    def push(self, folder: str | Path, name: str, progress: PushProgress | None = None) -> DatasetDetail:
        """Uploads what the Hub lacks of a folder and makes it a version (see `push.push_folder`)."""
        return push_folder(self._http, Path(folder), name, progress)

    def list(self) -> list[Dataset]:
        """The latest version of each."""
        return self._get(list[Dataset], "/v1/datasets")

    def show(self, name: str, version: int | None = None) -> DatasetDetail:
        params = {} if version is None else {"version": version}
        return self._get(DatasetDetail, f"/v1/datasets/{_part(name)}", **params)


class Runs(_Resource):
    """Presses of *Train & Optimize*."""

    def list(self) -> list[Run]:
        return self._get(list[Run], "/v1/runs")

    def show(self, run_id: str) -> Run:
        return self._get(Run, f"/v1/runs/{_part(run_id)}")

    def cancel(self, run_id: str) -> None:
        self._http.request("POST", f"/v1/runs/{_part(run_id)}/cancel", idempotent=True)

    def report(self, run_id: str) -> dict[str, Any]:
        """The training report (``report.json``)."""
        return self._get(dict[str, Any], f"/v1/runs/{_part(run_id)}/report")

    def report_file(self, run_id: str, path: str) -> bytes:
        """A picture that the report names."""
        route = f"/v1/runs/{_part(run_id)}/report/{quote(safe_relative_path(path))}"
        return self._http.request("GET", route).content

    def stream(self, run_id: str) -> Iterator[RunSnapshot]:
        """Snapshots as things change, until the run is over; the last one is final. Reconnects.

        Raises:
            NotFoundError: No such run.
            HubUnreachableError: The Hub stayed away for two minutes.
        """
        lost_s: float | None = None
        pause_s = 0.25
        while True:
            try:
                for snapshot in self._snapshots(run_id):
                    lost_s, pause_s = None, 0.25
                    yield snapshot
                    if snapshot.run.status.final:
                        return
            except (HubUnreachableError, HubFailureError):
                now_s = time.monotonic()
                lost_s = now_s if lost_s is None else lost_s
                if now_s - lost_s > _RECONNECT_FOR_S:
                    raise
            time.sleep(pause_s)
            pause_s = min(5.0, pause_s * 2)

    def _snapshots(self, run_id: str) -> Iterator[RunSnapshot]:
        path = f"/v1/runs/{_part(run_id)}/stream"
        stream = self._http.stream(path, accept="text/event-stream", timeout_s=_STREAM_READ_TIMEOUT_S)
        with stream as response:
            for event in parse_events(response.iter_lines()):
                if event.name == "snapshot":
                    yield parse_answer(RunSnapshot, event.data, "the stream")

    def wait(self, run_id: str, *, timeout_s: float | None = None) -> Run:
        """Waits for the end of a run and answers with the successful run.

        Raises:
            WorkFailedError: It failed or was cancelled; `code` and `hint` say why.
            WaitTimeoutError: Not over after `timeout_s`; the run goes on.
        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        for snapshot in self.stream(run_id):
            run = snapshot.run
            if run.status is RunStatus.SUCCEEDED:
                return run
            if run.status.final:
                raise WorkFailedError.from_job_error(run.error, f"Run {run.name}", run.status.value)
            if deadline_s is not None and time.monotonic() > deadline_s:
                break
        raise WaitTimeoutError(f"Run {run_id} is not over yet.", value=timeout_s)


class Jobs(_Resource):
    """Units of work."""

    def events(self, job_id: str) -> list[JobEvent]:
        return self._get(list[JobEvent], f"/v1/jobs/{_part(job_id)}/events")

    def list(self, run_id: str | None = None) -> list[Job]:
        return self._get(list[Job], "/v1/jobs", **({} if run_id is None else {"run": run_id}))

    def show(self, job_id: str) -> Job:
        return self._get(Job, f"/v1/jobs/{_part(job_id)}")

    def cancel(self, job_id: str) -> None:
        self._http.request("POST", f"/v1/jobs/{_part(job_id)}/cancel", idempotent=True)

    def log(self, job_id: str, offset: int = 0) -> LogTail:
        """The log from byte `offset` on."""
        return self._get(LogTail, f"/v1/jobs/{_part(job_id)}/log", offset=offset)

    def follow_log(self, job_id: str, *, follow: bool = True, poll_s: float = 1.0) -> Iterator[str]:
        """The log's text, piece by piece; with `follow` until the job is over."""
        offset = 0
        while True:
            tail = self.log(job_id, offset)
            if tail.text:
                yield tail.text
            elif tail.final or not follow:
                return
            else:
                time.sleep(poll_s)
            offset = tail.next_offset


class Models(_Resource):
    """The registry."""

    def list(self) -> list[Model]:
        return self._get(list[Model], "/v1/models")

    def show(self, name: str) -> Model:
        """
        Args:
            name: ``owner/name``.
        """
        return self._get(Model, f"/v1/models/{quote(safe_relative_path(name))}")


class Engines(_Resource):
    """Built, measured and signed engines."""

    def list(self) -> list[Engine]:
        return self._get(list[Engine], "/v1/engines")

    def show(self, engine_id: str) -> EngineDetail:
        return self._get(EngineDetail, f"/v1/engines/{_part(engine_id)}")

    def pull(
        self, engine_id: str, destination: str | Path = ".", progress: DownloadProgress | None = None
    ) -> Path:
        """Downloads an engine. The file appears complete, with the registered digest, or not at all.

        Args:
            destination: A folder (the file is named after model, version and target) or a file's path.

        Returns:
            The file.

        Raises:
            DigestMismatchError: Other bytes came.
            InputError: The destination cannot be written.
        """
        engine = self.show(engine_id)
        path = Path(destination).expanduser()
        if path.is_dir():
            name = engine.model.split("/")[-1]
            path = path / safe_relative_path(f"{name}-v{engine.model_version}-{engine.target}.engine")

        def chunks(response: httpx.Response) -> Iterator[bytes]:
            done_bytes = 0
            for chunk in response.iter_bytes(1 << 20):
                yield chunk
                done_bytes += len(chunk)
                if progress is not None:
                    progress(done_bytes, engine.size_bytes)

        try:
            with self._http.stream(f"/v1/engines/{_part(engine_id)}/download") as response:
                write_verified(path, chunks(response), engine.digest)
        except OSError as error:
            raise InputError(f"The engine cannot be written: {error.strerror}.", value=str(path)) from error
        return path


class Endpoints(_Resource):
    """Deployed engines."""

    def list(self) -> list[Endpoint]:
        return self._get(list[Endpoint], "/v1/endpoints")

    def show(self, name: str) -> Endpoint:
        return self._get(Endpoint, f"/v1/endpoints/{_part(name)}")

    def create_key(self, name: str) -> NewKey:
        """A new key, shown this once; the one before stops working."""
        return self._http.read(NewKey, "POST", f"/v1/endpoints/{_part(name)}/keys")

    def delete(self, name: str) -> None:
        self._http.request("DELETE", f"/v1/endpoints/{_part(name)}")


class Inbox(_Resource):
    """What happened while nobody was looking."""

    def list(self) -> list[InboxMessage]:
        return self._get(list[InboxMessage], "/v1/inbox")

    def read(self, message_id: str) -> None:
        """Marks a message as read."""
        self._http.request("POST", f"/v1/inbox/{_part(message_id)}/read", idempotent=True)


def _part(value: str) -> str:
    """One URL path segment.

    Raises:
        InputError: It is empty.
    """
    if not value or value in (".", ".."):
        raise InputError("A name or id is needed.", value=value)
    return quote(value, safe="")
