"""The model process: embeddings in memory, and a live model refitted after every few scores, from
which the queues follow. It also answers the requests of the web process (`inference_server`).

For each project it notices new score events and new embeddings, fits the ridge (`class_fit` where
labels are classes) on the labels that may train, predicts every labelled image by the fit without
its group and every other one by the whole fit, ranks what to score next and which labels to doubt,
and replaces the live files.
"""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine
from sqlmodel import col, select
from threadpoolctl import threadpool_limits

from tastemaker import projects, scores
from tastemaker.config import Settings
from tastemaker.database import sessions
from tastemaker.database.tables import Label, ProjectPrior, ScoreEvent
from tastemaker.errors import NotTrainable
from tastemaker.learning.answers import Answers
from tastemaker.learning.posterior import posterior_sd
from tastemaker.learning.prior import Prior
from tastemaker.learning.ridge import Ridge, fit_ridge, from_priors
from tastemaker.live import (
    candidates,
    class_candidates,
    class_fit,
    embedding_matrix,
    inference_server,
)
from tastemaker.live.candidates import FittedModel
from tastemaker.live.embedding_matrix import EmbeddingMatrix
from tastemaker.live.live_model import (
    FEWEST_DRAWN,
    ErrorRecord,
    FitSummary,
    LiveModel,
    LiveRows,
    PickLists,
    StartedFrom,
    read_live,
    without_predictions,
    write_live,
)
from tastemaker.live.project_state import ProjectState, stamp_of
from tastemaker.processes import logs, lower_priority
from tastemaker.scores import answers, classes
from tastemaker.scores.answers import Answer
from tastemaker.versions import hints, priors

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
ERROR_STEP, ERRORS_KEPT = 10, 20  # labels between two entries of the error's record, and how many
MOST_ANSWERS = 300  # besides scores; older ones count in trainings, which have the time


def main(settings: Settings) -> None:
    """Entry point of the process; ends with its parent."""
    lower_priority()
    logs.configure(settings)
    logs.about_this_process(process="model")
    threadpool_limits(1)  # on two busy cores a second thread costs more time than it saves
    engine = sessions.make_engine(settings)
    states: dict[int, ProjectState] = {}
    inference_server.start(settings, engine, states)
    while True:
        try:
            poll(settings, engine, states)
        except Exception:  # one project's trouble must not end the others' live models
            log.exception("the live model could not be refitted")
        threading.Event().wait(POLL_SECONDS)


def poll(settings: Settings, engine: Engine, states: dict[int, ProjectState]) -> None:
    """Refit each project that has new scores or new embeddings."""
    with sessions.reading(engine) as session:
        embedded = [project for project in projects.list_all(session) if project.encoder_id]
        stamps = {project.id: stamp_of(session, project) for project in embedded}
    for project_id, stamp in stamps.items():
        state = states.setdefault(project_id, ProjectState())
        if state.is_due(stamp):
            began = time.monotonic()
            refit(settings, engine, project_id, state)
            state.stamp, state.refitted_at = stamp, time.monotonic()
            state.refit_seconds = state.refitted_at - began


# --- one refit ---------------------------------------------------------------------------------


def refit(
    settings: Settings, engine: Engine, project_id: int, state: ProjectState | None = None
) -> None:
    """Fit the live model of a project on the scores as they stand, and replace its live files;
    nothing while no image is embedded."""
    state = state or ProjectState()
    began = time.monotonic()
    priors.follow(sessions.PlainTransactions(engine), project_id)
    with sessions.reading(engine) as session:
        project = projects.get(session, project_id)
        started = [*priors.usable(session, project), *hints.as_priors(session, project)]
        lines = tuple(map(priors.line_of, started))
        known = classes.of_project(session, project)
        event_high = scores.highest_event(session, project)
        if not state.follows(project):
            # Before the images are another encoder's: whoever asks finds none.
            state.ridge = state.kinds = None
        matrix = state.matrix = embedding_matrix.load(session, project, state.matrix)
        labels = session.execute(
            select(Label.image_id, Label.value).where(Label.project_id == project_id)
        ).all()
        said = answers.answers_at(session, project)
        drawn = scores.drawn_at_random(session, project_id, event_high)
        events = session.execute(
            scores.standing_events()
            .with_only_columns(ScoreEvent.image_id, col(ScoreEvent.kind).in_(answers.SWEEPS))
            .where(ScoreEvent.project_id == project_id, ScoreEvent.kind != answers.RATED)
        ).all()
    if not len(matrix.ids):
        return
    values = matrix.by_row(dict(labels))
    train = np.flatnonzero(~np.isnan(values) & ~matrix.holdout)
    ridge, kinds = None, None
    if known is not None:
        kinds, rows = class_fit.fit(matrix, known, values, train)
    else:
        values = values / 10
        ridge, rows = _fit(matrix, values, train, lines, _answers(matrix, said))
    state.ridge, state.kinds = ridge, kinds
    fitted = FittedModel(
        project, matrix, ridge, rows, values, train,
        free=matrix.scorable & ~np.isin(matrix.ids, [i for i, sweep in events if not sweep]),
        swept=np.isin(matrix.ids, [i for i, sweep in events if sweep]),
        seed=(project.seed + event_high) % 2**32,
        from_prior=bool(lines),
    )  # fmt: skip
    lists = state.lists or PickLists()
    if known is not None:
        lists = class_candidates.fast_lists(lists, fitted, kinds)
    else:
        lists = candidates.fast_lists(lists, fitted)
    at_random = np.isin(matrix.ids[train], list(drawn))
    summary = FitSummary(
        event_high=event_high,
        labels=len(train),
        answers=len(ridge.answer_weights) if ridge else 0,
        noise=ridge.noise if ridge else None,
        penalty=ridge.penalty if ridge else None,
        errors=()
        if known is not None
        else _errors(
            settings,
            project_id,
            rows["score"][train],
            values[train],
            at_random,
        ),
        accuracy=class_fit.accuracy(kinds, matrix.groups[train], at_random) if kinds else None,
        seconds=round(time.monotonic() - began, 4),
        priors=_started_from(started, ridge),
        classes=kinds.record.numbers if kinds else (),
    )  # fmt: skip
    live = LiveModel(rows, summary, lists)
    state.owes_search = not state.may_search()
    if state.owes_search or state.lists:  # the queues need not wait for the search
        write_live(settings, project_id, live)
    if not state.owes_search:
        state.searched_at = time.monotonic()
        if known is not None:
            state.lists = class_candidates.slow_lists(lists, fitted, kinds)
        else:
            state.lists = candidates.slow_lists(lists, fitted)
        state.search_seconds = time.monotonic() - state.searched_at
        write_live(settings, project_id, replace(live, lists=state.lists))


def _errors(
    settings: Settings,
    project_id: int,
    predicted: NDArray[np.float32],
    values: NDArray[np.float64],
    drawn: NDArray[np.bool_],
) -> tuple[ErrorRecord, ...]:
    """How the mean error of the live model went as labels came in: an entry every `ERROR_STEP`
    labels, and the newest. Of the images drawn at random alone: those that a queue picked are
    harder, and would tell of the queue instead of the model."""
    before = read_live(settings, project_id)
    records = [e for e in (before.fit.errors if before else ()) if e.kept]
    records = [e for e in records if e.labels < len(values)][-ERRORS_KEPT:]  # fewer after an undo
    if drawn.sum() < FEWEST_DRAWN or np.isnan(predicted).any():
        return tuple(records)
    due = not records or len(values) - records[-1].labels >= ERROR_STEP
    error = round(float(10 * np.abs(predicted - values)[drawn].mean()), 4)
    return (*records, ErrorRecord(len(values), error, kept=due))


def _answers(matrix: EmbeddingMatrix, said: list[Answer]) -> Answers | None:
    """The newest answers about embedded images off the hold-out side."""
    said = said[-MOST_ANSWERS:]
    about = {i for answer in said for i in (answer.first_id, answer.second_id) if i is not None}
    rows = {image_id: matrix.row_of(image_id) for image_id in about}
    row_of = {i: row for i, row in rows.items() if row is not None and not matrix.holdout[row]}
    return answers.as_arrays(said, row_of, matrix.x, matrix.groups)


def _started_from(started: Sequence[ProjectPrior], ridge: Ridge | None) -> tuple[StartedFrom, ...]:
    if ridge is None or not ridge.trust:
        return tuple(StartedFrom(prior.name, sha256=prior.sha256) for prior in started)
    return tuple(
        StartedFrom(prior.name, round(trust.probability, 4), round(trust.slope, 4), prior.sha256)
        for prior, trust in zip(started, ridge.trust, strict=True)
    )


def _fit(
    matrix: EmbeddingMatrix,
    values: NDArray[np.float64],
    train: NDArray[np.intp],
    lines: Sequence[Prior],
    said: Answers | None,
) -> tuple[Ridge | None, LiveRows]:
    """The ridge (None while the labels teach nothing and there is nothing to start from) and the
    rows of the live array."""
    rows = without_predictions(matrix.ids, ~np.isnan(values))
    x, y, groups = matrix.x[train], values[train], matrix.groups[train]
    try:
        quick = matrix.projection.shortcut(len(train))
        ridge = fit_ridge(x, y, groups, link="identity", priors=lines, answers=said, **quick)
    except NotTrainable:
        if not lines:
            return None, rows
        ridge = from_priors(lines, x, y, "identity", groups)
    rows["score"] = ridge.predict(matrix.x)
    rows["score"][train] = ridge.out_of_group
    rows["uncertainty"] = posterior_sd(matrix.projection, train, ridge, rows["score"])
    return ridge, rows
