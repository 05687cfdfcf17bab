"""The agent: leases jobs from a Hub over outbound HTTP(S) and runs each in a subprocess.

python -m ignition_client.agent --hub-url URL --token-file FILE --home FOLDER
"""

from __future__ import annotations

from ignition_client.agent.command import main
from ignition_client.agent.loop import Agent, AgentSettings

__all__ = ["Agent", "AgentSettings", "main"]
