"""Keeps the catalogue as the Hub wants it: long poll, download, verify, swap, report.

The last configuration that worked and its engines stay on disk, so that a gateway that starts while
the Hub is away serves what it served before::

    <home>/gateway/config.json         what is live; keys as SHA-256 only
    <home>/gateway/engines/<hex>.engine
    <home>/gateway/unpacked/    what is loaded; emptied at start
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from xinfer.errors import XInferError
from xinfer.package import file_digest
from xinfer.serve.config import EndpointConfig, GatewayConfig, parse_config, write_config
from xinfer.serve.errors import HubError, HubUnavailableError
from xinfer.serve.host import Catalogue, Endpoint, EngineHost
from xinfer.serve.hub_client import HubClient

logger = logging.getLogger(__name__)

FIRST_RETRY_S, LAST_RETRY_S = 0.5, 30.0
DOWNLOAD_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)


class HubSync:
    """Applies the Hub's configurations to a catalogue, in a thread of its own.

    Args:
        client: The Hub.
        catalogue: What the gateway serves from.
        folder: `<home>/gateway`.
        load: Opens an engine file after checking its signature with a PEM public key.
        download_pauses_s: Waits between attempts to download before the endpoint counts as failed: a
            Hub that restarts should not fail a deployment.
    """

    def __init__(
        self,
        client: HubClient,
        catalogue: Catalogue,
        folder: Path,
        load: Callable[[Path, bytes], EngineHost],
        *,
        download_pauses_s: tuple[float, ...] = DOWNLOAD_PAUSES_S,
    ) -> None:
        self._client = client
        self._catalogue = catalogue
        self._folder = folder
        self._load = load
        self._download_pauses_s = download_pauses_s
        self._live: dict[str, EndpointConfig] = {}
        self._stop = threading.Event()
        self._applied = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hub-sync", daemon=True)

    @property
    def is_ready(self) -> bool:
        """Whether a configuration, from the Hub or from disk, was applied."""
        return self._applied.is_set()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; an engine that is being loaded is waited for."""
        self._stop.set()
        self._client.close()
        if self._thread.is_alive():
            self._thread.join(timeout=30)

    def _run(self) -> None:
        self._restore()
        etag, failures = "", 0
        unreported: tuple[list[str], dict[str, dict[str, Any]]] | None = None
        while not self._stop.is_set():
            try:
                if unreported is None:
                    config = self._client.config(etag)
                    if config.etag == etag:
                        failures = 0
                        continue
                    failed, again = self.apply(config)
                    unreported = (sorted(set(self._live) - set(failed)), failed)
                    # Whatever failed for want of the Hub is asked for again, after a pause.
                    etag = "" if again else config.etag
                self._client.report(*unreported)
                unreported = None
                if etag:
                    failures = 0
                    continue
            except HubError as error:
                if not self._stop.is_set():
                    level = logging.INFO if isinstance(error, HubUnavailableError) else logging.ERROR
                    logger.log(level, "hub: %s", error.message)
            except Exception:
                logger.exception("hub: the configuration could not be applied")
            failures += 1
            pause_s = min(FIRST_RETRY_S * 2 ** (failures - 1), LAST_RETRY_S)
            # Many gateways lose one Hub at the same moment; they need not come back at the same moment.
            self._stop.wait(pause_s * random.uniform(0.5, 1.0))  # noqa: S311

    def apply(self, config: GatewayConfig) -> tuple[dict[str, dict[str, Any]], bool]:
        """Make the live endpoints those of `config`.

        An endpoint whose new engine fails keeps its old engine and counts as failed.

        Returns:
            The endpoints that failed, with their reason (`wire.JobError`), and whether another attempt
            may succeed.
        """
        failed: dict[str, dict[str, Any]] = {}
        again = False
        before = self._catalogue.endpoints
        endpoints: dict[str, Endpoint] = {}
        live: dict[str, EndpointConfig] = {}
        for wanted in config.endpoints:
            if self._stop.is_set():
                raise HubUnavailableError("the gateway is stopping")
            old = before.get(wanted.name)
            try:
                host = self._host(wanted, old)
            except XInferError as error:
                logger.error("endpoint %s: %s", wanted.name, error.message)
                failed[wanted.name] = {"code": error.code, "message": error.message, "hint": error.hint}
                again = again or isinstance(error, HubUnavailableError)
            except Exception as error:
                logger.exception("endpoint %s: the engine cannot be loaded", wanted.name)
                failed[wanted.name] = {
                    "code": "engine.load",
                    "message": f"the engine cannot be loaded: {type(error).__name__}",
                    "hint": "the gateway's log has the details",
                }
            else:
                endpoints[wanted.name] = Endpoint(name=wanted.name, key_sha256=wanted.key_sha256, host=host)
                live[wanted.name] = wanted
                continue
            if old is not None:
                endpoints[wanted.name] = replace(old, key_sha256=wanted.key_sha256)
                live[wanted.name] = replace(self._live[wanted.name], key_sha256=wanted.key_sha256)
        self._catalogue.replace(endpoints)
        self._live = live
        write_config(
            self._folder / "config.json", GatewayConfig(etag=config.etag, endpoints=tuple(live.values()))
        )
        self._prune()
        self._applied.set()
        logger.info("serving %s", ", ".join(sorted(endpoints)) or "no endpoints yet")
        return failed, again

    def _host(self, wanted: EndpointConfig, old: Endpoint | None) -> EngineHost:
        public_key = wanted.public_key_pem.encode()
        if old and (old.host.digest, old.host.public_key) == (wanted.engine_digest, public_key):
            return old.host
        path = self._engine_path(wanted.engine_digest)
        # A file that was damaged on disk would otherwise fail for ever.
        if not path.exists() or file_digest(path) != wanted.engine_digest:
            self._download(wanted.engine_digest, path)
        return self._load(path, public_key)

    def _download(self, digest: str, path: Path) -> None:
        for pause_s in self._download_pauses_s:
            try:
                return self._client.download(digest, path)
            except HubUnavailableError as error:
                logger.info("hub: %s; downloading again in %g s", error.message, pause_s)
            if self._stop.wait(pause_s):
                break
        return self._client.download(digest, path)

    def _restore(self) -> None:
        """Serve what was live when the gateway last ran."""
        path = self._folder / "config.json"
        try:
            saved = parse_config(path.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, HubError) as error:
            logger.error("%s cannot be read (%s); waiting for the Hub", path.name, error)
            return
        here = [
            endpoint for endpoint in saved.endpoints if self._engine_path(endpoint.engine_digest).exists()
        ]
        try:
            self.apply(replace(saved, endpoints=tuple(here)))
        except (OSError, HubError) as error:
            logger.error("the last configuration cannot be restored: %s", error)

    def _engine_path(self, digest: str) -> Path:
        return self._folder / "engines" / f"{digest.removeprefix('sha256:')}.engine"

    def _prune(self) -> None:
        """Remove engine files that no live endpoint uses."""
        used = {self._engine_path(config.engine_digest) for config in self._live.values()}
        for path in (self._folder / "engines").glob("*.engine"):
            if path not in used:
                path.unlink(missing_ok=True)
