"""One vector per (image, encoder fingerprint): compute the missing ones, read them as a matrix.

Vectors are kept as float16, not L2-normalised. Nothing is ever recomputed that is there, so a
stopped job goes on where it was.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from more_itertools import chunked
from numpy.typing import NDArray
from sqlmodel import Session, col, func, select
from sqlmodel.sql.expression import SelectOfScalar

from tastemaker import images, jobs, projects
from tastemaker.database.statements import insert_missing
from tastemaker.database.tables import (
    CollectionImage,
    Embedding,
    EncoderRow,
    Image,
    Project,
    Version,
)
from tastemaker.encoding import downloads
from tastemaker.encoding.encode_files import embed_files
from tastemaker.encoding.encoder_specs import parse
from tastemaker.encoding.encoders import Encoder, load
from tastemaker.encoding.similarity import are_normalised
from tastemaker.errors import BadImage, Conflict, Invalid, NotFound
from tastemaker.jobs.context import JobContext
from tastemaker.jobs.progress import download_of, portions
from tastemaker.pictures.pictures import KnownPicture, Limits
from tastemaker.processes import ready_to_compute

CHUNK = 64  # vectors written in one transaction: what a crash can cost
CHUNK_SECONDS = 10.0  # or those of so long, if they are fewer
LARGE_PIXELS = 50_000_000  # pictures above are embedded last, one by one
PER_ROUND = 4096  # images looked up at once
IDS_PER_QUERY = 5000

Vector = NDArray[np.floating]


# --- which images, which encoder ---------------------------------------------------------------


def encoder_row(session: Session, encoder: Encoder) -> EncoderRow:
    """The row of a loaded encoder's fingerprint, added on first sight."""
    row = session.exec(
        select(EncoderRow).where(EncoderRow.fingerprint == encoder.fingerprint)
    ).first()
    if row is None:
        row = EncoderRow(
            fingerprint=encoder.fingerprint, name=encoder.spec.name, dim=encoder.dim,
            details=encoder.describe(),
        )  # fmt: skip
        session.add(row)
        session.flush()
    return row


def choose_encoder(session: Session, project: Project, name: str) -> None:
    """Give a project another encoder, or its weights from a file, while none of its images has a
    vector; they are then made. Raises `Conflict` afterwards."""
    if project.encoder_id is not None:
        raise Conflict(
            f"The images of “{project.name}” are embedded with {project.encoder} already.",
            "Move it to another one (Settings, Encoders): every score comes along.",
        )
    project.encoder = projects.validate_encoder(name)
    session.add(project)
    if projects.size(session, project, projects.ANY_ROLE):
        title = f"Embed the images of “{project.name}”"
        jobs.enqueue(session, "embed", title, {}, project.id, once=True)


def use_encoder(session: Session, project: Project, encoder: EncoderRow) -> None:
    """From now on the project works with this encoder. The vectors of the one before stay; what
    has none of this one yet gets it by a job. Without a vector it has nothing to leave."""
    if project.encoder_id in (None, encoder.id):
        return
    project.encoder, project.encoder_id = encoder.name, encoder.id
    session.add(project)
    session.flush()
    if not encoder.declared and session.exec(missing(encoder.id, project.id).limit(1)).first():
        title = f"Embed the images of “{project.name}”"
        jobs.enqueue(session, "embed", title, {}, project.id, once=True)


def declare_encoder(session: Session, project: Project, vector: Vector) -> EncoderRow:
    """The encoder that a (D,) vector from outside is declared to come from: the project's, by name
    only. Raises `Conflict` when the project already has vectors it made itself, and `Invalid` for
    a vector of another width than theirs, or than that encoder gives, and for a raw one among
    L2-normalised ones or the reverse: their length is lost."""
    dim, normalised = vector.size, are_normalised(vector[None])
    if project.encoder_id is not None:
        pinned = session.get(EncoderRow, project.encoder_id)
        assert pinned is not None
        if not pinned.declared:
            raise Conflict(
                f"“{project.name}” embeds its own images; vectors from outside never mix with "
                "those.",
                "Make another project for them.",
            )
        if pinned.dim != dim:
            raise Invalid(f"This vector has {dim} values; the project's have {pinned.dim}.")
        if normalised != is_normalised(session, pinned):
            raise Invalid(
                f"This vector is {'' if normalised else 'not '}L2-normalised, unlike those of the "
                "project: they never mix."
            )
        return pinned
    gives = parse(project.encoder).dim
    if gives not in (None, dim):
        raise Invalid(
            f"This vector has {dim} values; {project.encoder}, the encoder of “{project.name}”, "
            f"gives {gives}.",
            "Make a project with the encoder the vectors come from.",
        )
    fingerprint = f"declared:{project.encoder}:{dim}{':l2' if normalised else ''}"
    row = session.exec(select(EncoderRow).where(EncoderRow.fingerprint == fingerprint)).first()
    if row is None:
        row = EncoderRow(
            fingerprint=fingerprint, name=project.encoder, dim=dim, declared=True,
            details={"declared": "the vectors came from outside", "l2_normalised": normalised},
        )  # fmt: skip
        session.add(row)
        session.flush()
    projects.pin_encoder(session, project, row)
    return row


def add_vector(session: Session, project: Project, name: str, vector: Vector) -> tuple[Image, bool]:
    """The image that stands for a (D,) vector without a picture, and whether it is new. In the
    place of a SHA-256 it has the hash of its encoder and values. Raises what `declare_encoder`
    does, and `Invalid` for values that do not fit float16."""
    encoder = declare_encoder(session, project, vector)
    sha256 = hash_of(encoder, vector)
    image = images.by_sha256(session, sha256)
    is_new = image is None
    if image is None:
        image = Image(sha256=sha256, kind="vector", name=name, source_group=sha256[:16])
        session.add(image)
        session.flush()
    store_vectors(session, encoder.id, [(image.id, vector)])
    return image, is_new


def hash_of(encoder: EncoderRow, vector: NDArray[Any]) -> str:
    """What a (D,) vector without a picture has in the place of a SHA-256."""
    return hashlib.sha256(encoder.fingerprint.encode() + vector.astype("<f4").tobytes()).hexdigest()


def declared(session: Session, project: Project) -> bool:
    """Whether the project's vectors came from outside."""
    row = session.get(EncoderRow, project.encoder_id) if project.encoder_id else None
    return row is not None and row.declared


def is_normalised(session: Session, encoder: EncoderRow) -> bool:
    """Whether an encoder's vectors are L2-normalised: as it says, else as a few of them show."""
    if "l2_normalised" in encoder.details:
        return bool(encoder.details["l2_normalised"])
    few = session.exec(
        select(Embedding.vector).where(Embedding.encoder_id == encoder.id).limit(64)
    ).all()
    return are_normalised(np.frombuffer(b"".join(few), "<f2").reshape(len(few), encoder.dim))


def missing(
    encoder_id: int, project_id: int | None, collection_id: int | None = None
) -> SelectOfScalar[Image]:
    """Select of the images with pixels that have no vector under this encoder yet, in a project's
    collections, one collection, or the whole library."""
    query = (
        select(Image)
        .where(Image.kind != "vector")
        .where(
            ~select(Embedding.image_id)
            .where(Embedding.image_id == Image.id, Embedding.encoder_id == encoder_id)
            .exists()
        )
        .order_by(col(Image.id))
    )
    if collection_id is not None:
        member = CollectionImage.collection_id == collection_id
        return query.where(col(Image.id).in_(select(CollectionImage.image_id).where(member)))
    if project_id is not None:
        return query.where(col(Image.id).in_(projects.image_ids(project_id, projects.ANY_ROLE)))
    return query


# --- the job -----------------------------------------------------------------------------------


def run(job: JobContext) -> dict[str, Any]:
    """Embed what is missing for the job's project, or for one collection of it; the active version
    is then asked about the new images. Raises `TurnOver` where others wait."""
    try:
        result = embed_project(job, job.project_id, job.payload.get("collection_id"))
    except jobs.TurnOver:
        queue_predictions(job)
        raise
    if result["embedded"]:
        queue_predictions(job)
    return result


def queue_predictions(job: JobContext) -> None:
    """Let the active version, if there is one, be asked about the new images."""
    active = select(Version.id).where(
        Version.project_id == job.project_id, Version.state == "ready", col(Version.active)
    )
    with job.writing() as session:
        if session.exec(active).first() is not None:
            name = projects.get(session, job.project_id).name
            title = f"Predict the new images of “{name}”"
            jobs.enqueue(session, "predict", title, {}, job.project_id, once=True)


def embed_project(
    job: JobContext, project_id: int, collection_id: int | None = None, batch: int | None = None
) -> dict[str, Any]:
    """Embed what is missing. Images that arrive meanwhile are taken too. `batch` fixes how many
    pictures are encoded at once, which is measured otherwise. Returns the counts. Raises `Conflict`
    for a project whose vectors came from outside, `EncoderUnavailable`, and `TurnOver` where others
    wait."""
    with job.reading() as session:
        project = projects.get(session, project_id)
        from_outside = declared(session, project)
        left = missing(project.encoder_id or 0, project_id, collection_id).limit(1)
        # An import asks before it ends, for what is there, and after: loading would take seconds.
        if project.encoder_id and not from_outside and session.exec(left).first() is None:
            return {"embedded": 0, "set_aside": 0, "encoder": project.encoder}
    if from_outside:
        raise Conflict(
            f"The vectors of “{project.name}” came from outside; pictures cannot be embedded "
            "among them.",
            "Make another project for the pictures.",
        )
    while True:  # loading takes a while, and the project may move to another encoder meanwhile
        encoder, row = load_for(job, name := project.encoder)
        with job.writing() as session:
            project = projects.get(session, project_id)
            if project.encoder == name or project.encoder_id == row.id:
                projects.pin_encoder(session, project, row)
                break
    job.stage("Embedding")
    query = missing(row.id, project_id, collection_id)
    embedded, skipped = embed_images(job, encoder, row, query, batch)
    job.log(f"{embedded} embedded, {len(skipped)} skipped")
    return {"embedded": embedded, "set_aside": len(skipped), "encoder": encoder.spec.name}


def load_for(job: JobContext, name: str) -> tuple[Encoder, EncoderRow]:
    """An encoder, ready to embed with, and its row. Raises `EncoderUnavailable`, `Invalid`."""
    ready_to_compute(job.settings.torch_threads)
    job.stage(f"Loading the encoder {name}")
    with downloads.reported_to(download_of(job, name)):
        encoder = load(parse(name))
    with job.writing() as session:
        return encoder, encoder_row(session, encoder)


def embed_images(
    job: JobContext,
    encoder: Encoder,
    row: EncoderRow,
    wanted: SelectOfScalar[Image],
    batch: int | None = None,
) -> tuple[int, set[int]]:
    """Embed the images of a select that leaves out what has a vector already (`missing`), until it
    has none left. Returns how many were embedded, and the ids of those that could not be. Raises
    `TurnOver` once some were stored, where others wait."""
    embedded, skipped = 0, set[int]()
    while True:
        with job.reading() as session:
            query = wanted
            if skipped:
                query = query.where(col(Image.id).not_in(skipped))
            total = session.exec(select(func.count()).select_from(query.subquery())).one()
            some = list(session.exec(query.limit(PER_ROUND)))
            files = [_readable(session, job, image) for image in some]
        if not some:
            break
        skipped |= {image.id for image, path in zip(some, files, strict=True) if path is None}
        readable = [(i, p) for i, p in zip(some, files, strict=True) if p is not None]
        before = embedded
        usual = [(i.id, p) for i, p in readable if not _is_large(i)]
        large = [(i.id, p) for i, p in readable if _is_large(i)]
        for vectors in itertools.chain(
            portions(_embed(job, encoder, usual, batch, skipped), CHUNK, CHUNK_SECONDS),
            _embed_large(job, encoder, large, skipped),
        ):
            with job.writing() as session:
                store_vectors(session, row.id, vectors)
            embedded += len(vectors)
            job.progress(embedded, total=before + total)
            if embedded < before + total:
                job.give_way()
    return embedded, skipped


def _is_large(image: Image) -> bool:
    return (image.width or 0) * (image.height or 0) > LARGE_PIXELS


def _embed_large(
    job: JobContext, encoder: Encoder, pictures: list[tuple[int, KnownPicture]], skipped: set[int]
) -> Iterator[list[tuple[int, Vector]]]:
    """Large pictures one by one, when all others are stored: if one takes more memory than there
    is, the system may end this process, and then it is known which one it was."""
    for image_id, picture in pictures:
        if image_id in job.died_on:
            ended = "The process was ended from outside while it read this picture, most likely "
            error = BadImage(f"{ended}because memory ran out.", "Save the picture again, smaller.")
            _skip(job, image_id, picture, error, skipped)
            continue
        with job.in_hand(image_id):
            vectors = list(_embed(job, encoder, [(image_id, picture)], 1, skipped))
        if vectors:
            yield vectors


def _skip(
    job: JobContext, image_id: int, picture: KnownPicture, error: BadImage, skipped: set[int]
) -> None:
    skipped.add(image_id)
    job.log(f"skipped {picture.path}: {error}")
    with job.writing() as session:
        images.record_skipped(session, str(picture.path), str(error), job.claim.job_id)


def _embed(
    job: JobContext,
    encoder: Encoder,
    pictures: list[tuple[int, KnownPicture]],
    batch: int | None,
    skipped: set[int],
) -> Iterator[tuple[int, Vector]]:
    """(image id, (D,) vector) of every picture; the ids of those that cannot be decoded join
    `skipped`."""

    def skip(index: int, error: BadImage) -> None:
        _skip(job, *pictures[index], error, skipped)

    files = [picture for _, picture in pictures]
    # Perhaps it was memory that ended the attempt before: small batches, then one at a time.
    batch = 1 if job.attempt > 1 and batch is None else batch
    lanes = 1 if job.attempt > 2 else None
    limits = Limits.of(job.settings)
    for index, vector in embed_files(
        encoder, files, batch=batch, limits=limits, on_error=skip, lanes=lanes, guarded=True
    ):
        if np.isfinite(_stored(vector)).all():
            yield pictures[index][0], vector
        else:
            skip(index, BadImage("The encoder gives no usable vector for this picture."))


def _readable(session: Session, job: JobContext, image: Image) -> KnownPicture | None:
    """The file to embed, with the hash that its bytes must have: it may be changed at any time."""
    try:
        return KnownPicture(images.source_path(session, job.settings, image), image.sha256)
    except NotFound as error:
        job.log(str(error))
        return None


def readable_files(session: Session, job: JobContext, ids: Iterable[int]) -> list[KnownPicture]:
    """The files of these images, of those that are there."""
    found = session.exec(select(Image).where(col(Image.id).in_(list(ids)))).all()
    files = (_readable(session, job, image) for image in found)
    return [file for file in files if file is not None]


def store_vectors(session: Session, encoder_id: int, vectors: Iterable[tuple[int, Vector]]) -> None:
    """Write (image id, (D,) float) pairs; those that are there stay as they are."""
    rows = []
    for image_id, vector in vectors:
        half = _stored(vector)
        if not np.isfinite(half).all():
            raise Invalid(f"The vector of image {image_id} does not fit float16.")
        rows.append({"image_id": image_id, "encoder_id": encoder_id, "vector": half.tobytes()})
    insert_missing(session, Embedding, rows)


def _stored(vector: Vector) -> NDArray[np.float16]:
    """A vector as it is stored; what does not fit becomes infinite."""
    with np.errstate(over="ignore"):
        return vector.astype("<f2")


# --- reading -----------------------------------------------------------------------------------


def count(
    session: Session, encoder_id: int | None, project_id: int, role: str | None = projects.POOL
) -> int:
    """How many images of a project's pool have a vector."""
    if encoder_id is None:
        return 0
    query = select(func.count()).where(
        Embedding.encoder_id == encoder_id,
        col(Embedding.image_id).in_(projects.image_ids(project_id, role)),
    )
    return int(session.exec(query).one())


def matrix(
    session: Session, encoder_id: int, image_ids: Iterable[int] | None = None, after: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
    """(ids (N,) int64 ascending, vectors (N, D) float16) of an encoder: all with an id above
    `after`, or the named images."""
    encoder = session.get_one(EncoderRow, encoder_id)
    query = (
        select(Embedding.image_id, Embedding.vector)
        .where(Embedding.encoder_id == encoder_id, Embedding.image_id > after)
        .order_by(col(Embedding.image_id))
    )
    queries = [query]
    if image_ids is not None:
        named = chunked(sorted(set(image_ids)), IDS_PER_QUERY)
        queries = [query.where(col(Embedding.image_id).in_(some)) for some in named]
    ids: list[int] = []
    blobs: list[bytes] = []
    for part in queries:
        for image_id, vector in session.execute(part):
            ids.append(image_id)
            blobs.append(vector)
    vectors = np.frombuffer(b"".join(blobs), dtype="<f2").reshape(len(ids), encoder.dim)
    return np.asarray(ids, dtype=np.int64), vectors


def project_matrix(
    session: Session, project: Project, encoder_id: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
    """(ids, vectors) of every image in the project's collections that is embedded with an encoder,
    its own by default, those of test runs too: a corrected one teaches, and all are predicted."""
    encoder_id = encoder_id or project.encoder_id
    if encoder_id is None:
        return np.empty(0, np.int64), np.empty((0, 1), np.float16)
    ids = session.exec(projects.image_ids(project.id, projects.ANY_ROLE).distinct())
    return matrix(session, encoder_id, ids)
