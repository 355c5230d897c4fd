"""What there is to import: the places that were named, down to single files.

A place is a folder or a file on this machine, or the uploads of one form. Zips are unpacked. Each
file is given with what lies beside it (`.txt` and `.json` sidecars, in which people keep its tags;
`.xmp`, in which programs keep their stars) and what the folders above it say: tags, and in the
original's layout its score.
"""

import contextlib
import itertools
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tastemaker import files, images, scores
from tastemaker.config import Settings
from tastemaker.database.tables import Image
from tastemaker.errors import Invalid, TastemakerError
from tastemaker.files import xmp
from tastemaker.files.folders import FolderWalk, lies_in_system
from tastemaker.files.roots import Roots, open_within, outside, within
from tastemaker.files.texts import composed, read_text
from tastemaker.images import FileStamp
from tastemaker.importing.archives import SIDECAR_SUFFIXES, unpack
from tastemaker.importing.marks import notes_anything
from tastemaker.importing.requests import ImportRequest
from tastemaker.pictures.formats import IMAGE_SUFFIXES

MAX_SIDECAR_BYTES = 2**18
PICTURES = IMAGE_SUFFIXES | {".npy"}
BESIDE = SIDECAR_SUFFIXES | {".npy"}  # what may lie beside pictures without a word
# The label that the folders above a name give, and which of them does.
FolderLabel = Callable[[str], tuple[int, str] | None]
SCORE_FOLDER = re.compile(r"^(\d{1,2})(?:[_\-. ].*)?$")


class SidecarFile(NamedTuple):
    """Its name beside the picture (an upload is stored under another one), and where it lies."""

    name: str
    path: Path


@dataclass(frozen=True)
class Sidecar:
    """What sidecars say of a picture: its tags, and the photograph it was cut from."""

    tags: tuple[str, ...] = ()
    source: str | None = None


@dataclass(frozen=True)
class ImportItem:
    """A file to import. `name` is relative to the imported folder or to its archive; `staged` is an
    upload or an archive's member, whose bytes the app must keep."""

    path: Path
    name: str
    staged: bool = False
    score: int | None = None
    from_folder: str = ""  # what gave the score, or the class
    sidecars: tuple[SidecarFile, ...] = ()

    @property
    def label(self) -> str:
        """What people know it by: its path, or for uploads its name."""
        return self.name if self.staged else str(self.path)

    @property
    def is_vector(self) -> bool:
        return self.path.suffix.lower() == ".npy"

    @property
    def folder_tags(self) -> list[str]:
        told = folder_tags(self.name, scored=SCORE_FOLDER.match(self.from_folder) is not None)
        return [tag for tag in told if tag != self.from_folder]


@dataclass(frozen=True)
class Skipped:
    """A file that cannot be imported, by what people know it by, and why. One that `holds_more` is
    a folder or an archive, in which there may be any number of pictures."""

    label: str
    reason: str
    holds_more: bool = False


def find_items(
    request: ImportRequest,
    incoming: Path,
    unpack_into: Path,
    exclude: Path,
    log: Callable[[str], None],
    seen: "Seen",
    roots: Roots = (),
    folder_label: FolderLabel | None = None,
) -> Iterator[ImportItem | Skipped]:
    """Every file that the request names, in a fixed order. Uploads lie in `incoming`, archives are
    unpacked below `unpack_into`, and the folder `exclude` (the app's own) is passed over; what is
    left out and what cannot be entered is noted in `seen`. What lies outside of the `roots` is
    skipped, a link that leads out of them too. Where folders give scores, `folder_label` says what
    a name below the imported folder means, by default a score; it raises `Invalid` for a folder
    whose number is none."""
    suffixes = PICTURES if request.scores_from_folders else IMAGE_SUFFIXES

    def label(name: str) -> tuple[int | None, str]:
        told = (folder_label or folder_score)(name) if request.scores_from_folders else None
        return told or (None, "")

    uploads = [(incoming / request.staging / stored, name) for stored, name in request.files]
    beside_uploads, orphans = pair_sidecars(uploads)
    yield from orphans
    archives, on_disk = itertools.count(), SidecarsOnDisk()
    for found in _named_files(request, incoming, exclude, suffixes, seen, roots):
        if isinstance(found, Skipped):
            yield found
            continue
        path, name, staged = found
        suffix = Path(name).suffix.lower()
        if not files.is_text(name):
            readable = os.fsencode(path).decode("utf-8", "replace")
            yield Skipped(readable, "Its name is not in UTF-8; rename it.")
        elif suffix == ".zip":
            try:
                content = unpack(
                    path, unpack_into / str(next(archives)), roots=() if staged else roots
                )
            except TastemakerError as error:
                yield Skipped(name, str(error), holds_more=True)
                continue
            for member, reason in content.unwanted:
                log(f"left out {member}: {reason}")
                seen.left_out[_kind_of(member)] += 1
            for member, reason in content.skipped:
                yield Skipped(member, reason)
            sidecars, orphans = pair_sidecars(content.files)
            yield from orphans
            for stored, member in content.files:
                if Path(member).suffix.lower() in suffixes:
                    beside = sidecars.get(stored, ())
                    yield ImportItem(stored, member, True, *label(member), beside)
        elif suffix in suffixes:
            beside = beside_uploads.get(path, ()) if staged else on_disk.of(path)
            yield ImportItem(path, name, staged, *label(name), beside)


@dataclass
class Seen:
    """What was met besides the files to import: how many of each kind were left out, the folders
    that cannot be entered, and those that were gone through."""

    left_out: Counter[str] = field(default_factory=Counter)
    unreadable: set[Path] = field(default_factory=set)
    walked: list[Path] = field(default_factory=list)


def _named_files(
    request: ImportRequest,
    incoming: Path,
    exclude: Path,
    suffixes: frozenset[str],
    seen: Seen,
    roots: Roots,
) -> Iterator[tuple[Path, str, bool] | Skipped]:
    """(path, name, whether it is an upload) of every file, archives included; and the folders that
    cannot be entered."""
    for stored, name in request.files:
        if lies_in_system(name) or Path(name).suffix.lower() not in suffixes | BESIDE | {".zip"}:
            seen.left_out[_kind_of(name)] += 1
        else:
            yield incoming / request.staging / stored, name, True
    for place in map(Path, request.paths):
        if not within(place.resolve(), roots):  # was it replaced by a link since?
            seen.unreadable.add(place)
            yield Skipped(str(place), str(outside(place.name, roots)), holds_more=True)
            continue
        try:
            folder = stat.S_ISDIR(place.stat().st_mode)
        except OSError as error:
            seen.unreadable.add(place)
            yield _not_reached(place, (error.strerror or str(error)).lower())
            continue
        if not folder:
            yield place, place.name, False
            continue
        walk = FolderWalk(place, (suffixes | {".zip"}).__contains__, BESIDE, exclude)
        for path in walk.files():
            if roots and path.is_symlink() and not within(path.resolve(), roots):
                yield Skipped(str(path), str(outside(path.name, roots)))
                continue
            yield path, str(path.relative_to(place)), False
        seen.left_out += walk.left_out
        seen.unreadable |= walk.unreadable.keys()
        seen.walked.append(place)
        for path, reason in walk.unreadable.items():
            yield _not_reached(path, reason)


def _not_reached(place: Path, reason: str) -> Skipped:
    label = os.fsencode(place).decode("utf-8", "replace")
    return Skipped(
        label,
        f"It cannot be reached: {reason}. What is known of the images in it stays as it is.",
        holds_more=True,
    )


def _kind_of(name: str) -> str:
    """What a file that was left out is counted as."""
    if lies_in_system(name):
        return "hidden or system file"
    return Path(name).suffix.lower() or "file without an ending"


# --- the folders above a file ------------------------------------------------------------------


def folder_tags(name: str, *, scored: bool = False) -> list[str]:
    """The folders below the imported one that a file lies in; not those that give a score."""
    folders = Path(name).parts[:-1]
    return [part for part in folders if not (scored and SCORE_FOLDER.match(part))]


def folder_score(name: str) -> tuple[int, str] | None:
    """The score that the nearest folder `NN` or `NN_name` gives, as the original lays them out, and
    that folder."""
    for part in reversed(Path(name).parts[:-1]):
        match = SCORE_FOLDER.match(part)
        if match:
            return scores.parse_score(int(match[1])), part
    return None


# --- the files beside a picture ----------------------------------------------------------------


def pair_sidecars(
    sent: Sequence[tuple[Path, str]],
) -> tuple[dict[Path, tuple[SidecarFile, ...]], list[Skipped]]:
    """Which sidecars belong to which picture, among files that were sent together: (where it is
    stored, its name) in the order of sending. Several may have one name, from different folders:
    as many sidecars as pictures go one to one in that order. Where the numbers differ nobody can
    tell whose they are, so they are returned as skipped. Letters taken apart from their marks are
    the same letters; small ones are the same as capitals where nothing of the exact name is there.
    """
    keys = [composed(name) for _, name in sent]
    copies: dict[str, list[int]] = {}  # name -> the sidecars called so
    alike: dict[str, set[str]] = {}  # the same without regard to capitals -> such names
    for number, key in enumerate(keys):
        if Path(key).suffix.lower() in SIDECAR_SUFFIXES:
            copies.setdefault(key, []).append(number)
            alike.setdefault(key.casefold(), set()).add(key)
    pictures = [n for n, key in enumerate(keys) if Path(key).suffix.lower() in PICTURES]
    owners: dict[str, list[int]] = {}  # name of a sidecar -> the pictures that it may lie beside
    for number in pictures:
        for key in _sidecar_names(keys[number]):
            if key in copies:
                owners.setdefault(key, []).append(number)
    exact = set(owners)
    found = {number for there in owners.values() for number in there}
    for number in pictures:
        for key in _sidecar_names(keys[number]) if number not in found else []:
            for other in alike.get(key.casefold(), set()) - exact:
                owners.setdefault(other, []).append(number)

    beside: dict[int, list[SidecarFile]] = {}
    skipped = []
    for key, here in owners.items():
        texts = copies[key]
        one_for_all = len(texts) == 1 and len({keys[number] for number in here}) == len(here)
        if len(texts) == len(here) or one_for_all:
            for place, number in enumerate(here):
                path, name = sent[texts[0 if one_for_all else place]]
                beside.setdefault(number, []).append(SidecarFile(name, path))
        else:
            skipped.append(Skipped(sent[texts[0]][1], _whose_is_it(len(texts), len(here))))
    return {sent[number][0]: tuple(listed) for number, listed in beside.items()}, skipped


def _whose_is_it(texts: int, pictures: int) -> str:
    return (
        f"It came {texts} times and its picture {pictures} times, so nobody can tell which belongs"
        " to which; no tags were taken from it. Send a zip or one folder at a time."
    )


class SidecarsOnDisk:
    """What lies beside pictures, each folder looked into once: pictures come folder by folder."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._texts: dict[str, list[str]] = {}  # name without regard to capitals → names
        self._taken: set[str] = set()  # those that are just so some picture's

    def of(self, path: Path) -> tuple[SidecarFile, ...]:
        """What lies beside a picture, or beside the file that it is a link to: under its own name,
        or where there is none, under one that differs in capitals. A link to anywhere else is
        none: what the importing person may read is not always theirs to show."""
        if path.parent != self._folder:
            self._folder = path.parent
            self._texts, self._taken = _texts_in(path.parent)
        beside = []
        for name in _sidecar_names(path.name):
            alike = self._texts.get(name.casefold(), [])
            loosely = [other for other in alike if other not in self._taken]
            for called in [name] if name in alike else loosely:
                real = (path.parent / called).resolve()
                folders = (path.parent.resolve(), path.resolve().parent)
                if real.parent in folders and real.is_file():
                    beside.append(SidecarFile(str(path.parent / called), real))
                    break
        return tuple(beside)


def _texts_in(folder: Path) -> tuple[dict[str, list[str]], set[str]]:
    texts: dict[str, list[str]] = {}
    taken: set[str] = set()
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for name in sorted(entry.name for entry in entries):
            suffix = Path(name).suffix.lower()
            if suffix in SIDECAR_SUFFIXES:
                texts.setdefault(name.casefold(), []).append(name)
            elif suffix in PICTURES:
                taken.update(_sidecar_names(name))
    return texts, taken


def _sidecar_names(name: str) -> list[str]:
    """`a/b.png` may have `a/b.txt`, `a/b.png.txt` and the same with `.json` and `.xmp` beside
    it."""
    bare = str(Path(name).with_suffix(""))
    return [start + suffix for suffix in (".txt", ".json", ".xmp") for start in (bare, name)]


def read_sidecars(sidecars: Iterable[SidecarFile], roots: Roots = ()) -> Sidecar:
    """Tags from `.txt` (comma-separated, as kohya and the boorus write them) and from `.json`
    ({"tags": […] or "a b c", "source": "…"}). One that cannot be read is no reason to refuse the
    picture."""
    tags: list[str] = []
    source = None
    for name, path in sidecars:
        if name.lower().endswith(".xmp"):
            continue
        text = _small_text(path, roots)
        if not name.lower().endswith(".json"):
            tags += [tag for tag in re.split(r"[,\r\n]", text) if tag.strip()]
            continue
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if not isinstance(data, dict):
            continue
        listed = data.get("tags", data.get("tag_string", []))
        if isinstance(listed, str):
            listed = listed.split("," if "," in listed else None)
        if isinstance(listed, dict):
            listed = [tag for group in listed.values() if isinstance(group, list) for tag in group]
        if isinstance(listed, list):
            tags += [tag for tag in listed if isinstance(tag, str) and files.is_text(tag)]
        origin = data.get("source")
        if isinstance(origin, str) and origin.strip() and files.is_text(origin):
            source = origin.strip()
    return Sidecar(tuple(tags), source)


def keep_notes(settings: Settings, image: Image, sidecars: Iterable[SidecarFile]) -> None:
    """Keep what other programs noted of an upload (`stars`) beside the app's own copy of it, each
    sidecar under a name of its own, so that two that disagree still do; there is no copy of an
    image whose file lies on this machine."""
    if image.kind != "upload":
        return
    stored = images.stored_path(settings, image)
    for name, path in sidecars:
        suffix = Path(name).suffix.lower()
        noted = suffix == ".json" and notes_anything(path)
        if noted or (suffix == ".xmp" and path.stat().st_size <= xmp.MOST_BYTES):
            long = len(Path(name).suffixes) > 1 and Path(Path(name).stem).suffix.lower() in PICTURES
            kept = stored.with_name(stored.name + suffix) if long else stored.with_suffix(suffix)
            files.write_atomic(kept, path.read_bytes())


def _small_text(path: Path, roots: Roots) -> str:
    try:
        return "" if path.is_symlink() else read_text(path, MAX_SIDECAR_BYTES, roots)
    except TastemakerError:
        return ""


# --- vectors without a picture -----------------------------------------------------------------


def read_vector(path: Path, roots: Roots = ()) -> tuple[NDArray[np.float32], FileStamp]:
    """The (D,) vector of an `.npy` of shape (1, D) or (D,), finite, and the stamp of the file it
    was read from: the original keeps one such file for each image. Never unpickles. Raises
    `Invalid`."""
    try:
        with open_within(path, roots) as file:
            stamp = FileStamp.of(os.fstat(file.fileno()))
            vector = np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError) as error:  # its header may claim anything
        raise Invalid(f"“{path.name}” is not a plain .npy array.") from error
    vector = np.squeeze(vector)
    if vector.ndim != 1 or not 2 <= vector.size <= 65536 or vector.dtype.kind != "f":
        raise Invalid(f"“{path.name}” holds an array of shape {vector.shape}, not one vector.")
    if not np.isfinite(vector).all():
        raise Invalid(f"“{path.name}” holds values that are not numbers.")
    return np.asarray(vector, np.float32), stamp
