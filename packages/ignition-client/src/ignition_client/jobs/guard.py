"""Ties a job's process to its agent, and makes it a polite neighbour."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
from types import FrameType

NICENESS = 5
"""The Hub, the gateway and the desktop go first; an otherwise idle machine is used in full."""

_PR_SET_PDEATHSIG = 1


class JobCancelled(BaseException):
    """SIGTERM came: the job is to end. Like KeyboardInterrupt, no `except Exception` may swallow it."""


def install() -> None:
    """Call first thing on the main thread, with stdin the read end of the agent's pipe.

    The job ends when the agent ends, however that ends: the pipe closes, which kills the whole process
    group; on Linux the kernel sends SIGUSR1 as well, with the same effect, should somebody have
    inherited the pipe's other end. (Not SIGKILL, nor SIGTERM: they would end this process alone and
    orphan its workers.) SIGTERM raises `JobCancelled`.
    """
    signal.signal(signal.SIGTERM, _raise_cancelled)
    signal.signal(signal.SIGUSR1, _end_group)
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the agent to handle
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    threading.Thread(target=_end_with_agent, name="agent-watch", daemon=True).start()


def _raise_cancelled(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise JobCancelled


def _end_with_agent() -> None:
    while os.read(0, 4096):
        pass
    _end_group()


def _end_group(*_: object) -> None:
    if os.getpgrp() == os.getpid():  # our own group: take our workers along
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
