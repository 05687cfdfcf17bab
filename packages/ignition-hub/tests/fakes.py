"""An agent and a gateway that speak the real protocol over HTTP and do no real work."""

from __future__ import annotations

import asyncio
import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import httpx

TARGET = "cpu-x86_64-avx2"
PUBLIC_KEY = "-----BEGIN PUBLIC KEY-----\nfake\n-----END PUBLIC KEY-----\n"

CHECK: dict[str, Any] = {
    "template": "visual-anomaly-detection",
    "item": "images",
    "layout": "ok_defective",
    "num_files": 2,
    "num_items": 2,
    "size_bytes": 10,
    "classes": [{"name": "ok", "num_items": 1, "examples": ["ok/a.png"]}],
    "facts": {"Image size": "8 × 8"},
    "suits": ["visual-anomaly-detection"],
    "findings": [],
    "duration_s": 0.1,
}
TRAIN: dict[str, Any] = {
    "metric": "image_auroc",
    "value": 0.98,
    "num_test": 12,
    "candidate": "patchcore",
    "duration_s": 1.5,
}
RECEIPT = {"schema_version": 1, "comparison": {"speedup": 7.5}}


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


async def upload(client: httpx.AsyncClient, files: dict[str, bytes], name: str) -> dict[str, Any]:
    """Commits `files` as a dataset version."""
    entries = []
    for path, data in files.items():
        digest = digest_of(data)
        (await client.put(f"/v1/blobs/{digest}", content=data)).raise_for_status()
        entries.append({"path": path, "digest": digest, "size_bytes": len(data)})
    answer = await client.post("/v1/datasets", json={"name": name, "files": entries})
    answer.raise_for_status()
    return dict(answer.json())


class FakeAgent:
    """Leases one job at a time and leaves plausible outputs.

    Args:
        agent: A client with the agents' token.
        anonymous: Makes a client for a job's token.
    """

    def __init__(self, agent: httpx.AsyncClient, anonymous: Any, *, seed: str = "") -> None:
        self._agent = agent
        self._client = anonymous
        self._seed = seed
        self.check = CHECK
        self.reports: dict[str, tuple[dict[str, Any], dict[str, bytes]]] = {}
        """Template -> its report and the pictures below ``report/``; of others an empty report."""

    async def lease(self, wait_s: float = 10) -> dict[str, Any] | None:
        answer = await self._agent.post(
            "/v1/leases",
            json={
                "agent": "fake",
                "target": TARGET,
                "kinds": ["check", "train", "build"],
                "wait_s": wait_s,
                "public_key_pem": PUBLIC_KEY,
            },
        )
        answer.raise_for_status()
        return None if answer.status_code == 204 else dict(answer.json())

    async def work(self, lease: dict[str, Any]) -> None:
        """Does the leased job, with all that the protocol offers."""
        route, epoch = f"/v1/jobs/{lease['job_id']}", lease["epoch"]
        async with self._client(lease["token"]) as job:
            for entry in lease["inputs"]:
                data = (await job.get(f"{route}/blobs/{entry['digest']}")).content
                assert digest_of(data) == entry["digest"]
            event = {"seq": 0, "at": datetime.now(UTC).isoformat(), "stage": "Working", "progress": 0.5}
            (await job.post(f"{route}/heartbeat", json={"epoch": epoch})).raise_for_status()
            for _ in range(2):  # a repeated report changes nothing
                log = {"epoch": epoch, "offset": 0, "text": "wörking\n"}
                (await job.patch(f"{route}/log", json=log)).raise_for_status()
                batch = {"epoch": epoch, "events": [event]}
                (await job.post(f"{route}/events", json=batch)).raise_for_status()
            outputs, result = self._results(lease)
            entries = []
            for path, data in outputs.items():
                digest = digest_of(data)
                (await job.put(f"{route}/blobs/{digest}", content=data)).raise_for_status()
                entries.append({"path": path, "digest": digest, "size_bytes": len(data)})
            done = {"epoch": epoch, "status": "succeeded", "outputs": entries, "result": result}
            for _ in range(2):  # as after an answer that was lost
                (await job.post(f"{route}/complete", json=done)).raise_for_status()

    async def end(self, lease: dict[str, Any], **completion: Any) -> httpx.Response:
        async with self._client(lease["token"]) as job:
            body = {"epoch": lease["epoch"], **completion}
            return await job.post(f"/v1/jobs/{lease['job_id']}/complete", json=body)

    def _results(self, lease: dict[str, Any]) -> tuple[dict[str, bytes], dict[str, Any]]:
        spec = lease["spec"]
        if lease["kind"] == "check":
            return {}, self.check
        if lease["kind"] == "train":
            empty = {"schema_version": 2, "name": spec["name"], "held_out": []}
            report, pictures = self.reports.get(spec["template"], (empty, {"worst.png": b"\x89PNG"}))
            outputs = {
                "model.onnx": b"onnx" + self._seed.encode(),
                "report.json": json.dumps(report).encode(),
                **{f"report/{name}": data for name, data in pictures.items()},
            }
            return outputs, TRAIN
        assert any(entry["path"] == "model/model.onnx" for entry in lease["inputs"])
        engine = f"engine of {lease['job_id']} {self._seed}".encode()
        result = {
            "engine_file": f"{spec['name']}.engine",
            "engine_digest": digest_of(engine),
            "target": spec["target"],
            "backend": "openvino",
            "precision": "int8",
            "metric": "image_auroc",
            "source_value": 0.98,
            "engine_value": 0.979,
            "latency_ms": 2.5,
            "throughput_per_s": 400.0,
            "num_candidates": 4,
            "speedup": 7.5,
            "duration_s": 2.0,
        }
        return {f"{spec['name']}.engine": engine, "receipt.json": json.dumps(RECEIPT).encode()}, result

    async def run(self) -> None:
        """Works until it is cancelled."""
        while True:
            lease = await self.lease(wait_s=1)
            if lease is not None:
                await self.work(lease)


class FakeGateway:
    """Asks for its configuration, downloads the engines and reports them as `outcome` says."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self.etag = ""
        self.error: dict[str, Any] | None = None
        self.config: dict[str, Any] = {"endpoints": []}

    async def sync(self) -> None:
        answer = await self._client.get("/v1/gateway/config", params={"etag": self.etag})
        answer.raise_for_status()
        self.config = answer.json()
        if self.config["etag"] == self.etag:
            return
        names = [endpoint["name"] for endpoint in self.config["endpoints"]]
        for endpoint in self.config["endpoints"]:
            blob = await self._client.get(f"/v1/gateway/blobs/{endpoint['engine_digest']}")
            assert digest_of(blob.content) == endpoint["engine_digest"]
        failed = dict.fromkeys(names, self.error) if self.error else {}
        report = {"ready": [] if self.error else names, "failed": failed}
        (await self._client.post("/v1/gateway/status", json=report)).raise_for_status()
        self.etag = self.config["etag"]

    async def run(self) -> None:
        while True:
            await self.sync()


async def until(client: httpx.AsyncClient, run_id: str, *, timeout_s: float = 30) -> dict[str, Any]:
    """The run once it has ended."""
    async with asyncio.timeout(timeout_s), client.stream("GET", f"/v1/runs/{run_id}/stream") as stream:
        snapshot: dict[str, Any] = {}
        async for line in stream.aiter_lines():
            if line.startswith("data: "):
                snapshot = json.loads(line[6:])
        assert snapshot["run"]["status"] != "running"
        return dict(snapshot["run"])
