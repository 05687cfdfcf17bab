"""The Hub's parts, put together: what a request can reach."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated, cast

from fastapi import Depends, Request

from ignition_hub.accounts import service as accounts
from ignition_hub.accounts.login import PasswordLogin
from ignition_hub.auth.actor import Actor
from ignition_hub.auth.tokens import Prefix, new_token, sha256_hex
from ignition_hub.datasets.thumbnails import Thumbnails
from ignition_hub.db import Database
from ignition_hub.endpoints.playground import Playground
from ignition_hub.endpoints.service import Endpoints
from ignition_hub.foundry.service import WORKFLOW, Foundry
from ignition_hub.foundry.workflow import RunWorkflow
from ignition_hub.jobs.service import Jobs
from ignition_hub.pipelines.engine import Pipelines
from ignition_hub.settings import Settings
from ignition_hub.signals import Signals
from ignition_hub.storage.blobs import BlobStore


class Hub:
    """Everything that lasts as long as the process. `open` before use, `close` at the end; both block."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.home = settings.home
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        internal_key = new_token("igne")
        self.db = Database(settings.resolved_database_url)
        self.blobs = BlobStore(settings.resolved_blob_url)
        self.signals = Signals()
        self.db.on_commit = self.signals.publish
        self.thumbnails = Thumbnails(self.home / "cache" / "thumbnails", self.blobs)
        self.login = PasswordLogin(self.db)
        self.playground = Playground(
            settings.gateway_address, internal_key, max_bytes=settings.max_predict_bytes
        )
        self.pipelines = Pipelines(self.db.url)
        self.jobs = Jobs(lease_s=settings.lease_s, max_attempts=settings.max_attempts)
        self.endpoints = Endpoints(
            gateway_url=settings.resolved_gateway_url, internal_key_sha256=sha256_hex(internal_key)
        )
        self.foundry = Foundry(self.jobs, self.pipelines)
        self.jobs.on_end = self.foundry.job_ended
        self.endpoints.on_status = self.foundry.endpoint_changed
        self.machines: dict[str, Actor] = {}
        """The agent's and the gateway's actor, by the SHA-256 of their token."""
        self.setup_url: str | None = None
        """Where the first owner chooses a password; None once that is done."""

    def open(self) -> None:
        self.db.migrate()
        self.machines = {
            self._machine_token("igna", "agent-token"): Actor(kind="agent", name="agent"),
            self._machine_token("igng", "gateway-token"): Actor(kind="gateway", name="gateway"),
        }
        with self.db.write() as session:
            owner = accounts.bootstrap(session)
            setup_token = accounts.new_setup_token(session, owner)
            key = self._read_secret("cli-key")
            if key is None or accounts.authenticate(session, key, browser=False) is None:
                key = accounts.new_key(session, owner, "cli").key
            self._write_secret("cli-key", key)
            if self.settings.embedded_gateway:
                self.endpoints.restarting(session)
        self.setup_url = (
            f"{self.settings.resolved_public_url}/setup?token={setup_token}" if setup_token else None
        )
        workflow = RunWorkflow(
            db=self.db,
            blobs=self.blobs,
            jobs=self.jobs,
            endpoints=self.endpoints,
            settings=self.settings,
        )
        self.pipelines.start({WORKFLOW: workflow})

    def close(self) -> None:
        self.pipelines.stop()
        self.db.close()

    def _machine_token(self, prefix: Prefix, name: str) -> str:
        token = self._read_secret(name) or new_token(prefix)
        self._write_secret(name, token)
        return sha256_hex(token)

    def _read_secret(self, name: str) -> str | None:
        try:
            return (self.home / "secrets" / name).read_text().strip() or None
        except FileNotFoundError:
            return None

    def _write_secret(self, name: str, value: str) -> None:
        path = self.home / "secrets" / name
        path.parent.mkdir(mode=0o700, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent)  # mode 0600
        with os.fdopen(descriptor, "w") as file:
            file.write(value + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)


def get_hub(request: Request) -> Hub:
    return cast(Hub, request.app.state.hub)


HubDep = Annotated[Hub, Depends(get_hub)]
