"""One vector per (image, encoder fingerprint): compute the missing ones, read them as a matrix.

Vectors are kept as float16, not L2-normalised. Nothing is ever recomputed that is there, so a
stopped job goes on where it was.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Select
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlmodel import Session, col, func, select

from tastemaker import images, jobs, projects
from tastemaker.database.tables import (
    CollectionImage,
    Embedding,
    EncoderRow,
    Image,
    Project,
    Version,
)
from tastemaker.encoding.embedding_files import are_normalised
from tastemaker.encoding.encode_files import embed_files
from tastemaker.encoding.encoders import load, parse
from tastemaker.errors import Conflict, Invalid, NotFound
from tastemaker.jobs.context import JobContext
from tastemaker.pictures.pictures import Limits

CHUNK = 64  # vectors written in one transaction: what a crash can cost


# --- which images, which encoder ---------------------------------------------------------------


def encoder_row(session: Session, encoder: Any) -> EncoderRow:
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


def declare_encoder(session: Session, project: Project, vector: np.ndarray) -> EncoderRow:
    """The encoder that a (D,) vector from outside is said to come from: the project's, by name
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


def missing(encoder_id: int, project_id: int | None, collection_id: int | None = None) -> Any:
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
    wanted: Select[Any] | None = None
    if collection_id is not None:
        wanted = select(CollectionImage.image_id).where(
            CollectionImage.collection_id == collection_id
        )
    elif project_id is not None:
        wanted = projects.image_ids(project_id)
    return query if wanted is None else query.where(col(Image.id).in_(wanted))


# --- the job -----------------------------------------------------------------------------------


def run(work: JobContext) -> dict[str, Any]:
    """Embed what is missing for the job's project, or for one collection of it; the active version
    is then asked about the new images."""
    done = embed_project(work, work.project_id, work.payload.get("collection_id"))
    if done["embedded"]:
        with work.writing() as session:
            _queue_predictions(session, projects.get(session, work.project_id))
    return done


def _queue_predictions(session: Session, project: Project) -> None:
    active = select(Version.id).where(
        Version.project_id == project.id, Version.state == "ready", col(Version.active)
    )
    if session.exec(active).first() is not None:
        title = f"Predict the new images of “{project.name}”"
        jobs.enqueue(session, "predict", title, {}, project.id, once=True)


def embed_project(
    work: JobContext, project_id: int, collection_id: int | None = None, batch: int | None = None
) -> dict[str, Any]:
    """Embed what is missing. Images that arrive meanwhile are taken too. `batch` fixes how many
    pictures are encoded at once, which is measured otherwise."""
    import torch

    torch.set_num_threads(work.settings.torch_threads or torch.get_num_threads())
    with work.reading() as session:
        project = projects.get(session, project_id)
        from_outside = declared(session, project)
    if from_outside:
        raise Conflict(
            f"The vectors of “{project.name}” came from outside; pictures cannot be embedded "
            "among them.",
            "Make another project for the pictures.",
        )
    work.stage(f"Loading the encoder {project.encoder}")
    encoder = load(parse(project.encoder))
    with work.writing() as session:
        row = encoder_row(session, encoder)
        projects.pin_encoder(session, projects.get(session, project_id), row)
    work.stage("Embedding")
    limits = Limits.of(work.settings)
    # Perhaps it was memory that ended the attempt before: small batches, then one at a time.
    batch = 1 if work.attempt > 1 and batch is None else batch
    lanes = 1 if work.attempt > 2 else None
    embedded = skipped = 0
    failed: set[int] = set()
    while True:
        with work.reading() as session:
            query = missing(row.id, project_id, collection_id)
            if failed:
                query = query.where(col(Image.id).not_in(failed))
            total = session.exec(select(func.count()).select_from(query.subquery())).one()
            todo = list(session.exec(query.limit(4096)))
            paths = [_readable(session, work, image) for image in todo]
        if not todo:
            break
        for image, path in zip(todo, paths, strict=True):
            if path is None:
                failed.add(image.id)
        ready = [(i, p) for i, p in zip(todo, paths, strict=True) if p is not None]
        pending: list[tuple[int, np.ndarray]] = []
        before = embedded

        def on_error(index: int, error: Exception, ready: list[Any] = ready) -> None:
            image, path = ready[index]
            failed.add(image.id)
            work.log(f"set aside {path}: {error}")
            with work.writing() as session:
                images.set_aside(session, str(path), str(error), work.claim.job_id)

        files = [path for _, path in ready]
        for index, vector in embed_files(
            encoder, files, batch=batch, limits=limits, on_error=on_error, lanes=lanes
        ):
            pending.append((ready[index][0].id, vector))
            if len(pending) >= CHUNK:
                embedded += _flush(work, row.id, pending)
                work.progress(embedded, total=before + total)
        embedded += _flush(work, row.id, pending)
        work.progress(embedded, total=before + total)
    skipped = len(failed)
    work.log(f"{embedded} embedded, {skipped} set aside")
    return {"embedded": embedded, "set_aside": skipped, "encoder": encoder.spec.name}


def _readable(session: Session, work: JobContext, image: Image) -> Path | None:
    try:
        return images.source_path(session, work.settings, image)
    except NotFound as error:
        work.log(str(error))
        return None


def _flush(work: JobContext, encoder_id: int, pending: list[tuple[int, np.ndarray]]) -> int:
    if not pending:
        return 0
    with work.writing() as session:
        store_vectors(session, encoder_id, pending)
    written = len(pending)
    pending.clear()
    return written


def store_vectors(
    session: Session, encoder_id: int, vectors: Iterable[tuple[int, np.ndarray]]
) -> None:
    """Write (image id, (D,) float) pairs; those that are there stay as they are."""
    rows = []
    for image_id, vector in vectors:
        with np.errstate(over="ignore"):  # told below, in words
            half = vector.astype("<f2")
        if not np.isfinite(half).all():
            raise Invalid(f"The vector of image {image_id} does not fit float16.")
        rows.append({"image_id": image_id, "encoder_id": encoder_id, "vector": half.tobytes()})
    if rows:
        postgres = session.get_bind().dialect.name == "postgresql"
        insert = postgres_insert if postgres else sqlite_insert
        session.execute(insert(Embedding).values(rows).on_conflict_do_nothing())


# --- reading -----------------------------------------------------------------------------------


def count(session: Session, encoder_id: int | None, project_id: int) -> int:
    """How many images of a project have a vector."""
    if encoder_id is None:
        return 0
    query = select(func.count()).where(
        Embedding.encoder_id == encoder_id,
        col(Embedding.image_id).in_(projects.image_ids(project_id)),
    )
    return int(session.exec(query).one())


def matrix(
    session: Session, encoder_id: int, image_ids: Iterable[int] | None = None, after: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """(ids (N,) int64 ascending, vectors (N, D) float16) of an encoder: all with an id above
    `after`, or the named images."""
    dim = session.get(EncoderRow, encoder_id).dim  # type: ignore[union-attr]
    if image_ids is None:
        batches: Iterator[list[int] | None] = iter([None])
    else:
        wanted = sorted(set(image_ids))
        batches = (wanted[i : i + 5000] for i in range(0, len(wanted), 5000))
    ids: list[int] = []
    blobs: list[bytes] = []
    for batch in batches:
        query = (
            select(Embedding.image_id, Embedding.vector)
            .where(Embedding.encoder_id == encoder_id, Embedding.image_id > after)
            .order_by(col(Embedding.image_id))
        )
        if batch is not None:
            query = query.where(col(Embedding.image_id).in_(batch))
        for image_id, vector in session.execute(query):
            ids.append(image_id)
            blobs.append(vector)
    vectors = np.frombuffer(b"".join(blobs), dtype="<f2").reshape(len(ids), dim)
    return np.asarray(ids, dtype=np.int64), vectors


def project_matrix(session: Session, project: Project) -> tuple[np.ndarray, np.ndarray]:
    """(ids, vectors) of every embedded image in the project's collections."""
    if project.encoder_id is None:
        return np.empty(0, np.int64), np.empty((0, 1), np.float16)
    ids = session.exec(projects.image_ids(project.id).distinct())
    return matrix(session, project.encoder_id, ids)
