"""One lease from its first input to its completion."""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ignition_client.agent.cache import BlobCache
from ignition_client.agent.folder import EventTailer, JobFolder, JobResult, LogTailer
from ignition_client.agent.link import LeaseLink
from ignition_client.agent.process import JOB_COMMAND, JobProcess, describe_exit
from ignition_client.errors import (
    ClientError,
    DigestMismatchError,
    HubError,
    HubFailureError,
    HubUnreachableError,
    JobInterruptedError,
    LeaseLostError,
    RateLimitedError,
)
from ignition_client.http import HubHttp
from ignition_client.paths import safe_relative_path
from ignition_client.wire import EventBatch, FileEntry, JobCompletion, JobError, JobRelease, Lease, LogChunk

Item = TypeVar("Item")
logger = logging.getLogger(__name__)

_TRANSFERS = 8
_REPORT_TIMEOUT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class SessionSettings:
    """How jobs are run on this machine."""

    jobs_dir: Path
    cache_dir: Path
    """Handed to jobs; outlives them."""
    temporary: Path
    """For the job's temporary files; emptied after each job."""
    signing_key: Path
    command: Sequence[str] = JOB_COMMAND
    grace_s: float = 10.0
    """From SIGTERM to SIGKILL."""
    poll_s: float = 0.3
    """How often log and events are looked at."""
    pause_s: float = 0.5
    """First pause before a call to the Hub is repeated."""
    max_log_bytes: int = 16 * 1024 * 1024


class JobSession:
    """Runs one leased job; `run` always ends with the lease completed, released or lost."""

    def __init__(
        self, hub_url: str, lease: Lease, cache: BlobCache, settings: SessionSettings, stop: threading.Event
    ) -> None:
        self._lease = lease
        self._cache = cache
        self._settings = settings
        self._stop = stop
        self._link = LeaseLink(hub_url, lease, stop, pause_s=settings.pause_s)
        self._folder: JobFolder | None = None

    def run(self) -> None:
        lease = self._lease
        logger.info("job %s (%s, epoch %d): started", lease.job_id, lease.kind.value, lease.epoch)
        try:
            completion = self._outcome()
            self._complete(completion)
            logger.info("job %s: %s", lease.job_id, completion.status)
        except LeaseLostError:
            logger.warning("job %s: given up, it is not ours any more", lease.job_id)
        except JobInterruptedError:
            self._release()
        finally:
            self._link.close()
            if self._folder is not None:
                self._folder.remove()

    # ------------------------------------------------------------------------------------- the outcome

    def _outcome(self) -> JobCompletion:
        """Everything up to the completion; every failure becomes one.

        Raises:
            LeaseLostError: Nobody wants to know.
            JobInterruptedError: The agent is to end.
        """
        epoch = self._lease.epoch
        retryable = True
        try:
            return self._work()
        except LeaseLostError:
            raise
        except JobInterruptedError:
            if self._link.cancelled.is_set():
                return JobCompletion(epoch=epoch, status="cancelled")
            raise
        except ClientError as error:
            problem = JobError(code=error.code, message=error.message, hint=error.hint)
            retryable = isinstance(error, DigestMismatchError)
        except OSError as error:
            problem = _disk_error(error)
        logger.error("job %s: %s", self._lease.job_id, problem.message)
        return JobCompletion(epoch=epoch, status="failed", error=problem, retryable=retryable)

    def _work(self) -> JobCompletion:
        settings, lease = self._settings, self._lease
        folder = self._folder = JobFolder.create(
            settings.jobs_dir, lease, cache_dir=settings.cache_dir, signing_key=settings.signing_key
        )
        self._place_inputs(folder)
        status = self._watch(folder)
        result = folder.result()
        if result is None:
            error = JobError(
                code="job.killed",
                message=f"The job's process {describe_exit(status)} before it had a result.",
                hint="The machine may have run out of memory; the end of the log says more.",
            )
            return JobCompletion(epoch=lease.epoch, status="failed", error=error, retryable=True)
        outputs = self._upload_outputs(folder) if result.status == "succeeded" else []
        return _completion(lease.epoch, result, outputs)

    def _place_inputs(self, folder: JobFolder) -> None:
        inputs = {safe_relative_path(entry.path): entry for entry in self._lease.inputs}
        missing = {e.digest: e for e in inputs.values() if not self._cache.has(e.digest, e.size_bytes)}
        size_bytes = sum(entry.size_bytes for entry in inputs.values())
        folder.write_log(f"{len(inputs)} input files ({size_bytes:,} bytes), {len(missing)} to download")
        self._in_parallel(self._download, list(missing.values()))
        for path, entry in inputs.items():
            self._cache.place(entry.digest, folder.inputs / path)

    def _download(self, entry: FileEntry) -> None:
        def call(http: HubHttp) -> None:
            with http.stream(f"{self._link.route}/blobs/{entry.digest}") as response:
                self._cache.add(entry.digest, response.iter_bytes())

        self._link.persist(call)

    def _upload_outputs(self, folder: JobFolder) -> list[FileEntry]:
        entries = folder.output_files()
        by_digest = {entry.digest: folder.outputs / entry.path for entry in entries}

        def upload(item: tuple[str, Path]) -> None:
            digest, path = item
            route = f"{self._link.route}/blobs/{digest}"
            self._link.persist(lambda http: http.request("PUT", route, content=path))

        self._in_parallel(upload, list(by_digest.items()))
        return entries

    @staticmethod
    def _in_parallel(work: Callable[[Item], None], items: list[Item]) -> None:
        """Does `work` for all `items`; after the first failure the rest is left out."""
        with ThreadPoolExecutor(_TRANSFERS, thread_name_prefix="transfer") as pool:
            futures = [pool.submit(work, item) for item in items]
            try:
                for future in futures:
                    future.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    # ------------------------------------------------------------------------------ while the job runs

    def _watch(self, folder: JobFolder) -> int:
        """Runs the job's process, passing on its log and events; returns its exit status.

        Raises:
            LeaseLostError, JobInterruptedError: The process was ended.
        """
        settings = self._settings
        reporter = _Reporter(self._link, folder, self._lease.epoch, settings)
        process = JobProcess(folder, settings.temporary, settings.command)
        try:
            while (status := process.poll()) is None:
                self._link.raise_if_interrupted()
                reporter.tick()
                self._stop.wait(settings.poll_s)
            reporter.flush()
            return status
        except JobInterruptedError:
            process.stop(settings.grace_s)
            if self._link.cancelled.is_set():
                folder.write_log("cancelled")
                reporter.flush(uninterrupted=True)
            raise
        finally:
            process.stop(0)

    # -------------------------------------------------------------------------------- the Hub's answer

    def _complete(self, completion: JobCompletion) -> None:
        """Tells the Hub; a result that it rejects becomes a failure that it accepts."""
        route = f"{self._link.route}/complete"

        def send(body: JobCompletion) -> None:
            self._link.persist(lambda http: http.request("POST", route, body=body), uninterrupted=True)

        try:
            send(completion)
        except HubError as error:
            logger.error("job %s: the Hub rejects the result: %s", self._lease.job_id, error.message)
            problem = JobError(code="job.result_rejected", message=error.message, hint=error.hint)
            send(JobCompletion(epoch=self._lease.epoch, status="failed", error=problem))

    def _release(self) -> None:
        """Best effort: without it the lease runs out by itself."""
        body = JobRelease(epoch=self._lease.epoch)
        try:
            self._link.once(
                lambda http: http.request("POST", f"{self._link.route}/release", body=body, timeout_s=3.0)
            )
            logger.info("job %s: released", self._lease.job_id)
        except ClientError as error:
            logger.warning("job %s: not released: %s", self._lease.job_id, error.message)


class _Reporter:
    """Passes log and events on; what did not get through is sent again."""

    def __init__(self, link: LeaseLink, folder: JobFolder, epoch: int, settings: SessionSettings) -> None:
        self._link = link
        self._epoch = epoch
        self._log = LogTailer(folder.log, max_bytes=settings.max_log_bytes)
        self._events = EventTailer(folder.events)
        self._pause_s = settings.pause_s
        self._not_before = 0.0

    def tick(self) -> None:
        """Sends what is new, unless the Hub was unreachable a moment ago."""
        if time.monotonic() < self._not_before:
            return
        try:
            while self._send(self._link.once, final=False):
                self._link.raise_if_interrupted()
        except (HubUnreachableError, HubFailureError, RateLimitedError) as error:
            logger.warning("log and events wait: %s", error.message)
            self._not_before = time.monotonic() + 4 * self._pause_s

    def flush(self, *, uninterrupted: bool = False) -> None:
        """Sends the rest, however long the Hub is away."""

        def persist(call: Callable[[HubHttp], object]) -> object:
            return self._link.persist(call, uninterrupted=uninterrupted)

        while self._send(persist, final=True):
            pass

    def _send(self, deliver: Callable[[Callable[[HubHttp], object]], object], *, final: bool) -> bool:
        """Sends one batch of each; False when there was nothing to send."""
        text, events = self._log.peek(final=final), self._events.peek()
        if text:
            chunk = LogChunk(epoch=self._epoch, offset=self._log.offset, text=text)
            self._deliver(deliver, "PATCH", "log", chunk)
            self._log.advance()
        if events:
            batch = EventBatch(epoch=self._epoch, events=events)
            self._deliver(deliver, "POST", "events", batch)
            self._events.advance(len(events))
        return bool(text or events)

    def _deliver(
        self,
        deliver: Callable[[Callable[[HubHttp], object]], object],
        method: str,
        name: str,
        body: LogChunk | EventBatch,
    ) -> None:
        route = f"{self._link.route}/{name}"
        try:
            deliver(lambda http: http.request(method, route, body=body, timeout_s=_REPORT_TIMEOUT_S))
        except (HubUnreachableError, HubFailureError, RateLimitedError):
            raise
        except HubError as error:  # one line the Hub does not take must not end the job
            logger.error("the Hub rejects part of the job's %s: %s", name, error.message)


def _completion(epoch: int, result: JobResult, outputs: list[FileEntry]) -> JobCompletion:
    error = result.error
    if result.status == "failed" and error is None:
        error = JobError(code="job.failed", message=result.message or "The job failed without a reason.")
    return JobCompletion(
        epoch=epoch,
        status=result.status,
        error=error,
        retryable=result.retryable,
        outputs=outputs,
        result=result.result,
    )


def _disk_error(error: OSError) -> JobError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return JobError(
            code="agent.disk_full",
            message="The agent's disk is full.",
            hint="Free some space below $IGNITION_HOME/agent, or move it to a larger disk.",
        )
    return JobError(code="agent.io", message=f"The agent cannot work on its disk: {error.strerror or error}.")
