"""The labelled images nearest to an image: what a person thinks of its like.

The web process answers this at every card, for any image, also before there is a live model. It
keeps a sketch of each labelled vector: its direction on a few random axes, 512 bytes. The sketch
finds a dozen candidates (Johnson & Lindenstrauss 1984), whose exact vectors then decide.
"""

import functools
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from cachetools import LRUCache
from more_itertools import chunked
from numpy.typing import NDArray
from sqlmodel import Session, col, select

from tastemaker import embeddings
from tastemaker.config import Settings
from tastemaker.database.tables import Label, Project
from tastemaker.scores.labels import values_of

AXES = 128
SHORTLIST = 12  # candidates per image that are compared exactly
LOOK_AGAIN = 5.0  # seconds
ROWS_AT_ONCE = 4096

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Neighbour:
    """A labelled image, its label in 0–10, and the cosine to the image it is a neighbour of."""

    image_id: int
    score: float
    similarity: float


@dataclass
class _Known:
    """Sketches of the labelled images of a project. Labels that go stay in it: a look at the
    label table, which every answer needs anyway, leaves them out."""

    event: int = 0  # labels up to this event are in, or among those without an embedding
    without: set[int] = field(default_factory=set)
    looked_again: float = 0.0  # when embeddings of these were last asked for
    ids: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    sketch: Array = field(default_factory=lambda: np.empty((0, AXES), np.float32))
    lock: threading.Lock = field(default_factory=threading.Lock)


_projects: LRUCache[tuple[Path, int, int, int], _Known] = LRUCache(64)
_lock = threading.Lock()


def nearest(
    session: Session, settings: Settings, project: Project, image_ids: list[int], count: int = 3
) -> dict[int, list[Neighbour]]:
    """Up to `count` labelled images for each image, nearest by cosine first. An image without an
    embedding, or in a project without labels, has none."""
    if project.encoder_id is None or not image_ids:
        return {}
    with _lock:
        known = _projects.setdefault(
            (settings.root, project.id, project.encoder_id, project.seed), _Known()
        )
    with known.lock:
        _learn(session, project, known)
        known_ids, sketch = known.ids, known.sketch
    if not len(known_ids):
        return {}
    embedded, vectors = embeddings.matrix(session, project.encoder_id, image_ids)
    if not len(embedded):
        return {}
    directions = _directions(vectors)
    likeness = (directions @ _axes(directions.shape[1])) @ sketch.T
    likeness[embedded[:, None] == known_ids] = -np.inf
    short = min(SHORTLIST, likeness.shape[1])
    candidates = known_ids[np.argpartition(likeness, -short, axis=1)[:, -short:]]

    wanted = np.unique(candidates).tolist()
    labels = values_of(session, project.id, wanted)
    exact_ids, exact = embeddings.matrix(session, project.encoder_id, list(labels))
    found: dict[int, list[Neighbour]] = {}
    if not len(exact_ids):
        return found
    cosines = directions @ _directions(exact).T
    for image_id, mine, cosine in zip(embedded.tolist(), candidates, cosines, strict=True):
        cosine = np.where(np.isin(exact_ids, mine) & (exact_ids != image_id), cosine, -np.inf)
        best = np.argsort(-cosine, kind="stable")[:count]
        found[image_id] = [
            Neighbour(int(exact_ids[i]), labels[int(exact_ids[i])], round(float(cosine[i]), 4))
            for i in best
            if np.isfinite(cosine[i])
        ]
    return found


def _learn(session: Session, project: Project, known: _Known) -> None:
    """Sketch what was labelled since the last look. What has no embedding yet is asked for again
    after a while: in a library that is still being embedded that may be most of it."""
    assert project.encoder_id is not None
    fresh = session.execute(
        select(Label.image_id, Label.event_id)
        .where(Label.project_id == project.id, Label.event_id > known.event)
        .order_by(col(Label.event_id))
    ).all()
    todo = set(np.setdiff1d([image_id for image_id, _ in fresh], known.ids).tolist())
    known.event = fresh[-1][1] if fresh else known.event
    if known.without and time.monotonic() - known.looked_again >= LOOK_AGAIN:
        todo |= known.without
        known.looked_again = time.monotonic()
    if not todo:
        return
    known.without |= todo
    wanted = sorted(todo)
    for part in chunked(wanted, ROWS_AT_ONCE):
        ids, vectors = embeddings.matrix(session, project.encoder_id, part)
        directions = _directions(vectors)
        sketch = directions @ _axes(directions.shape[1])
        known.ids = np.concatenate([known.ids, ids])
        known.sketch = np.concatenate([known.sketch, sketch])
        known.without -= set(ids.tolist())


def _directions(vectors: NDArray[np.float16]) -> Array:
    """The vectors with length 1."""
    wide = vectors.astype(np.float32)
    unit: Array = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    return unit


@functools.lru_cache(maxsize=8)
def _axes(dim: int) -> Array:
    """Random axes (dim, AXES), always the same ones."""
    drawn = np.random.default_rng(dim).standard_normal((dim, AXES), np.float32)
    return drawn / np.float32(AXES**0.5)
