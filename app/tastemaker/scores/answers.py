"""What a person said besides the scores that are labels: which of two images is better, that some
are at least so good or below it, an older score of the same image, a skip. A head learns from all
of it (see `learning.answers`). Proxy annotators teach by their scores alone: a label is theirs only
until a person scores the image, and an answer would stay."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select as select_columns
from sqlmodel import Session, col, func, or_, select

from tastemaker import projects
from tastemaker.database.tables import Annotator, Comparison, Project, ScoreEvent, in_utc
from tastemaker.scores import comparisons
from tastemaker.scores.origin import Origin

if TYPE_CHECKING:
    from tastemaker.learning.answers import Answers

RATED = "rated"  # the kind of an event: a score that follows from another program's mark
OTHER_PROGRAMS = "other programs"  # the proxy annotator whose events these are
RECORDING = "stars:"  # how groups of such events begin: then the job or table, and the batch
SWEEPS = {"at_least": 1.0, "below": 0.0}
HALF_A_POINT = 0.05  # “at least 5” is said of what would be scored 5 or more: above 4½


class Answer(NamedTuple):
    """One answer, in the terms of `learning.answers.Answers`, about images by their ids."""

    first_id: int
    second_id: int | None = None
    share: float | None = None
    bound: float | None = None


def highest_comparison(session: Session, project: Project) -> int:
    """Id of the project's newest comparison, 0 without any."""
    query = select(func.max(Comparison.id)).where(Comparison.project_id == project.id)
    return int(session.exec(query).one() or 0)


def answers_at(
    session: Session,
    project: Project,
    event_high: int | None = None,
    comparison_high: int | None = None,
) -> list[Answer]:
    """Every answer of a person as it stood right after these two, now without them, by when it was
    given, oldest first; not those about images that were taken out of the project. They are about
    scores: of a project with classes there are none."""
    if project.labelling != "scores":
        return []
    removed = projects.removed_ids(session, project.id)
    every = [
        *_pairs(session, project, comparison_high),
        *_of_events(session, project, event_high),
    ]
    return [
        answer
        for _, answer in sorted(every, key=itemgetter(0))
        if answer.first_id not in removed and answer.second_id not in removed
    ]


def as_arrays(
    answers: Iterable[Answer],
    row_of: Mapping[int, int],
    x: NDArray[Any],
    groups: NDArray[np.integer],
) -> "Answers | None":
    """The answers about rows of x (N, D), by image id → row; those about any other image are left
    out. None without any."""
    from tastemaker.learning.answers import answers_about

    known = [
        answer
        for answer in answers
        if answer.first_id in row_of and (answer.second_id is None or answer.second_id in row_of)
    ]
    if not known:
        return None
    return answers_about(
        x,
        groups,
        np.array([row_of[answer.first_id] for answer in known]),
        np.array([-1 if a.second_id is None else row_of[a.second_id] for a in known]),
        np.array([np.nan if answer.share is None else answer.share for answer in known]),
        np.array([np.nan if answer.bound is None else answer.bound for answer in known]),
    )


def _pairs(session: Session, project: Project, high: int | None) -> list[tuple[datetime, Answer]]:
    rows = session.exec(
        comparisons.standing(project, high)
        .join(Annotator, col(Annotator.id) == Comparison.annotator_id)
        .where(col(Annotator.proxy).is_(False))
        .order_by(col(Comparison.id))
    )
    return [
        (in_utc(row.at), Answer(row.first_id, row.second_id, comparisons.SHARES[row.verdict]))
        for row in rows
    ]


def _of_events(
    session: Session, project: Project, high: int | None
) -> list[tuple[datetime, Answer]]:
    """Of every person and image: the newest sweep in each direction since the newest score, which
    says more; the blind scores before a re-ask that still stands as the newest score; and a skip,
    where that is all there is, which says that passing or failing was hard to tell."""
    project_id = project.id
    until: list[Any] = [] if high is None else [col(ScoreEvent.id) <= high]
    undone = select(ScoreEvent.undoes).where(
        ScoreEvent.project_id == project_id, ScoreEvent.kind == "undo", *until
    )
    spoken = select(ScoreEvent.image_id).where(
        ScoreEvent.project_id == project_id,
        or_(col(ScoreEvent.kind).in_(("skip", *SWEEPS)), col(ScoreEvent.origin) == Origin.RE_ASK),
        *until,
    )
    rows = session.execute(
        select_columns(
            col(ScoreEvent.annotator_id), col(ScoreEvent.image_id), col(ScoreEvent.kind),
            col(ScoreEvent.value), col(ScoreEvent.origin), col(ScoreEvent.at),
        )
        .join(Annotator, col(Annotator.id) == ScoreEvent.annotator_id)
        .where(
            col(ScoreEvent.project_id) == project_id,
            col(Annotator.proxy).is_(False),
            col(ScoreEvent.kind).in_(("set", "skip", *SWEEPS)),
            col(ScoreEvent.image_id).in_(spoken),
            col(ScoreEvent.id).not_in(undone),
            *until,
        )
        .order_by(
            col(ScoreEvent.annotator_id), col(ScoreEvent.image_id), col(ScoreEvent.id)
        )
    ).all()  # fmt: skip
    found: list[tuple[datetime, Answer]] = []
    for (_, image_id), events in groupby(rows, key=lambda row: (row[0], row[1])):
        since: dict[str, tuple[datetime, float]] = {}
        blind: list[tuple[datetime, int]] = []  # oldest first, each without sight of the others
        skipped: datetime | None = None
        for number, (_, _, kind, value, origin, at) in enumerate(events):
            if kind == "skip":
                skipped = at if skipped or number == 0 else None
                continue
            skipped = None
            if kind in SWEEPS:
                since[kind] = at, value
                continue
            since = {}
            blind = [*blind, (at, value)] if origin == Origin.RE_ASK else [(at, value)]
            if not Origin(origin).blind:
                blind = []
        found += [
            (at, Answer(image_id, share=SWEEPS[kind], bound=value / 10 - HALF_A_POINT))
            for kind, (at, value) in since.items()
        ]
        found += [(at, Answer(image_id, bound=value / 10)) for at, value in blind[:-1]]
        if skipped:
            found.append((skipped, Answer(image_id, share=0.5, bound=project.threshold)))
    return [(in_utc(at), answer) for at, answer in found]
