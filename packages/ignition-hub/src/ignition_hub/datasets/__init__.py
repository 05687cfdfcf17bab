"""Versioned sets of files and what the data check found in them."""
