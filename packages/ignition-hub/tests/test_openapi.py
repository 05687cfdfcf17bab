"""Whatever is sent to whatever route: an answer below 500."""

from __future__ import annotations

import asyncio
import warnings
from typing import Any

import httpx
import schemathesis
from conftest import OpenHub
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

WAITING = {"/v1/runs/{run_id}/stream", "/v1/gateway/config", "/v1/leases"}
"""They wait for something by design; other tests call them."""


def test_no_request_makes_the_hub_fail(open_hub: OpenHub) -> None:
    seen: set[int] = set()
    opened = open_hub()
    with asyncio.Runner() as runner, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tools' own
        hub = runner.run(opened.__aenter__())
        schema = schemathesis.openapi.from_dict(hub.app.openapi())
        operations = [found.ok() for found in schema.get_all_operations()]
        assert len(operations) > 35
        for secret in ("cli-key", "agent-token"):
            client = hub.client(hub.secret(secret))
            for operation in operations:
                if operation.path not in WAITING:
                    _probe(runner, client, operation, GenerationMode.POSITIVE, seen)
                    if operation.body:
                        _probe(runner, client, operation, GenerationMode.NEGATIVE, seen)
        runner.run(opened.__aexit__(None, None, None))
    assert {200, 404, 422} <= seen


def _probe(
    runner: asyncio.Runner,
    client: httpx.AsyncClient,
    operation: Any,
    mode: GenerationMode,
    seen: set[int],
) -> None:
    @settings(
        max_examples=5,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        request = case.as_transport_kwargs(base_url="http://hub")
        data = request.get("data")
        answer = runner.run(
            client.request(
                request["method"],
                request["url"],
                params=request.get("params") or None,
                json=request.get("json"),
                content=data if isinstance(data, bytes | str) else None,
            )
        )
        seen.add(answer.status_code)
        assert answer.status_code < 500, (operation.label, answer.text)

    send()
