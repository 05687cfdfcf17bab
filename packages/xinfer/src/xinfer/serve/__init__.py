"""The serving gateway: engines behind HTTP, with keys (`python -m xinfer.serve`)."""
