"""The Hub's child processes: the gateway and the agent. One that dies is started again.

A child's stdin is a pipe whose other end only this process holds: when the Hub ends, however it ends, the
pipe closes and the child ends by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from ignition_hub.settings import Settings

logger = structlog.get_logger(__name__)

_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.5, 15.0
_STEADY_S = 30.0
"""A child that ran for so long starts again without a pause."""
_STOP_S = 15.0
_MAX_LOG_BYTES = 20 * 1024**2
_PRIVATE = ("DATABASE_URL", "BLOB_URL", "SMTP_USER", "SMTP_PASSWORD", "SMTP_PASSWORD_FILE")
"""Settings that children have no use for."""


@dataclass(frozen=True, kw_only=True)
class ChildSpec:
    name: str
    command: Sequence[str]
    log: Path


def children_of(settings: Settings) -> list[ChildSpec]:
    """The children that the settings ask for."""

    def spec(name: str, module: str, *extra: str) -> ChildSpec:
        command = [sys.executable, "-m", module, "--hub-url", settings.hub_address]
        command += ["--token-file", str(settings.home / "secrets" / f"{name}-token")]
        command += ["--home", str(settings.home), "--exit-on-stdin-eof", *extra]
        return ChildSpec(name=name, command=command, log=settings.home / "logs" / f"{name}.log")

    children = []
    if settings.embedded_gateway:
        address = ("--host", settings.host, "--port", str(settings.gateway_port))
        children.append(spec("gateway", "xinfer.serve", *address))
    if settings.embedded_agent:
        children.append(spec("agent", "ignition_client.agent"))
    return children


class Supervisor:
    """Keeps children running from `start` to `stop`."""

    def __init__(self, specs: Sequence[ChildSpec]) -> None:
        self._specs = specs
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._keep(spec), name=spec.name) for spec in self._specs]

    async def stop(self) -> None:
        """Ends all children; those that do not end by themselves are killed."""
        self._stopping.set()
        await asyncio.gather(*self._tasks)

    async def _keep(self, spec: ChildSpec) -> None:
        pause_s = _FIRST_PAUSE_S
        clock = asyncio.get_running_loop().time
        while not self._stopping.is_set():
            started_s = clock()
            try:
                status = await self._run(spec)
            except OSError as error:
                logger.error("child cannot start", child=spec.name, error=str(error))
                status = None
            if self._stopping.is_set():
                return
            pause_s = _FIRST_PAUSE_S if clock() - started_s > _STEADY_S else min(_LAST_PAUSE_S, pause_s * 2)
            logger.warning("child ended; starting it again", child=spec.name, status=status, pause_s=pause_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)

    async def _run(self, spec: ChildSpec) -> int | None:
        """One life of a child; its exit status."""
        spec.log.parent.mkdir(parents=True, exist_ok=True)
        if spec.log.exists() and spec.log.stat().st_size > _MAX_LOG_BYTES:
            spec.log.replace(spec.log.with_suffix(".log.1"))
        environment = {k: v for k, v in os.environ.items() if k.removeprefix("IGNITION_") not in _PRIVATE}
        with spec.log.open("ab") as log:
            child = await asyncio.create_subprocess_exec(
                *spec.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C in a terminal is the Hub's to pass on
            )
        logger.info("child started", child=spec.name, pid=child.pid)
        ended = asyncio.ensure_future(child.wait())
        stopping = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not ended.done():
            with contextlib.suppress(ProcessLookupError):
                child.terminate()
            done, _ = await asyncio.wait({ended}, timeout=_STOP_S)
            if not done:
                logger.warning("child did not end in time; killing it", child=spec.name)
                child.kill()
        return await ended
