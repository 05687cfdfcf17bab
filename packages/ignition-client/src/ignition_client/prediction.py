"""Asking an endpoint (ARCHITECTURE 10.7)."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, ConfigDict

from ignition_client.errors import InputError, ProtocolError
from ignition_client.http import HubHttp
from ignition_client.wire import Endpoint


class Heatmap(BaseModel):
    """Where the image looks unusual."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    media_type: str
    width: int
    height: int
    data_base64: str

    def to_bytes(self) -> bytes:
        """The picture's file content.

        Raises:
            ProtocolError: It is not base64.
        """
        try:
            return base64.b64decode(self.data_base64, validate=True)
        except binascii.Error as error:
            raise ProtocolError("The heat map cannot be decoded.") from error


class Prediction(BaseModel):
    """An endpoint's answer."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    verdict: str
    score: float
    threshold: float
    confidence: float
    """0 to 1."""
    model: str
    version: int
    engine: str
    image: dict[str, int]
    timing_ms: dict[str, float]
    heatmap: Heatmap | None = None


def predict(
    http: HubHttp, name: str, image: str | Path | bytes, *, key: str | None, heatmap: bool
) -> Prediction:
    """See `Ignition.predict`."""
    if not isinstance(image, bytes):
        try:
            image = Path(image).expanduser().read_bytes()
        except OSError as error:
            raise InputError(f"The image cannot be read: {error.strerror}.", value=str(image)) from error
    route = f"/v1/endpoints/{quote(name, safe='')}"
    if key is None:
        return _ask(http, f"{route}/predict", image, heatmap)
    url = name if name.startswith(("http://", "https://")) else http.read(Endpoint, "GET", route).url
    parts = urlsplit(url)
    with HubHttp(f"{parts.scheme}://{parts.netloc}", key) as gateway:
        return _ask(gateway, parts.path, image, heatmap)


def _ask(http: HubHttp, path: str, image: bytes, heatmap: bool) -> Prediction:
    return http.read(
        Prediction,
        "POST",
        path,
        content=image,
        params={"heatmap": "png"} if heatmap else None,
        headers={"Content-Type": "application/octet-stream"},
        idempotent=True,
    )
