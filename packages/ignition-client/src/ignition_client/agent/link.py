"""One lease's connection to the Hub: keeps the lease alive and repeats calls until they get through."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from typing import TypeVar

from ignition_client.errors import (
    ConflictError,
    HubFailureError,
    HubUnreachableError,
    JobInterruptedError,
    LeaseLostError,
    NotFoundError,
    NotLoggedInError,
    PermissionDeniedError,
    RateLimitedError,
)
from ignition_client.http import HubHttp
from ignition_client.wire import Heartbeat, HeartbeatAnswer, Lease

T = TypeVar("T")
logger = logging.getLogger(__name__)

_OVER = (ConflictError, NotFoundError, NotLoggedInError, PermissionDeniedError)
"""The Hub's ways to say that this epoch, or its token, is not the job's any more."""
_TRANSIENT = (HubUnreachableError, HubFailureError, RateLimitedError)
_CALL_TIMEOUT_S = 10.0


class LeaseLink:
    """Calls for one leased job.

    Only the Hub's own word ends a lease: while it cannot be reached the job goes on, because a Hub that
    comes back usually still knows it, and one that does not answers 409 and changes nothing.

    Args:
        stop: Set when the agent is to end.
        pause_s: First pause between attempts, seconds; doubles up to 15 s.
    """

    def __init__(self, hub_url: str, lease: Lease, stop: threading.Event, *, pause_s: float = 0.5) -> None:
        self.lost = threading.Event()
        self.cancelled = threading.Event()
        self._stop = stop
        self._lease = lease
        self._pause_s = pause_s
        self._closing = threading.Event()
        self._http = HubHttp(hub_url, lease.token, attempts=1)
        self._thread = threading.Thread(target=self._keep_alive, name="heartbeat", daemon=True)
        self._thread.start()

    @property
    def route(self) -> str:
        return f"/v1/jobs/{self._lease.job_id}"

    def close(self) -> None:
        self._closing.set()
        self._thread.join(_CALL_TIMEOUT_S)
        self._http.close()

    def raise_if_interrupted(self) -> None:
        """
        Raises:
            LeaseLostError: The job is not ours any more.
            JobInterruptedError: It was cancelled, or the agent is to end.
        """
        if self.lost.is_set():
            raise LeaseLostError
        if self.cancelled.is_set() or self._stop.is_set():
            raise JobInterruptedError

    def once(self, call: Callable[[HubHttp], T]) -> T:
        """One attempt.

        Raises:
            LeaseLostError: The Hub says that the lease is over.
            HubUnreachableError, HubFailureError, RateLimitedError: Worth another attempt later.
            HubError: The Hub rejects the call.
        """
        try:
            return call(self._http)
        except _OVER as error:
            logger.warning("job %s: lease lost: %s (%s)", self._lease.job_id, error.message, error.code)
            self.lost.set()
            raise LeaseLostError from error

    def persist(self, call: Callable[[HubHttp], T], *, uninterrupted: bool = False) -> T:
        """Repeats a call until the Hub answers it.

        Args:
            uninterrupted: Go on when the job is cancelled: the call reports just that. The agent's own
                end interrupts in any case.

        Raises:
            LeaseLostError, JobInterruptedError: There is no point any more.
            HubError: The Hub rejects the call.
        """
        pause_s = self._pause_s
        while True:
            if not uninterrupted:
                self.raise_if_interrupted()
            try:
                return self.once(call)
            except _TRANSIENT as error:
                logger.warning("job %s: %s Trying again.", self._lease.job_id, error.message)
            self._stop.wait(pause_s * random.uniform(0.7, 1.3))  # noqa: S311
            pause_s = min(15.0, pause_s * 2)
            if self._stop.is_set() or self.lost.is_set():
                self.raise_if_interrupted()

    def _keep_alive(self) -> None:
        """Heartbeats at a third of the lease's length; sooner again after one that did not get through."""
        interval_s = self._lease.lease_s / 3
        beat = Heartbeat(epoch=self._lease.epoch)
        wait_s = interval_s
        while not self._closing.wait(wait_s):
            try:
                answer = self.once(
                    lambda http: http.read(
                        HeartbeatAnswer,
                        "POST",
                        f"{self.route}/heartbeat",
                        body=beat,
                        timeout_s=_CALL_TIMEOUT_S,
                    )
                )
            except LeaseLostError:
                return
            except Exception as error:  # the thread must outlive whatever the network invents
                logger.warning("job %s: heartbeat failed: %s", self._lease.job_id, error)
                wait_s = min(2.0, interval_s)
            else:
                wait_s = interval_s
                if answer.cancel:
                    self.cancelled.set()
