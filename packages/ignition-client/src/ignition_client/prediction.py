"""Asking an endpoint (ARCHITECTURE 10.7)."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
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
    """An endpoint's answer, in its task's own terms: fields of other tasks are None."""

    model_config = ConfigDict(extra="allow", frozen=True)

    task: str = "anomaly-detection"
    model: str
    version: int
    engine: str
    timing_ms: dict[str, float]
    image: dict[str, int] | None = None
    """Width and height, where an image was sent."""

    verdict: str | None = None
    """Of an anomaly detector: ok or defective."""
    score: float | None = None
    threshold: float | None = None
    confidence: float | None = None
    """0 to 1, of a verdict or of a text's label."""
    heatmap: Heatmap | None = None

    label: str | None = None
    """Of a classifier; also None where a text classifier is not sure enough."""
    labels: list[str] | None = None
    """Of a classifier: all that fit; of a segmenter: what the mask's numbers mean."""
    probability: float | None = None
    top: list[dict[str, Any]] | None = None
    """``{"label", "probability"}``, the best first."""
    probabilities: dict[str, float] | None = None

    detections: list[dict[str, Any]] | None = None
    """``{"label", "score", "box"}``; a box is left, top, right, bottom in the image's pixels."""
    shares: dict[str, float] | None = None
    """Of a segmenter: label -> its share of the image."""
    mask: dict[str, str] | None = None
    """``{"media_type", "data_base64"}``: a PNG of label numbers."""

    horizon: int | None = None
    quantiles: dict[str, list[float]] | None = None
    """Of a forecaster: ``"0.5"`` -> the next `horizon` values."""
    results: list[dict[str, Any]] | None = None
    """The answers, in order, where several texts or series were sent."""

    def to_json(self) -> dict[str, Any]:
        """What the endpoint said, without pictures."""
        return self.model_dump(mode="json", exclude_unset=True, exclude={"heatmap", "mask"})


Text = str | Sequence[str]
History = Sequence[float | None] | Sequence[Sequence[float | None]]


@dataclass(frozen=True)
class Question:
    """What an endpoint is asked about, as a request's body."""

    content: bytes
    content_type: str


def question(
    image: str | Path | bytes | None = None, *, text: Text | None = None, history: History | None = None
) -> Question:
    """The one input that is given, as a request's body.

    Raises:
        InputError: None is given, or several; or the file cannot be read.
    """
    if sum(given is not None for given in (image, text, history)) != 1:
        raise InputError(
            "An endpoint is asked about one thing.", hint="Give an image, or text=..., or history=[...]."
        )
    if text is not None:
        body = {"text": text} if isinstance(text, str) else {"texts": list(text)}
        return Question(json.dumps(body).encode(), "application/json")
    if history is not None:
        values = list(history)
        many = bool(values) and all(isinstance(value, Sequence) for value in values)
        return Question(json.dumps({"histories" if many else "history": values}).encode(), "application/json")
    assert image is not None
    if not isinstance(image, bytes):
        try:
            image = Path(image).expanduser().read_bytes()
        except OSError as error:
            raise InputError(f"The file cannot be read: {error.strerror}.", value=str(image)) from error
    return Question(image, "application/octet-stream")


def predict(http: HubHttp, name: str, asked: Question, *, key: str | None, heatmap: bool) -> Prediction:
    """See `Ignition.predict`."""
    route = f"/v1/endpoints/{quote(name, safe='')}"
    if key is None:
        return _ask(http, f"{route}/predict", asked, heatmap)
    url = name if name.startswith(("http://", "https://")) else http.read(Endpoint, "GET", route).url
    parts = urlsplit(url)
    with HubHttp(f"{parts.scheme}://{parts.netloc}", key) as gateway:
        return _ask(gateway, parts.path, asked, heatmap)


def _ask(http: HubHttp, path: str, asked: Question, heatmap: bool) -> Prediction:
    return http.read(
        Prediction,
        "POST",
        path,
        content=asked.content,
        params={"heatmap": "png"} if heatmap else None,
        headers={"Content-Type": asked.content_type},
        idempotent=True,
    )
