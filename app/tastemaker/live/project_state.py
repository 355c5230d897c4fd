"""A project's embedded images in the memory of the resident process."""

from dataclasses import dataclass

import numpy as np
from sqlmodel import Session, col, func, select

from tastemaker import embeddings, projects
from tastemaker.database.tables import Embedding, EncoderRow, Image, Project
from tastemaker.learning.ridge import Projection, project

ROWS_AT_ONCE = 20_000


@dataclass(frozen=True)
class EmbeddingMatrix:
    """What about a project's images does not change with a score, rows ascending by image id.

    `x` (N, D) is float16, as stored: a million CLIP vectors take 1.5 GB. `stamp` tells whether it
    is still what the database holds.
    """

    stamp: tuple[int, ...]
    ids: np.ndarray
    x: np.ndarray
    groups: np.ndarray
    holdout: np.ndarray
    shown: np.ndarray  # in a pool collection, with pixels
    projection: Projection

    def rows_of(self, values: dict[int, float]) -> dict[int, float]:
        """The same values by row instead of image id, leaving out images without a vector."""
        wanted = np.array(sorted(values), np.int64)
        at = np.searchsorted(self.ids, wanted)
        inside = at < len(self.ids)
        inside[inside] = self.ids[at[inside]] == wanted[inside]
        pairs = zip(at[inside].tolist(), wanted[inside].tolist(), strict=True)
        return {row: values[image_id] for row, image_id in pairs}


def load(session: Session, found: Project, known: EmbeddingMatrix | None) -> EmbeddingMatrix | None:
    """The project's images, None while none is embedded. What is in memory already (`known`) is
    kept; only new rows are read."""
    assert found.encoder_id is not None
    mine = projects.image_ids(found.id)
    stamp = _stamp(session, found)
    if known is not None and known.stamp == stamp:
        return known
    if not stamp[0]:
        return None
    facts = session.execute(
        select(Image.id, Image.source_group, Image.kind)
        .join(Embedding, col(Embedding.image_id) == Image.id)
        .where(Embedding.encoder_id == found.encoder_id, col(Image.id).in_(mine))
        .order_by(col(Image.id))
    ).all()
    ids = np.array([image_id for image_id, _, _ in facts], np.int64)
    pool = session.exec(projects.image_ids(found.id, "pool").distinct()).all()
    with_pixels = np.array([kind != "vector" for _, _, kind in facts], bool)
    names, groups = np.unique([group for _, group, _ in facts], return_inverse=True)
    held = np.array([projects.on_holdout_side(found, str(name)) for name in names], bool)
    x = _vectors(session, found.encoder_id, ids, known)
    return EmbeddingMatrix(
        stamp=stamp,
        ids=ids,
        x=x,
        groups=groups,
        holdout=held[groups],
        shown=np.isin(ids, pool) & with_pixels,
        projection=project(x),
    )


def _stamp(session: Session, found: Project) -> tuple[int, ...]:
    """How many images are embedded and how many places the pool has, each with the sum of the ids:
    one taken out for another brought back, or moved into the pool, changes a sum."""
    embedded = select(func.count(), func.coalesce(func.sum(Embedding.image_id), 0)).where(
        Embedding.encoder_id == found.encoder_id,
        col(Embedding.image_id).in_(projects.image_ids(found.id)),
    )
    pool = projects.image_ids(found.id, "pool").subquery()
    in_pool = select(func.count(), func.coalesce(func.sum(pool.c.image_id), 0)).select_from(pool)
    return tuple(int(n) for query in (embedded, in_pool) for n in session.execute(query).one())


def _vectors(
    session: Session, encoder_id: int, ids: np.ndarray, known: EmbeddingMatrix | None
) -> np.ndarray:
    """(N, D) float16 in the order of `ids`, read from the database where not in memory yet."""
    fresh = ids if known is None else np.setdiff1d(ids, known.ids)
    encoder = session.get(EncoderRow, encoder_id)
    assert encoder is not None
    x = np.empty((len(ids), encoder.dim), np.float16)
    for start in range(0, len(fresh), ROWS_AT_ONCE):
        part = fresh[start : start + ROWS_AT_ONCE].tolist()
        read, vectors = embeddings.matrix(session, encoder_id, part)
        x[np.searchsorted(ids, read)] = vectors
    if known is not None:
        kept = np.isin(known.ids, ids)
        x[np.searchsorted(ids, known.ids[kept])] = known.x[kept]
    return x
