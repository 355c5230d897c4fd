"""The import of embeddings made elsewhere: a file or a clip-retrieval folder of vectors becomes
images of a project, millions of them, whether their pictures are on this machine or not.

Each vector is an image that has no picture, called by its path, URL or key. Where pictures are at
hand, the images get theirs: bytes are read and hashed, and from then on it is an image like any
other, with the scores it had. So the same command brings in vectors today, and pictures when their
disk is there. Rows that are in already cost nothing but a look.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from more_itertools import chunked
from numpy.typing import NDArray
from pydantic import BaseModel
from sqlmodel import Session, col, func, select
from sqlmodel.sql.expression import Select

from tastemaker import embeddings, images, jobs, projects
from tastemaker.config import Settings
from tastemaker.database.statements import insert_missing
from tastemaker.database.tables import (
    Collection,
    CollectionImage,
    Embedding,
    EncoderRow,
    Image,
    ImageName,
    Job,
    Project,
    ScoreEvent,
)
from tastemaker.encoding.clip_retrieval import is_layout, open_layout
from tastemaker.encoding.embedding_files import EMBEDDING_SUFFIXES, Embeddings, open_embeddings
from tastemaker.errors import BadImage, Conflict, Invalid, NotFound
from tastemaker.files import is_file, require_free_space
from tastemaker.files.addresses import local_path
from tastemaker.files.roots import outside, within
from tastemaker.files.texts import composed
from tastemaker.images import FileStamp
from tastemaker.importing import rewritten
from tastemaker.importing.requests import free_name
from tastemaker.jobs.context import JobContext
from tastemaker.pictures.decode_pool import DecodePool
from tastemaker.pictures.pictures import Examined, Limits, ingest

ROWS_AT_ONCE = 4096  # vectors written in one transaction: what a crash can cost
IDS_AT_ONCE = 2000
PICTURES_AT_ONCE = 64
LONGEST_NAME = 500


class VectorImport(BaseModel, frozen=True):
    """The payload of the job: a file or folder of embeddings, and the folder that the paths of its
    rows start from (empty: no pictures are looked for)."""

    source: str
    collection: str
    role: str = "pool"
    pictures: str = ""


@dataclass(frozen=True)
class Looked:
    """A file or folder of embeddings that was looked into: where it is, where its pictures start,
    how many rows it has, and the first that is a vector, (D,)."""

    path: Path
    pictures: Path | None
    rows: int
    first: NDArray[np.float32]


def look_at(settings: Settings, source: str | Path, pictures: str | Path | None = None) -> Looked:
    """Open the source, before anything is written: a disk may take its time. Raises `NotFound` and
    `Invalid` for what holds no embedding or lies outside of what may be imported."""
    path = _allowed(settings, source)
    root = _allowed(settings, pictures) if pictures else None
    if root is not None and not root.is_dir():
        raise Invalid(f"{root} is no folder.", "Name the folder that the paths start from.")
    opened = _open(path)
    return Looked(path, root, opened.rows, _first_vector(opened))


def request_vectors(
    session: Session,
    settings: Settings,
    looked: Looked,
    project: Project,
    *,
    encoder: str = "",
    collection: str = "",
    role: str = "pool",
    asked_by: int = 0,
) -> Job:
    """Queue the import of embeddings into a project. `encoder` is what they came from, where the
    project has no vectors yet. Raises what can be seen at once: `Invalid` for another width than
    the encoder's, `Conflict` where the project embeds its own images."""
    projects.check_role(role)
    require_free_space(settings.root, settings.min_free_gb)
    _require_no_pictures(session, project)
    if encoder and projects.validate_encoder(encoder) != project.encoder:
        embeddings.choose_encoder(session, project, encoder)
    embeddings.declare_encoder(session, project, looked.first)
    request = VectorImport(
        source=str(looked.path), role=role, pictures=str(looked.pictures or ""),
        collection=images.validate_collection_name(collection or _name_of(looked.path)),
    )  # fmt: skip
    title = f"Import {looked.rows:,} embeddings as “{request.collection}”"
    payload = request.model_dump(mode="json")
    return jobs.enqueue(
        session, "vectors", title, payload, project.id, once=True, asked_by=asked_by
    )


def _require_no_pictures(session: Session, project: Project) -> None:
    """Pictures of a project without a vector wait to be embedded here."""
    if project.encoder_id is not None:
        return
    ids = projects.image_ids(project.id, projects.ANY_ROLE)
    waiting = select(Image.id).where(col(Image.id).in_(ids), Image.kind != "vector").limit(1)
    if session.exec(waiting).first() is not None:
        raise Conflict(
            f"“{project.name}” has pictures that are to be embedded here, and embeddings made "
            "elsewhere do not go with them.",
            "Make another project for them.",
        )


def _allowed(settings: Settings, place: str | Path) -> Path:
    path = local_path(place)
    if not within(path.resolve(), settings.roots):
        raise outside(str(place), settings.roots)
    if not path.exists():
        raise NotFound(f"There is no file or folder “{place}”.", "Check the path.")
    return path.resolve()


def _name_of(path: Path) -> str:
    return path.name if path.is_dir() else path.stem or free_name(path)


def _open(path: Path) -> Embeddings:
    if path.is_dir():
        if not is_layout(path):
            raise Invalid(
                f"There are no embeddings in {path}.",
                "Name a .npy, .npz or .parquet file, or a folder that clip-retrieval made.",
            )
        return open_layout(path)
    if path.suffix.lower() not in EMBEDDING_SUFFIXES:
        raise Invalid(
            f"{path.name} is no file of embeddings.",
            "A .npy, .npz or .parquet is one, or a folder that clip-retrieval made.",
        )
    return open_embeddings(path)


def _first_vector(opened: Embeddings) -> NDArray[np.float32]:
    """The first row that is a vector: it tells the width, and whether all are L2-normalised."""
    for _, x, _ in opened.blocks:
        usable = x[_usable(x)]
        if len(usable):
            return np.asarray(usable[0], np.float32)
    raise Invalid("No row holds an embedding: all are zeros, or not numbers.")


# --- the job -------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What became of the rows."""

    added: int = 0
    known: int = 0
    skipped: int = 0
    pictures: int = 0
    without: int = 0
    first_reason: str = ""
    unreadable: int = 0
    seen: int = field(default=0, repr=False)

    def skip(self, name: str, reason: str) -> None:
        self.skipped += 1
        self.first_reason = self.first_reason or f"{name}: {reason}"

    def as_dict(self) -> dict[str, Any]:
        return {
            "added": self.added, "known": self.known, "set_aside": self.skipped,
            "pictures": self.pictures, "unreadable": self.unreadable, "without": self.without,
            "first_reason": self.first_reason,
        }  # fmt: skip


def run(job: JobContext) -> dict[str, Any]:
    """Bring in what is not in yet. Safe to run again after a crash, or when pictures have come."""
    request, tally = VectorImport.model_validate(job.payload), Tally()
    source = _allowed(job.settings, request.source)
    opened = _open(source)
    first = _first_vector(opened)
    with job.writing() as session:
        project = projects.get(session, job.project_id)
        row = embeddings.declare_encoder(session, project, first)
        collection = images.collection_named(session, request.collection)
        projects.add_collection(session, project, collection, request.role)
    job.stage("Importing embeddings", opened.rows)
    for names, x in _portions(opened, source):
        _write(job, row, collection, names, x, tally)
        job.progress(tally.seen)
    if request.pictures:
        _give_pictures(job, collection, Path(request.pictures), tally)
    with job.reading() as session:
        waiting = _vectors_in(collection.id).subquery()
        tally.without = session.exec(select(func.count()).select_from(waiting)).one()
    if tally.added or tally.pictures:
        embeddings.queue_predictions(job)
    job.log(f"{tally.added} new, {tally.known} known, {tally.skipped} skipped, of {tally.seen}")
    if not tally.added and not tally.known:
        raise Invalid("No row could be used, so nothing was imported.", tally.first_reason)
    return tally.as_dict() | {"collection": collection.name}


def _portions(opened: Embeddings, source: Path) -> Iterator[tuple[list[str], NDArray[Any]]]:
    """Names and vectors, some at a time; a row that is only a number is called after its file."""
    done = 0
    for paths, x, _ in opened.blocks:
        for start in range(0, len(x), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            told = enumerate(paths[part].to_pylist(), done)
            names = [f"{source.name}/{n}" if name == str(n) else name for n, name in told]
            yield names, x[part]
            done += len(names)


def _usable(x: NDArray[Any]) -> NDArray[np.bool_]:
    """(n,) which rows are vectors: finite also as float16, and not all zeros."""
    with np.errstate(over="ignore", invalid="ignore"):
        kept = np.asarray(x, np.float16)
    usable: NDArray[np.bool_] = np.isfinite(kept).all(axis=1) & (kept != 0).any(axis=1)
    return usable


def _write(
    job: JobContext,
    row: EncoderRow,
    collection: Collection,
    names: Sequence[str],
    x: NDArray[Any],
    tally: Tally,
) -> None:
    """One portion of rows, (n, D): an image, its vector and its place for each that is new."""
    tally.seen += len(x)
    usable, fitting = _usable(x), _of_one_make(row, x)
    hashes: dict[str, int] = {}  # of an image → its row; the same vector twice is one image
    for n, name in enumerate(names):
        if not usable[n]:
            tally.skip(name, "it is zeros, or not numbers that fit.")
        elif not fitting[n]:
            tally.skip(name, "it is L2-normalised and the others are not, or the reverse.")
        elif (sha256 := embeddings.hash_of(row, x[n])) in hashes:
            tally.known += 1
        else:
            hashes[sha256] = n
    with job.writing(turn="import") as session:
        before = _by_hash(session, hashes)
        called = {composed(names[n])[:LONGEST_NAME]: h for h, n in hashes.items()}
        before |= _by_name(session, row, collection, called)  # where a name is known, it decides
        blank = Image(sha256="", kind="vector", name="", source_group="").model_dump(exclude={"id"})
        new = [
            blank | {"sha256": h, "source_group": h[:16], "name": composed(names[n])[:LONGEST_NAME]}
            for h, n in hashes.items()
            if h not in before
        ]
        insert_missing(session, Image, new)
        ids = before | _by_hash(session, [one["sha256"] for one in new])
        place = [{"collection_id": collection.id, "image_id": i} for i in ids.values()]
        insert_missing(session, CollectionImage, place)
        vectors = [
            {"image_id": image_id, "encoder_id": row.id,
             "vector": np.asarray(x[hashes[sha256]], "<f2").tobytes()}
            for sha256, image_id in ids.items()
        ]  # fmt: skip
        insert_missing(session, Embedding, vectors)
    tally.added += len(new)
    tally.known += len(before)


def _of_one_make(row: EncoderRow, x: NDArray[Any]) -> NDArray[np.bool_]:
    """(n,) which rows are L2-normalised like the encoder's, or raw like them."""
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(x.astype(np.float64), axis=1)
    normalised = bool(row.details.get("l2_normalised", False))
    alike: NDArray[np.bool_] = (np.abs(lengths - 1) < 0.01) == normalised
    return alike


def _by_hash(session: Session, hashes: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for some in chunked(hashes, IDS_AT_ONCE):
        query = select(Image.sha256, Image.id).where(col(Image.sha256).in_(some))
        found.update(session.exec(query).all())
    return found


def _by_name(
    session: Session, row: EncoderRow, collection: Collection, hashes: Mapping[str, str]
) -> dict[str, int]:
    """Those that got their picture since, and with it another hash: what they were called here is
    one of their names. `hashes` by name; returns the images by hash."""
    found: dict[str, int] = {}
    for some in chunked(hashes, IDS_AT_ONCE):
        query = (
            select(ImageName.name, ImageName.image_id)
            .join(CollectionImage, col(CollectionImage.image_id) == ImageName.image_id)
            .join(Embedding, col(Embedding.image_id) == ImageName.image_id)
            .where(CollectionImage.collection_id == collection.id, Embedding.encoder_id == row.id)
            .where(col(ImageName.name).in_(some))
        )
        found.update((hashes[name], image_id) for name, image_id in session.exec(query))
    return found


# --- pictures for images that have none ----------------------------------------------------------


def _give_pictures(job: JobContext, collection: Collection, root: Path, tally: Tally) -> None:
    """Look for the file of each image that has none, and let it be that file's image."""
    with job.reading() as session:
        waiting = session.exec(_vectors_in(collection.id)).all()
    job.stage("Looking for their pictures", len(waiting))
    places = ((root / name, image_id) for image_id, name in waiting if "://" not in name)
    found = {path.resolve(): image_id for path, image_id in places if is_file(path)}
    owner = {p: i for p, i in found.items() if p.is_relative_to(root)}  # not what lies elsewhere
    limits = Limits.of(job.settings)
    task = functools.partial(ingest, thumbs_root=job.settings.thumbs, limits=limits)
    job.stage("Reading pictures", len(owner))
    with DecodePool(limits=limits) as decoders:
        done = 0
        for some in chunked(decoders.map(task, owner), PICTURES_AT_ONCE):
            with job.writing(turn="import") as session:
                for path, outcome in some:
                    if isinstance(outcome, BadImage):
                        images.record_skipped(session, str(path), str(outcome), job.claim.job_id)
                        tally.unreadable += 1
                    else:
                        _give(session, job.settings, owner[path], path, outcome, collection)
                        tally.pictures += 1
            done += len(some)
            job.progress(done)


def _vectors_in(collection_id: int) -> Select[int, str]:
    return (
        select(Image.id, Image.name)
        .join(CollectionImage, col(CollectionImage.image_id) == Image.id)
        .where(CollectionImage.collection_id == collection_id, Image.kind == "vector")
        .order_by(col(Image.id))
    )


def _give(
    session: Session,
    settings: Settings,
    image_id: int,
    path: Path,
    facts: Examined,
    collection: Collection,
) -> None:
    """Let a vector's image be the one of a file. Where the library has that picture already, it
    takes over the vector, and all that was said of the image without a picture."""
    image = images.get(session, image_id)
    there = images.by_sha256(session, facts.sha256)
    key = image.name
    if there is not None:
        for row in session.exec(select(Embedding).where(Embedding.image_id == image_id)):
            copy = {"image_id": there.id, "encoder_id": row.encoder_id, "vector": row.vector}
            insert_missing(session, Embedding, [copy])
        rewritten.take_over(session, settings, there, image)
        session.delete(session.get_one(CollectionImage, (collection.id, image_id)))
        image = there
    else:
        said = select(ScoreEvent.id).where(ScoreEvent.image_id == image_id).limit(1)
        if session.exec(said).first() is None:  # what was said keeps its side of the hold-out
            image.source_group = images.group_for(session, facts.sha256, facts.phash, None)
        image.kind, image.name = "file", composed(path.name)
        image.sha256, image.format, image.phash = facts.sha256, facts.format, facts.phash
        image.width, image.height, image.bytes = facts.width, facts.height, facts.bytes
        image.taken_at = facts.taken_at
        session.add(image)
        session.flush()
    insert_missing(session, ImageName, [{"image_id": image.id, "name": key}])
    images.note_file(session, image, path, FileStamp(facts.bytes, facts.mtime_ns))
    images.forget_skipped(session, str(path))
