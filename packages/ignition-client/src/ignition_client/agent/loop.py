"""The agent: leases one job after the other, for as long as it is wanted."""

from __future__ import annotations

import fcntl
import logging
import random
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ignition_client.agent.cache import BlobCache, prune_folder
from ignition_client.agent.identity import Identity, load_identity
from ignition_client.agent.process import JOB_COMMAND
from ignition_client.agent.session import JobSession, SessionSettings
from ignition_client.errors import AgentSetupError, ClientError, JobInterruptedError
from ignition_client.http import HubHttp, parse_answer
from ignition_client.wire import Lease, LeaseRequest

logger = logging.getLogger(__name__)

GIB = 1024**3
_LOCK_WAIT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class AgentSettings:
    """
    Args:
        hub_url: Base URL of the Hub.
        token_file: Holds the agent's token; read again whenever the Hub refuses it.
        home: ``$IGNITION_HOME``; the agent keeps everything below ``agent/``.
        name: As shown in the Hub.
        wait_s: Length of the long poll, 0 to 60 s.
        blob_cache_bytes, job_cache_bytes: Bounds of the two caches.
        command: Starts the job runner.
        grace_s: From a job's SIGTERM to its SIGKILL.
        pause_s: First pause before a call is repeated; doubles up to 15 s.
    """

    hub_url: str
    token_file: Path
    home: Path
    name: str = field(default_factory=socket.gethostname)
    wait_s: float = 20.0
    blob_cache_bytes: int = 10 * GIB
    job_cache_bytes: int = 5 * GIB
    command: tuple[str, ...] = JOB_COMMAND
    grace_s: float = 10.0
    pause_s: float = 0.5


class Agent:
    """One agent process. `run` blocks until `stop` is called, from a signal handler or another thread."""

    def __init__(self, settings: AgentSettings) -> None:
        self._settings = settings
        self._dir = settings.home / "agent"
        self._jobs = self._dir / "jobs"
        self._temporary = self._dir / "tmp"
        self._stop = threading.Event()
        self._polling = False

    def stop(self) -> None:
        """Asks `run` to end: the job at work is ended and released.

        Raises:
            JobInterruptedError: On the thread of `run` in the middle of a long poll, to break it off.
        """
        self._stop.set()
        if self._polling and threading.current_thread() is self._thread:
            raise JobInterruptedError

    def run(self) -> None:
        """
        Raises:
            AgentSetupError: Jobs cannot run here, or another agent uses the same folder.
        """
        settings = self._settings
        self._thread = threading.current_thread()
        self._dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _exclusive(self._dir / "agent.lock", self._stop):
            self._remove_leftovers()
            identity = load_identity(self._dir, settings.command)
            description = identity.description
            kinds = ", ".join(kind.value for kind in description.kinds)
            logger.info("agent %s for %s, jobs: %s", settings.name, description.target, kinds)
            cache = BlobCache(self._dir / "cache" / "blobs", max_bytes=settings.blob_cache_bytes)
            job_cache = self._dir / "cache" / "jobs"
            job_cache.mkdir(parents=True, exist_ok=True)
            session_settings = SessionSettings(
                jobs_dir=self._jobs,
                cache_dir=job_cache,
                temporary=self._temporary,
                signing_key=identity.signing_key,
                command=settings.command,
                grace_s=settings.grace_s,
                pause_s=settings.pause_s,
            )
            for lease in self._leases(identity):
                JobSession(settings.hub_url, lease, cache, session_settings, self._stop).run()
                _empty(self._temporary)
                cache.prune()
                prune_folder(job_cache, settings.job_cache_bytes)
        logger.info("agent %s: ended", settings.name)

    def _remove_leftovers(self) -> None:
        """An agent that was killed leaves folders; their jobs are the Hub's to give out again."""
        _empty(self._jobs)
        _empty(self._temporary)

    def _leases(self, identity: Identity) -> Iterator[Lease]:
        """Leases as they come, until `stop`."""
        settings, description = self._settings, identity.description
        request = LeaseRequest(
            agent=settings.name[:100],
            target=description.target,
            kinds=description.kinds,
            wait_s=settings.wait_s,
            public_key_pem=identity.public_key_pem,
            machine=description.machine,
        )
        pause_s = settings.pause_s
        while not self._stop.is_set():
            started_s = time.monotonic()
            try:
                lease = self._poll(request)
            except JobInterruptedError:
                return
            except (ClientError, OSError) as error:
                if pause_s == settings.pause_s or not isinstance(error, ClientError):
                    logger.warning("no lease: %s", error)
                self._stop.wait(pause_s * random.uniform(0.7, 1.3))  # noqa: S311
                pause_s = min(15.0, pause_s * 2)
                continue
            if pause_s != settings.pause_s:
                logger.info("the Hub answers again")
            pause_s = settings.pause_s
            if lease is not None:
                yield lease
            elif time.monotonic() - started_s < min(0.2, settings.wait_s):
                self._stop.wait(settings.pause_s)  # a Hub that does not wait must not be hammered

    def _poll(self, request: LeaseRequest) -> Lease | None:
        settings = self._settings
        token = settings.token_file.read_text().strip()
        with HubHttp(settings.hub_url, token, attempts=1) as http:
            try:
                self._polling = True
                response = http.request(
                    "POST", "/v1/leases", body=request, timeout_s=settings.wait_s + 15, idempotent=False
                )
            finally:
                self._polling = False
        if response.status_code == 204:
            return None
        return parse_answer(Lease, response.content, "POST /v1/leases")


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def _exclusive(path: Path, stop: threading.Event) -> Iterator[None]:
    """One agent per folder. Waits a little for one that is just ending."""
    with path.open("w") as file:
        deadline_s = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if time.monotonic() > deadline_s or stop.wait(0.2):
                    raise AgentSetupError("Another agent works in this folder.", value=str(path)) from error
            else:
                break
        yield
