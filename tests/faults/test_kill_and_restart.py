"""`kill -9` of the Hub, the agent and its job, in training and in the build: the run ends well, once."""

from __future__ import annotations

import email
import hashlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message
from tests.conftest import LocalHub, free_port, wait_until

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(900)]


class Mailbox(Message):
    """Keeps what is sent to it."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[email.message.Message] = []

    def handle_message(self, message: email.message.Message) -> None:
        self.messages.append(message)


@pytest.fixture
def mailbox() -> Iterator[tuple[Mailbox, int]]:
    box = Mailbox()
    port = free_port()
    controller = Controller(box, hostname="127.0.0.1", port=port)
    controller.start()
    yield box, port
    controller.stop()


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    folder = tmp_path / "samples"
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        from make_samples import make_samples
    finally:
        sys.path.pop(0)
    make_samples(folder)
    return folder


def upload(client: httpx.Client, folder: Path, name: str) -> None:
    files = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        client.put(f"/v1/blobs/{digest}", content=data).raise_for_status()
        files.append({"path": path.relative_to(folder).as_posix(), "digest": digest, "size_bytes": len(data)})
    client.post("/v1/datasets", json={"name": name, "files": files}).raise_for_status()


def test_run_completes_once_when_hub_agent_and_job_are_killed_in_training_and_build(
    tmp_path: Path, samples: Path, mailbox: tuple[Mailbox, int]
) -> None:
    box, smtp_port = mailbox
    hub = LocalHub(
        tmp_path / "home",
        IGNITION_SMTP_HOST="127.0.0.1",
        IGNITION_SMTP_PORT=str(smtp_port),
        IGNITION_SMTP_FROM="hub@example.org",
        IGNITION_SMTP_TO="team@example.org",
        IGNITION_LEASE_S="4",
    ).start()
    client = httpx.Client(base_url=hub.url, headers={"Authorization": f"Bearer {hub.key}"}, timeout=30)

    def get(path: str) -> Any:
        answer = client.get(path)
        answer.raise_for_status()
        return answer.json()

    def working_on(stage: str) -> psutil.Process | None:
        """The job's process, once the stage has reported progress from the newest attempt."""
        run = get(f"/v1/runs/{run_id}")
        assert run["status"] in ("running", "succeeded"), run["error"]
        job_id = next(s["job_id"] for s in run["stages"] if s["id"] == stage)
        if job_id is None:
            return None
        job = get(f"/v1/jobs/{job_id}")
        assert not job["finished_at"], f"the {stage} job ended before it could be killed"
        if job["status"] != "leased" or not (job["last_event"] or {}).get("progress"):
            return None
        return hub.find("ignition_client.jobs")

    def attempt(stage: str) -> int:
        run = get(f"/v1/runs/{run_id}")
        return int(get(f"/v1/jobs/{next(s['job_id'] for s in run['stages'] if s['id'] == stage)}")["attempt"])

    def kill_hub_and_restart() -> None:
        orphans = hub.kill()
        _, alive = psutil.wait_procs(orphans, timeout=15)
        assert not alive, f"outlived the Hub: {[p.cmdline() for p in alive]}"
        hub.start()

    try:
        upload(client, samples, "samples")
        started = client.post(
            "/v1/runs",
            json={
                "name": "samples",
                "template": "visual-anomaly-detection",
                "dataset": "samples",
                "budget_s": 60,
            },
        )
        started.raise_for_status()
        run_id = started.json()["id"]

        for stage in ("train", "build"):
            wait_until(lambda s=stage: working_on(s), timeout_s=180, what=f"{stage} makes progress")
            before = attempt(stage)
            kill_hub_and_restart()
            wait_until(
                lambda s=stage, b=before: attempt(s) > b and working_on(s),
                timeout_s=120,
                what=f"{stage} goes on after the Hub was killed",
            )
            before = attempt(stage)
            victim = (
                hub.find("ignition_client.jobs") if stage == "train" else hub.find("ignition_client.agent")
            )
            assert victim is not None
            victim.send_signal(signal.SIGKILL)
            wait_until(
                lambda s=stage, b=before: attempt(s) > b,
                timeout_s=120,
                what=f"{stage} is tried again after a process below the agent's was killed",
            )

        def finished() -> dict[str, Any] | None:
            run = get(f"/v1/runs/{run_id}")
            return dict(run) if run["status"] != "running" else None

        run = wait_until(finished, timeout_s=300, what="the run ends")
        assert run["status"] == "succeeded", run["error"]
        assert [s["status"] for s in run["stages"]] == ["done"] * len(run["stages"])
        assert [e["name"] for e in get("/v1/endpoints")] == ["samples"]
        assert [e["id"] for e in get("/v1/engines")] == [run["engine_id"]]
        assert [m["kind"] for m in get("/v1/inbox")] == ["run_succeeded"]

        # A restart after the end must not send or make anything again.
        assert hub.stop() == 0
        hub.start()
        wait_until(
            lambda: get("/v1/endpoints/samples")["status"] == "ready",
            timeout_s=60,
            what="the endpoint is served",
        )
        assert len(get("/v1/endpoints")) == len(get("/v1/engines")) == len(get("/v1/inbox")) == 1
        assert len(box.messages) == 1, [m["Subject"] for m in box.messages]
    finally:
        client.close()
        if hub.process is not None and hub.process.poll() is None:
            assert hub.stop() == 0
    assert not (hub.home / "run" / "hub.json").exists()
