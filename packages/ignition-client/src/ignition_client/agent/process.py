"""The job's process: its own session, its log in a file, its end guaranteed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ignition_client.agent.folder import JobFolder

JOB_COMMAND = (sys.executable, "-m", "ignition_client.jobs")


class JobProcess:
    """Runs ``command <folder>``. Start it on the agent's main thread: `ignition_client.jobs.guard` asks
    Linux to end the job when the *thread* that started it ends.

    The job holds the read end of a pipe on its stdin, which closes when this process ends, however it
    ends.
    """

    def __init__(self, folder: JobFolder, temporary: Path, command: Sequence[str] = JOB_COMMAND) -> None:
        """
        Args:
            folder: The job's.
            temporary: An empty folder for the job's temporary files. Not below `folder`: sockets are made
                there, whose paths must be short.
            command: Starts the job runner.
        """
        environment = {
            **os.environ,
            "TMPDIR": str(temporary),
            "PYTHONUNBUFFERED": "1",
            "PYTHONUTF8": "1",
            "PYTHONFAULTHANDLER": "1",
        }
        with folder.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, str(folder.path)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder.path,
                env=environment,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while the job runs."""
        status = self._process.poll()
        if status is not None:
            self._end_group()
        return status

    def stop(self, grace_s: float) -> None:
        """SIGTERM to the job, then SIGKILL to all its processes after `grace_s`. Returns when it is over."""
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)
        self._end_group()
        self._process.wait()

    def _end_group(self) -> None:
        """Ends what the job left behind, such as workers of its own."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


def describe_exit(status: int) -> str:
    """``"was killed by SIGKILL"`` or ``"ended with exit status 3"``."""
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
