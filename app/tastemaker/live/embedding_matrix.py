"""A project's embedded images in the memory of the model process."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from more_itertools import chunked
from numpy.typing import NDArray
from sqlmodel import Session, col, func, select

from tastemaker import embeddings, projects
from tastemaker.database.tables import Embedding, EncoderRow, Image, Project
from tastemaker.learning import posterior

ROWS_AT_ONCE = 20_000


@dataclass(frozen=True)
class EmbeddingMatrix:
    """What about a project's images does not change with a score, rows ascending by image id.

    `x` (N, D) is float16, as stored: a million CLIP vectors take 1.5 GB. `groups` (N,) is equal for
    images of one source; `scorable` (N,) tells which are in a pool collection and have pixels.
    `stamp` tells whether it is still what the database holds.
    """

    stamp: tuple[int, ...]
    ids: NDArray[np.int64]
    x: NDArray[np.float16]
    groups: NDArray[np.intp]
    holdout: NDArray[np.bool_]
    scorable: NDArray[np.bool_]

    @property
    def encoder_id(self) -> int:
        """Whose vectors these are."""
        return self.stamp[0]

    @functools.cached_property
    def projection(self) -> posterior.Projection:
        """Seconds of work on a large library, so only when a fit needs it."""
        return posterior.project(self.x)

    def row_of(self, image_id: int) -> int | None:
        row = int(np.searchsorted(self.ids, image_id))
        return row if row < len(self.ids) and self.ids[row] == image_id else None

    def by_row(self, values: Mapping[int, float]) -> NDArray[np.float64]:
        """(N,) the values, given by image id, in the order of the rows; NaN where there is none."""
        result = np.full(len(self.ids), np.nan)
        if len(self.ids):
            ids = np.fromiter(values, np.int64, len(values))
            rows = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
            known = self.ids[rows] == ids
            result[rows[known]] = np.fromiter(values.values(), np.float64, len(values))[known]
        return result


def load(
    session: Session, project: Project, known: EmbeddingMatrix | None = None
) -> EmbeddingMatrix:
    """The project's embedded images; there may be none. What is in memory already (`known`) is
    kept; only new rows are read."""
    assert project.encoder_id is not None
    stamp = _stamp(session, project)
    if known is not None and known.stamp == stamp:
        return known
    if known is not None and known.encoder_id != project.encoder_id:
        known = None
    images = session.execute(
        select(Image.id, Image.source_group, Image.kind)
        .join(Embedding, col(Embedding.image_id) == Image.id)
        .where(Embedding.encoder_id == project.encoder_id)
        .where(col(Image.id).in_(projects.image_ids(project.id, projects.ANY_ROLE)))
        .order_by(col(Image.id))
    ).all()
    ids = np.array([image_id for image_id, _, _ in images], np.int64)
    pool = session.exec(projects.image_ids(project.id).distinct()).all()
    has_pixels = np.array([kind != "vector" for _, _, kind in images], bool)
    names, groups = np.unique([group for _, group, _ in images], return_inverse=True)
    on_holdout = np.array([projects.on_holdout_side(project, str(name)) for name in names], bool)
    return EmbeddingMatrix(
        stamp=stamp,
        ids=ids,
        x=_vectors(session, project.encoder_id, ids, known),
        groups=groups,
        holdout=on_holdout[groups],
        scorable=np.isin(ids, pool) & has_pixels,
    )


def _stamp(session: Session, project: Project) -> tuple[int, ...]:
    """The encoder, how many images are embedded with it and how many places the pool has, and among
    vectors from outside how many have no picture, each with the sum of the ids: one taken out for
    another brought back, or moved into the pool, changes a sum."""
    embedded = select(func.count(), func.coalesce(func.sum(Embedding.image_id), 0)).where(
        Embedding.encoder_id == project.encoder_id,
        col(Embedding.image_id).in_(projects.image_ids(project.id, projects.ANY_ROLE)),
    )
    pool = projects.image_ids(project.id).subquery()
    in_pool = select(func.count(), func.coalesce(func.sum(pool.c.image_id), 0)).select_from(pool)
    queries = [embedded, in_pool]
    if embeddings.declared(session, project):  # such images may get their pictures later
        queries.append(in_pool.where(Image.id == pool.c.image_id, Image.kind == "vector"))
    counts = (int(n) for query in queries for n in session.execute(query).one())
    return project.encoder_id or 0, *counts


def _vectors(
    session: Session, encoder_id: int, ids: NDArray[np.int64], known: EmbeddingMatrix | None
) -> NDArray[np.float16]:
    """(N, D) float16 in the order of `ids`, read from the database where not in memory yet."""
    fresh = ids if known is None else np.setdiff1d(ids, known.ids)
    encoder = session.get(EncoderRow, encoder_id)
    assert encoder is not None
    x = np.empty((len(ids), encoder.dim), np.float16)
    for part in chunked(fresh.tolist(), ROWS_AT_ONCE):
        part_ids, vectors = embeddings.matrix(session, encoder_id, part)
        x[np.searchsorted(ids, part_ids)] = vectors
    if known is not None:
        kept = np.isin(known.ids, ids)
        x[np.searchsorted(ids, known.ids[kept])] = known.x[kept]
    return x
