"""An engine's receipt as one page for people: no script, nothing loaded from elsewhere, fit for print."""

from xinfer.report.page import render, write_report

__all__ = ["render", "write_report"]
