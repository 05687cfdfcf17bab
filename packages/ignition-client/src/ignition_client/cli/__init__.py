"""The ``ignition`` command."""

from __future__ import annotations

from ignition_client.cli.app import main

__all__ = ["main"]
