"""The folders out of which files may be read, where an admin has named some.

A name says little: between looking and opening, anybody who may write there can put a link in its
place. So a file is opened first, and what was opened is asked where it lies.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from tastemaker.errors import Invalid
from tastemaker.processes.systems import READING

Roots = Sequence[Path]  # resolved folders; none of them means anywhere


def within(path: Path, roots: Roots) -> bool:
    """Whether a resolved path is one of the roots or lies in one."""
    return not roots or any(path == root or root in path.parents for root in roots)


def open_within(path: Path, roots: Roots) -> BinaryIO:
    """A file opened for reading, wherever links lead, as long as that is in one of the roots. Does
    not wait for the writer of a named pipe. Raises `Invalid` for one outside, and `OSError`."""
    file = os.fdopen(os.open(path, READING), "rb")
    try:
        if roots and not within(_place_of(file, path), roots):
            raise outside(path.name, roots)
    except BaseException:
        file.close()
        raise
    return file


def outside(name: str, roots: Roots) -> Invalid:
    """What says that something cannot be read because of where it lies, and where it could."""
    return Invalid(
        f"“{name[:300]}” lies outside of the folders that may be imported here.",
        f"Those are {', '.join(map(str, roots))}; an admin of this machine sets them "
        "(TASTEMAKER_IMPORT_ROOTS).",
    )


def _place_of(file: BinaryIO, path: Path) -> Path:
    """Where an open file lies, links resolved."""
    number = file.fileno()
    try:
        return Path(f"/proc/self/fd/{number}").readlink()
    except OSError:  # a system without it: by its name, if that still names the same file
        real = path.resolve(strict=True)
        if os.path.samestat(os.fstat(number), os.lstat(real)):
            return real
        raise
