"""A copy of a home folder that lives on beside its original: both have the same library id.

A library's id says for which one a score waits in a browser. A moved or a restored library is the
same one, so it keeps its id. A copy that is used beside its original is another one, and needs an
id of its own (`tastemaker library-id --new`). A copy cannot know that it is one; but the home
folder notes where it was served last, and the note is copied along.
"""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from tastemaker.config import Settings
from tastemaker.files import write_atomic
from tastemaker.files.json_text import json_text

NOTE = "served-from.json"


def original_of(settings: Settings, library: str) -> Path | None:
    """The other home folder that is there and has this library's id, where this one is a copy of
    it; else None."""
    if not settings.database_in_home:
        return None
    there = _noted(settings)
    own = settings.root.resolve()
    if there is None or there == own:
        return None
    database = there / "tastemaker.db"
    try:
        if not database.is_file() or database.samefile(own / "tastemaker.db"):
            return None
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=1)) as file:
            found = file.execute("SELECT library_id FROM installation").fetchone()
    except (OSError, ValueError, sqlite3.Error):  # not there any more, or not to be read
        return None
    return there if found == (library,) else None


def note_place(settings: Settings, library: str) -> Path | None:
    """Note where this library is served. Returns the original of a copy, whose note stays as it is
    so that it can be told again; else None."""
    original = original_of(settings, library)
    own = settings.root.resolve()
    if settings.database_in_home and original is None and _noted(settings) != own:
        write_atomic(settings.root / NOTE, json_text({"home": str(own)}, ascii_only=True).encode())
    return original


def _noted(settings: Settings) -> Path | None:
    try:
        return Path(json.loads((settings.root / NOTE).read_bytes())["home"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
