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

from app import db, embeddings, projects, scores
from app.config import Settings
from app.errors import NotTrainable
from app.predictions import LIVE_ROW, write_live
from app.ridge import Projection, Ridge, fit_ridge, posterior_sd, project
from app.selection import mixed, suspected
from app.tables import Embedding, Image, Label, Project, ScoreEvent

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
REST_SECONDS = 1.0  # between two refits of a project: scoring goes on meanwhile
BATCH = 64  # picks decided at once; the next refit replaces those not shown
SUSPECTS = 200
TWIN = 0.5  # closeness from which a labelled neighbour is worth naming (1: the same picture)
PROJECTION_STALE = 1.1  # projected anew when the library has grown by a tenth


@dataclass
class Library:
    """A project's embedded images in memory, rows ascending by image id."""

    ids: np.ndarray
    x: np.ndarray
    groups: np.ndarray
    group_names: dict[str, int]
    projection: Projection | None = None
    projected_rows: int = 0


@dataclass
class Watched:
    """What was true when a project was last refitted."""

    stamp: tuple[int, int] = (0, 0)
    at: float = 0.0
    library: Library | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def main(settings: Settings) -> None:
    """Entry point of the process; ends with its parent."""
    from app.worker import tie_to_parent

    tie_to_parent()
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
        if stamp == seen.stamp or time.monotonic() - seen.at < REST_SECONDS:
            continue
        refit(settings, engine, project_id, seen)
        seen.stamp, seen.at = stamp, time.monotonic()


def _stamp(session: Any, found: Project) -> tuple[int, int]:
    """Newest score event, newest embedding: the live model depends on nothing else."""
    newest = select(func.max(Embedding.image_id)).where(Embedding.encoder_id == found.encoder_id)
    return scores.highest_event(session, found), int(session.exec(newest).one() or 0)


# --- one refit ---------------------------------------------------------------------------------


def refit(
    settings: Settings, engine: Engine, project_id: int, seen: Watched | None = None
) -> dict[str, Any]:
    """Fit the live model of a project on the scores as they stand, and replace its live files.
    Returns the facts written beside the array."""
    seen = seen or Watched()
    began = time.monotonic()
    with db.reading(engine) as session:
        found = projects.get(session, project_id)
        event_high = scores.highest_event(session, found)
        library = seen.library = _library(session, found, seen.library)
        labels = {
            label.image_id: label
            for label in session.exec(select(Label).where(Label.project_id == project_id))
        }
        spoken_of = set(
            session.exec(
                scores.standing_events()
                .with_only_columns(ScoreEvent.image_id)
                .where(ScoreEvent.project_id == project_id)
            )
        )
        pool = set(session.exec(projects.image_ids(project_id, "pool")))
        with_pixels = set(
            session.exec(
                select(Image.id).where(Image.kind != "vector", col(Image.id).in_(
                    projects.image_ids(project_id, "pool"))
                )
            )
        )  # fmt: skip
    if not len(library.ids):
        return {}
    holdout = _holdout_rows(found, library)
    values = np.full(len(library.ids), np.nan)
    for at, image_id in enumerate(library.ids.tolist()):
        if image_id in labels:
            values[at] = labels[image_id].value / 10
    train = np.flatnonzero(~np.isnan(values) & ~holdout)
    shown = np.array([i in pool and i in with_pixels for i in library.ids.tolist()], bool)
    free = shown & ~np.array([i in spoken_of for i in library.ids.tolist()], bool)

    ridge, rows = _fit(library, values, train)
    facts = {
        "event_high": event_high,
        "labels": len(train),
        "seconds": 0.0,
        "queue": _queue(found, library, rows, train, values, free, holdout, event_high, ridge),
        "suspected": _suspects(found, library, rows, train, values, free & ~holdout, ridge),
        "noise": ridge.noise if ridge else None,
        "penalty": ridge.penalty if ridge else None,
    }
    facts["seconds"] = round(time.monotonic() - began, 4)
    write_live(settings, project_id, rows, facts)
    return facts


def _library(session: Any, found: Project, known: Library | None) -> Library:
    """The project's matrix; what is in memory is kept, only new rows are read."""
    ids = np.array(
        session.exec(
            select(Embedding.image_id)
            .where(
                Embedding.encoder_id == found.encoder_id,
                col(Embedding.image_id).in_(projects.image_ids(found.id)),
            )
            .order_by(col(Embedding.image_id))
        ).all(),
        np.int64,
    )
    if known is not None and np.array_equal(known.ids, ids):
        return known
    fresh = ids if known is None else np.setdiff1d(ids, known.ids)
    assert found.encoder_id is not None
    fresh_ids, fresh_x = embeddings.matrix(session, found.encoder_id, fresh.tolist())
    all_ids, x = fresh_ids, fresh_x.astype(np.float32)
    if known is not None:
        kept = np.isin(known.ids, ids)
        all_ids = np.concatenate([known.ids[kept], fresh_ids])
        x = np.concatenate([known.x[kept], x])
        order = np.argsort(all_ids, kind="stable")
        all_ids, x = all_ids[order], x[order]
    group_of = dict(
        session.execute(
            select(Image.id, Image.source_group).where(
                col(Image.id).in_(projects.image_ids(found.id))
            )
        ).all()
    )
    names = {n: i for i, n in enumerate(sorted({group_of[i] for i in all_ids.tolist()}))}
    groups = np.array([names[group_of[i]] for i in all_ids.tolist()], np.int64)
    library = Library(all_ids, x, groups, names)
    if len(all_ids):
        library.projection = project(x)
        library.projected_rows = len(all_ids)
    return library


def _holdout_rows(found: Project, library: Library) -> np.ndarray:
    side = np.zeros(len(library.group_names), bool)
    for name, number in library.group_names.items():
        side[number] = projects.on_holdout_side(found, name)
    return side[library.groups]


def _fit(
    library: Library, values: np.ndarray, train: np.ndarray
) -> tuple[Ridge | None, np.ndarray]:
    """The ridge (None while the labels teach nothing) and the rows of the live array."""
    rows = np.zeros(len(library.ids), LIVE_ROW)
    rows["image_id"], rows["labelled"] = library.ids, ~np.isnan(values)
    rows["score"] = rows["uncertainty"] = np.nan
    try:
        ridge = fit_ridge(library.x[train], values[train], library.groups[train])
    except NotTrainable:
        return None, rows
    assert library.projection is not None
    rows["score"] = ridge.predict(library.x)
    rows["score"][train] = ridge.out_of_group
    rows["uncertainty"] = posterior_sd(library.projection, train, ridge, rows["score"])
    return ridge, rows


def _queue(
    found: Project,
    library: Library,
    rows: np.ndarray,
    train: np.ndarray,
    values: np.ndarray,
    free: np.ndarray,
    holdout: np.ndarray,
    event_high: int,
    ridge: Ridge | None,
) -> list[dict[str, Any]]:
    """What to show next. A model chooses among images off the hold-out side only; random control
    is drawn from all of them."""
    assert library.projection is not None
    picks = mixed(
        library.projection.features, free & ~holdout, free, BATCH,
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
    candidates: np.ndarray,
    ridge: Ridge | None,
) -> dict[str, list[dict[str, Any]]]:
    """Unlabelled images that are probably on the other side of the threshold."""
    if ridge is None:
        return {}
    assert library.projection is not None
    found_by_kind = {}
    for kind, side in (("false-positives", "fp"), ("false-negatives", "fn")):
        s = suspected(
            side, library.projection.features, rows["score"], rows["uncertainty"], candidates,  # type: ignore[arg-type]
            labelled=train, labels=values[train], threshold=found.threshold, limit=SUSPECTS,
        )  # fmt: skip
        found_by_kind[kind] = [
            {
                "image_id": int(library.ids[row]),
                "why": f"suspected_{side}",
                "score": float(rows["score"][row]),
                "uncertainty": float(rows["uncertainty"][row]),
                "probability": float(probability),
            }
            | (
                {
                    "neighbour": int(library.ids[neighbour]),
                    "neighbour_label": round(float(10 * label), 1),
                }
                if closeness >= TWIN
                else {}
            )
            for row, probability, neighbour, label, closeness in zip(
                s.rows, s.probability, s.neighbour, s.neighbour_score, s.closeness, strict=True
            )
        ]
    return found_by_kind
