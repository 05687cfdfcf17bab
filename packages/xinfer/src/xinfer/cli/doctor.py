"""``xinfer doctor``: what this machine and this installation can do, and why not more."""

from __future__ import annotations

import argparse
import importlib.metadata
import re
from dataclasses import asdict, dataclass

from xinfer import catalogue, trust
from xinfer.backends.registry import BACKENDS
from xinfer.builders.builder import PRECISIONS
from xinfer.builders.candidates import search_space
from xinfer.cli import output
from xinfer.cli.command import Command, add_json
from xinfer.cli.zoo import weights_state
from xinfer.hub import Hub
from xinfer.targets import HardwareTarget, installed_version
from xinfer.zoo import resolve

NEEDED = ("openvino", "onnxruntime", "image", "sign", "build")
"""Extras without which the answer is no: something of building for a CPU is missing."""

DISTRIBUTION = "ignition-xinfer"
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)[^;]*;.*extra\s*==\s*['\"]([a-z0-9-]+)['\"]")


@dataclass(frozen=True, kw_only=True)
class BackendState:
    """What a backend is good for here.

    Attributes:
        name: The backend.
        version: Of its runtime; None: it is not installed.
        builds: Precisions that a build here tries with it.
        reasons: Why it does not do more.
    """

    name: str
    version: str | None
    builds: tuple[str, ...]
    reasons: tuple[str, ...]


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Looks around."""
    target = HardwareTarget.detect()
    backends = backend_states(target)
    extras = extra_states()
    missing = [name for name in NEEDED if None in extras.get(name, {"": None}).values()]
    entries = list(catalogue.load().values())
    here = [entry.id for entry in entries if weights_state(entry) == "here"]
    hub, policy = Hub.configured(), trust.default_path()
    if arguments.json:
        output.print_json(
            {
                "target": asdict(target),
                "backends": backends,
                "extras": extras,
                "missing": missing,
                "catalogue": {"models": len(entries), "weights_here": here},
                "home": resolve.home(),
                "hub": hub and hub.url,
                "trust_policy": policy if policy.exists() else None,
            }
        )
        return int(bool(missing))
    output.print_pairs(
        {
            "target": target.name,
            "cpu": f"{target.cpu}, {target.num_cores} cores usable",
            "memory": output.size(target.memory_bytes),
            "isa": ", ".join(target.isa) or "none that matters",
            "bf16": target.bf16_flag or "not executed by this CPU",
            "int8": target.int8_flag or "no dot product instructions: slower, reduced range",
            "home": resolve.home(),
            "Hub": hub.url if hub else "none (set IGNITION_URL and IGNITION_API_KEY)",
            "trust": policy if policy.exists() else "no policy: engines of others need --public-key",
            "catalogue": f"{len(entries)} models, weights of {len(here)} are here (xinfer list)",
        }
    )
    print()
    output.print_table(
        ["backend", "version", "builds here"],
        [[state.name, state.version, ", ".join(state.builds) or None] for state in backends],
        left=3,
    )
    for state in backends:
        for reason in state.reasons:
            print(f"  {state.name}: {reason}")
    print()
    for extra, versions in extras.items():
        absent = [name for name, version in versions.items() if version is None]
        there = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
        text = f"pip install '{DISTRIBUTION}[{extra}]' (lacks {', '.join(absent)})" if absent else there
        print(f"{extra:12} {text}")
    return int(bool(missing))


def backend_states(target: HardwareTarget) -> list[BackendState]:
    """Every backend, whether installed or not."""
    tried = search_space(target, frozenset(PRECISIONS), frozenset(BACKENDS))
    states = []
    for name, info in BACKENDS.items():
        version = installed_version(info.distribution) if info.installed else None
        wanted = {recipe.precision for recipe in tried if recipe.backend == name}
        reasons = []
        if not info.installed:
            reasons.append(f"not installed: pip install '{DISTRIBUTION}[{info.extra}]'")
        if "cpu" not in info.precisions:
            reasons.append(f"runs on {', '.join(info.devices)} only")
        elif "bf16" in info.precisions["cpu"] and target.bf16_flag is None:
            reasons.append("bf16: this CPU does not execute it")
        if "cpu" in info.precisions and not wanted:
            reasons.append("no build tries it on this machine")
        builds = tuple(each for each in PRECISIONS if each in wanted) if info.installed else ()
        states.append(BackendState(name=name, version=version, builds=builds, reasons=tuple(reasons)))
    return states


def extra_states() -> dict[str, dict[str, str | None]]:
    """Extra -> the distributions that it installs -> their versions, None where they are missing."""
    try:
        lines = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        lines = []
    extras: dict[str, dict[str, str | None]] = {}
    for line in lines:
        match = _REQUIREMENT.match(line)
        if match and match[1] != DISTRIBUTION:
            extras.setdefault(match[2], {})[match[1]] = installed_version(match[1])
    return extras


COMMANDS = (
    Command(
        name="doctor",
        help="say what this machine and this installation can do, and why not more",
        configure=configure,
        run=run,
    ),
)
