"""What an import came to, in words: for its log, its page and the command line."""

from collections.abc import Mapping
from typing import Any


def known_in_words(result: Mapping[str, Any]) -> str:
    """The files of an import that were no new images, and where each was known from. A result of
    an earlier release has their number alone."""
    if "in_project" not in result:
        return f"{result.get('known', 0):,} known already"
    parts = (
        ("kept", "kept from the run that was stopped"),
        ("in_project", "already in this project"),
        ("in_library", "already in the library"),
        ("twice", "more than once among these files"),
    )
    told = [f"{result[key]:,} {words}" for key, words in parts if result.get(key)]
    return ", ".join(told) or "none known already"
