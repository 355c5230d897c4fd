"""Versions: numbered, immutable, verified files, of which one is active."""

from tastemaker.versions.registry import (
    activate,
    active,
    as_json,
    base_name,
    by_number,
    checkpoint_path,
    chosen,
    config_path,
    get,
    list_as_json,
    list_ready,
    newest,
    original_path,
    verify,
)

__all__ = [
    "activate",
    "active",
    "as_json",
    "base_name",
    "by_number",
    "checkpoint_path",
    "chosen",
    "config_path",
    "get",
    "list_as_json",
    "list_ready",
    "newest",
    "original_path",
    "verify",
]
