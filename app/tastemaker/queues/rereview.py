"""Images that somebody has spoken of already, for a second look.

A second look that was answered settles an image (its event has the origin `REVIEW`): it comes back
only once a version was trained that knows the answer. A blind re-ask is another thing: it shows an
image as if for the first time, to learn how steady a person's scores are.
"""

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from tastemaker import projects, scores, versions
from tastemaker.database.tables import Annotator, Image, Project, ScoreEvent, now
from tastemaker.queues import reasons
from tastemaker.queues.cards import QueueItem
from tastemaker.queues.request import QueueRequest, batches
from tastemaker.queues.unscored import still_unscored
from tastemaker.scores import Origin

RE_ASK_EVERY = 20  # one of so many images of the Mixed queue
RE_ASK_LABELS = 100  # so many labels first
RE_ASK_AFTER = 100  # so many scores must lie between two looks at an image …
RE_ASK_PAUSE = timedelta(hours=1)  # … and so much time
RE_ASK_OLDEST = 64  # drawn at random among so many of the oldest


def open_rereviews(asking: QueueRequest, picks: Iterable[dict[str, Any]]) -> Iterator[QueueItem]:
    """Those of the labelled picks whose label is what the evidence spoke of, and not settled."""
    labelled = (p for p in picks if "label" in p and p["image_id"] not in asking.held)
    for batch in batches(labelled, 32):
        ids = [pick["image_id"] for pick in batch]
        values = scores.values_of(asking.session, asking.project.id, ids)
        done = resolved(asking.session, asking.project, ids)
        for pick in batch:
            image_id = pick["image_id"]
            if values.get(image_id) == pick["label"] and image_id not in done:
                yield QueueItem(image_id, Origin.REVIEW, reasons.describe(pick), pick.get("twin"))


def sides(pair: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both images of a contradiction, each with the other as its twin."""
    turned = {
        "image_id": pair["twin"], "label": pair["twin_label"],
        "twin": pair["image_id"], "twin_label": pair["label"],
    }  # fmt: skip
    return pair, pair | turned


def resolved(session: Session, project: Project, ids: list[int]) -> set[int]:
    """Those of the images that were looked at again since the active version was trained (ever,
    while there is none)."""
    version = versions.active(session, project)
    query = (
        scores.standing_events()
        .with_only_columns(ScoreEvent.image_id)
        .where(
            ScoreEvent.project_id == project.id,
            col(ScoreEvent.image_id).in_(ids),
            ScoreEvent.origin == Origin.REVIEW,
            col(ScoreEvent.id) > (version.event_high if version else 0),
        )
    )
    return set(session.exec(query).all())


def flagged(asking: QueueRequest) -> Iterator[QueueItem]:
    """Flags of anybody that nobody has looked at since."""
    later = aliased(ScoreEvent)
    looked_at = (
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
    rows = asking.session.execute(
        scores.standing_events()
        .add_columns(Annotator.name)
        .join(Annotator, col(Annotator.id) == ScoreEvent.annotator_id)
        .where(
            ScoreEvent.project_id == asking.project.id,
            ScoreEvent.kind == "flag",
            ~looked_at,
            ~projects.is_removed(asking.project.id, ScoreEvent.image_id),
        )
        .order_by(col(ScoreEvent.id))
    )
    for event, name in rows:
        by = "you" if event.annotator_id == asking.person.id else name
        yield QueueItem(event.image_id, Origin.REVIEW, reasons.flagged(by, event.note))


def skipped(asking: QueueRequest) -> Iterator[QueueItem]:
    """What this person skipped and never scored; skipped again, it rests until the next version."""
    version = versions.active(asking.session, asking.project)
    mine = (
        ScoreEvent.project_id == asking.project.id,
        ScoreEvent.annotator_id == asking.person.id,
    )
    scored = scores.standing_events().with_only_columns(ScoreEvent.image_id)
    scored = scored.where(*mine, ScoreEvent.kind == "set")
    rows = asking.session.exec(
        scores.standing_events()
        .where(
            *mine,
            ScoreEvent.kind == "skip",
            col(ScoreEvent.image_id).not_in(scored),
            ~projects.is_removed(asking.project.id, ScoreEvent.image_id),
        )
        .order_by(col(ScoreEvent.id))
    ).all()
    newest = {event.image_id: event for event in rows}
    since = version.event_high if version else 0
    for event in newest.values():
        if event.origin != Origin.REVIEW or event.id <= since:
            yield QueueItem(event.image_id, Origin.REVIEW, reasons.skipped(event.at))


# --- blind re-asks ------------------------------------------------------------------------------


def re_asks(asking: QueueRequest) -> Iterator[QueueItem]:
    """Images that this person scored long enough ago, drawn from the oldest. The score asked for
    is independent of the first only if that is forgotten."""
    mine = (
        ScoreEvent.project_id == asking.project.id,
        ScoreEvent.annotator_id == asking.person.id,
    )
    newest = scores.standing_events().where(*mine).order_by(col(ScoreEvent.id).desc())
    apart = asking.session.exec(newest.offset(RE_ASK_AFTER - 1).limit(1)).first()
    if apart is None:
        return
    later = aliased(ScoreEvent)
    spoken_of_since = (
        select(later.id)
        .where(
            later.project_id == ScoreEvent.project_id,
            later.image_id == ScoreEvent.image_id,
            later.annotator_id == ScoreEvent.annotator_id,
            col(later.id) > ScoreEvent.id,
        )
        .exists()
    )
    oldest = asking.session.exec(
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
            ~spoken_of_since,
            ~projects.is_removed(asking.project.id, ScoreEvent.image_id),
        )
        .order_by(col(ScoreEvent.id))
        .limit(RE_ASK_OLDEST + len(asking.held))
    ).all()
    for image_id in sorted(oldest, key=lambda i: asking.draw(i)):
        yield QueueItem(image_id, Origin.RE_ASK, reasons.RE_ASKED)


def re_ask_due(asking: QueueRequest) -> bool:
    """Whether this person's last scores hold no re-ask, and none is on its way. A proxy for a
    person has no memory to test."""
    labels = scores.count_labels(asking.session, asking.project.id)
    if asking.person.proxy or labels < RE_ASK_LABELS:
        return False
    newest = (
        scores.standing_events()
        .where(
            ScoreEvent.project_id == asking.project.id,
            ScoreEvent.annotator_id == asking.person.id,
            ScoreEvent.kind == "set",
        )
        .order_by(col(ScoreEvent.id).desc())
        .limit(max(RE_ASK_EVERY - 2 - len(asking.held), 0))  # what is held comes before it
    )
    if any(event.origin == Origin.RE_ASK for event in asking.session.exec(newest)):
        return False
    return not asking.held - still_unscored(asking, list(asking.held))
