"""``python -m ignition_client.agent``: arguments, signals, logging."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from ignition_client.agent.loop import Agent, AgentSettings
from ignition_client.errors import AgentSetupError

logger = logging.getLogger("ignition_client.agent")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs an agent until SIGTERM or SIGINT.

    Returns:
        Exit status: 0 after a signal, 1 if it could not start.
    """
    parser = argparse.ArgumentParser(prog="ignition-agent", description="Works on an Ignition Hub's jobs.")
    parser.add_argument("--hub-url", required=True, help="e.g. https://ignition.example.com")
    parser.add_argument("--token-file", required=True, type=Path, help="file with the agent's token")
    parser.add_argument("--home", required=True, type=Path, help="$IGNITION_HOME; files go below agent/")
    parser.add_argument(
        "--name", default=socket.gethostname(), help="as shown in the Hub (default: %(default)s)"
    )
    parser.add_argument("--exit-on-stdin-eof", action="store_true", help="end when stdin closes")
    options = parser.parse_args(arguments)

    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log every heartbeat
    agent = Agent(
        AgentSettings(
            hub_url=options.hub_url,
            token_file=options.token_file,
            home=options.home.absolute(),
            name=options.name,
        )
    )

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        agent.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    if options.exit_on_stdin_eof:
        threading.Thread(target=_end_with_stdin, name="stdin", daemon=True).start()
    try:
        agent.run()
    except AgentSetupError as error:
        logger.error("%s%s", error.message, f" {error.hint}" if error.hint else "")
        return 1
    return 0


def _end_with_stdin() -> None:
    """The parent holds the other end; it closes when the parent ends, however it ends."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
