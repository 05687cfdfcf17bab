"""``ignition-hub up`` and ``ignition-hub down``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence

from ignition_hub import __version__
from ignition_hub.errors import AlreadyRunningError, HubError
from ignition_hub.lock import exclusive, running_pid
from ignition_hub.settings import Settings

_DOWN_S = 40.0


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Returns:
        Exit status: 0; 1 if it could not be done; 2 for wrong arguments.
    """
    parser = argparse.ArgumentParser(prog="ignition-hub", description="The Ignition Hub.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="run the Hub, with its gateway and an agent, until it is stopped")
    up.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    up.add_argument("--port", type=int, help="the Hub's port (default: 8800, or the next free one)")
    up.add_argument("--gateway-port", type=int, help="the gateway's port (default: 8801, or the next free)")
    up.add_argument("--no-agent", action="store_true", help="do not start an agent on this machine")
    up.add_argument("--no-gateway", action="store_true", help="do not start the gateway on this machine")
    commands.add_parser("down", help="stop the Hub that runs on this home folder")
    options = parser.parse_args(arguments)
    try:
        return _up(options) if options.command == "up" else _down()
    except HubError as error:
        print(f"ignition-hub: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
        return 1


def _up(options: argparse.Namespace) -> int:
    settings = Settings.load(
        host=options.host,
        port=options.port,
        gateway_port=options.gateway_port,
        embedded_agent=False if options.no_agent else None,
        embedded_gateway=False if options.no_gateway else None,
    )
    os.umask(0o077)  # the home may be a folder that others can enter
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with exclusive(settings.home):
        from ignition_hub.server import run  # after the lock: importing takes a second

        return run(settings)


def _down() -> int:
    home = Settings.load().home
    pid = running_pid(home)
    if pid is None:
        print("No Hub is running.")
        return 0
    os.kill(pid, signal.SIGTERM)
    deadline_s = time.monotonic() + _DOWN_S
    while running_pid(home) == pid:
        if time.monotonic() > deadline_s:
            raise AlreadyRunningError(
                f"The Hub (process {pid}) does not stop.", value=pid, hint="logs/hub.log says why."
            )
        time.sleep(0.1)
    print("The Hub is stopped.")
    return 0
