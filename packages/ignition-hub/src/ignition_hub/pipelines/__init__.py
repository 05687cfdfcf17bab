"""Durable workflows: every call into DBOS."""
