"""A version's predictions: rows that hold what its file gives every image, and, where an image or a
relative was trained on, what a head gives that never saw it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from more_itertools import chunked
from numpy.typing import NDArray
from sqlmodel import Session, col, delete, func, or_, select
from sqlmodel.sql.expression import SelectOfScalar

from tastemaker import embeddings, jobs, projects, versions
from tastemaker.config import Settings
from tastemaker.database.sessions import Transactions
from tastemaker.database.statements import insert_missing
from tastemaker.database.tables import (
    ClassPrediction,
    CollectionImage,
    Embedding,
    Image,
    Job,
    Prediction,
    Version,
    VersionLabel,
)
from tastemaker.jobs.context import JobContext
from tastemaker.jobs.progress import Progress
from tastemaker.learning.checkpoints import load_checkpoint
from tastemaker.learning.class_metrics import ClassRecord
from tastemaker.versions import class_rows

Floats = NDArray[np.floating[Any]]
Ids = NDArray[np.int64]
# (n, D) vectors, and their row numbers -> score, out-of-fold score, uncertainty, each (n,); of a
# classifier the probabilities and those out-of-fold, each (n, K)
Predict = Callable[[NDArray[np.float32], slice], tuple[Floats, ...]]

# --- a version's rows --------------------------------------------------------------------------

ROWS_AT_ONCE = 1000
CHUNK = 4096  # images predicted at once


def replace_all(
    transactions: Transactions,
    version: Version,
    ids: Ids,
    x: NDArray[np.floating[Any]],
    predict: Predict,
    report: Progress,
    record: ClassRecord | None = None,
) -> None:
    """Predict (N,) images of vectors (N, D) with a version that is not published yet; what an
    earlier attempt at it had predicted goes. `record` is that of a classifier."""
    with transactions.writing() as session:
        for table in (Prediction, ClassPrediction):
            session.execute(delete(table).where(col(table.version_id) == version.id))
    report.stage("Predicting every image", len(ids))
    for start in range(0, len(ids), CHUNK):
        part = slice(start, start + CHUNK)
        rows = predict(x[part].astype(np.float32), part)
        if record is not None:
            rows = class_rows.write(transactions, version.id, record, ids[part], *rows)
        write(transactions, version.id, ids[part], *rows)
        report.progress(min(start + CHUNK, len(ids)), len(ids))


def write(
    transactions: Transactions,
    version_id: int,
    image_ids: Ids,
    scores: Floats,
    out_of_fold: Floats,
    uncertainty: Floats,
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
        with transactions.writing() as session:
            insert_missing(session, Prediction, rows)


def of_images(
    session: Session, version_id: int, image_ids: list[int]
) -> dict[int, tuple[float, float]]:
    """Image id -> (honest score, uncertainty) in [0, 1] of a version."""
    rows = session.execute(
        select(Prediction.image_id, Prediction.honest, Prediction.uncertainty).where(
            Prediction.version_id == version_id, col(Prediction.image_id).in_(image_ids)
        )
    )
    return {image_id: (score, uncertainty) for image_id, score, uncertainty in rows}


def honest(session: Session, version: Version, image_ids: list[int]) -> dict[int, float]:
    """Image id -> the score in [0, 1] by a head of the version that never saw the image, for those
    of which there is one."""
    scores: dict[int, float] = {}
    trained = (
        select(VersionLabel.image_id)
        .where(
            VersionLabel.version_id == version.id,
            VersionLabel.image_id == Prediction.image_id,
            VersionLabel.side == "train",
        )
        .exists()
    )
    for part in chunked(image_ids, ROWS_AT_ONCE):
        rows = session.execute(
            select(Prediction.image_id, Prediction.honest).where(
                Prediction.version_id == version.id,
                col(Prediction.image_id).in_(part),
                or_(col(Prediction.out_of_fold).is_not(None), ~trained),
            )
        )
        scores |= {image_id: float(score) for image_id, score in rows}
    return scores


# --- what share of the images a score stands for -------------------------------------------------

TOPS = (1, 2, 5, 10, 20, 25, 50)  # percent of the images


@dataclass(frozen=True)
class Percentiles:
    """`scores[p]` (101 numbers, rising, in 0–1): so that p percent of the `images` score below.

    Scores of different versions spread differently: 60 % may be the best tenth of one and the best
    third of another. “The best tenth” means the same for all."""

    images: int
    scores: tuple[float, ...]

    def top(self, percent: int) -> float:
        """The lowest score among the best `percent` percent."""
        return self.scores[100 - percent]

    def as_dict(self) -> dict[str, Any]:
        return {"images": self.images, "scores": list(self.scores)}


def percentiles(session: Session, version: Version) -> Percentiles | None:
    """Over the project's images that the version has predicted; None before the first."""
    scores = all_scores(session, version)
    if not len(scores):
        return None
    at = np.percentile(scores, np.arange(101))
    return Percentiles(len(scores), tuple(round(float(score), 6) for score in at))


def all_scores(session: Session, version: Version) -> NDArray[np.float64]:
    """(N,) what the version's file gives the project's images it has predicted, in 0–1, in no
    order; without those that it was only tried on."""
    query = select(Prediction.score).where(
        Prediction.version_id == version.id,
        col(Prediction.image_id).not_in(projects.outside_the_pool(version.project_id)),
    )
    return np.fromiter(session.exec(query), np.float64)


SHARES = (
    (0, "lowest tenth"), (10, "10–25 % of the images"), (25, "25–50 %"), (50, "upper half"),
    (75, "best quarter"), (90, "best tenth"), (98, "best 2 %"),
)  # fmt: skip


def suggested_brackets(session: Session, version: Version) -> list[tuple[int, str]]:
    """Brackets (lower end in whole percent, name) at the percentiles of the version's predictions;
    none before the first. Where two fall together, the higher one stays."""
    spread = percentiles(session, version)
    if spread is None:
        return []
    starts = {}
    for percent, name in SHARES:
        start = 0 if percent == 0 else round(100 * spread.scores[percent])
        starts[min(start, 99)] = name
    return list(starts.items())


# --- images that came after the training -------------------------------------------------------

SAMPLE = 2048  # predicted images that the new ones are compared with
ALIKE = 5  # so many of them lend a new one their uncertainty
UNMEASURED = 0.2  # uncertainty of a head that nothing was measured with: a fifth of the scale


def run(job: JobContext) -> dict[str, Any]:
    """The job “predict”: the active version predicts the images that came after it."""
    with job.reading() as session:
        version = versions.active(session, projects.get(session, job.project_id))
    if version is None:
        return {"predicted": 0}
    predicted = predict_missing(job, job.settings, version, report=job)
    return {"predicted": predicted, "version": version.number}


def activate_by_hand(session: Session, settings: Settings, version: Version) -> Job | None:
    """Make a version the active one by hand, or go back to it: only while its file is the one that
    was published. Returns the job that predicts images that came after its training, if any did."""
    versions.verify(settings, version)
    versions.activate(session, version)
    if session.exec(_unpredicted(version, None).limit(1)).first() is not None:
        title = f"Predict with {version.number} what came after it"
        return jobs.enqueue(session, "predict", title, {}, version.project_id, once=True)
    return None


def predict_missing(
    transactions: Transactions,
    settings: Settings,
    version: Version,
    collection_id: int | None = None,
    *,
    report: Progress,
) -> int:
    """Predict the embedded images of a version's project, or of one collection, that it has not
    predicted yet. Returns how many. Safe to run again, and beside itself.

    A new relative of trained images gets as its out-of-fold score the mean of theirs, since the
    members that never saw them are not kept. The uncertainty is that of the most similar images
    among those predicted before: of the whole spread, the members' part is not kept either.
    """
    with transactions.reading() as session:
        missing = list(session.exec(_unpredicted(version, collection_id)))
        if not missing:
            return 0
        classifies = bool(version.classes.numbers)
        if not classifies:
            known, spread = _sample_with_uncertainty(session, version)
    report.stage(f"Predicting with {version.number}", len(missing))
    from tastemaker.learning.heads import Head, as_score  # torch: for a job's process alone

    scorer = Head(load_checkpoint(versions.verify(settings, version)))
    for start in range(0, len(missing), CHUNK):
        with transactions.reading() as session:
            ids, half = embeddings.matrix(
                session, version.encoder_id, missing[start : start + CHUNK]
            )
            relatives = class_rows.of_relatives if classifies else _of_relatives
            unseen = relatives(session, version, ids)
        x = half.astype(np.float32)
        if classifies:
            rows = class_rows.write(
                transactions, version.id, version.classes, ids, scorer(x), unseen
            )
            write(transactions, version.id, ids, *rows)
            report.progress(start + len(ids), len(missing))
            continue
        write(
            transactions, version.id, ids, as_score(scorer(x)), unseen,
            _uncertainty_alike(x, known, spread),
        )  # fmt: skip
        report.progress(start + len(ids), len(missing))
    return len(missing)


def _unpredicted(version: Version, collection_id: int | None) -> SelectOfScalar[int]:
    """Select of the ids of embedded images without a row of this version, ascending."""
    if collection_id is None:
        wanted = projects.image_ids(version.project_id, projects.ANY_ROLE)
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


def _of_relatives(session: Session, version: Version, ids: Ids) -> NDArray[np.float64]:
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


def _sample_with_uncertainty(
    session: Session, version: Version
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Unit vectors (M, D) and uncertainties (M,) of some images the version was measured beside;
    with nothing predicted yet, no vectors and one general uncertainty."""
    rows = session.execute(
        select(Prediction.image_id, Prediction.uncertainty)
        .where(Prediction.version_id == version.id)
        .order_by(col(Prediction.image_id))
    ).all()
    if not rows:
        return np.empty((0, 0), np.float32), np.array([version.metrics.noise or UNMEASURED])
    chosen = np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(int)
    spread = {rows[i][0]: rows[i][1] for i in chosen.tolist()}
    ids, x = embeddings.matrix(session, version.encoder_id, spread)
    return _unit(x.astype(np.float32)), np.array([spread[i] for i in ids.tolist()])


def _uncertainty_alike(
    x: NDArray[np.float32], known: NDArray[np.float32], spread: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(N,) mean uncertainty of the most similar of the known images."""
    if not len(known):
        return np.full(len(x), spread.mean())
    n = min(ALIKE, len(known))
    nearest = np.argpartition(-(_unit(x) @ known.T), n - 1, axis=1)[:, :n]
    uncertainty: NDArray[np.float64] = spread[nearest].mean(axis=1)
    return uncertainty


def _unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return unit
