"""Trying an endpoint from the Hub: requests are passed on with a key of this process."""

from __future__ import annotations

import httpx
from fastapi import Request
from fastapi.responses import Response

from ignition_hub.errors import GatewayUnavailableError, TooLargeError

_TIMEOUT_S = 60
_PASSED_ON = ("content-type", "retry-after")


class Playground:
    """
    Args:
        gateway_address: Where this process reaches the gateway.
        key: What it shows there; its hash is part of the gateway's configuration.
        max_bytes: Largest body.
    """

    def __init__(self, gateway_address: str, key: str, *, max_bytes: int) -> None:
        self._key = key
        self._max_bytes = max_bytes
        self._client = httpx.AsyncClient(base_url=gateway_address, timeout=_TIMEOUT_S, trust_env=False)

    async def predict(self, name: str, request: Request) -> Response:
        """The gateway's answer to this request's body.

        Raises:
            TooLargeError: The body is too large.
            GatewayUnavailableError: No answer.
        """
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self._max_bytes:
                raise TooLargeError(f"A body may have at most {self._max_bytes:,} bytes.")
        heatmap = request.query_params.get("heatmap")
        try:
            answer = await self._client.post(
                f"/v1/endpoints/{name}/predict",
                content=bytes(body),
                params={"heatmap": heatmap} if heatmap else None,
                headers={
                    "Authorization": f"Bearer {self._key}",
                    "Content-Type": request.headers.get("content-type", "application/octet-stream"),
                },
            )
        except httpx.HTTPError as error:
            raise GatewayUnavailableError("The gateway does not answer.", value=name) from error
        headers = {name: answer.headers[name] for name in _PASSED_ON if name in answer.headers}
        return Response(answer.content, status_code=answer.status_code, headers=headers)

    async def close(self) -> None:
        await self._client.aclose()
