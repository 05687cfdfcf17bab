"""Which Hub to talk to, and with which key.

The first that gives an address wins: arguments; ``IGNITION_URL`` and ``IGNITION_API_KEY``; the profile
``$IGNITION_HOME/client.toml`` that ``ignition login`` writes; the Hub on this machine
(``run/hub.json`` and ``secrets/cli-key``). A key is only ever sent to the address it belongs to.
"""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ignition_client.digests import atomic_file
from ignition_client.errors import ConfigError, HubUnreachableError


def ignition_home() -> Path:
    """``$IGNITION_HOME``, by default ``~/.ignition``."""
    return Path(os.environ.get("IGNITION_HOME") or Path.home() / ".ignition").absolute()


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A Hub's address and the key for it."""

    url: str
    key: str | None = None


@dataclass(frozen=True, kw_only=True)
class LocalHub:
    """``run/hub.json``: the Hub that runs on this machine."""

    url: str
    gateway_url: str | None
    pid: int
    setup_url: str | None
    version: str | None


def read_local_hub(home: Path) -> LocalHub | None:
    """What the local Hub says about itself; None if there is none, or its file cannot be read."""
    try:
        data: dict[str, Any] = json.loads((home / "run" / "hub.json").read_bytes())
        return LocalHub(
            url=str(data["url"]),
            gateway_url=data.get("gateway_url"),
            pid=int(data["pid"]),
            setup_url=data.get("setup_url"),
            version=data.get("version"),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_profile(home: Path) -> Profile | None:
    """The saved profile, None if nobody logged in.

    Raises:
        ConfigError: ``client.toml`` is damaged.
    """
    path = home / "client.toml"
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        return Profile(url=str(data["url"]), key=data.get("key"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            "The client's profile cannot be read.", value=str(path), hint="Delete it and log in again."
        ) from error


def write_profile(home: Path, profile: Profile) -> Path:
    """Saves the profile, readable by its owner alone; returns its path."""
    lines = [f"url = {json.dumps(profile.url)}"]
    if profile.key:
        lines.append(f"key = {json.dumps(profile.key)}")
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = home / "client.toml"
    with atomic_file(path, mode=0o600) as file:
        file.write(("\n".join(lines) + "\n").encode())
    return path


def delete_profile(home: Path) -> bool:
    """Forgets the saved profile; False if there was none."""
    try:
        (home / "client.toml").unlink()
    except FileNotFoundError:
        return False
    return True


def resolve(url: str | None = None, key: str | None = None, *, home: Path | None = None) -> Profile:
    """The Hub to talk to (see the module's rules).

    Raises:
        HubUnreachableError: No address is known.
        ConfigError: The profile is damaged.
    """
    home = home or ignition_home()
    url = url or os.environ.get("IGNITION_URL")
    key = key or os.environ.get("IGNITION_API_KEY")
    known = [profile for profile in (read_profile(home), _local_profile(home)) if profile]
    if url is None and known:
        url = known[0].url
    if url is None:
        raise HubUnreachableError(
            "No Hub is running on this machine and none is configured.",
            hint="Start one with `ignition up`, or log in to one with `ignition login URL`.",
        )
    if key is None:
        key = next((p.key for p in known if p.key and p.url.rstrip("/") == url.rstrip("/")), None)
    return Profile(url=url, key=key)


def _local_profile(home: Path) -> Profile | None:
    hub = read_local_hub(home)
    if hub is None:
        return None
    try:
        key = (home / "secrets" / "cli-key").read_text().strip() or None
    except OSError:
        key = None
    return Profile(url=hub.url, key=key)
