"""`ignition-hub up` and `down` as processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

# A child as the Hub starts it: it ends when its stdin does, and says who it is.
CHILD = """
import os, pathlib, sys
home = pathlib.Path(sys.argv[sys.argv.index("--home") + 1])
(home / "lives").open("a").write(f"{os.getpid()}\\n")
while os.read(0, 1024): pass
"""


class Process:
    def __init__(self, home: Path, modules: Path) -> None:
        self.home = home
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("IGNITION_")}
        self.environment |= {"IGNITION_HOME": str(home), "PYTHONPATH": str(modules)}
        self.running: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "ignition_hub", *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.running.append(process)
        return process

    def up(self, *arguments: str) -> tuple[subprocess.Popen[str], dict[str, str]]:
        process = self.start("up", *arguments)

        def ready() -> bool:
            assert process.poll() is None, process.stderr and process.stderr.read()
            path = self.home / "run" / "hub.json"
            return path.exists() and json.loads(path.read_text())["pid"] == process.pid

        wait_until(ready)
        return process, json.loads((self.home / "run" / "hub.json").read_text())

    def lives(self) -> list[int]:
        path = self.home / "lives"
        return [int(line) for line in path.read_text().split()] if path.exists() else []


def wait_until(condition: object, timeout_s: float = 30) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline_s, "timed out"
        time.sleep(0.02)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Process]:
    """The command, on a home of its own, with a stand-in for the agent's module."""
    modules = tmp_path / "modules" / "xinfer"
    modules.mkdir(parents=True)
    (modules / "__init__.py").touch()
    (modules / "serve.py").write_text(CHILD)
    process = Process(tmp_path / "home", modules.parent)
    yield process
    for started in process.running:
        if started.poll() is None:
            started.kill()
        started.communicate()


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_up_says_where_it_is_and_down_leaves_nothing_behind(hub: Process) -> None:
    process, info = hub.up("--no-agent", "--no-gateway", "--port", free_port())
    assert httpx.get(f"{info['url']}/v1/health").json()["status"] == "ok"
    assert info["setup_url"] is not None
    for name in ("cli-key", "agent-token", "gateway-token"):
        assert stat.S_IMODE((hub.home / "secrets" / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(hub.home.stat().st_mode) == 0o700
    for path in ("run/hub.json", "hub.sqlite3", "logs/hub.log", "blobs"):  # the home may be open to others
        assert stat.S_IMODE((hub.home / path).stat().st_mode) & 0o077 == 0, path
    down = hub.start("down")
    assert down.wait(40) == 0
    assert process.wait(40) == 0
    assert list((hub.home / "run").iterdir()) == []
    out, err = process.communicate()
    assert info["setup_url"] in out
    assert err == ""


def test_second_hub_on_a_home_is_refused_and_names_the_first(hub: Process) -> None:
    process, _ = hub.up("--no-agent", "--no-gateway", "--port", free_port())
    second = hub.start("up", "--no-agent", "--no-gateway")
    _, err = second.communicate(timeout=40)
    assert second.returncode == 1
    assert str(process.pid) in err
    assert (hub.home / "run" / "hub.json").exists()


def test_port_that_was_asked_for_and_is_busy_is_an_error(hub: Process) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = hub.start("up", "--no-agent", "--no-gateway", "--port", str(taken.getsockname()[1]))
        _, err = process.communicate(timeout=40)
    assert process.returncode == 1
    assert "Cannot listen" in err


def test_killed_hub_takes_its_children_along_and_starts_again(hub: Process) -> None:
    port = free_port()
    process, info = hub.up("--no-agent", "--port", port, "--gateway-port", free_port())
    wait_until(lambda: len(hub.lives()) == 1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not psutil.pid_exists(hub.lives()[0]))
    assert (hub.home / "run" / "hub.json").exists(), "what a killed Hub leaves"
    key = (hub.home / "secrets" / "cli-key").read_text()
    process, again = hub.up("--no-agent", "--port", port, "--gateway-port", free_port())
    assert again["url"] == info["url"]
    assert (hub.home / "secrets" / "cli-key").read_text() == key
    process.terminate()
    assert process.wait(40) == 0


def test_child_that_dies_is_started_again(hub: Process) -> None:
    process, _ = hub.up("--no-agent", "--port", free_port(), "--gateway-port", free_port())
    wait_until(lambda: len(hub.lives()) == 1)
    os.kill(hub.lives()[0], signal.SIGKILL)
    wait_until(lambda: len(hub.lives()) == 2)
    process.terminate()
    assert process.wait(40) == 0
    assert not psutil.pid_exists(hub.lives()[1])
