"""Durable workflows: every call into DBOS is in this file.

A workflow is an async function of a `Steps` and the id of what it is about. It may be stopped anywhere,
also by `kill -9`, and goes on at the next start: finished steps answer what they answered, the step that
was interrupted runs again. So each step is short and may run twice, and nothing else has effects.

There is one orchestrator at a time (whoever holds the Hub's lock), under a fixed executor id and
application version: DBOS resumes what it finds under these names. A release that changes the order of a
workflow's steps keeps the old order for runs in flight with `DBOS.patch`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from dbos import DBOS, DBOSClient, DBOSConfig
from sqlalchemy.engine import URL
from sqlalchemy.orm import Session

T = TypeVar("T")

APPLICATION = "ignition-hub"
VERSION = "1"
EXECUTOR = "orchestrator"
QUEUE = "runs"
_POLL_S = 0.25
_FOREVER_S = 86_400.0


class Steps:
    """What a workflow may do."""

    async def run(self, work: Callable[..., T], *arguments: Any, attempts: int = 5) -> T:
        """Runs `work` in a thread, once as far as the workflow can tell; its answer is kept.

        Args:
            work: Short; may run again after a crash. Arguments and answer are plain data.
            attempts: Tries before its exception is raised here.
        """

        async def step() -> T:
            return await asyncio.to_thread(work, *arguments)

        return await DBOS.run_step_async(
            {
                "name": work.__name__,
                "retries_allowed": attempts > 1,
                "max_attempts": attempts,
                "interval_seconds": 0.5,
            },
            step,
        )

    async def receive(self, topic: str, *, timeout_s: float | None = None) -> str | None:
        """The next message on `topic`; None when `timeout_s` is over, also across restarts."""
        while True:
            message = await DBOS.recv_async(topic, timeout_seconds=timeout_s or _FOREVER_S)
            if message is not None or timeout_s is not None:
                return message


Workflow = Callable[[Steps, str], Awaitable[None]]

_workflows: dict[str, Workflow] = {}
"""By name. DBOS is one per process, and what it resumes it finds by name."""


@DBOS.workflow(name="ignition.workflow")
async def _workflow(name: str, subject: str) -> None:
    await _workflows[name](Steps(), subject)


class Pipelines:
    """DBOS on the Hub's database.

    Args:
        url: The database; DBOS keeps its tables beside the Hub's.
    """

    def __init__(self, url: URL) -> None:
        self._url = url.render_as_string(hide_password=False)
        self._client: DBOSClient | None = None

    def start(self, workflows: dict[str, Workflow]) -> None:
        """Resumes what was interrupted. Blocking; not on a thread with a running event loop."""
        _workflows.clear()
        _workflows.update(workflows)
        # A handler of ours keeps DBOS from installing its own; what it logs goes where the Hub's does.
        logger = logging.getLogger("dbos")
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())
        config = DBOSConfig(
            name=APPLICATION,
            system_database_url=self._url,
            application_version=VERSION,
            executor_id=EXECUTOR,
            log_level="WARNING",
            enable_otlp=False,
            notification_listener_polling_interval_sec=_POLL_S,
        )
        DBOS(config=config)
        DBOS.launch()
        DBOS.register_queue(QUEUE, polling_interval_sec=_POLL_S)
        self._client = DBOSClient(system_database_url=self._url, application_name=APPLICATION)

    def stop(self) -> None:
        """Interrupts the workflows; the next start resumes them. Blocking."""
        logging.getLogger("dbos").setLevel(logging.ERROR)  # it warns of each workflow that it interrupts
        if self._client is not None:
            self._client.destroy()
            self._client = None
        DBOS.destroy()

    def submit(self, session: Session, name: str, subject: str) -> None:
        """Starts workflow `name` about `subject`, once this transaction is committed; once per subject."""
        self._running.enqueue_in_transaction(
            session,
            {
                "queue_name": QUEUE,
                "workflow_name": "ignition.workflow",
                "workflow_id": subject,
                "app_version": VERSION,
            },
            name,
            subject,
        )

    def tell(self, session: Session, subject: str, topic: str, message: str) -> None:
        """Tells the workflow about `subject`, in this transaction; saying the same again has no effect."""
        self._running.send_in_transaction(
            session, subject, message, topic=topic, idempotency_key=f"{subject}/{topic}/{message}"
        )

    @property
    def _running(self) -> DBOSClient:
        assert self._client is not None, "the orchestrator runs"
        return self._client
