"""The pages' routes, by area."""
