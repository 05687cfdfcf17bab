"""The ``xinfer`` command; `app` says what its exit codes mean."""

from xinfer.cli.app import main

__all__ = ["main"]
