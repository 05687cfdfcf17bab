"""What the tests of the ``ignition`` command share: how they run it, and a Hub that answers everything."""

from __future__ import annotations

from collections.abc import Callable

import fake_api
from fake_api import FakeApi, Sse

Ignition = Callable[..., tuple[int, str, str]]
"""Runs a command; answers exit code, stdout and stderr."""


def full_api(api: FakeApi) -> None:
    log = ["a [bold] line\n", ""]
    api.routes |= {
        "GET /v1/health": {"status": "ok", "version": "0.1.0"},
        "GET /v1/me": {"email": "a@b.c", "organisation": "default", "role": "owner"},
        "GET /v1/templates": [
            {
                "id": "visual-anomaly-detection",
                "name": "Visual Anomaly Detection",
                "summary": "s",
                "data": "ok/ and defective/",
                "learns": "l",
                "returns": "verdict",
                "icon": "i",
                "input": "image",
                "questions": [
                    {
                        "id": "operating-point",
                        "title": "Which mistake costs more?",
                        "choices": [
                            {"title": "Balanced"},
                            {"title": "Few alarms", "settings": {"max_false_alarm_rate": 0.01}},
                        ],
                    }
                ],
            }
        ],
        "GET /v1/datasets": [fake_api.dataset()],
        "GET /v1/datasets/bolts": fake_api.dataset(),
        "POST /v1/datasets": fake_api.dataset(),
        "POST /v1/runs": fake_api.run("running"),
        "GET /v1/runs": [fake_api.run()],
        "GET /v1/runs/r1": fake_api.run(),
        "GET /v1/runs/r1/report": fake_api.report(),
        "POST /v1/runs/r1/cancel": {},
        "GET /v1/jobs": [fake_api.job()],
        "GET /v1/jobs/j-train": fake_api.job(),
        "GET /v1/jobs/j-train/log": lambda _: {"text": log.pop(0), "next_offset": 14, "final": True},
        "POST /v1/jobs/j-train/cancel": {},
        "GET /v1/models": [
            {
                "name": "default/bolts",
                "template": "t",
                "latest_version": 1,
                "created_at": fake_api.NOW,
                "metric": "image_auroc",
                "value": 0.99,
            }
        ],
        "GET /v1/engines": [fake_api.engine()],
        "GET /v1/engines/e1": fake_api.engine(),
        "GET /v1/endpoints": [fake_api.endpoint(api.url)],
        "GET /v1/endpoints/bolts": fake_api.endpoint(api.url),
        "POST /v1/endpoints/bolts/keys": {"name": "bolts", "key": "ig_secret", "prefix": "ig_s"},
        "POST /v1/endpoints/bolts/predict": fake_api.prediction(heatmap=True),
        "DELETE /v1/endpoints/bolts": {},
        "GET /v1/inbox": [
            {
                "id": "m1",
                "kind": "run_succeeded",
                "title": "bolts is live",
                "body": "b",
                "link": "/x",
                "created_at": fake_api.NOW,
                "read": False,
            }
        ],
        "POST /v1/inbox/m1/read": {},
    }
    running = {"run": fake_api.run("running"), "jobs": [fake_api.job()]}
    api.routes["GET /v1/runs/r1/stream"] = Sse([running, {"run": fake_api.run(), "jobs": []}])
