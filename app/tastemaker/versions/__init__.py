"""Versions: numbered, immutable, verified files, of which one is active."""

from tastemaker.versions.registry import (
    activate,
    active,
    as_json,
    base_name,
    begin,
    by_number,
    checkpoint_path,
    config_path,
    discard_predictions,
    get,
    list_ready,
    make_ready,
    next_major,
    verify,
    write_file,
)

__all__ = [
    "activate", "active", "as_json", "base_name", "begin", "by_number", "checkpoint_path",
    "config_path", "discard_predictions", "get", "list_ready", "make_ready", "next_major",
    "verify", "write_file",
]  # fmt: skip
