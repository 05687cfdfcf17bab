"""Which engine a command means, and whether its signature is good.

An engine that this installation built itself needs no signature: its digest stands in ``$XINFER_HOME/built``.
Every other one is checked against ``--public-key`` or a trust policy, unless ``--no-signature`` is said.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xinfer import catalogue, trust
from xinfer.cli.command import UsageError
from xinfer.engine import InferenceEngine
from xinfer.errors import CatalogueError, SignatureError
from xinfer.package import EnginePackage
from xinfer.targets import HardwareTarget
from xinfer.zoo import resolve


@dataclass(frozen=True, kw_only=True)
class Trusted:
    """Why an engine may be loaded.

    Attributes:
        state: ``verified``, ``built here`` or ``not checked``.
        options: For `InferenceEngine.load`.
    """

    state: str
    options: dict[str, Any]


def add_trust_options(parser: argparse.ArgumentParser) -> None:
    """``--public-key``, ``--trust`` and ``--no-signature``."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--public-key", type=Path, metavar="PEM", help="the key that must have signed it")
    group.add_argument("--trust", type=Path, metavar="FILE", help="trust policy; default: yours, if any")
    group.add_argument("--no-signature", action="store_true", help="load it whoever made it")


def remember_built(package: EnginePackage) -> None:
    """Records that this installation built an engine."""
    folder = resolve.home() / "built"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / package.digest.removeprefix("sha256:")).touch()


def built_here(package: EnginePackage) -> bool:
    """Whether `remember_built` saw this very file, or it stands where `zoo.resolve` puts what it builds."""
    if package.path.resolve().is_relative_to((resolve.home() / "engines").resolve()):
        return True
    return (resolve.home() / "built" / package.digest.removeprefix("sha256:")).is_file()


def engine_file(text: str) -> Path:
    """The engine file that a text names: a path, or a catalogue id with an engine in the cache.

    Raises:
        CatalogueError: The id is unknown, or has no engine yet (``catalogue.not_built``).
    """
    if not resolve.is_id(text):
        return Path(text)
    entry = catalogue.get(text)
    found = resolve.find(entry.id)
    if found is None:
        raise CatalogueError(
            f"there is no engine of {entry.id} for this machine yet",
            code="catalogue.not_built",
            value=entry.id,
            hint=f"xinfer build {entry.id}",
        )
    return found.path


def trusted(package: EnginePackage, arguments: argparse.Namespace) -> Trusted:
    """Decides how an engine is checked when it is loaded.

    Raises:
        UsageError: The key file does not exist.
        SignatureError: Nothing says whom to trust (``signature.no_key``), or the policy cannot be read.
    """
    if arguments.public_key is not None:
        if not arguments.public_key.is_file():
            raise UsageError(f"there is no key file {arguments.public_key}", value=str(arguments.public_key))
        return Trusted(state="verified", options={"public_key": arguments.public_key})
    if arguments.trust is not None:
        policy = trust.TrustPolicy.load(arguments.trust)
        return Trusted(state="verified" if package.signed else "unsigned", options={"trust": policy})
    if arguments.no_signature:
        return Trusted(state="not checked", options={"require_signature": False})
    if built_here(package):
        return Trusted(state="built here", options={"require_signature": False})
    if not trust.default_path().exists():
        raise SignatureError(
            f"nothing says whose engine {package.path.name} is",
            code="signature.no_key",
            value=package.digest,
            hint="give --public-key PEM, trust a publisher (xinfer trust add), or say --no-signature",
        )
    return Trusted(state="verified" if package.signed else "unsigned", options={})


def recorded_settings(package: EnginePackage) -> dict[str, Any]:
    """Streams and threads as the engine was measured, on a machine with as many cores; else the defaults."""
    recorded = package.manifest.recipe.settings.get("runtime")
    if (
        not isinstance(recorded, dict)
        or package.receipt.machine.num_cores != HardwareTarget.detect().num_cores
    ):
        return {}
    names = ("num_streams", "num_threads")
    return {name: recorded[name] for name in names if isinstance(recorded.get(name), int)}


def load_engine(arguments: argparse.Namespace, **options: Any) -> tuple[InferenceEngine, str]:
    """Loads the engine that ``file`` and the trust options name, and says why it is trusted.

    Args:
        arguments: Of the command.
        options: For `InferenceEngine.load`; None means as the engine was measured.

    Raises:
        XInferError: Whatever opening, checking or loading raises.
    """
    package = EnginePackage.open(engine_file(str(arguments.file)))
    reason = trusted(package, arguments)
    options = recorded_settings(package) | {
        name: value for name, value in options.items() if value is not None
    }
    return InferenceEngine.load(package, **reason.options, **options), reason.state
