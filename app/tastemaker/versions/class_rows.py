"""What a classifier that was trained here says of every image, row by row, beside `Prediction`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from more_itertools import chunked
from numpy.typing import NDArray
from sqlmodel import Session, col, select

from tastemaker.database.sessions import Transactions
from tastemaker.database.statements import insert_missing
from tastemaker.database.tables import ClassPrediction, Image, Version
from tastemaker.learning.class_metrics import ClassRecord, margins, said

ROWS_AT_ONCE = 1000
Floats = NDArray[np.floating[Any]]


def write(
    transactions: Transactions,
    version_id: int,
    record: ClassRecord,
    ids: NDArray[np.int64],
    probabilities: Floats,
    out_of_fold: Floats,
) -> tuple[Floats, Floats, Floats]:
    """Rows for (N,) images; probabilities (N, K) of the classes of the record, out-of-fold ones NaN
    where the version's own are honest. Rows that are there stay. Returns what `Prediction` holds of
    them, each (N,): the probability of what is said, the same out-of-fold, and how unsure that
    is."""
    several = record.labelling == "tags"
    unseen = np.asarray(np.isnan(out_of_fold).any(axis=1))
    honest = np.where(unseen[:, None], probabilities, out_of_fold)
    values = encoded(honest, record)
    lead = margins(honest, several=several)
    for start in range(0, len(ids), ROWS_AT_ONCE):
        part = range(start, min(start + ROWS_AT_ONCE, len(ids)))
        rows = [
            {
                "version_id": version_id,
                "image_id": int(ids[i]),
                "predicted": values[i],
                "margin": float(lead[i]),
                "probabilities": probabilities[i].astype("<f4").tobytes(),
                "out_of_fold": None if unseen[i] else out_of_fold[i].astype("<f4").tobytes(),
            }
            for i in part
        ]
        with transactions.writing() as session:
            insert_missing(session, ClassPrediction, rows)
    own = certainty(probabilities, several)
    return own, np.where(unseen, np.nan, certainty(honest, several)), 1 - lead


def encoded(probabilities: Floats, record: ClassRecord) -> list[int]:
    """(N, K) probabilities as what a label would hold: the number of the likeliest class, or the
    set of the tags."""
    truth = said(probabilities, several=record.labelling == "tags")
    numbers = np.array(record.numbers, np.int64)
    held = truth @ (1 << numbers) if record.labelling == "tags" else numbers[truth.argmax(axis=1)]
    return [int(value) for value in held]


def certainty(probabilities: Floats, several: bool) -> Floats:
    """(N,) the probability of what is said; of tags, of the least certain one."""
    if several:
        return np.asarray(np.maximum(probabilities, 1 - probabilities).min(axis=1))
    return np.asarray(probabilities.max(axis=1))


def of_images(session: Session, version: Version, ids: Sequence[int]) -> dict[int, int]:
    """Image id → what a head that never saw it says, as a label holds it."""
    found: dict[int, int] = {}
    for part in chunked(ids, ROWS_AT_ONCE):
        rows = select(ClassPrediction.image_id, ClassPrediction.predicted).where(
            ClassPrediction.version_id == version.id, col(ClassPrediction.image_id).in_(part)
        )
        found |= dict(session.execute(rows).tuples().all())
    return found


def of_image(session: Session, image_id: int) -> list[ClassPrediction]:
    """What every version says of an image."""
    return list(session.exec(select(ClassPrediction).where(ClassPrediction.image_id == image_id)))


def shares(row: ClassPrediction, record: ClassRecord) -> dict[int, float]:
    """Class number → its honest probability, the likeliest first."""
    held = np.frombuffer(row.out_of_fold or row.probabilities, "<f4")
    pairs = zip(record.numbers, held.tolist(), strict=True)
    return dict(sorted(pairs, key=lambda pair: -pair[1]))


def of_relatives(session: Session, version: Version, ids: NDArray[np.int64]) -> Floats:
    """(N, K) mean out-of-fold probabilities of each image's source group, NaN where none of it
    trained."""
    count = len(version.classes.numbers)
    group_of: dict[int, str] = {}
    known: dict[str, list[NDArray[np.float32]]] = {}
    for batch in chunked(ids.tolist(), 500):
        rows = select(Image.id, Image.source_group).where(col(Image.id).in_(batch))
        group_of |= dict(session.execute(rows).tuples().all())
        groups = list({group_of[image_id] for image_id in batch})
        trained = (
            select(Image.source_group, ClassPrediction.out_of_fold)
            .join(ClassPrediction, col(ClassPrediction.image_id) == Image.id)
            .where(
                ClassPrediction.version_id == version.id,
                col(ClassPrediction.out_of_fold).is_not(None),
                col(Image.source_group).in_(groups),
            )
        )
        for group, held in session.execute(trained):
            known.setdefault(group, []).append(np.frombuffer(held, "<f4"))
    nothing = np.full(count, np.nan, np.float32)
    return np.stack(
        [
            np.mean(known[group_of[i]], axis=0) if group_of[i] in known else nothing
            for i in ids.tolist()
        ]
    )
