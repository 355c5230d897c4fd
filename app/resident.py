"""The resident model process: embeddings in memory, the live model refitted after every few
scores, and with it the queue.

For each project it notices new score events and new embeddings, fits the ridge on the labels that
may train, judges every labelled image by the fit without its group, every other one by the whole
fit, decides what to show next and whom to suspect, and replaces the project's live files.
"""

import logging
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sqlalchemy import Engine
from sqlmodel import col, func, select
from threadpoolctl import threadpool_limits

from app import db, embeddings, projects, scores
from app.config import Settings
from app.errors import NotTrainable
from app.predictions import LIVE_ROW, write_live
from app.ridge import Projection, Ridge, fit_ridge, posterior_sd, project
from app.selection import Side, mixed, suspected
from app.tables import Embedding, Image, Job, Label, Project, ScoreEvent
from app.work import settle_in

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
REST_SECONDS = 1.0  # between two refits of a project: scoring goes on meanwhile
PATIENCE = 10  # while only embeddings arrive, a refit may take this share of the time (1 ÷ 10)
BATCH = 64  # picks decided at once; the next refit replaces those not shown
SUSPECTS = 200
SUSPECT_SECONDS = 10.0  # between two searches, which compare every image with every label
TWIN = 0.5  # closeness from which a labelled neighbour is worth naming (1: the same picture)


@dataclass(frozen=True)
class Library:
    """A project's embedded images in memory, rows ascending by image id, and what about them does
    not change with a score. `stamp` tells whether it is still what the database holds."""

    stamp: tuple[int, int]
    ids: np.ndarray
    x: np.ndarray
    groups: np.ndarray
    holdout: np.ndarray
    shown: np.ndarray  # in a pool collection, with pixels
    projection: Projection


@dataclass(frozen=True)
class Stamp:
    """All that the live model and its picks follow."""

    event: int  # the newest score event
    threshold: float
    embedding: int  # the newest image that is embedded
    arrival: int  # the newest finished job: it may have brought images or vectors


@dataclass
class Watched:
    """What was true when a project was last refitted, and how long that took."""

    stamp: Stamp | None = None
    at: float = 0.0
    took: float = 0.0
    library: Library | None = None
    suspected_at: float = -SUSPECT_SECONDS
    suspects: dict[str, Any] = field(default_factory=dict)

    def is_due(self, stamp: Stamp) -> bool:
        if stamp == self.stamp:
            return False
        said = self.stamp is None or (stamp.event, stamp.threshold) != (
            self.stamp.event,
            self.stamp.threshold,
        )
        rest = REST_SECONDS if said else max(REST_SECONDS, PATIENCE * self.took)
        return time.monotonic() - self.at >= rest


def main(settings: Settings) -> None:
    """Entry point of the process; ends with its parent."""
    settle_in()
    threadpool_limits(1)  # on two busy cores a second thread costs more time than it saves
    engine = db.make_engine(settings)
    watched: dict[int, Watched] = {}
    while True:
        try:
            look_around(settings, engine, watched)
        except Exception:  # one project's trouble must not end the others' live models
            log.exception("the live model could not be refitted")
        threading.Event().wait(POLL_SECONDS)


def look_around(settings: Settings, engine: Engine, watched: dict[int, Watched]) -> None:
    """Refit each project that has new scores or new embeddings."""
    with db.reading(engine) as session:
        found = [(p.id, _stamp(session, p)) for p in projects.every(session) if p.encoder_id]
    for project_id, stamp in found:
        seen = watched.setdefault(project_id, Watched())
        if seen.is_due(stamp):
            began = time.monotonic()
            refit(settings, engine, project_id, seen)
            seen.stamp, seen.at, seen.took = stamp, time.monotonic(), time.monotonic() - began


def _stamp(session: Any, found: Project) -> Stamp:
    embedded = select(func.max(Embedding.image_id)).where(Embedding.encoder_id == found.encoder_id)
    finished = select(func.max(Job.id)).where(
        Job.state == "done", col(Job.kind).in_(("import", "embed"))
    )
    return Stamp(
        event=scores.highest_event(session, found),
        threshold=found.threshold,
        embedding=int(session.exec(embedded).one() or 0),
        arrival=int(session.exec(finished).one() or 0),
    )


# --- one refit ---------------------------------------------------------------------------------


def refit(
    settings: Settings, engine: Engine, project_id: int, seen: Watched | None = None
) -> dict[str, Any]:
    """Fit the live model of a project on the scores as they stand, and replace its live files.
    Returns the facts written beside the array; nothing while no image is embedded."""
    seen = seen or Watched()
    began = time.monotonic()
    with db.reading(engine) as session:
        found = projects.get(session, project_id)
        event_high = scores.highest_event(session, found)
        library = seen.library = _library(session, found, seen.library)
        labels = session.execute(
            select(Label.image_id, Label.value).where(Label.project_id == project_id)
        ).all()
        spoken_of = session.exec(
            scores.standing_events()
            .with_only_columns(ScoreEvent.image_id)
            .where(ScoreEvent.project_id == project_id)
        ).all()
    if library is None:
        return {}
    values = np.full(len(library.ids), np.nan)
    for at, value in _rows_of(library, dict(labels)).items():
        values[at] = value / 10
    train = np.flatnonzero(~np.isnan(values) & ~library.holdout)
    free = library.shown & ~np.isin(library.ids, spoken_of)

    ridge, rows = _fit(library, values, train)
    if began - seen.suspected_at >= SUSPECT_SECONDS:
        seen.suspects = _suspects(found, library, rows, train, values, free, ridge)
        seen.suspected_at = began
    facts = {
        "event_high": event_high,
        "labels": len(train),
        "queue": _queue(found, library, rows, train, free, event_high, ridge),
        "suspected": seen.suspects,
        "noise": ridge.noise if ridge else None,
        "penalty": ridge.penalty if ridge else None,
        "seconds": round(time.monotonic() - began, 4),
    }
    write_live(settings, project_id, rows, facts)
    return facts


def _rows_of(library: Library, values: dict[int, float]) -> dict[int, float]:
    """The same values by row instead of image id, leaving out images without an embedding."""
    wanted = np.array(sorted(values), np.int64)
    at = np.searchsorted(library.ids, wanted)
    inside = at < len(library.ids)
    inside[inside] = library.ids[at[inside]] == wanted[inside]
    return {int(a): values[int(i)] for a, i in zip(at[inside], wanted[inside], strict=True)}


def _library(session: Any, found: Project, known: Library | None) -> Library | None:
    """The project's matrix. What is in memory is kept; only new rows are read."""
    assert found.encoder_id is not None
    mine = projects.image_ids(found.id)
    counts = select(func.count(), func.coalesce(func.max(Embedding.image_id), 0)).where(
        Embedding.encoder_id == found.encoder_id, col(Embedding.image_id).in_(mine)
    )
    count, newest = session.execute(counts).one()
    if known is not None and known.stamp == (count, newest):
        return known
    if not count:
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
    return Library(
        stamp=(count, newest),
        ids=ids,
        x=x,
        groups=groups,
        holdout=held[groups],
        shown=np.isin(ids, pool) & with_pixels,
        projection=project(x),
    )


def _vectors(session: Any, encoder_id: int, ids: np.ndarray, known: Library | None) -> np.ndarray:
    """(N, D) float32 in the order of `ids`, read from the database where not in memory yet."""
    fresh = ids if known is None else np.setdiff1d(ids, known.ids)
    fresh_ids, vectors = embeddings.matrix(session, encoder_id, fresh.tolist())
    x = np.empty((len(ids), vectors.shape[1]), np.float32)
    x[np.searchsorted(ids, fresh_ids)] = vectors
    if known is not None:
        kept = np.isin(known.ids, ids)
        x[np.searchsorted(ids, known.ids[kept])] = known.x[kept]
    return x


def _fit(
    library: Library, values: np.ndarray, train: np.ndarray
) -> tuple[Ridge | None, np.ndarray]:
    """The ridge (None while the labels teach nothing) and the rows of the live array."""
    rows = np.zeros(len(library.ids), LIVE_ROW)
    rows["image_id"], rows["labelled"] = library.ids, ~np.isnan(values)
    rows["score"] = rows["uncertainty"] = np.nan
    try:
        ridge = fit_ridge(library.x[train], values[train], library.groups[train], link="identity")
    except NotTrainable:
        return None, rows
    rows["score"] = ridge.predict(library.x)
    rows["score"][train] = ridge.out_of_group
    rows["uncertainty"] = posterior_sd(library.projection, train, ridge, rows["score"])
    return ridge, rows


def _queue(
    found: Project,
    library: Library,
    rows: np.ndarray,
    train: np.ndarray,
    free: np.ndarray,
    event_high: int,
    ridge: Ridge | None,
) -> list[dict[str, Any]]:
    """What to show next. A model chooses among images off the hold-out side only; random control
    is drawn from all of them."""
    picks = mixed(
        library.projection.features, free & ~library.holdout, free, BATCH,
        labelled=train,
        scores=rows["score"] if ridge else None,
        sd=rows["uncertainty"] if ridge else None,
        threshold=found.threshold,
        seed=(found.seed + event_high) % 2**32,
    )  # fmt: skip
    return [
        {"image_id": int(library.ids[pick.row]), "why": pick.reason}
        | (
            {
                "score": float(rows["score"][pick.row]),
                "uncertainty": float(rows["uncertainty"][pick.row]),
            }
            if ridge
            else {}
        )
        for pick in picks
    ]


def _suspects(
    found: Project,
    library: Library,
    rows: np.ndarray,
    train: np.ndarray,
    values: np.ndarray,
    free: np.ndarray,
    ridge: Ridge | None,
) -> dict[str, list[dict[str, Any]]]:
    """Unlabelled images that are probably on the other side of the threshold."""
    if ridge is None:
        return {}
    return {
        "false-positives": _suspected("fp", found, library, rows, train, values, free),
        "false-negatives": _suspected("fn", found, library, rows, train, values, free),
    }


def _suspected(
    side: Side,
    found: Project,
    library: Library,
    rows: np.ndarray,
    train: np.ndarray,
    values: np.ndarray,
    free: np.ndarray,
) -> list[dict[str, Any]]:
    s = suspected(
        side, library.projection.features, rows["score"], rows["uncertainty"],
        free & ~library.holdout, labelled=train, labels=values[train],
        threshold=found.threshold, limit=SUSPECTS,
    )  # fmt: skip
    suspects = []
    for row, probability, neighbour, label, closeness in zip(
        s.rows, s.probability, s.neighbour, s.neighbour_score, s.closeness, strict=True
    ):
        suspect = {
            "image_id": int(library.ids[row]),
            "why": f"suspected_{side}",
            "score": float(rows["score"][row]),
            "uncertainty": float(rows["uncertainty"][row]),
            "probability": float(probability),
        }
        if closeness >= TWIN:
            suspect["neighbour"] = int(library.ids[neighbour])
            suspect["neighbour_label"] = round(float(10 * label), 1)
        suspects.append(suspect)
    return suspects
