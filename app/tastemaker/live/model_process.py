"""The resident model process: embeddings in memory, the live model refitted after every few
scores, and with it the queues. It also answers what the web process asks of a network.

For each project it notices new score events and new embeddings, fits the ridge on the labels that
may train, judges every labelled image by the fit without its group, every other one by the whole
fit, decides what to show next and what to doubt, and replaces the project's live files.
"""

import logging
import threading
import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine
from sqlmodel import Session, col, func, select
from threadpoolctl import threadpool_limits

from tastemaker import projects, scores
from tastemaker.config import Settings
from tastemaker.database import sessions
from tastemaker.database.tables import (
    Embedding,
    Job,
    Label,
    ProjectCollection,
    RemovedImage,
    ScoreEvent,
)
from tastemaker.errors import NotTrainable
from tastemaker.learning.ridge import Ridge, fit_ridge, posterior_sd
from tastemaker.live import candidates, inference_server, project_state
from tastemaker.live.candidates import FittedModel
from tastemaker.live.live_model import (
    LIVE_ROW,
    ErrorRecord,
    FitSummary,
    LiveModel,
    LiveRows,
    PickLists,
    read_live,
    write_live,
)
from tastemaker.live.project_state import EmbeddingMatrix
from tastemaker.processes import lower_priority

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
ERROR_STEP, ERRORS_KEPT = 10, 20  # labels between two entries of the error's record, and how many
REST_SECONDS = 1.0  # between two refits of a project: scoring goes on meanwhile
SEARCH_SECONDS = 10.0  # between two searches, which compare every image with every label
# While only embeddings arrive, refits may take this share of the time (1 ÷ 10); searches always.
PATIENCE = 10


@dataclass(frozen=True)
class Stamp:
    """All that the live model and its picks follow."""

    event: int  # the newest score event
    threshold: float
    embedding: int  # the newest image that is embedded
    arrival: int  # the newest finished job: it may have brought images or vectors
    removed: int  # the ids of the images taken out of the project, added up
    pools: int  # collections that feed the queues


@dataclass
class ProjectState:
    """What was true when a project was last refitted, and how long that took. `lists` are what
    the last search found; it is `owed` when scores came in since."""

    stamp: Stamp | None = None
    at: float = 0.0
    took: float = 0.0
    library: EmbeddingMatrix | None = None
    ridge: Ridge | None = None
    lists: PickLists | None = None
    searched_at: float = -SEARCH_SECONDS
    search_took: float = 0.0
    owed: bool = False

    def is_due(self, stamp: Stamp) -> bool:
        if stamp == self.stamp:
            return self.owed and self.may_search()
        said = self.stamp is None or (stamp.event, stamp.threshold) != (
            self.stamp.event,
            self.stamp.threshold,
        )
        rest = REST_SECONDS if said else max(REST_SECONDS, PATIENCE * self.took)
        return time.monotonic() - self.at >= rest

    def may_search(self) -> bool:
        rest = max(SEARCH_SECONDS, PATIENCE * self.search_took)
        return time.monotonic() - self.searched_at >= rest


def main(settings: Settings) -> None:
    """Entry point of the process; ends with its parent."""
    lower_priority()
    threadpool_limits(1)  # on two busy cores a second thread costs more time than it saves
    engine = sessions.make_engine(settings)
    watched: dict[int, ProjectState] = {}
    inference_server.start(settings, engine, watched)
    while True:
        try:
            poll(settings, engine, watched)
        except Exception:  # one project's trouble must not end the others' live models
            log.exception("the live model could not be refitted")
        threading.Event().wait(POLL_SECONDS)


def poll(settings: Settings, engine: Engine, watched: dict[int, ProjectState]) -> None:
    """Refit each project that has new scores or new embeddings."""
    with sessions.reading(engine) as session:
        found = [(p.id, _stamp(session, p)) for p in projects.list_all(session) if p.encoder_id]
    for project_id, stamp in found:
        seen = watched.setdefault(project_id, ProjectState())
        if seen.is_due(stamp):
            began = time.monotonic()
            refit(settings, engine, project_id, seen)
            seen.stamp, seen.at, seen.took = stamp, time.monotonic(), time.monotonic() - began


def _stamp(session: Session, found: projects.Project) -> Stamp:
    embedded = select(func.max(Embedding.image_id)).where(Embedding.encoder_id == found.encoder_id)
    finished = select(func.max(Job.id)).where(
        Job.state == "done", col(Job.kind).in_(("import", "embed"))
    )
    removed = select(func.sum(RemovedImage.image_id)).where(RemovedImage.project_id == found.id)
    pools = select(func.count()).where(
        ProjectCollection.project_id == found.id, ProjectCollection.role == "pool"
    )
    return Stamp(
        event=scores.highest_event(session, found),
        threshold=found.threshold,
        embedding=int(session.exec(embedded).one() or 0),
        arrival=int(session.exec(finished).one() or 0),
        removed=int(session.exec(removed).one() or 0),
        pools=int(session.exec(pools).one()),
    )


# --- one refit ---------------------------------------------------------------------------------


def refit(
    settings: Settings, engine: Engine, project_id: int, seen: ProjectState | None = None
) -> None:
    """Fit the live model of a project on the scores as they stand, and replace its live files;
    nothing while no image is embedded."""
    seen = seen or ProjectState()
    began = time.monotonic()
    with sessions.reading(engine) as session:
        project = projects.get(session, project_id)
        event_high = scores.highest_event(session, project)
        library = seen.library = project_state.load(session, project, seen.library)
        labels = session.execute(
            select(Label.image_id, Label.value).where(Label.project_id == project_id)
        ).all()
        with_event = session.exec(
            scores.standing_events()
            .with_only_columns(ScoreEvent.image_id)
            .where(ScoreEvent.project_id == project_id)
        ).all()
    if library is None:
        return
    values = np.full(len(library.ids), np.nan)
    for at, value in library.rows_of(dict(labels)).items():
        values[at] = value / 10
    train = np.flatnonzero(~np.isnan(values) & ~library.holdout)
    ridge, rows = _fit(library, values, train)
    seen.ridge = ridge
    fitted = FittedModel(
        project, library, ridge, rows, values, train,
        free=library.shown & ~np.isin(library.ids, with_event),
        seed=(project.seed + event_high) % 2**32,
    )  # fmt: skip
    lists = candidates.with_fast_lists(seen.lists or PickLists(), fitted)
    summary = FitSummary(
        event_high=event_high,
        labels=len(train),
        noise=ridge.noise if ridge else None,
        penalty=ridge.penalty if ridge else None,
        errors=_errors(settings, project_id, rows["score"][train], values[train]),
        seconds=round(time.monotonic() - began, 4),
    )
    live = LiveModel(rows, summary, lists)
    seen.owed = not seen.may_search()
    if seen.owed or seen.lists:  # the queues need not wait for the search
        write_live(settings, project_id, live)
    if not seen.owed:
        seen.searched_at = time.monotonic()
        seen.lists = candidates.with_slow_lists(lists, fitted)
        seen.search_took = time.monotonic() - seen.searched_at
        write_live(settings, project_id, replace(live, lists=seen.lists))


def _errors(
    settings: Settings,
    project_id: int,
    predicted: NDArray[np.float32],
    values: NDArray[np.float64],
) -> tuple[ErrorRecord, ...]:
    """How the mean error of the live model went as labels came in: an entry every `ERROR_STEP`
    labels, and the newest."""
    before = read_live(settings, project_id)
    records = [e for e in (before.fit.errors if before else ()) if e.kept]
    records = [e for e in records if e.labels < len(values)][-ERRORS_KEPT:]  # fewer after an undo
    if not len(values) or np.isnan(predicted).any():
        return tuple(records)
    due = not records or len(values) - records[-1].labels >= ERROR_STEP
    error = round(float(10 * np.abs(predicted - values).mean()), 4)
    return (*records, ErrorRecord(len(values), error, kept=due))


def _fit(
    library: EmbeddingMatrix, values: NDArray[np.float64], train: NDArray[np.intp]
) -> tuple[Ridge | None, LiveRows]:
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
