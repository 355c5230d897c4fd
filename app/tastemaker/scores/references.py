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
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from more_itertools import chunked
from sqlmodel import Session, col, select

from tastemaker import images
from tastemaker.database.tables import Image, ImageName, ImagePath
from tastemaker.errors import Conflict, NotFound
from tastemaker.files import is_text, typed_path, unescape_formula
from tastemaker.files.texts import composed

R = TypeVar("R")

WINDOWS = re.compile(r"^[A-Za-z]:/|\\")


def _without_scheme(reference: str) -> str:
    """The path that a `file://` address of this machine means; anything else as it is."""
    parts = urlsplit(reference) if reference.startswith("file:") else None
    return unquote(parts.path) if parts and parts.netloc in ("", "localhost") else reference


AT_ONCE = 500  # references that are looked up in one statement


class References:
    """Looks up what the rows of a file in `folder` mean. `by_ending` counts the paths that were
    found by how they end."""

    def __init__(self, session: Session, folder: Path) -> None:
        self._session, self._folder = session, folder
        self._expected: set[str] = set()
        self._hashes: dict[str, Image] = {}
        self._paths: dict[str, int] = {}
        self._images: dict[int, Image] = {}  # the session would let go of them
        self.by_ending = 0

    def ahead(self, rows: Iterable[R], named: Callable[[R], Iterable[Any]]) -> Iterator[R]:
        """The rows, in their order; what they name is looked up for many at once."""
        for some in chunked(rows, AT_ONCE):
            names = (unescape_formula(str(cell)) for row in some for cell in named(row) if cell)
            self._expect({_without_scheme(name) for name in names})
            yield from some

    def _expect(self, references: set[str]) -> None:
        """Ask for the hashes and the paths that these are, and for their images."""
        usable = {reference for reference in references if is_text(reference)}
        usable = {reference for reference in usable if "\0" not in reference}
        bare = {reference.strip().lower() for reference in usable}
        by_hash = select(Image).where(col(Image.sha256).in_([b for b in bare if len(b) == 64]))
        self._hashes = {image.sha256: image for image in self._session.exec(by_hash)}
        places = {place for reference in usable for place in self._places(reference)}
        at = select(ImagePath.path, ImagePath.image_id)
        self._paths = {
            path: image_id
            for some in chunked(places, 10 * AT_ONCE)
            for path, image_id in self._session.exec(at.where(col(ImagePath.path).in_(some)))
        }
        ids = set(self._paths.values())
        self._images = {
            image.id: image
            for some in chunked(ids, AT_ONCE)
            for image in self._session.exec(select(Image).where(col(Image.id).in_(some)))
        }
        self._expected = usable

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
        if reference in self._expected:
            return self._hashes.get(bare)
        return images.by_sha256(self._session, bare) if len(bare) == 64 else None

    def _by_path(self, reference: str) -> Image | None:
        places = self._places(reference)
        if reference in self._expected:
            found = {self._paths[place] for place in places if place in self._paths}
        else:
            known = select(ImagePath.image_id).where(col(ImagePath.path).in_(places))
            found = set(self._session.exec(known))
        return self._only(found, reference)

    def _places(self, reference: str) -> set[str]:
        """Where a file of that path may lie."""
        path = typed_path(reference)
        place = path if path.is_absolute() else self._folder / path
        tried = [reference, os.path.normpath(place.absolute()), os.path.realpath(place)]
        return _spellings(tried)

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
