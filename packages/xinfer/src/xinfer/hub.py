"""Engines from an Ignition Hub: find one that runs here, download it once, keep it by its digest.

``IGNITION_URL`` and ``IGNITION_API_KEY`` say where the Hub is; without them there is none and `find_engine`
answers None. A key is only sent to that address. The engine's signature is checked when it is loaded,
against a public key or the trust policy. The Hub is not asked for that key: who could change the engine
there could change the key too.

```
$XINFER_HOME/hub/<sha256 of the file>.engine
```
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xinfer.errors import HubError
from xinfer.targets import HardwareTarget

if TYPE_CHECKING:
    from collections.abc import Callable

TIMEOUT_S = 30.0
CHUNK_BYTES = 1 << 20
MAX_ANSWER_BYTES = 32 << 20


@dataclass(frozen=True, kw_only=True)
class Hub:
    """A Hub's address and the key for it."""

    url: str
    key: str | None = None

    @classmethod
    def configured(cls) -> Hub | None:
        """The Hub that the environment names, None where it names none."""
        url = os.environ.get("IGNITION_URL")
        return cls(url=url.rstrip("/"), key=os.environ.get("IGNITION_API_KEY")) if url else None

    def engines(self) -> list[dict[str, Any]]:
        """All engines that the key may see, as the Hub lists them. Raises HubError."""
        answer = self._get("/v1/engines")
        if not isinstance(answer, list):
            raise HubError("the Hub's list of engines is not a list", value=self.url)
        return answer

    def download(
        self,
        engine: dict[str, Any],
        cache_dir: str | os.PathLike[str],
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> Path:
        """Downloads an engine, unless the cache has it. The file appears complete and checked, or not at all.

        Args:
            engine: A row of `engines`.
            cache_dir: Where engines are kept.
            progress: Called with the bytes that are done and those there are.

        Returns:
            The engine file.

        Raises:
            HubError: The Hub cannot be reached, refuses, or sends other bytes than it registered.
        """
        digest = str(engine["digest"])
        path = Path(cache_dir) / f"{digest.removeprefix('sha256:')}.engine"
        if path.is_file():
            path.touch()  # the least recently used go first
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        hasher, done = hashlib.sha256(), 0
        try:
            with (
                os.fdopen(handle, "wb") as file,
                self._open(f"/v1/engines/{urllib.parse.quote(str(engine['id']))}/download") as answer,
            ):
                while chunk := answer.read(CHUNK_BYTES):
                    file.write(chunk)
                    hasher.update(chunk)
                    done += len(chunk)
                    if progress is not None:
                        progress(done, int(engine["size_bytes"]))
            if "sha256:" + hasher.hexdigest() != digest:
                raise HubError("the Hub sent another file than it registered", value=digest, hint="try again")
            Path(temporary).replace(path)
        except OSError as error:
            raise HubError(f"cannot download the engine: {error}", value=self.url) from error
        finally:
            Path(temporary).unlink(missing_ok=True)
        return path

    def _get(self, path: str) -> Any:
        with self._open(path) as answer:
            body = answer.read(MAX_ANSWER_BYTES + 1)
        if len(body) > MAX_ANSWER_BYTES:
            raise HubError("the Hub's answer is too long", value=len(body))
        try:
            return json.loads(body)
        except ValueError as error:
            raise HubError(
                "what answers there is no Hub", value=self.url, hint="check IGNITION_URL"
            ) from error

    def _open(self, path: str) -> Any:
        if urllib.parse.urlsplit(self.url).scheme not in ("http", "https"):
            raise HubError(f"{self.url!r} is not the address of a Hub", value=self.url)
        request = urllib.request.Request(self.url + path)  # noqa: S310  (the scheme was checked)
        if self.key:
            request.add_header("Authorization", f"Bearer {self.key}")
        try:
            return urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            error.close()
            refused = error.code in (401, 403)
            raise HubError(
                f"the Hub answered {error.code} to {path}",
                value=error.code,
                hint="set IGNITION_API_KEY to a key of that Hub" if refused else None,
            ) from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise HubError(
                f"cannot reach the Hub at {self.url}: {reason}", value=self.url, hint="check IGNITION_URL"
            ) from error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A key must not follow a redirection to another host."""

    def redirect_request(self, *arguments: Any) -> None:
        del arguments


def default_cache_dir() -> Path:
    """Where pulled engines are kept: ``$XINFER_HOME/hub``, by default below ``~/.cache/xinfer``."""
    return Path(os.environ.get("XINFER_HOME") or Path.home() / ".cache" / "xinfer") / "hub"


def find_engine(model_id: str, target: HardwareTarget | None = None) -> Path | None:
    """As `download_engine`, but None where no Hub is configured or it has no such engine.

    Raises:
        HubError: A Hub is configured and cannot be used.
    """
    if Hub.configured() is None:
        return None
    try:
        return download_engine(model_id, target)
    except HubError as error:
        if error.code == "hub.no_engine":
            return None
        raise


def download_engine(
    model_id: str,
    target: str | HardwareTarget | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """The current engine of a model for a target, from the configured Hub.

    Args:
        model_id: ``owner/name``, or a bare name where only one owner has it.
        target: A target or its name; default: this machine's.
        cache_dir: Where to keep it; default: `default_cache_dir`.
        progress: Called with the bytes that are done and those there are.

    Returns:
        The engine file.

    Raises:
        HubError: No Hub is configured (``hub.not_configured``), it cannot be used, it has no such engine
            (``hub.no_engine``), or several owners have one.
    """
    hub = Hub.configured()
    if hub is None:
        raise HubError(
            "no Hub is configured", code="hub.not_configured", hint="set IGNITION_URL and IGNITION_API_KEY"
        )
    name = target if isinstance(target, str) else (target or HardwareTarget.detect()).name
    rows = [row for row in hub.engines() if row.get("current") and _is(str(row.get("model")), model_id)]
    chosen = [row for row in rows if row.get("target") == name]
    if len(chosen) > 1:
        owners = ", ".join(sorted(str(row["model"]) for row in chosen))
        raise HubError(
            f"several owners have a model {model_id!r}", value=model_id, hint=f"say which: {owners}"
        )
    if not chosen:
        have = ", ".join(sorted({str(row.get("target")) for row in rows}))
        raise HubError(
            f"the Hub has no engine of {model_id!r} for {name}",
            code="hub.no_engine",
            value=model_id,
            hint=f"it has engines for {have}" if have else "check the model's name",
        )
    return hub.download(chosen[0], cache_dir or default_cache_dir(), progress=progress)


def _is(model: str, wanted: str) -> bool:
    return model == wanted or ("/" not in wanted and model.rpartition("/")[2] == wanted)
