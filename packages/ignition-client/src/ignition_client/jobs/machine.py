"""What this machine is and can do, for the agent's registration."""

from __future__ import annotations

import dataclasses
import platform
import socket
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ignition_client.digests import atomic_file
from ignition_client.wire import JobKind

_REPORTED = (
    "ignition-client",
    "ignition-xinfer",
    "ignition-xtorch",
    "onnxruntime",
    "openvino",
    "torch",
)


def describe() -> dict[str, Any]:
    """This machine's hardware target, description and the kinds of job whose packages are installed.

    Raises:
        ImportError: xInfer is not installed; without it nothing can be built here.
    """
    from xinfer import HardwareTarget

    target = HardwareTarget.detect()
    kinds = [JobKind.BUILD]
    if find_spec("xtorch") is not None:
        kinds = [JobKind.CHECK, JobKind.TRAIN, JobKind.BUILD]
    return {
        "target": target.name,
        "machine": {
            **dataclasses.asdict(target),
            "host": socket.gethostname(),
            "os": platform.platform(),
            "versions": {name: found for name in _REPORTED if (found := _version(name))},
        },
        "kinds": [kind.value for kind in kinds],
    }


def generate_signing_key(private: Path, public: Path) -> None:
    """Makes the pair, or, where only the private key is left, its public half."""
    from xinfer import signing

    if private.exists():
        with atomic_file(public) as file:
            file.write(signing.public_key_pem(private))
    else:
        public.unlink(missing_ok=True)
        signing.generate_key(private, public)


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
