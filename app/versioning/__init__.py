"""Versions and what they say: published files, predictions, checks."""
