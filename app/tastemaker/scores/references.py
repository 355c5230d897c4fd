"""Which image a file means: by its SHA-256, by where it lies, or by its name.

Files come from other programs, folders and machines. A path may be relative, begin with `~`, have
its letters in another normal form (a Mac takes them apart), or come from Windows; it is then looked
for under the folders that were imported. Nothing is guessed: where two images fit, neither is
taken.
"""

import functools
import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sqlmodel import Session, col, select

from tastemaker import images
from tastemaker.database.tables import Image, ImageName, ImagePath
from tastemaker.errors import Conflict, NotFound
from tastemaker.files import is_text, typed_path
from tastemaker.files.texts import composed

WINDOWS = re.compile(r"^[A-Za-z]:/|\\")


def _without_scheme(reference: str) -> str:
    """The path that a `file://` address of this machine means; anything else as it is."""
    parts = urlsplit(reference) if reference.startswith("file:") else None
    return unquote(parts.path) if parts and parts.netloc in ("", "localhost") else reference


class References:
    """Looks up what the rows of a file in `folder` mean. `by_ending` counts the paths that were
    found by how they end."""

    def __init__(self, session: Session, folder: Path) -> None:
        self._session, self._folder = session, folder
        self.by_ending = 0

    def find(self, reference: str) -> Image:
        """Raises `NotFound`, and `Conflict` where several images fit."""
        reference = _without_scheme(reference)
        image = (
            self._by_hash(reference) or self._by_path(reference) or self._by_name(reference)
            if is_text(reference) and "\0" not in reference
            else None
        )
        image = image or self._by_ending(reference)
        if image is None:
            raise NotFound(f"There is no image “{reference}” in the library.", "Import it first.")
        return image

    def _by_hash(self, reference: str) -> Image | None:
        bare = reference.strip().lower()
        return images.by_sha256(self._session, bare) if len(bare) == 64 else None

    def _by_path(self, reference: str) -> Image | None:
        path = typed_path(reference)
        tried = [reference]
        for place in [path] if path.is_absolute() else [self._folder / path]:
            tried += [os.path.normpath(place.absolute()), os.path.realpath(place)]
        known = select(ImagePath).where(col(ImagePath.path).in_(_spellings(tried)))
        found = {row.image_id for row in self._session.exec(known)}
        return self._only(found, reference)

    def _by_name(self, reference: str) -> Image | None:
        spelt = _spellings([reference])
        first = select(Image.id).where(col(Image.name).in_(spelt)).limit(2)
        others = select(ImageName.image_id).where(col(ImageName.name).in_(spelt)).limit(2)
        found = {*self._session.exec(first), *self._session.exec(others)}
        return self._only(found, reference)

    def _by_ending(self, reference: str) -> Image | None:
        """A relative path lies somewhere under an imported folder. One of Windows may begin with
        folders that this machine calls otherwise: the longest ending that fits counts."""
        windows = WINDOWS.search(reference) is not None
        if typed_path(reference).is_absolute() and not windows:
            return None
        between = r"[\\/]+" if windows else "/"
        parts = [part for part in re.split(between, reference) if part not in ("", ".")]
        if windows and parts and parts[0].endswith(":"):
            del parts[0]
        if not parts or ".." in parts or not is_text(reference) or "\0" in reference:
            return None
        wanted = [_folded(part, windows) for part in parts]
        lengths: dict[int, int] = {}  # image id -> how many parts at the end are the same
        for path, image_id in self._called(parts[-1]):
            length = _same_at_the_end([_folded(p, windows) for p in path.split("/")], wanted)
            lengths[image_id] = max(length, lengths.get(image_id, 0))
        least = 1 if windows else len(parts)
        longest = max(lengths.values(), default=0)
        if longest < least:
            return None
        found = self._only({i for i, length in lengths.items() if length == longest}, reference)
        self.by_ending += 1
        return found

    def _called(self, name: str) -> Iterable[tuple[str, int]]:
        """(path, image id) of the files of that name."""
        first = (
            select(ImagePath.path, ImagePath.image_id)
            .join(Image, col(Image.id) == ImagePath.image_id)
            .where(col(Image.name).in_(_spellings([name])))
        )
        return [*self._session.exec(first), *self._other_names.get(composed(name), [])]

    @functools.cached_property
    def _other_names(self) -> dict[str, list[tuple[str, int]]]:
        """The same of files that are not called as their image is: of doubles under other names."""
        paths = (
            select(ImagePath.path, ImagePath.image_id)
            .join(Image, col(Image.id) == ImagePath.image_id)
            .where(~col(ImagePath.path).endswith(col(Image.name)))
        )
        others: dict[str, list[tuple[str, int]]] = {}
        for path, image_id in self._session.exec(paths):
            others.setdefault(composed(path.rpartition("/")[2]), []).append((path, image_id))
        return others

    def _only(self, ids: set[int], reference: str) -> Image | None:
        if len(ids) > 1:
            raise Conflict(f"Several images are called “{reference}”.", "Name it by SHA-256.")
        return self._session.get(Image, ids.pop()) if ids else None


def _spellings(texts: Iterable[str]) -> set[str]:
    """Each as it is, with its letters composed, and taken apart."""
    return {
        spelt
        for text in texts
        for spelt in (text, composed(text), unicodedata.normalize("NFD", text))
    }


def _folded(part: str, windows: bool) -> str:
    return composed(part).casefold() if windows else composed(part)


def _same_at_the_end(path: list[str], wanted: list[str]) -> int:
    pairs = zip(reversed(path), reversed(wanted), strict=False)
    return next((n for n, (one, other) in enumerate(pairs) if one != other),
                min(len(path), len(wanted)))  # fmt: skip
