"""Images that have an event already: another look at a label, a flag, a skip, or a blind re-ask.

The answer to a rereview resolves an image (its event has the origin `REVIEW`): it comes back only
once a version was trained that knows the answer. A blind re-ask is another thing: it shows an image
as if for the first time, to measure how steady a person's scores are.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

from more_itertools import chunked
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from tastemaker import projects, scores, versions
from tastemaker.database.tables import Annotator, Image, Project, ScoreEvent, now
from tastemaker.live.live_model import Pick
from tastemaker.queues import reasons
from tastemaker.queues.cards import QueueItem
from tastemaker.queues.request import QueueRequest
from tastemaker.queues.unscored import PICKS_AT_ONCE, still_unscored
from tastemaker.scores import Origin

RE_ASK_EVERY = 20  # one of so many images of the Mixed queue
RE_ASK_LABELS = 100  # so many labels first
RE_ASK_AFTER = 100  # so many scores must lie between two looks at an image …
RE_ASK_PAUSE = timedelta(hours=1)  # … and so much time
RE_ASK_OLDEST = 64  # drawn at random among so many of the oldest


def open_rereviews(request: QueueRequest, picks: Iterable[Pick]) -> Iterator[QueueItem]:
    """Those of the labelled picks that still have the label they were picked for, and are not
    resolved."""
    wanted = (pick for pick in picks if pick.image_id not in request.pending)
    for batch in chunked(wanted, PICKS_AT_ONCE):
        for pick in unresolved(request.session, request.project, batch):
            yield QueueItem(pick.image_id, Origin.REVIEW, request.describe(pick), pick.twin)


def unresolved(session: Session, project: Project, picks: Iterable[Pick]) -> list[Pick]:
    """The same of a few picks, without words about them."""
    labelled = [pick for pick in picks if pick.label is not None]
    ids = [pick.image_id for pick in labelled]
    labels, done = scores.values_of(session, project.id, ids), resolved(session, project, ids)
    return [
        pick
        for pick in labelled
        if labels.get(pick.image_id) == pick.label and pick.image_id not in done
    ]


def sides(pair: Pick) -> tuple[Pick, Pick]:
    """Both images of a contradiction, each with the other as its twin."""
    assert pair.twin is not None
    other = replace(
        pair, image_id=pair.twin, label=pair.twin_label, twin=pair.image_id, twin_label=pair.label
    )
    return pair, other


def resolved(session: Session, project: Project, ids: list[int]) -> set[int]:
    """Those of the images that had a rereview since the active version was trained (ever, while
    there is none)."""
    return set(session.exec(rereviews(session, project, ids)).all())


def rereviews(session: Session, project: Project, ids: list[int]) -> Any:
    """Select of the ids of `resolved`. `+ 0` hides the event's id from the planner, which would
    walk every event of the project since then instead of looking up those of a few images."""
    version = versions.active(session, project)
    return (
        scores.standing_events()
        .with_only_columns(ScoreEvent.image_id)
        .where(
            ScoreEvent.project_id == project.id,
            col(ScoreEvent.image_id).in_(ids),
            ScoreEvent.origin == Origin.REVIEW,
            col(ScoreEvent.id) + 0 > (version.event_high if version else 0),
        )
    )


def flagged(request: QueueRequest) -> Iterator[QueueItem]:
    """Flags of anybody that no rereview followed, oldest first."""
    later = aliased(ScoreEvent)
    has_rereview = (
        select(later.id)
        .where(
            later.project_id == ScoreEvent.project_id,
            later.image_id == ScoreEvent.image_id,
            later.origin == Origin.REVIEW,
            scores.is_standing(later),
            col(later.id) > ScoreEvent.id,
        )
        .exists()
    )
    rows = request.session.execute(
        scores.standing_events()
        .add_columns(Annotator.name)
        .join(Annotator, col(Annotator.id) == ScoreEvent.annotator_id)
        .where(
            ScoreEvent.project_id == request.project.id,
            ScoreEvent.kind == "flag",
            ~has_rereview,
            ~projects.is_removed(request.project.id, ScoreEvent.image_id),
        )
        .order_by(col(ScoreEvent.id))
    )
    for event, name in rows:
        by = "you" if event.annotator_id == request.person.id else name
        yield QueueItem(event.image_id, Origin.REVIEW, reasons.flagged(by, event.note))


def skipped(request: QueueRequest) -> Iterator[QueueItem]:
    """What this person skipped and never scored, oldest first; skipped again, it rests until the
    next version."""
    version = versions.active(request.session, request.project)
    mine = (
        ScoreEvent.project_id == request.project.id,
        ScoreEvent.annotator_id == request.person.id,
    )
    scored = scores.standing_events().with_only_columns(ScoreEvent.image_id)
    scored = scored.where(*mine, ScoreEvent.kind == "set")
    rows = request.session.exec(
        scores.standing_events()
        .where(
            *mine,
            ScoreEvent.kind == "skip",
            col(ScoreEvent.image_id).not_in(scored),
            ~projects.is_removed(request.project.id, ScoreEvent.image_id),
        )
        .order_by(col(ScoreEvent.id))
    ).all()
    newest = {event.image_id: event for event in rows}
    since = version.event_high if version else 0
    for event in newest.values():
        if event.origin != Origin.REVIEW or event.id <= since:
            yield QueueItem(event.image_id, Origin.REVIEW, reasons.skipped(event.at))


# --- blind re-asks ------------------------------------------------------------------------------


def re_asks(request: QueueRequest) -> Iterator[QueueItem]:
    """Images that this person scored long enough ago, drawn from the oldest. The second score is
    independent of the first only if that is forgotten."""
    mine = (
        ScoreEvent.project_id == request.project.id,
        ScoreEvent.annotator_id == request.person.id,
    )
    newest = scores.standing_events().where(*mine).order_by(col(ScoreEvent.id).desc())
    apart = request.session.exec(newest.offset(RE_ASK_AFTER - 1).limit(1)).first()
    if apart is None:
        return
    later = aliased(ScoreEvent)
    has_later_event = (
        select(later.id)
        .where(
            later.project_id == ScoreEvent.project_id,
            later.image_id == ScoreEvent.image_id,
            later.annotator_id == ScoreEvent.annotator_id,
            col(later.id) > ScoreEvent.id,
        )
        .exists()
    )
    oldest = request.session.exec(
        scores.standing_events()
        .with_only_columns(ScoreEvent.image_id)
        .join(Image, col(Image.id) == ScoreEvent.image_id)
        .where(
            *mine,
            ScoreEvent.kind == "set",
            ScoreEvent.origin != Origin.IMPORT,
            col(ScoreEvent.id) < apart.id,
            col(ScoreEvent.at) < now() - RE_ASK_PAUSE,
            col(Image.kind) != "vector",
            ~has_later_event,
            ~projects.is_removed(request.project.id, ScoreEvent.image_id),
        )
        .order_by(col(ScoreEvent.id))
        .limit(RE_ASK_OLDEST + len(request.pending))
    ).all()
    for image_id in sorted(oldest, key=lambda i: request.draw(i)):
        yield QueueItem(image_id, Origin.RE_ASK, reasons.RE_ASKED)


def is_re_ask_due(request: QueueRequest) -> bool:
    """Whether this person's last scores hold no re-ask, and none is pending. A proxy annotator has
    no memory to test."""
    labels = scores.count_labels(request.session, request.project.id)
    if request.person.proxy or labels < RE_ASK_LABELS:
        return False
    newest = (
        scores.standing_events()
        .where(
            ScoreEvent.project_id == request.project.id,
            ScoreEvent.annotator_id == request.person.id,
            ScoreEvent.kind == "set",
        )
        .order_by(col(ScoreEvent.id).desc())
        .limit(max(RE_ASK_EVERY - 2 - len(request.pending), 0))  # what is pending comes first
    )
    if any(event.origin == Origin.RE_ASK for event in request.session.exec(newest)):
        return False
    return not request.pending - still_unscored(request, list(request.pending))
