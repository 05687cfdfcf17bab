"""Who this agent is: its hardware target, its abilities and its signing key.

Both come from ``python -m ignition_client.jobs`` in a subprocess: the agent itself imports neither
xinfer nor xtorch, stays small, and cannot be brought down by a runtime's native code.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ignition_client.agent.process import JOB_COMMAND
from ignition_client.errors import AgentSetupError
from ignition_client.wire import JobKind

_TIMEOUT_S = 120.0


class Description(BaseModel):
    """What ``--describe`` prints."""

    target: str
    machine: dict[str, Any]
    kinds: list[JobKind]


@dataclass(frozen=True, kw_only=True)
class Identity:
    description: Description
    signing_key: Path
    public_key_pem: str


def load_identity(agent_dir: Path, command: Sequence[str] = JOB_COMMAND) -> Identity:
    """Describes this machine and makes the signing key at the first start.

    Raises:
        AgentSetupError: The packages that do the work are missing or broken.
    """
    output = _run([*command, "--describe"])
    try:
        description = Description.model_validate_json(output.strip().splitlines()[-1])
    except (ValidationError, IndexError) as error:
        raise AgentSetupError(
            "The description of this machine cannot be read.", value=output[-500:]
        ) from error

    private, public = agent_dir / "signing-key.pem", agent_dir / "signing-key.pub.pem"
    if not (private.exists() and public.exists()):
        agent_dir.mkdir(parents=True, exist_ok=True)
        _run([*command, "--keygen", str(private), str(public)])
    return Identity(description=description, signing_key=private, public_key_pem=public.read_text())


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AgentSetupError(f"Cannot ask the job runner about this machine: {error}.") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no output"]
        raise AgentSetupError(
            f"The job runner does not work here: {lines[-1]}",
            value=done.stderr[-2000:],
            hint="Install what jobs need: pip install 'ignition-client[agent]'.",
        )
    return done.stdout
