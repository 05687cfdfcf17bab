"""Ignition Hub: registry, build farm, Foundry and endpoints."""

__version__ = "0.1.0"
