"""Folders of people, gone through from end to end: what is wanted in them, what is left out and
how much of it, and what cannot be entered.

Storage boxes, Macs and Windows put folders of their own among the pictures: thumbnails, recycle
bins, notes about files. Those and hidden ones are left out, and so are links to folders, which may
lead anywhere and in circles.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

SYSTEM_FOLDERS = frozenset(
    {
        "@eadir", "@recycle", "@recently-snapshot", "@sharebin", "@tmp", "#recycle", "#snapshot",
        "$recycle.bin", "recycler", "system volume information", "lost+found", "__macosx",
        "network trash folder", "temporary items",
    }
)  # fmt: skip
SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})


def is_system(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or belongs to the system and not to a
    person."""
    hidden = name.startswith(".") and name not in (".", "..")
    return hidden or name.lower() in SYSTEM_FOLDERS | SYSTEM_FILES


def lies_in_system(name: str) -> bool:
    """The same for a relative path, with `/` between its parts."""
    return any(is_system(part) for part in PurePosixPath(name).parts)


@dataclass
class FolderWalk:
    """One going through `root`. `wanted` says by its suffix whether a file is (in lower case, with
    its dot), `beside` which suffixes may lie there without a word; `exclude` is a folder that is
    passed over. What was found besides is known when the files are gone through."""

    root: Path
    wanted: Callable[[str], bool]
    beside: frozenset[str] = frozenset()
    exclude: Path | None = None
    left_out: Counter[str] = field(default_factory=Counter)
    unreadable: dict[Path, str] = field(default_factory=dict)

    def files(self) -> Iterator[Path]:
        """Every wanted file, in a fixed order; the folder of each comes before those in it."""
        for folder, subfolders, names in os.walk(self.root, onerror=self._not_entered):
            subfolders[:] = sorted(name for name in subfolders if self._enters(folder, name))
            for name in sorted(names):
                suffix = Path(name).suffix.lower()
                if is_system(name):
                    self.left_out["hidden or system file"] += 1
                elif self.wanted(suffix):
                    yield Path(folder, name)
                elif suffix not in self.beside:
                    self.left_out[suffix or "file without an ending"] += 1

    def _enters(self, folder: str, name: str) -> bool:
        path = Path(folder, name)
        if path == self.exclude:
            return False
        if is_system(name):
            self.left_out["hidden or system folder"] += 1
            return False
        if path.is_symlink():
            self.left_out["link to a folder"] += 1
            return False
        return True

    def _not_entered(self, error: OSError) -> None:
        self.unreadable[Path(error.filename)] = (error.strerror or str(error)).lower()


def left_out_line(left_out: Counter[str], most: int = 12) -> str:
    """“Left out: 3 .tif, 1 .mp4, 2 hidden or system folders.” Empty where nothing was."""
    ranked = left_out.most_common()
    told = [_counted(count, kind) for kind, count in ranked[:most]]
    if rest := sum(count for _, count in ranked[most:]):
        told.append(_counted(rest, "other"))
    return f"Left out: {', '.join(told)}." if told else ""


def _counted(count: int, kind: str) -> str:
    if kind.startswith(".") or count == 1:
        return f"{count:,} {kind}"
    first, _, rest = kind.partition(" to ")  # “links to a folder”
    if rest:
        return f"{count:,} {first}s to {rest}"
    first, _, rest = kind.partition(" without ")
    return f"{count:,} {first}s without {rest}" if rest else f"{count:,} {kind}s"
