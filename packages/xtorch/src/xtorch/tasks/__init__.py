"""Recipes: from a dataset to a trained, exported and reported model."""
