"""What a person has just scored or skipped, as cards: the way back through a session."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from sqlmodel import Session, col

from tastemaker import scores
from tastemaker.config import Settings
from tastemaker.database.tables import Annotator, Project, ScoreEvent, in_utc, now
from tastemaker.queues import reasons
from tastemaker.queues.cards import Card, QueueItem, cards, items_for
from tastemaker.scores import Origin

PAUSE = timedelta(minutes=30)  # a longer one ends a session of scoring


@dataclass(frozen=True)
class Answered:
    """A score or a skip that stands, and the card of its image with the reason of that time, less
    the figures of that time: beside it stand those of now."""

    event_id: int
    kind: str
    value: int | None
    card: Card


def history(
    session: Session, settings: Settings, project: Project, person: Annotator,
    before: int = 0, n: int = 12,
) -> list[Answered]:  # fmt: skip
    """The images this person scored or skipped, newest first, each once; of the `n` newest events
    older than `before` (0: than now)."""
    events = _answers(session, project, person, n, before=before)
    items = items_of(session, project, person, events)
    return answered(events, cards(session, settings, project, person, "one", items))


def items_of(
    session: Session, project: Project, person: Annotator, events: Sequence[ScoreEvent]
) -> list[QueueItem]:
    """The images of the events, to be looked at again. An answer of an audit is corrected as one:
    it is still blind."""
    items = items_for(session, project, person, [event.image_id for event in events])
    return [
        QueueItem(item.image_id, Origin.AUDIT, event.reason)
        if event.origin == Origin.AUDIT
        else item
        for item, event in zip(items, events, strict=True)
    ]


def previous_event(
    session: Session, project: Project, person: Annotator, image_id: int = 0
) -> ScoreEvent | None:
    """The score or skip before the image that is shown, in this session of scoring. Never of
    `image_id`, which is still to be judged blind."""
    newest = _answers(session, project, person, 1, other_than=image_id)
    return newest[0] if newest and now() - in_utc(newest[0].at) <= PAUSE else None


def answered(events: Sequence[ScoreEvent], made: Sequence[Card]) -> list[Answered]:
    """The events with their cards, which are in the same order."""
    return [
        Answered(
            event.id, event.kind, event.value,
            replace(card, reason=reasons.without_figures(event.reason) or card.reason),
        )
        for event, card in zip(events, made, strict=True)
    ]  # fmt: skip


def _answers(
    session: Session, project: Project, person: Annotator, n: int, *,
    before: int = 0, other_than: int = 0,
) -> list[ScoreEvent]:  # fmt: skip
    """The newest standing scores and skips of a person, one for each image."""
    query = (
        scores.standing_events()
        .where(
            ScoreEvent.project_id == project.id,
            ScoreEvent.annotator_id == person.id,
            ScoreEvent.image_id != other_than,
            col(ScoreEvent.kind).in_(("set", "skip")),
        )
        .order_by(col(ScoreEvent.id).desc())
        .limit(n)
    )
    newest: dict[int, ScoreEvent] = {}
    for event in session.exec(query.where(ScoreEvent.id < before) if before else query):
        newest.setdefault(event.image_id, event)
    return list(newest.values())
