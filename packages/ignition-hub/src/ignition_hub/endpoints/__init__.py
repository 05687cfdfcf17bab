"""Deployed engines, their keys, and what the gateway is told."""
