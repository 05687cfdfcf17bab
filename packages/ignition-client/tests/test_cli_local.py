"""``ignition login``, ``up`` and ``down``: the Hub on this machine, and which Hub is meant."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_cases import Ignition, full_api
from fake_api import FakeApi, ProblemError

from ignition_client.cli import local
from ignition_client.config import read_profile


def test_login_with_a_key_is_remembered(api: FakeApi, ignition: Ignition, tmp_path: Path) -> None:
    full_api(api)
    assert ignition("login", api.url, "--key", "k2")[0] == 0
    profile = read_profile(tmp_path / "home")
    assert profile is not None
    assert (profile.url, profile.key) == (api.url, "k2")
    assert ignition("logout")[0] == 0
    assert read_profile(tmp_path / "home") is None


def test_login_that_fails_remembers_nothing(api: FakeApi, ignition: Ignition, tmp_path: Path) -> None:
    api.routes["GET /v1/me"] = ProblemError(401, "auth.required")
    assert ignition("login", api.url, "--key", "bad")[0] == 3
    assert read_profile(tmp_path / "home") is None


def test_down_says_so_when_nothing_runs(ignition: Ignition) -> None:
    code, out, _ = ignition("down", "--json")
    assert (code, json.loads(out)) == (0, {"outcome": "not running"})


def test_up_explains_when_the_hub_is_not_installed(
    ignition: Ignition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "find_spec", lambda _name: None)
    code, _, err = ignition("up")
    assert code == 1
    assert "ignition-hub" in err


FAKE_HUB = """
import fcntl, http.server, json, os, pathlib, signal, sys
home = pathlib.Path(os.environ["IGNITION_HOME"])
(home / "run").mkdir(parents=True, exist_ok=True)
if "{how}" == "crash":
    print("cannot start: the moon is wrong")
    sys.exit(7)
lock = open(home / "run" / "hub.lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
if "{how}" == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        data = json.dumps({{"status": "ok", "version": "0.1.0"}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
url = f"http://127.0.0.1:{{server.server_address[1]}}"
(home / "run" / "hub.json").write_text(json.dumps({{"url": url, "pid": os.getpid()}}))
server.serve_forever()
"""


def fake_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str) -> None:
    """A module `ignition_hub` that comes before the real one."""
    package = tmp_path / "modules" / "ignition_hub"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(FAKE_HUB.format(how=how))
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.setattr(local, "find_spec", lambda _name: True)


@pytest.mark.faults
@pytest.mark.parametrize(("how", "outcome"), [("well", "stopped"), ("stubborn", "killed")])
def test_up_detach_and_down(
    ignition: Ignition, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str, outcome: str
) -> None:
    fake_module(monkeypatch, tmp_path, how)
    monkeypatch.setattr(local, "STOP_TIMEOUT_S", 1.0)
    monkeypatch.setattr(local.stop_hub, "__kwdefaults__", {"timeout_s": 1.0})
    code, out, err = ignition("up", "--detach", "--json")
    assert code == 0, err
    first = json.loads(out)
    assert (tmp_path / "home" / "logs" / "up.log").stat().st_mode & 0o077 == 0, "it has the setup link"
    code, out, _ = ignition("up", "--detach", "--json")
    assert (code, json.loads(out)["pid"]) == (0, first["pid"]), "a second `up` finds the first"
    code, out, _ = ignition("down", "--json")
    assert json.loads(out) == {"outcome": outcome}
    os.waitpid(first["pid"], 0)  # the command was run in this process: the Hub is its child
    assert not local.hub_is_running(tmp_path / "home")


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_up_takes_the_hub_along_when_it_alone_is_told_to_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: signal.Signals
) -> None:
    home = tmp_path / "home"
    fake_module(monkeypatch, tmp_path, "well")
    monkeypatch.setenv("IGNITION_HOME", str(home))
    command = [sys.executable, "-m", "ignition_client.cli", "up"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as up:
        assert up.stderr is not None
        assert any(line == "Ctrl-C stops it.\n" for line in up.stderr)
        up.send_signal(number)
        assert up.wait(30) == 0
    assert not local.hub_is_running(home)


@pytest.mark.faults
def test_up_leaves_no_hub_behind_when_it_cannot_say_where_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_module(monkeypatch, tmp_path, "well")
    monkeypatch.setenv("IGNITION_HOME", str(tmp_path / "home"))
    command = [sys.executable, "-m", "ignition_client.cli", "up"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as up:
        assert up.stdout is not None
        up.stdout.close()
        assert up.wait(30) == 1
    assert (tmp_path / "home" / "run" / "hub.lock").exists(), "it was started"
    assert not local.hub_is_running(tmp_path / "home")


@pytest.mark.faults
def test_up_shows_the_end_of_the_log_when_the_hub_does_not_start(
    ignition: Ignition, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_module(monkeypatch, tmp_path, "crash")
    code, _, err = ignition("up", "--detach")
    assert code == 1
    assert "exit status 7" in err
    assert "the moon is wrong" in err
