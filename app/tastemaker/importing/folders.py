"""The folders of this machine, to choose one from: its name, what lies in it, the way up.

Only what may be imported is listed: folders that can be read, and never this program's own.
Folders whose names begin with a dot are left out; their path can still be typed.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from tastemaker.config import Settings
from tastemaker.errors import Invalid, NotFound
from tastemaker.files import typed_path
from tastemaker.pictures.pictures import IMAGE_SUFFIXES

MOST_LISTED = 500  # folders of a page
MOST_LOOKED_AT = 5_000  # entries that are looked at for pictures


@dataclass(frozen=True)
class Folder:
    """A folder and the readable ones in it. `pictures` counts those that lie in it themselves, as
    far as `MOST_LOOKED_AT` entries; `more` folders are not listed. `parent` is None at the top."""

    path: Path
    parent: Path | None
    folders: tuple[Path, ...]
    pictures: int
    more: int = 0


def look_into(settings: Settings, at: str = "") -> Folder:
    """What lies in a folder; without one, in the home folder of who runs the program. Raises
    `NotFound` and `Invalid` in words."""
    path = typed_path(at) if at.strip() else Path.home()
    try:
        path = path.resolve()
        if not path.is_dir():
            raise NotFound(f"There is no folder “{at[:300]}”.", "Go up, or type its path.")
        with os.scandir(path) as entries:
            found = sorted(entries, key=lambda entry: entry.name.casefold())
    except PermissionError:
        raise Invalid(f"“{path}” cannot be read.", "Check its permissions.") from None
    except (OSError, ValueError):  # too long, or with a null byte in it
        raise NotFound(f"There is no folder “{at[:300]}”.", "Go up, or type its path.") from None
    if settings.is_own(path):
        raise Invalid(f"“{path}” is Tastemaker's own folder.", "Choose the original files.")
    below = [Path(entry.path) for entry in found if _may_be_chosen(settings, entry)]
    names = [entry.name for entry in found[:MOST_LOOKED_AT]]
    return Folder(
        path=path,
        parent=path.parent if path.parent != path else None,
        folders=tuple(below[:MOST_LISTED]),
        pictures=sum(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in names),
        more=max(0, len(below) - MOST_LISTED),
    )


def _may_be_chosen(settings: Settings, entry: os.DirEntry[str]) -> bool:
    try:
        return (
            not entry.name.startswith(".")
            and entry.is_dir()
            and os.access(entry.path, os.R_OK | os.X_OK)
            and not settings.is_own(Path(entry.path).resolve())
        )
    except OSError:
        return False
