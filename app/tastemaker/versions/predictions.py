"""A version's predictions: rows that say what its file says about every image, and, where an image
or a relative was trained on, what a head that never saw it says.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from more_itertools import chunked
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlmodel import Session, col, func, select

from tastemaker import embeddings, jobs, projects, versions
from tastemaker.database.tables import CollectionImage, Embedding, Image, Prediction, Version
from tastemaker.jobs.context import JobContext
from tastemaker.learning.checkpoints import load_checkpoint

# --- a version's rows --------------------------------------------------------------------------

ROWS_AT_ONCE = 1000


def write(
    work: JobContext,
    version_id: int,
    image_ids: np.ndarray,
    scores: np.ndarray,
    out_of_fold: np.ndarray,
    uncertainty: np.ndarray,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Rows for (N,) image ids; `out_of_fold` is NaN where the version's own score is honest. Rows
    that are there stay as they are."""
    for start in range(0, len(image_ids), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        rows = [
            {
                "version_id": version_id,
                "image_id": int(image_id),
                "score": min(max(float(score), 0.0), 1.0),
                "out_of_fold": None if np.isnan(honest) else min(max(float(honest), 0.0), 1.0),
                "uncertainty": float(spread),
            }
            for image_id, score, honest, spread in zip(
                image_ids[part], scores[part], out_of_fold[part], uncertainty[part], strict=True
            )
        ]
        with work.writing() as session:
            postgres = session.get_bind().dialect.name == "postgresql"
            insert = (postgres_insert if postgres else sqlite_insert)(Prediction)
            session.execute(insert.on_conflict_do_nothing(), rows)
        progress(start + len(rows))


def of_images(
    session: Session, version_id: int, image_ids: list[int]
) -> dict[int, tuple[float, float]]:
    """Image id -> (honest score, uncertainty) in [0, 1] of a version."""
    rows = session.exec(
        select(Prediction).where(
            Prediction.version_id == version_id, col(Prediction.image_id).in_(image_ids)
        )
    )
    return {
        row.image_id: (
            row.score if row.out_of_fold is None else row.out_of_fold,
            row.uncertainty,
        )
        for row in rows
    }


# --- images that came after the training -------------------------------------------------------

CHUNK = 4096  # images predicted at once
SAMPLE = 2048  # predicted images that the new ones are compared with
ALIKE = 5  # so many of them lend a new one their uncertainty
UNMEASURED = 0.2  # uncertainty of a head that nothing was measured with: a fifth of the scale


def run(work: JobContext) -> dict[str, Any]:
    """The job “predict”: let the active version speak about images that came after it."""
    with work.reading() as session:
        version = versions.active(session, projects.get(session, work.project_id))
    if version is None:
        return {"predicted": 0}
    return {"predicted": predict_missing(work, version), "version": version.number}


def enqueue_predictions(session: Session, version: Version) -> None:
    """Queue the job “predict” where a version that has just become active, as after going back to
    an older one, has not spoken about every embedded image of its project."""
    if session.exec(_unpredicted(version, None).limit(1)).first() is not None:
        title = f"Predict with {version.number} what came after it"
        jobs.enqueue(session, "predict", title, {}, version.project_id, once=True)


def predict_missing(work: JobContext, version: Version, collection_id: int | None = None) -> int:
    """Predict the embedded images of a version's project, or of one collection, that it has not
    spoken about. Returns how many. Safe to run again, and beside itself.

    A new relative of trained images gets as its out-of-fold score the mean of theirs, since the
    members that never saw them are not kept. The uncertainty is that of the most similar images
    among those predicted before: of the whole spread, the members' part is not kept either.
    """
    with work.reading() as session:
        missing = list(session.exec(_unpredicted(version, collection_id)))
        if not missing:
            return 0
        said_of = _sample_with_uncertainty(session, version)
    work.stage(f"Predicting with {version.number}", len(missing))
    from tastemaker.learning.heads import Head, as_score

    scorer = Head(load_checkpoint(versions.verify(work.settings, version)))
    for start in range(0, len(missing), CHUNK):
        with work.reading() as session:
            ids, x = embeddings.matrix(session, version.encoder_id, missing[start : start + CHUNK])
            honest = _of_relatives(session, version, ids)
        x = x.astype(np.float32)
        write(
            work, version.id, ids, as_score(scorer(x)), honest, _uncertainty_alike(x, *said_of),
            progress=functools.partial(_count, work, start, len(missing)),
        )  # fmt: skip
    return len(missing)


def _count(work: JobContext, before: int, total: int, done: int) -> None:
    work.progress(before + done, total)


def _unpredicted(version: Version, collection_id: int | None) -> Any:
    """Select of the ids of embedded images without a row of this version, ascending."""
    if collection_id is None:
        wanted = projects.image_ids(version.project_id)
    else:
        wanted = select(CollectionImage.image_id).where(
            CollectionImage.collection_id == collection_id
        )
    predicted = (
        select(Prediction.image_id)
        .where(Prediction.version_id == version.id, Prediction.image_id == Embedding.image_id)
        .exists()
    )
    return (
        select(Embedding.image_id)
        .where(Embedding.encoder_id == version.encoder_id, ~predicted)
        .where(col(Embedding.image_id).in_(wanted))
        .order_by(col(Embedding.image_id))
    )


def _of_relatives(session: Session, version: Version, ids: np.ndarray) -> np.ndarray:
    """(N,) mean out-of-fold score of each image's source group, NaN where none of it trained."""
    group_of: dict[int, str] = {}
    known: dict[str, float] = {}
    for batch in chunked(ids.tolist(), 500):
        rows = select(Image.id, Image.source_group).where(col(Image.id).in_(batch))
        group_of |= dict(session.execute(rows).all())
        groups = list({group_of[image_id] for image_id in batch})
        means = (
            select(Image.source_group, func.avg(Prediction.out_of_fold))
            .join(Prediction, col(Prediction.image_id) == Image.id)
            .where(Prediction.version_id == version.id, col(Prediction.out_of_fold).is_not(None))
            .where(col(Image.source_group).in_(groups))
            .group_by(col(Image.source_group))
        )
        known |= dict(session.execute(means).all())
    return np.array([known.get(group_of[i], np.nan) for i in ids.tolist()], np.float64)


def _sample_with_uncertainty(session: Session, version: Version) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (M, D) and uncertainties (M,) of some images the version was measured beside;
    with nothing predicted yet, no vectors and one general uncertainty."""
    rows = session.execute(
        select(Prediction.image_id, Prediction.uncertainty)
        .where(Prediction.version_id == version.id)
        .order_by(col(Prediction.image_id))
    ).all()
    if not rows:
        noise = version.metrics.get("noise")
        return np.empty((0, 0), np.float32), np.array([noise or UNMEASURED])
    chosen = np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(int)
    spread = {rows[i][0]: rows[i][1] for i in chosen.tolist()}
    ids, x = embeddings.matrix(session, version.encoder_id, spread)
    return _unit(x.astype(np.float32)), np.array([spread[i] for i in ids.tolist()])


def _uncertainty_alike(x: np.ndarray, known: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """(N,) mean uncertainty of the most similar of the known images."""
    if not len(known):
        return np.full(len(x), spread.mean())
    n = min(ALIKE, len(known))
    nearest = np.argpartition(-(_unit(x) @ known.T), n - 1, axis=1)[:, :n]
    return spread[nearest].mean(axis=1)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
