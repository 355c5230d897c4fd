"""The library: images, where their bytes lie, the collections and groups they belong to."""

import functools
import os
import shutil
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from more_itertools import chunked
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, func, or_, select, text

from tastemaker.config import Settings
from tastemaker.database.tables import (
    Collection,
    CollectionImage,
    Image,
    ImageName,
    ImagePath,
    SkippedFile,
    Tag,
)
from tastemaker.errors import Invalid, NotFound
from tastemaker.files import content_path, write_atomic
from tastemaker.files.texts import composed
from tastemaker.pictures.formats import SUFFIXES
from tastemaker.pictures.perceptual import hamming
from tastemaker.pictures.pictures import Examined

# Perceptual hashes this close (of 64 bits) are one picture saved twice. With at most 3 differing
# bits, one of the four 16-bit quarters is equal: that is what the indexes look up.
NEAR_BITS = 3

MAX_TAGS, MAX_TAG_LENGTH = 500, 100


def get(session: Session, image_id: int) -> Image:
    image = session.get(Image, image_id)
    if image is None:
        raise NotFound("This image is not in the library.", "It may have been removed.")
    return image


def by_sha256(session: Session, sha256: str) -> Image | None:
    return session.exec(select(Image).where(Image.sha256 == sha256)).first()


def count(session: Session) -> int:
    return int(session.exec(select(func.count()).select_from(Image)).one())


def add_picture(
    session: Session, facts: Examined, name: str, source: str | None, *, uploaded: bool
) -> tuple[Image, bool]:
    """The image of a picture that was read, and whether it is new. `source` is the photograph that
    it was cut from, if something says so. A known image keeps the name of an upload as well."""
    image = by_sha256(session, facts.sha256)
    if image is not None:
        image.taken_at = facts.taken_at
        if uploaded:
            _add_name(session, image, composed(name))
        return image, False
    image = Image(
        sha256=facts.sha256, kind="upload" if uploaded else "file", name=composed(name),
        format=facts.format, width=facts.width, height=facts.height, bytes=facts.bytes,
        phash=facts.phash, source_group=group_for(session, facts.sha256, facts.phash, source),
        taken_at=facts.taken_at,
    )  # fmt: skip
    session.add(image)
    session.flush()
    return image, True


def _add_name(session: Session, image: Image, name: str) -> None:
    if name != image.name and session.get(ImageName, (image.id, name)) is None:
        session.add(ImageName(image_id=image.id, name=name))


def other_names(session: Session, image: Image) -> list[str]:
    """The further names under which an image was sent, in their order."""
    query = select(ImageName.name).where(ImageName.image_id == image.id).order_by(ImageName.name)
    return list(session.exec(query))


# --- where the bytes are -----------------------------------------------------------------------


class FileStamp(NamedTuple):
    """What tells whether a file is still the one that was read: its size in bytes and its time in
    nanoseconds."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "FileStamp":
        return cls(status.st_size, status.st_mtime_ns)


def note_file(session: Session, image: Image, path: Path, stamp: FileStamp) -> int | None:
    """Remember that the image's bytes lay at `path` when the file had this stamp. Returns the id of
    another image whose bytes lay there before, if one's did."""
    row = session.exec(select(ImagePath).where(ImagePath.path == str(path))).first()
    row = row or ImagePath(path=str(path), image_id=image.id, size=0, mtime_ns=0)
    before = row.image_id
    row.image_id, row.state = image.id, "present"
    row.size, row.mtime_ns = stamp
    session.add(row)
    return None if before == image.id else before


def mark_missing(session: Session, folder: str, unreadable: Container[Path] = ()) -> None:
    """Note which of the files below a folder are no longer there: they were moved or deleted. What
    lies in an `unreadable` folder, or cannot be looked at, stays as it is: nothing is known."""
    below = session.exec(
        select(ImagePath).where(
            col(ImagePath.path).startswith(_inside(folder), autoescape=True),
            ImagePath.state == "present",
        )
    )
    for row in below:
        path = Path(row.path)
        if not any(above in unreadable for above in path.parents) and _is_gone(path):
            row.state = "missing"
            session.add(row)


def count_gone(session: Session, folders: Sequence[str]) -> list[int]:
    """Of each folder, how many images were known below it and are at none of their places any more;
    all of them in one look at the paths."""
    other = aliased(ImagePath)
    there = select(other.id).where(other.image_id == ImagePath.image_id, other.state == "present")
    query = select(ImagePath.path, ImagePath.image_id).where(ImagePath.state == "missing")
    rows = session.exec(query.where(~there.exists())).all() if folders else []
    begins = [_inside(folder) for folder in folders]
    return [len({one for path, one in rows if path.startswith(begin)}) for begin in begins]


def _inside(folder: str) -> str:
    """How the paths of all that lies below a folder begin, as this system writes them."""
    return folder.rstrip(os.sep) + os.sep


def _is_gone(path: Path) -> bool:
    """Whether there is surely no file: a share that does not answer says nothing."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def keep_upload(session: Session, settings: Settings, image: Image, staged: Path) -> None:
    """Copy the bytes of an upload into the store, unless they are on this machine already."""
    if image.kind != "upload" and any(
        path.is_file() for path in source_paths(session, settings, image)
    ):
        return
    image.kind = "upload"
    session.add(image)
    stored = stored_path(settings, image)
    if not stored.exists():
        with staged.open("rb") as content:
            write_atomic(stored, functools.partial(shutil.copyfileobj, content))


def stored_path(settings: Settings, image: Image) -> Path:
    """Where the app keeps the bytes of an uploaded image."""
    return content_path(settings.images, image.sha256, SUFFIXES.get(image.format, ".bin"))


def source_paths(session: Session, settings: Settings, image: Image) -> list[Path]:
    """Every place where the image's bytes should be, the app's own copy first."""
    own = [stored_path(settings, image)] if image.kind == "upload" else []
    scanned = session.exec(
        select(ImagePath).where(ImagePath.image_id == image.id, ImagePath.state == "present")
    )
    return own + [Path(row.path) for row in scanned if is_untouched(row)]


def places_of(session: Session, image_ids: Iterable[int]) -> dict[int, list[ImagePath]]:
    """Image id -> every place that is known of its file, those first where it was seen last. At
    most some hundred images at a time."""
    found: dict[int, list[ImagePath]] = {}
    rows = session.exec(
        select(ImagePath)
        .where(col(ImagePath.image_id).in_(list(image_ids)))
        .order_by((col(ImagePath.state) != "present"), col(ImagePath.id))
    )
    for row in rows:
        found.setdefault(row.image_id, []).append(row)
    return found


def is_untouched(row: ImagePath) -> bool:
    """Whether a file has the size and time it had when it was read: other bytes under the same
    name are another image."""
    try:
        status = Path(row.path).stat()
    except OSError:
        return False
    return FileStamp.of(status) == (row.size, row.mtime_ns)


def source_path(session: Session, settings: Settings, image: Image) -> Path:
    """A place where the bytes really are. Raises `NotFound` when every file is gone or changed."""
    for path in source_paths(session, settings, image):
        if path.is_file():
            return path
    raise NotFound(
        f"The file of “{image.name}” is gone, or was changed since; its scores are kept.",
        "Put it back and import its folder again.",
    )


def shown_path(session: Session, image: Image) -> str:
    """The path people know an image by: absolute for scanned files, the name for uploads."""
    path = session.exec(
        select(ImagePath.path)
        .where(ImagePath.image_id == image.id)
        .order_by((col(ImagePath.state) != "present"), col(ImagePath.id))
    ).first()
    return path or image.name


def shown_paths(session: Session, images: Iterable[Image]) -> dict[int, str]:
    """`shown_path` of many images, some hundred of them in one query."""
    shown: dict[int, str] = {}
    for some in chunked(images, 500):
        places = places_of(session, [image.id for image in some])
        for image in some:
            there = places.get(image.id)
            shown[image.id] = there[0].path if there else image.name
    return shown


# --- groups of relatives -----------------------------------------------------------------------


def group_for(session: Session, sha256: str, phash: int | None, source: str | None) -> str:
    """The source group of a new image: the photograph its sidecar names, or the group of a
    near-duplicate that is here already, or a group of its own."""
    if source:
        return f"source:{source[:200]}"
    if phash is not None and _tells_apart(phash):
        near = near_duplicate(session, phash)
        if near is not None:
            return near.source_group
    return sha256[:16]


def near_duplicate(session: Session, phash: int) -> Image | None:
    """The image whose perceptual hash is nearest, if within `NEAR_BITS`."""
    quarters = or_(
        *(text(f"((phash >> {16 * i}) & 65535) = {(phash >> (16 * i)) & 65535}") for i in range(4))
    )
    candidates = session.exec(select(Image).where(quarters).limit(2000)).all()
    near = [(hamming(image.phash, phash), image.id, image) for image in candidates if image.phash]
    near = [entry for entry in near if entry[0] <= NEAR_BITS]
    return min(near, key=lambda entry: entry[:2])[2] if near else None


def of_hash(session: Session, image: Image, most: int = 50) -> list[Image]:
    """Other images with the same perceptual hash, at most so many."""
    if image.phash is None:
        return []
    quarter = text(f"((phash >> 0) & 65535) = {image.phash & 65535}")  # what an index looks up
    same = (Image.phash == image.phash) & (Image.id != image.id)
    return list(session.exec(select(Image).where(quarter, same).limit(most)))


def _tells_apart(phash: int) -> bool:
    """Flat pictures all hash to nearly nothing, whatever they show."""
    return 8 <= hamming(phash, 0) <= 56


# --- tags and collections ----------------------------------------------------------------------


def add_tags(session: Session, image_id: int, tags: Iterable[str]) -> None:
    for tag in list(dict.fromkeys(tags))[:MAX_TAGS]:
        tag = composed(" ".join(tag.replace("\0", " ").split()))[:MAX_TAG_LENGTH]
        if tag and session.get(Tag, (image_id, tag)) is None:
            session.add(Tag(image_id=image_id, tag=tag))
    session.flush()


def validate_collection_name(name: str) -> str:
    """The name of a collection as it is kept. Raises `Invalid`."""
    name = composed(" ".join(name.split()))
    if not 1 <= len(name) <= 120:
        raise Invalid("A collection needs a name of 1 to 120 characters.")
    return name


def collection_named(session: Session, name: str) -> Collection:
    """The collection of that name, made if there is none."""
    name = validate_collection_name(name)
    collection = session.exec(select(Collection).where(Collection.name == name)).first()
    if collection is None:
        collection = Collection(name=name)
        session.add(collection)
        session.flush()
    return collection


def find_collection(session: Session, name: str) -> Collection:
    known = select(Collection).where(col(Collection.name).in_((name, composed(name))))
    collection = session.exec(known).first()
    if collection is None:
        names = ", ".join(f"“{n}”" for n in session.exec(select(Collection.name)).all())
        raise NotFound(f"There is no collection “{name}”.", f"There are: {names}." if names else "")
    return collection


def put_in_collection(session: Session, collection_id: int, image_id: int) -> bool:
    """Returns whether it was not in there before."""
    if session.get(CollectionImage, (collection_id, image_id)) is not None:
        return False
    session.add(CollectionImage(collection_id=collection_id, image_id=image_id))
    session.flush()
    return True


# --- files that were skipped -------------------------------------------------------------------


def record_skipped(session: Session, path: str, reason: str, job_id: int | None) -> None:
    """Remember a file that could not be used, and why."""
    row = session.exec(select(SkippedFile).where(SkippedFile.path == path)).first()
    row = row or SkippedFile(path=path, reason=reason)
    row.reason, row.job_id = reason[:500], job_id
    session.add(row)


def forget_skipped(session: Session, path: str) -> None:
    row = session.exec(select(SkippedFile).where(SkippedFile.path == path)).first()
    if row is not None:
        session.delete(row)


def forget_skipped_folders(session: Session, root: Path, unreadable: Container[Path]) -> None:
    """Forget the folders at or below `root` that could not be entered and can be again."""
    below = session.exec(
        select(SkippedFile).where(
            or_(
                SkippedFile.path == str(root),
                col(SkippedFile.path).startswith(_inside(str(root)), autoescape=True),
            )
        )
    )
    for row in below:
        path = Path(row.path)
        if path not in unreadable and path.is_dir() and os.access(path, os.R_OK | os.X_OK):
            session.delete(row)
