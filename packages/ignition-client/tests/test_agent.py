"""The agent against a Hub over real HTTP, with real job processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from fake_hub import FakeHub, FakeJob, digest_of

from ignition_client.agent import Agent, AgentSettings

FAKE_JOBS = (sys.executable, str(Path(__file__).with_name("fake_jobs.py")))


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    hub.start()
    yield hub
    hub.stop()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text("agent-token\n")
    return tmp_path


@contextlib.contextmanager
def running_agent(hub: FakeHub, home: Path) -> Iterator[Agent]:
    """An agent on a thread of its own, ended and joined afterwards."""
    agent = Agent(
        AgentSettings(
            hub_url=hub.url, token_file=home / "token", home=home, name="test", command=FAKE_JOBS,
            wait_s=0.5, grace_s=1.0, pause_s=0.02,
        )
    )  # fmt: skip
    failures: list[BaseException] = []

    def run() -> None:
        try:
            agent.run()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield agent
    finally:
        agent.stop()
        thread.join(20)
    assert not thread.is_alive()
    assert failures == []


def jobs_left(home: Path) -> list[Path]:
    return list((home / "agent" / "jobs").iterdir())


def test_job_succeeds_with_log_events_outputs_and_result(hub: FakeHub, home: Path) -> None:
    job = hub.add(FakeJob("j1", inputs={"dataset/ok/ä 1.jpg": b"one", "dataset/ok/2.jpg": b"two"}))
    with running_agent(hub, home):
        hub.wait_for(lambda: job.completion)
        hub.wait_for(lambda: not jobs_left(home))
    assert job.completion is not None
    assert job.completion["status"] == "succeeded"
    assert job.completion["result"]["listing"] == {"dataset/ok/2.jpg": 3, "dataset/ok/ä 1.jpg": 3}
    assert job.completion["result"]["cache_dir_exists"] is True
    (output,) = job.completion["outputs"]
    assert output["path"] == "listing.json"
    assert json.loads(job.blobs[output["digest"]]) == job.completion["result"]["listing"]
    assert "doing: succeed — größer" in job.log
    assert [event["stage"] for event in job.events] == ["Working", "Done"]
    assert job.events[0]["metrics"] == {"loss": 0.25}
    request = hub.lease_requests[0]
    assert (request["target"], request["public_key_pem"], request["agent"]) == ("cpu-test", "public", "test")


def test_inputs_are_downloaded_once_when_two_jobs_share_them(hub: FakeHub, home: Path) -> None:
    inputs = {"dataset/a": b"same", "dataset/b": b"same", "dataset/c": b"other"}
    first = hub.add(FakeJob("j1", inputs=inputs))
    with running_agent(hub, home):
        hub.wait_for(lambda: first.completion)
        second = hub.add(FakeJob("j2", inputs=inputs))
        hub.wait_for(lambda: second.completion)
    assert second.completion is not None
    assert second.completion["result"]["listing"] == {"dataset/a": 4, "dataset/b": 4, "dataset/c": 5}
    downloads = [path for method, path in hub.requests if method == "GET" and "/blobs/" in path]
    assert len(downloads) == 2


@pytest.mark.parametrize(
    ("do", "code", "retryable"),
    [("fail", "data.too_few", False), ("crash", "job.crashed", False), ("bad_result", "job.crashed", False)],
)
def test_job_failure_is_reported_with_its_reason(
    hub: FakeHub, home: Path, do: str, code: str, retryable: bool
) -> None:
    job = hub.add(FakeJob("j1", spec={"do": do}))
    with running_agent(hub, home):
        hub.wait_for(lambda: job.completion)
    assert job.completion is not None
    assert job.completion["status"] == "failed"
    assert job.completion["error"]["code"] == code
    assert "Traceback" not in job.completion["error"]["message"]
    assert job.completion["retryable"] is retryable
    assert "Traceback" in job.log


def test_job_is_failed_and_retryable_when_its_process_is_killed(hub: FakeHub, home: Path) -> None:
    job = hub.add(FakeJob("j1", spec={"do": "sleep"}))
    with running_agent(hub, home):
        hub.wait_for(lambda: job.events)
        (process,) = job_processes()
        process.kill()
        hub.wait_for(lambda: job.completion)
    assert job.completion is not None
    assert job.completion["status"] == "failed"
    assert job.completion["error"]["code"] == "job.killed"
    assert "SIGKILL" in job.completion["error"]["message"]
    assert job.completion["retryable"] is True


@pytest.mark.parametrize("do", ["sleep", "stubborn"])
def test_job_is_cancelled_when_the_heartbeat_says_so(hub: FakeHub, home: Path, do: str) -> None:
    hub.lease_s = 0.3
    job = hub.add(FakeJob("j1", spec={"do": do}))
    with running_agent(hub, home):
        hub.wait_for(lambda: job.events)
        job.cancel = True
        hub.wait_for(lambda: job.completion)
        assert job_processes() == []
    assert job.completion is not None
    assert job.completion["status"] == "cancelled"
    assert job.heartbeats >= 1


def test_job_is_dropped_without_a_word_when_its_epoch_is_stale(hub: FakeHub, home: Path) -> None:
    hub.lease_s = 0.3
    job = hub.add(FakeJob("j1", spec={"do": "sleep"}))
    with running_agent(hub, home):
        hub.wait_for(lambda: job.events)
        job.stale = True
        hub.wait_for(lambda: not jobs_left(home))
        assert job_processes() == []
        following = hub.add(FakeJob("j2"))
        hub.wait_for(lambda: following.completion)
    assert job.completion is None
    assert job.state == "leased"


def test_job_goes_on_when_the_hub_restarts(hub: FakeHub, home: Path, tmp_path: Path) -> None:
    hub.lease_s = 0.6
    job = hub.add(FakeJob("j1", spec={"do": "sleep"}))
    with running_agent(hub, home):
        hub.wait_for(lambda: job.events)
        beats = job.heartbeats
        hub.stop()
        time.sleep(0.7)  # longer than the lease
        hub.start()
        hub.wait_for(lambda: job.heartbeats > beats)
        assert len(job_processes()) == 1, "the job must not have been given up"
        job.cancel = True
        hub.wait_for(lambda: job.completion)
    assert job.epoch == 1


def test_upload_resumes_where_it_was_when_the_hub_fails_in_between(hub: FakeHub, home: Path) -> None:
    outputs = {f"report/{i}.txt": f"content {i}" for i in range(20)}
    hub.fail_next["PUT blobs"] = [503, 500, 429]
    hub.fail_next["POST complete"] = [502, 503]
    job = hub.add(FakeJob("j1", spec={"outputs": outputs}))
    with running_agent(hub, home):
        hub.wait_for(lambda: job.completion)
    assert job.completion is not None
    assert {entry["path"] for entry in job.completion["outputs"]} == set(outputs)
    assert set(job.blobs) == {digest_of(text.encode()) for text in outputs.values()}
    uploads = [path for method, path in hub.requests if method == "PUT"]
    assert len(uploads) == 23, "only what failed is sent again"


def test_job_fails_retryable_when_an_input_is_damaged(hub: FakeHub, home: Path) -> None:
    job = FakeJob("j1", inputs={"dataset/a": b"good"})
    with running_agent(hub, home), pytest.MonkeyPatch.context() as patch:
        patch.setattr("fake_hub._Handler._answer", _damaging_answer)
        hub.add(job)
        hub.wait_for(lambda: job.completion)
    assert job.completion is not None
    assert job.completion["error"]["code"] == "client.digest_mismatch"
    assert job.completion["retryable"] is True
    assert list((home / "agent" / "cache" / "blobs").rglob("*.part")) == []


def test_job_fails_with_the_hubs_reason_when_an_input_is_lost(hub: FakeHub, home: Path) -> None:
    hub.fail_next["GET blobs"] = [410]
    job = FakeJob("j1", inputs={"dataset/a": b"good"})
    with running_agent(hub, home):
        hub.add(job)
        hub.wait_for(lambda: job.completion)
    assert job.completion is not None
    assert (job.completion["status"], job.completion["retryable"]) == ("failed", False)
    assert job.completion["error"]["code"] == "hub.failure"


def _damaging_answer(handler, status: int, body=None, *, raw: bytes | None = None) -> None:
    data = b"evil" if raw is not None else b"" if body is None else json.dumps(body).encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


@pytest.mark.parametrize("path", ["../escape", "/etc/passwd", "dataset/../../x", "dataset\\x"])
def test_job_fails_when_an_input_path_is_unsafe(hub: FakeHub, home: Path, path: str) -> None:
    job = hub.add(FakeJob("j1", inputs={path: b"x"}))
    with running_agent(hub, home):
        hub.wait_for(lambda: job.completion)
    assert job.completion is not None
    assert job.completion["error"]["code"] == "client.unsafe_path"
    assert job.completion["retryable"] is False


def test_job_is_released_when_the_agent_stops(hub: FakeHub, home: Path) -> None:
    job = hub.add(FakeJob("j1", spec={"do": "sleep"}))
    with running_agent(hub, home):
        hub.wait_for(lambda: job.events)
    assert job.state == "released"
    assert job_processes() == []
    assert jobs_left(home) == []


def test_rejected_result_becomes_a_failure(hub: FakeHub, home: Path) -> None:
    hub.fail_next["POST complete"] = [422]
    job = hub.add(FakeJob("j1"))
    with running_agent(hub, home):
        hub.wait_for(lambda: job.completion)
    assert job.completion is not None
    assert job.completion["status"] == "failed"
    assert job.completion["error"]["code"] == "job.result_rejected"


def test_leftovers_are_removed_at_start(hub: FakeHub, home: Path) -> None:
    old = home / "agent" / "jobs" / "old-1" / "inputs"
    old.mkdir(parents=True)
    with running_agent(hub, home):
        hub.wait_for(lambda: hub.lease_requests)
        assert jobs_left(home) == []


# ------------------------------------------------------------------------------ the agent as a process


def job_processes() -> list[psutil.Process]:
    """The agent's jobs among this process's children; other tests' helpers may be there too."""
    jobs = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # ended, or ended and not reaped
            if "fake_jobs" in " ".join(child.cmdline()):
                jobs.append(child)
    return jobs


def start_process(hub: FakeHub, home: Path) -> subprocess.Popen[bytes]:
    program = (
        "import sys, functools\n"
        "from ignition_client.agent import command, loop\n"
        f"settings = functools.partial(loop.AgentSettings, command={FAKE_JOBS!r}, wait_s=5.0)\n"
        "command.AgentSettings = settings\n"
        "sys.exit(command.main(sys.argv[1:]))\n"
    )
    arguments = ["--hub-url", hub.url, "--token-file", str(home / "token"), "--home", str(home)]
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments, "--exit-on-stdin-eof"], stdin=subprocess.PIPE
    )


def wait_until_gone(pids: list[int], timeout_s: float = 20) -> None:
    deadline_s = time.monotonic() + timeout_s
    for pid in pids:
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline_s, f"{pid} still runs"
            time.sleep(0.05)


@pytest.mark.faults
@pytest.mark.parametrize("how", ["kill", "stdin", "terminate"])
def test_everything_ends_when_the_agent_ends(hub: FakeHub, home: Path, how: str) -> None:
    pid_file = home / "pids"
    job = hub.add(FakeJob("j1", spec={"do": "orphan", "pid_file": str(pid_file)}))
    agent = start_process(hub, home)
    assert agent.stdin is not None
    try:
        hub.wait_for(lambda: job.events and pid_file.exists() and " " in pid_file.read_text())
        pids = [int(pid) for pid in pid_file.read_text().split()]
        if how == "kill":
            agent.kill()
        elif how == "stdin":
            agent.stdin.close()
        else:
            os.kill(agent.pid, signal.SIGTERM)
        wait_until_gone(pids)
        status = agent.wait(20)
    finally:
        agent.kill()
        agent.stdin.close()
        agent.wait()
    assert job.state == ("leased" if how == "kill" else "released")
    assert status == (-signal.SIGKILL if how == "kill" else 0)


@pytest.mark.faults
def test_agent_ends_at_once_when_stopped_in_a_long_poll(hub: FakeHub, home: Path) -> None:
    agent = start_process(hub, home)
    assert agent.stdin is not None
    hub.wait_for(lambda: hub.lease_requests)
    agent.stdin.close()
    assert agent.wait(20) == 0
    assert len(hub.lease_requests) == 1
