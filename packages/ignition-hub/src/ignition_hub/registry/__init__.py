"""Models, their versions and engines."""
