"""The folders of this machine, to choose one from: its name, what lies in it, the way up.

Only what may be imported is listed: folders that can be read, and never this program's own.
Folders whose names begin with a dot are left out; their path can still be typed.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from tastemaker.config import Settings
from tastemaker.errors import Invalid, NotFound
from tastemaker.files.addresses import local_path
from tastemaker.files.roots import Roots, outside, within
from tastemaker.pictures.formats import IMAGE_SUFFIXES

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
    """What lies in a folder; without one, in the home folder of who runs the program, or in the one
    that may be imported from; where there are several of those, what is above them lists only them.
    Raises `NotFound` and `Invalid` in words."""
    roots, above = settings.roots, _above(settings.roots)
    path = local_path(at) if at.strip() else above or Path.home()
    try:
        path = path.resolve()
        if path == above and not within(path, roots):
            return Folder(above, None, roots, pictures=0)
        if not within(path, roots):
            raise outside(at, roots)
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
        parent=_way_up(path, roots),
        folders=tuple(below[:MOST_LISTED]),
        pictures=sum(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in names),
        more=max(0, len(below) - MOST_LISTED),
    )


def _above(roots: Roots) -> Path | None:
    """Where to begin: the one root, or the folder that all of them lie in."""
    return Path(os.path.commonpath(roots)) if roots else None


def _way_up(path: Path, roots: Roots) -> Path | None:
    above = _above(roots)
    if above is not None and not within(path.parent, roots):
        return None if path == above else above
    return path.parent if path.parent != path else None


def _may_be_chosen(settings: Settings, entry: os.DirEntry[str]) -> bool:
    try:
        return (
            not entry.name.startswith(".")
            and entry.is_dir()
            and os.access(entry.path, os.R_OK | os.X_OK)
            and not settings.is_own(real := Path(entry.path).resolve())
            and within(real, settings.roots)
        )
    except OSError:
        return False
