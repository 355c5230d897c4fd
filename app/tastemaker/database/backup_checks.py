"""What a zip must be to be unpacked as a backup: it may come from anywhere, and from anybody."""

import stat
import zipfile
from collections.abc import Collection
from pathlib import PurePosixPath

DATABASE = "tastemaker.db"
FOLDERS = ("images", "thumbs", "checkpoints", "incoming", "routers")
MANIFEST = "manifest.json"
MANIFEST_BYTES = 1000  # for each file at most
RATIO, SLACK = 200, 2**24  # how much more than the zip a backup unpacks to: pages of zeros, at most


def refuse_a_bomb(archive: zipfile.ZipFile, packed: int) -> None:
    """Raises `BadZipFile` for what would unpack to far more than any backup does, before any of it
    is. What a member says of its size is all that is ever read of it."""
    entries = archive.infolist()
    listed = archive.getinfo(MANIFEST).file_size
    whole = sum(entry.file_size for entry in entries)
    if listed > MANIFEST_BYTES * (len(entries) + 10) or whole > RATIO * packed + SLACK:
        raise zipfile.BadZipFile("it would unpack to far more than a backup does")


def refuse_others(archive: zipfile.ZipFile, names: Collection[str]) -> None:
    """Raises `BadZipFile` where the archive holds a file that its own list does not name, one of
    them twice, or a link."""
    inside = [entry for entry in archive.infolist() if not entry.filename.endswith("/")]
    strange = [entry.filename for entry in inside if entry.filename not in {*names, MANIFEST}]
    if strange or len(inside) != len(names) + 1:
        raise zipfile.BadZipFile(f"it holds what its own list does not name: {strange[:1]}")
    if any(stat.S_ISLNK(entry.external_attr >> 16) for entry in inside):
        raise zipfile.BadZipFile("it holds a link")


def belongs(name: object) -> bool:
    """Whether a name in an archive is the database or a file in one of the folders."""
    if name == DATABASE:
        return True
    path = PurePosixPath(str(name))
    inside = len(path.parts) > 1 and path.parts[0] in FOLDERS and ".." not in path.parts
    return inside and path.as_posix() == name and "\\" not in name and "\0" not in name
