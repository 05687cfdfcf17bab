"""The user-facing routes of a Hub for tests: a table of answers behind real HTTP on loopback."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

NOW = "2026-01-02T03:04:05Z"
DIGEST = "sha256:" + "a" * 64


class FakeApi:
    """`routes`: ``"GET /v1/me"`` -> JSON, bytes, or a list of server-sent events (as `Sse`)."""

    def __init__(self) -> None:
        self.routes: dict[str, Any] = {}
        self.requests: list[tuple[str, str, bytes, dict[str, str]]] = []
        self.blobs: dict[str, bytes] = {}
        self.fail_puts = 0
        handler = type("Handler", (_Handler,), {"api": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def sent(self, route: str) -> list[bytes]:
        """The bodies that were sent to a route."""
        return [body for method, path, body, _ in self.requests if f"{method} {path}" == route]


class Sse(list):
    """Snapshots to stream, one connection's worth."""


class ProblemError(Exception):
    """Answer with problem JSON."""

    def __init__(self, status: int, code: str, detail: str = "No.", hint: str | None = None) -> None:
        self.status = status
        self.body = {
            "type": "about:blank",
            "title": "No",
            "status": status,
            "detail": detail,
            "code": code,
            "hint": hint,
            "request_id": "r-1",
        }


class _Handler(BaseHTTPRequestHandler):
    api: FakeApi
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _send(self, status: int, data: bytes, media_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _handle(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.api.requests.append((self.command, self.path, body, dict(self.headers)))
        try:
            answer = self._answer(f"{self.command} {url.path}", url.path, body)
        except ProblemError as problem:
            self._send(problem.status, json.dumps(problem.body).encode(), "application/problem+json")
            return
        if isinstance(answer, Sse):
            events = "".join(f"event: snapshot\ndata: {json.dumps(item)}\n\n" for item in answer)
            self._send(200, f": hello\n\n{events}".encode(), "text/event-stream")
        elif isinstance(answer, bytes):
            self._send(200, answer, "application/octet-stream")
        else:
            self._send(200, json.dumps(answer).encode(), "application/json")

    def _answer(self, route: str, path: str, body: bytes) -> Any:
        api = self.api
        if route == "POST /v1/blobs/missing":
            return {"missing": [d for d in json.loads(body)["digests"] if d not in api.blobs]}
        if route.startswith("PUT /v1/blobs/"):
            if api.fail_puts:
                api.fail_puts -= 1
                raise ProblemError(403, "auth.forbidden")
            digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
            assert path.endswith(digest)
            api.blobs[digest] = body
            return {}
        if route not in api.routes:
            raise ProblemError(404, "not_found", "There is no such thing.")
        answer = api.routes[route]
        if callable(answer):
            answer = answer(body)
        if isinstance(answer, list) and answer and isinstance(answer[0], Sse):
            answer = answer.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    do_GET = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815


# ------------------------------------------------------------------------------------- example answers


def run(status: str = "succeeded", **changes: Any) -> dict[str, Any]:
    done = {"started_at": NOW, "finished_at": NOW}
    stages = [
        {"id": "check", "title": "Check", "status": "done", "job_id": "j-check", **done},
        {"id": "train", "title": "Train", "status": "running", "job_id": "j-train", "started_at": NOW},
        {"id": "build", "title": "Optimize", "status": "waiting"},
    ]
    return {
        "id": "r1", "name": "bolts", "template": "visual-anomaly-detection", "dataset": "bolts",
        "dataset_version": 1, "status": status, "stages": stages, "created_at": NOW,
        "finished_at": None if status == "running" else NOW, "error": None,
        "endpoint": "bolts" if status == "succeeded" else None, "engine_id": "e1", "model": "default/bolts",
        "model_version": 1, **changes,
    }  # fmt: skip


def job(status: str = "leased", **changes: Any) -> dict[str, Any]:
    event = {
        "seq": 3, "at": NOW, "stage": "Extracting features", "progress": 0.42, "eta_s": 8.0,
        "message": "120 of 300", "metrics": {"loss": 0.21},
    }  # fmt: skip
    return {
        "id": "j-train", "kind": "train", "status": status, "run_id": "r1", "target": None, "attempt": 1,
        "epoch": 1, "agent": "here", "created_at": NOW, "started_at": NOW, "finished_at": None,
        "last_event": event, "error": None, **changes,
    }  # fmt: skip


def dataset(**changes: Any) -> dict[str, Any]:
    return {
        "name": "bolts", "version": 1, "digest": DIGEST, "num_files": 2, "size_bytes": 2_500_000,
        "created_at": NOW, "check_status": "done", "files": [], "check": check(), **changes,
    }  # fmt: skip


def check() -> dict[str, Any]:
    return {
        "item": "images",
        "layout": "ok_defective",
        "num_files": 102,
        "num_items": 100,
        "size_bytes": 2_500_000,
        "classes": [
            {"name": "ok", "num_items": 70, "examples": []},
            {"name": "defective", "num_items": 30, "examples": []},
        ],
        "facts": {"Image size": "640 × 480"},
        "findings": [
            {
                "code": "duplicate",
                "severity": "warning",
                "title": "Duplicates [same]",
                "hint": "Remove them.",
                "num": 2,
                "paths": [],
            }
        ],
        "suits": ["visual-anomaly-detection"],
        "duration_s": 0.5,
    }


def receipt() -> dict[str, Any]:
    def candidate(backend: str, precision: str, status: str, **changes: Any) -> dict[str, Any]:
        return {
            "id": f"{backend}-{precision}",
            "backend": backend,
            "precision_requested": precision,
            "precision_executed": precision,
            "settings": {},
            "status": status,
            "reason": None,
            "latency_ms": {"p50": 1.25, "p95": 1.5, "p99": 2.0},
            "throughput_per_s": 812.0,
            "cpu_ms_per_item": 2.0,
            "load_ms": 100.0,
            "peak_memory_bytes": 1,
            "accuracy": 0.991,
            "drop": 0.001,
            **changes,
        }

    failed = {
        "reason": "crashed", "latency_ms": None, "throughput_per_s": None, "accuracy": None, "drop": None,
        "precision_executed": None,
    }  # fmt: skip
    return {
        "schema_version": 1,
        "candidates": [
            candidate("openvino", "int8", "selected", precision_executed="int8+fp32"),
            candidate("onnxruntime", "fp32", "ok"),
            candidate("onnxruntime", "int8", "failed", **failed),
        ],
        "comparison": {
            "peer": "PIL + torch eager, fp32", "num_images": 24, "latency_ms": 2.0, "peer_latency_ms": 20.0,
            "throughput_per_s": 600.0, "peer_throughput_per_s": 60.0, "cpu_ms_per_item": 2.0,
            "peer_cpu_ms_per_item": 20.0, "speedup": 10.0,
        },
    }  # fmt: skip


def engine(digest: str = DIGEST, size_bytes: int = 5) -> dict[str, Any]:
    return {
        "id": "e1", "model": "default/bolts", "model_version": 1, "target": "cpu-x86_64-avx512_vnni",
        "backend": "openvino", "precision": "int8", "digest": digest, "size_bytes": size_bytes,
        "latency_ms": 1.25, "throughput_per_s": 812.0, "metric": "image_auroc", "source_value": 0.992,
        "engine_value": 0.991, "current": True, "created_at": NOW, "receipt": receipt(),
        "public_key_pem": "PEM",
    }  # fmt: skip


def endpoint(url: str, key_prefix: str | None = None) -> dict[str, Any]:
    return {
        "name": "bolts", "url": f"{url}/v1/endpoints/bolts/predict", "open_inference_url": url,
        "template": "visual-anomaly-detection", "model": "default/bolts", "model_version": 1,
        "engine_id": "e1", "run_id": "r1", "status": "ready", "key_prefix": key_prefix, "created_at": NOW,
        "speedup": 10.0,
    }  # fmt: skip


def report() -> dict[str, Any]:
    metric = {"value": 0.992, "low": 0.98, "high": 0.999}
    return {
        "schema_version": 1,
        "check": check(),
        "protocol": "Held out before anything was chosen.",
        "metrics": {"image_auroc": metric, "miss_rate": metric},
        "confusion": {"labels": ["ok", "defective"], "matrix": [[30, 1], [2, 17]]},
        "leaderboard": [
            {
                "name": "patchcore",
                "title": "PatchCore",
                "kept": True,
                "validation": {"image_auroc": 0.99},
                "test": {"image_auroc": 0.992},
                "fit_s": 12.0,
                "settings": {},
                "note": "",
            }
        ],
        "held_out": [
            {"path": "ok/1.jpg", "label": 0, "score": 0.1},
            {"path": "b/2.jpg", "label": 1, "score": 1},
        ],
    }


def prediction(heatmap: bool = False) -> dict[str, Any]:
    picture = {"media_type": "image/png", "width": 1, "height": 1, "data_base64": "UE5H"}
    return {
        "verdict": "defective",
        "score": 0.81,
        "threshold": 0.53,
        "confidence": 0.93,
        "model": "default/bolts",
        "version": 1,
        "engine": DIGEST,
        "image": {"width": 640, "height": 480},
        "timing_ms": {"decode": 0.5, "inference": 3.1, "total": 4.0},
        "heatmap": picture if heatmap else None,
    }
