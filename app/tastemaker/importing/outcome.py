"""What an import came to, in words: for its log, its page and the command line."""

from collections.abc import Mapping
from typing import Any

from tastemaker.errors import Incomplete


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


def unread_in_words(result: Mapping[str, Any]) -> Incomplete | None:
    """The folders and archives that could not be read, if there were any: all else is imported."""
    number = result.get("unread", 0)
    if not number:
        return None
    what = "A folder or archive" if number == 1 else f"{number:,} folders or archives"
    return Incomplete(
        f"{what} could not be read, and nothing of it was imported: {result['first_unread']}",
        "Everything else is imported. Mend it and import again: what is known is not read twice.",
    )
