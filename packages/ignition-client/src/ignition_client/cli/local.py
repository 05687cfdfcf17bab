"""Starting, stopping and looking at the Hub on this machine (ARCHITECTURE 10.1)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from ignition_client.api import Ignition
from ignition_client.config import LocalHub, read_local_hub
from ignition_client.errors import ClientError
from ignition_client.http import HubHttp

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 20.0
_POLL_S = 0.1
_TAIL_LINES = 15


class HubStartError(ClientError):
    """The Hub does not start."""

    code = "client.hub_start"


def is_locked(path: Path) -> bool:
    """Whether a process holds the file's lock, which it does as long as it lives."""
    try:
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def hub_is_running(home: Path) -> bool:
    return is_locked(home / "run" / "hub.lock")


def agent_is_running(home: Path) -> bool:
    return is_locked(home / "agent" / "agent.lock")


def answers(hub: LocalHub) -> bool:
    """Whether the Hub answers on its address."""
    try:
        with Ignition(hub.url, "") as client:
            client.health()
    except ClientError:
        return False
    return True


def gateway_answers(url: str | None) -> bool:
    """Whether the gateway says that it is alive."""
    try:
        with HubHttp(url or "", attempts=1, timeout_s=5) as gateway:
            gateway.request("GET", "/v2/health/live")
    except ClientError:
        return False
    return True


def start_hub(home: Path, options: Sequence[str], *, detach: bool) -> subprocess.Popen[bytes]:
    """Starts ``python -m ignition_hub up``.

    Args:
        options: Passed on.
        detach: In a session of its own, its output in ``logs/up.log``; else it shares this terminal.

    Raises:
        HubStartError: ignition_hub is not installed.
    """
    if find_spec("ignition_hub") is None:
        raise HubStartError(
            "The Hub is not installed here.",
            hint="Install it with `pip install 'ignition-hub[standalone]'`, or use `ignition login URL`.",
        )
    command = [sys.executable, "-m", "ignition_hub", "up", *options]
    environment = {**os.environ, "IGNITION_HOME": str(home)}
    if not detach:
        return subprocess.Popen(command, env=environment)
    log_path = home / "logs" / "up.log"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    log_path.parent.mkdir(parents=True, exist_ok=True)
    log_path.unlink(missing_ok=True)
    # The setup link is in it: for the owner's eyes only, also where the home is open to others.
    with open(log_path, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as log:
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )


def wait_until_up(
    home: Path, process: subprocess.Popen[bytes], *, timeout_s: float = START_TIMEOUT_S
) -> LocalHub:
    """Waits until the started Hub has written ``run/hub.json`` and answers.

    Raises:
        HubStartError: It ended, or took too long; the hint shows the end of its log.
    """
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if (status := process.poll()) is not None:
            raise HubStartError(f"The Hub ended with exit status {status}.", hint=_log_tail(home))
        hub = read_local_hub(home)
        if hub is not None and hub.pid == process.pid and answers(hub):
            return hub
        time.sleep(_POLL_S)
    raise HubStartError(f"The Hub does not answer after {timeout_s:.0f} s.", hint=_log_tail(home))


def stop_hub(home: Path, *, timeout_s: float = STOP_TIMEOUT_S) -> str:
    """Ends the Hub of this home: SIGTERM, and SIGKILL if it does not listen for `timeout_s`.

    Returns:
        ``"stopped"``, ``"killed"`` or ``"not running"``.
    """
    hub = read_local_hub(home)
    if hub is None or not hub_is_running(home):  # the lock, not the pid: pids are used again
        return "not running"
    for number, outcome in ((signal.SIGTERM, "stopped"), (signal.SIGKILL, "killed")):
        with contextlib.suppress(ProcessLookupError):
            os.kill(hub.pid, number)
        if _wait_for(lambda: not hub_is_running(home), timeout_s):
            return outcome
    raise ClientError(f"Process {hub.pid} does not end.", value=hub.pid)


def _wait_for(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(_POLL_S)
    return True


def _log_tail(home: Path) -> str:
    for name in ("up.log", "hub.log"):
        with contextlib.suppress(OSError):
            lines = (home / "logs" / name).read_text(errors="replace").strip().splitlines()
            if lines:
                return f"The end of logs/{name}:\n" + "\n".join(lines[-_TAIL_LINES:])
    return f"Its logs are in {home / 'logs'}."
