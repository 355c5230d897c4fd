"""Lists of pictures: a path on each line, of a file (`@list.txt`) or of standard input (`-`)."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from tastemaker.errors import BadImage, NotFound
from tastemaker.files import is_file, is_text, typed_path
from tastemaker.files.addresses import is_address, shown


def is_list(source: Path) -> bool:
    return str(source) == "-" or (str(source).startswith("@") and not source.exists())


class Listed:
    """The pictures that a list names, drawn line after line, so that it may be of any length. What
    is relative starts at the current folder. A file that is not there is told in its turn."""

    def __init__(self, source: Path) -> None:
        """Raises `NotFound` where there is no such list."""
        name = str(source).removeprefix("@")
        self._path = None if name == "-" else typed_path(name)
        self._size, self._read = 0, 0
        if self._path is not None:
            if not is_file(self._path):
                raise NotFound(f"There is no list {self._path}.", "Check the path after the @.")
            self._size = self._path.stat().st_size

    def total(self, done: int) -> int:
        """How many there are, as far as the share of the list that was read tells."""
        return round(done * self._size / self._read) if self._size and self._read else done

    def pictures(self) -> Iterator[tuple[str, Path | BadImage]]:
        file = sys.stdin.buffer if self._path is None else self._path.open("rb")
        with file:
            for line in file:
                self._read += len(line)
                name = os.fsdecode(line.rstrip(b"\r\n"))
                if not name:
                    continue
                if is_address(name):
                    yield shown(name), BadImage("It lies on another machine: copy it here first.")
                elif is_text(name):
                    yield name, typed_path(name)
                else:
                    readable = line.rstrip(b"\r\n").decode("utf-8", "replace")
                    yield readable, BadImage("Its name is not in UTF-8; rename it.")
