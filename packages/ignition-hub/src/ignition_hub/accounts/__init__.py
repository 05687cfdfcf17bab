"""Organisations, users and their keys."""
