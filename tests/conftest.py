"""A real Hub with its gateway and agent, as `ignition up` starts it, for tests of the whole."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

T = TypeVar("T")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], T | None], *, timeout_s: float, what: str) -> T:
    """The first true answer of `condition`; fails the test after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if answer := condition():
            return answer
        time.sleep(0.1)
    pytest.fail(f"timed out after {timeout_s:.0f} s: {what}")


class LocalHub:
    """`python -m ignition_hub up` on a home of its own; may be killed and started again."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        self.port = free_port()
        self.gateway_port = free_port()
        self.environment = {**os.environ, "IGNITION_HOME": str(home), **environment}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, timeout_s: float = 60) -> LocalHub:
        self.home.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "ignition_hub", "up"]
        command += ["--port", str(self.port), "--gateway-port", str(self.gateway_port)]
        with (self.home / "up.log").open("ab") as log:
            self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        pid = self.process.pid

        def ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, (self.home / "up.log").read_text()[-3000:]
            try:
                return json.loads((self.home / "run" / "hub.json").read_text())["pid"] == pid
            except (FileNotFoundError, json.JSONDecodeError):
                return False

        wait_until(ready, timeout_s=timeout_s, what="the Hub writes run/hub.json")
        return self

    @property
    def run_info(self) -> dict[str, str]:
        return dict(json.loads((self.home / "run" / "hub.json").read_text()))

    @property
    def url(self) -> str:
        return self.run_info["url"]

    @property
    def gateway_url(self) -> str:
        return self.run_info["gateway_url"]

    @property
    def key(self) -> str:
        return (self.home / "secrets" / "cli-key").read_text().strip()

    def children(self) -> list[psutil.Process]:
        """All processes below the Hub: gateway, agent, the agent's job."""
        assert self.process is not None
        return psutil.Process(self.process.pid).children(recursive=True)

    def find(self, *words: str) -> psutil.Process | None:
        """The process below the Hub whose command line has all these words."""
        for child in self.children():
            try:
                line = " ".join(child.cmdline())
            except psutil.Error:
                continue
            if all(word in line for word in words):
                return child
        return None

    def kill(self) -> list[psutil.Process]:
        """`kill -9` of the Hub alone; its children are answered, to see whether they end by themselves."""
        assert self.process is not None
        children = self.children()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        return children

    def stop(self, *, timeout_s: float = 30) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            for child in self.children():
                child.kill()
            self.process.kill()
            self.process.wait()
            raise


@pytest.fixture
def local_hub(tmp_path: Path) -> Iterator[LocalHub]:
    hub = LocalHub(tmp_path / "home")
    yield hub
    if hub.process is not None and hub.process.poll() is None:
        hub.stop()
