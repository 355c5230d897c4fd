"""Tastemaker: teach a machine your taste in images, one score at a time."""

__version__ = "0.1.0"
