"""The SDK: `Ignition`, everything a Hub does, as Python.

from ignition_client import Ignition

hub = Ignition()                                   # the Hub on this machine, or the one logged in to
run = hub.train("visual-anomaly-detection", data="photos/", name="bolts")
run = hub.runs.wait(run.id)
print(hub.predict("bolts", "photo.jpg").verdict)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from pydantic import ValidationError

from ignition_client.config import resolve
from ignition_client.errors import InputError
from ignition_client.http import HubHttp
from ignition_client.prediction import History, Prediction, Text, predict, question
from ignition_client.push import PushProgress
from ignition_client.resources import (
    Datasets,
    Endpoints,
    Engines,
    Inbox,
    Jobs,
    Models,
    Runs,
    Templates,
)
from ignition_client.wire import Health, Login, Me, NewKey, Run, RunStart


class Ignition:
    """A Hub.

    Args:
        url: Base URL; default: environment, profile, or the Hub on this machine (`config.resolve`).
        key: API key; default: the one that belongs to that address.
        home: Instead of ``$IGNITION_HOME``.
        transport: For tests.

    Raises:
        HubUnreachableError: No address is known.
        ConfigError: The address or the profile cannot be used.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        home: Path | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        profile = resolve(url, key, home=home)
        self.url = profile.url.rstrip("/")
        self.http = HubHttp(profile.url, profile.key, transport=transport)
        self.templates = Templates(self.http)
        self.datasets = Datasets(self.http)
        self.runs = Runs(self.http)
        self.jobs = Jobs(self.http)
        self.models = Models(self.http)
        self.engines = Engines(self.http)
        self.endpoints = Endpoints(self.http)
        self.inbox = Inbox(self.http)

    def close(self) -> None:
        self.http.close()

    def __enter__(self) -> Ignition:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def health(self) -> Health:
        """The Hub's version. Needs no key."""
        return self.http.read(Health, "GET", "/v1/health", timeout_s=5.0, attempts=1)

    def me(self) -> Me:
        """Whose key this is."""
        return self.http.read(Me, "GET", "/v1/me")

    def login(self, email: str, password: str, *, key_name: str = "cli") -> NewKey:
        """Makes an API key. The SDK does not keep it: see `config.write_profile`.

        Raises:
            NotLoggedInError: Wrong e-mail or password.
        """
        body = Login(email=email, password=password, key_name=key_name)
        return self.http.read(NewKey, "POST", "/v1/login", body=body)

    def train(
        self,
        template: str,
        *,
        data: str | Path,
        name: str,
        dataset_version: int | None = None,
        budget_s: float | None = None,
        max_drop: float = 0.01,
        seed: int = 0,
        settings: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        progress: PushProgress | None = None,
    ) -> Run:
        """Presses *Train & Optimize*; answers at once, see `Runs.wait` and `Runs.stream`.

        Args:
            template: A template's id.
            data: A folder or a file, which is pushed as dataset `name` first, or the name of a dataset.
            name: Of the model and the endpoint: lower-case letters, digits, hyphens.
            dataset_version: None: the latest, or the one just pushed.
            budget_s: For training, seconds; None: what the template takes as a rule.
            max_drop: How much accuracy the engine may lose against the trained model (fraction).
            settings: For the recipe, by name: ``{"horizon": 14}``; `Templates.list` says what there is.
            idempotency_key: The same key again answers with the run there is.

        Raises:
            InputError: `data` is neither a folder, a file nor a name.
            HubError: e.g. no such template or dataset.
        """
        dataset = str(data)
        if Path(data).expanduser().exists():
            pushed = self.datasets.push(Path(data).expanduser(), name, progress=progress)
            dataset, dataset_version = pushed.name, pushed.version
        try:
            body = RunStart(
                name=name,
                template=template,
                dataset=dataset,
                dataset_version=dataset_version,
                budget_s=budget_s,
                max_drop=max_drop,
                seed=seed,
                settings=dict(settings or {}),
                idempotency_key=idempotency_key,
            )
        except ValidationError as error:
            fault = error.errors()[0]
            where = str(fault["loc"][0])
            hint = "Names have lower-case letters, digits and hyphens, at most 63 characters."
            if where == "dataset":
                raise InputError(
                    "There is no such folder, and it is not a dataset's name.", value=dataset
                ) from error
            raise InputError(
                f"{where}: {fault['msg']}.", value=fault["input"], hint=hint if where == "name" else None
            ) from error
        return self.http.read(Run, "POST", "/v1/runs", body=body, idempotent=idempotency_key is not None)

    def predict(
        self,
        name: str,
        image: str | Path | bytes | None = None,
        *,
        text: Text | None = None,
        history: History | None = None,
        key: str | None = None,
        heatmap: bool = False,
    ) -> Prediction:
        """Asks an endpoint about an image, a text or a series.

        Args:
            name: The endpoint's name, or its URL (then `key` is needed).
            image: A file, or its bytes (JPEG, PNG, WebP, ...).
            text: A text, or several.
            history: The past of a series, oldest first, None where a value is missing; or several series.
            key: The endpoint's key: asks the gateway as an application would. Without it the Hub asks.
            heatmap: Also return the map of where an image looks unusual.

        Raises:
            InputError: Not exactly one of image, text and history; or the file cannot be read.
            HubError: No such endpoint, a wrong key, an input that it does not take.
        """
        asked = question(image, text=text, history=history)
        return predict(self.http, name, asked, key=key, heatmap=heatmap)
