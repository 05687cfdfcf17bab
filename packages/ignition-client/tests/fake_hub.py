"""A Hub for tests: the agent's routes over real HTTP on loopback, with faults on demand."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class FakeJob:
    """One job as the Hub sees it."""

    id: str
    kind: str = "check"
    spec: dict[str, Any] = field(default_factory=lambda: {"dataset": "parts", "version": 1})
    inputs: dict[str, bytes] = field(default_factory=dict)
    epoch: int = 0
    state: str = "queued"
    cancel: bool = False
    stale: bool = False
    """The job was given to somebody else: every call of this lease gets 409."""
    log: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)
    completion: dict[str, Any] | None = None
    heartbeats: int = 0


class FakeHub:
    """Serves `jobs` in order. `start`/`stop` may be repeated on the same port: a restart."""

    def __init__(self, *, lease_s: float = 3.0) -> None:
        self.lease_s = lease_s
        self.jobs: dict[str, FakeJob] = {}
        self.requests: list[tuple[str, str]] = []
        self.lease_requests: list[dict[str, Any]] = []
        self.fail_next: dict[str, list[int]] = {}
        """Method + last path part, e.g. ``"PUT blobs"`` -> statuses to answer first."""
        self.changed = threading.Condition()
        self.port = 0
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    @property
    def running(self) -> bool:
        return self._server is not None

    def add(self, job: FakeJob) -> FakeJob:
        with self.changed:
            self.jobs[job.id] = job
            self.changed.notify_all()
        return job

    def wait_for(self, condition: Any, *, timeout_s: float = 20.0) -> None:
        """Waits until `condition()` holds; fails the test when it does not in time."""
        deadline_s = time.monotonic() + timeout_s
        with self.changed:
            while not condition():
                left_s = deadline_s - time.monotonic()
                assert left_s > 0, f"not in time; requests: {self.requests[-20:]}"
                self.changed.wait(min(left_s, 0.05))


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, status: int, body: Any = None, *, raw: bytes | None = None) -> None:
        data = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _problem(self, status: int, code: str) -> None:
        title = code.split(".")[-1]
        problem = {"type": "about:blank", "title": title, "status": status, "detail": title, "code": code}
        self._answer(status, problem)

    def _handle(self) -> None:
        hub = self.hub
        url = urlsplit(self.path)
        parts = url.path.strip("/").split("/")[1:]
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with hub.changed:
            hub.requests.append((self.command, url.path))
            hub.changed.notify_all()
        if not hub.running:  # a connection from before the "restart"
            self.close_connection = True
            return
        name = parts[2] if len(parts) > 2 else parts[0]
        statuses = hub.fail_next.get(f"{self.command} {name}")
        if statuses:
            self._problem(statuses.pop(0), "hub.failure")
        elif parts[0] == "leases":
            self._lease(json.loads(content))
        elif (job := hub.jobs.get(parts[1])) is None:
            self._problem(404, "hub.not_found")
        else:
            with hub.changed:
                self._job(job, name, parts, content, parse_qs(url.query))
                hub.changed.notify_all()

    do_GET = do_POST = do_PUT = do_PATCH = _handle  # noqa: N815

    def _lease(self, body: dict[str, Any]) -> None:
        hub = self.hub
        deadline_s = time.monotonic() + body["wait_s"]
        with hub.changed:
            hub.lease_requests.append(body)
            while hub.running:
                job = next((job for job in hub.jobs.values() if job.state == "queued"), None)
                if job is not None or time.monotonic() > deadline_s:
                    break
                hub.changed.wait(0.05)
            else:
                job = None
            if job is None:
                self._answer(204)
                return
            job.epoch += 1
            job.state = "leased"
            job.log, job.events = "", []
            lease = {
                "job_id": job.id, "kind": job.kind, "epoch": job.epoch, "attempt": job.epoch,
                "token": f"job-token-{job.id}", "lease_s": hub.lease_s, "expires_at": "2030-01-01T00:00:00Z",
                "spec": job.spec,
                "inputs": [
                    {"path": path, "digest": digest_of(data), "size_bytes": len(data)}
                    for path, data in job.inputs.items()
                ],
            }  # fmt: skip
        self._answer(200, lease)

    def _job(self, job: FakeJob, name: str, parts: list[str], content: bytes, _query: Any) -> None:
        body = json.loads(content) if content and name != "blobs" else {}
        epoch = body.get("epoch", job.epoch)
        if self.headers["Authorization"] != f"Bearer job-token-{job.id}":
            self._problem(401, "hub.unauthenticated")
        elif job.stale or epoch != job.epoch or job.state != "leased":
            self._problem(409, "job.stale_epoch")
        elif name == "heartbeat":
            job.heartbeats += 1
            self._answer(200, {"expires_at": "2030-01-01T00:00:00Z", "cancel": job.cancel})
        elif name == "log":
            known = job.log.encode()
            text = body["text"].encode()
            offset = body["offset"]
            assert offset <= len(known), "a gap in the log"
            job.log = (known[:offset] + text).decode()
            self._answer(204)
        elif name == "events":
            seen = {event["seq"] for event in job.events}
            job.events += [event for event in body["events"] if event["seq"] not in seen]
            self._answer(204)
        elif name == "blobs" and self.command == "GET":
            data = next((d for d in job.inputs.values() if digest_of(d) == parts[3]), None)
            if data is None:
                self._problem(404, "hub.not_found")
            else:
                self._answer(200, raw=data)
        elif name == "blobs":
            assert digest_of(content) == parts[3]
            job.blobs[parts[3]] = content
            self._answer(204)
        elif name == "complete":
            job.completion = body
            job.state = body["status"]
            self._answer(204)
        elif name == "release":
            job.state = "released"
            self._answer(204)
        else:
            self._problem(404, "hub.not_found")
