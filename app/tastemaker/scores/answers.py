"""What a person said besides the scores that are labels: which of two images is better, that some
are at least so good or below it, an older score of the same image, a skip. A head learns from all
of it (see `learning.answers`)."""

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select as select_columns
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, func, or_, select

from tastemaker import projects
from tastemaker.database.tables import Annotator, Comparison, Project, ScoreEvent
from tastemaker.scores.origin import Origin

if TYPE_CHECKING:
    from tastemaker.learning.answers import Answers

SWEEPS = {"at_least": 1.0, "below": 0.0}
HALF_A_POINT = 0.05  # “at least 5” is said of what would be scored 5 or more: above 4½
SHARES = {"first": 1.0, "second": 0.0, "equal": 0.5}


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
    """Every answer as it stood right after these two, now without them, oldest first of its kind;
    not those about images that were taken out of the project."""
    removed = projects.removed_ids(session, project.id)
    every = [
        *_pairs(session, project.id, comparison_high),
        *_of_events(session, project, event_high),
    ]
    return [
        answer
        for answer in every
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


def _pairs(session: Session, project_id: int, high: int | None) -> list[Answer]:
    inverse = aliased(Comparison)
    taken_back = select(inverse.undoes).where(inverse.undoes == Comparison.id)
    query = select(Comparison).where(
        Comparison.project_id == project_id, Comparison.verdict != "undo"
    )
    if high is not None:
        query = query.where(col(Comparison.id) <= high)
        taken_back = taken_back.where(col(inverse.id) <= high)
    rows = session.exec(query.where(~taken_back.exists()).order_by(col(Comparison.id)))
    return [Answer(row.first_id, row.second_id, SHARES[row.verdict]) for row in rows]


def _of_events(session: Session, project: Project, high: int | None) -> list[Answer]:
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
            col(ScoreEvent.value), col(ScoreEvent.origin),
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
    found: list[Answer] = []
    for (_, image_id), events in groupby(rows, key=lambda row: (row[0], row[1])):
        since: dict[str, float] = {}
        blind: list[int] = []  # scores, oldest first, each given without sight of the others
        skipped = False
        for number, (_, _, kind, value, origin) in enumerate(events):
            if kind == "skip":
                skipped = skipped or number == 0
                continue
            skipped = False
            if kind in SWEEPS:
                since[kind] = value
                continue
            since = {}
            blind = [*blind, value] if origin == Origin.RE_ASK else [value]
            if not Origin(origin).blind:
                blind = []
        found += [
            Answer(image_id, share=SWEEPS[kind], bound=value / 10 - HALF_A_POINT)
            for kind, value in since.items()
        ]
        found += [Answer(image_id, bound=value / 10) for value in blind[:-1]]
        if skipped:
            found.append(Answer(image_id, share=0.5, bound=project.threshold))
    return found
