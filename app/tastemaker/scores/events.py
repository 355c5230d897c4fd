"""The events that stand: scores, skips and flags that nobody has taken back."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import bindparam
from sqlalchemy import select as select_columns
from sqlalchemy.orm import aliased
from sqlmodel import Session, and_, col, func, select

from tastemaker.database.tables import Annotator, Image, Project, ScoreEvent

TABLE = "table:"  # how the groups of scores out of tables begin: then the table

_Inverse: Any = aliased(ScoreEvent)


def is_standing(event: Any = ScoreEvent) -> Any:
    """Condition: the event (or an alias of the table) is not undone, and is no undo itself."""
    taken_back = select(_Inverse.undoes).where(_Inverse.undoes == event.id).exists()
    return and_(event.kind != "undo", ~taken_back)


@functools.cache  # building it anew costs more than running it
def standing_events() -> Any:
    """Select of the events that are not undone (and are not undos)."""
    return select(ScoreEvent).where(is_standing())


def newest_event(
    session: Session,
    project: Project,
    image_id: int,
    person: Annotator,
    *,
    undone_too: bool = False,
) -> ScoreEvent | None:
    """The event of this person on this image that counts now; with `undone_too` the last of all,
    undos and what they took back among them."""
    found: Any = select(ScoreEvent) if undone_too else standing_events()
    newest: ScoreEvent | None = session.exec(
        found.where(
            ScoreEvent.project_id == project.id,
            ScoreEvent.image_id == image_id,
            ScoreEvent.annotator_id == person.id,
        )
        .order_by(col(ScoreEvent.id).desc())
        .limit(1)
    ).first()
    return newest


def newest_of(
    session: Session, project_id: int, person: Annotator, image_ids: Sequence[int]
) -> dict[int, int]:
    """Image id -> the newest event of this person that stands, where there is one."""
    rows = session.execute(
        standing_events()
        .with_only_columns(ScoreEvent.image_id, func.max(ScoreEvent.id))
        .where(
            ScoreEvent.project_id == project_id,
            ScoreEvent.annotator_id == person.id,
            col(ScoreEvent.image_id).in_(image_ids),
        )
        .group_by(col(ScoreEvent.image_id))
    )
    return dict(rows.tuples().all())


@functools.cache
def _undoable() -> Any:
    of_a_table = func.coalesce(ScoreEvent.event_group, "").startswith(TABLE)
    return (
        standing_events()
        .where(
            ScoreEvent.project_id == bindparam("project"),
            ScoreEvent.annotator_id == bindparam("person"),
            ~of_a_table,
        )
        .order_by(col(ScoreEvent.id).desc())
        .limit(1)
    )


def newest_undoable(session: Session, project: Project, person: Annotator) -> ScoreEvent | None:
    """The newest event of this person that stands: what `undo` takes back. What came out of a table
    is none: the table is taken back where it was brought in, and no key press reaches that far."""
    names = {"project": project.id, "person": person.id}
    newest: ScoreEvent | None = session.exec(_undoable(), params=names).first()
    return newest


def highest_event(session: Session, project: Project) -> int:
    """Id of the project's newest event, 0 without any."""
    query = select(func.max(ScoreEvent.id)).where(ScoreEvent.project_id == project.id)
    return int(session.exec(query).one() or 0)


def recent(
    session: Session, project: Project, person: Annotator, limit: int = 12
) -> list[tuple[ScoreEvent, Image]]:
    """This person's newest standing events with their images, newest first."""
    rows = session.execute(
        standing_events()
        .add_columns(Image)
        .join(Image, col(Image.id) == ScoreEvent.image_id)
        .where(ScoreEvent.project_id == project.id, ScoreEvent.annotator_id == person.id)
        .order_by(col(ScoreEvent.id).desc())
        .limit(limit)
    )
    return [(event, image) for event, image in rows]


# --- on one image, without the object layer, which would cost five times as much -----------------


class Event(NamedTuple):
    """One event on an image, and whether it is a proxy's."""

    id: int
    annotator_id: int
    kind: str
    value: int | None
    undoes: int | None
    origin: str
    proxy: bool


@functools.cache
def _events_on() -> Any:
    return (
        select_columns(
            col(ScoreEvent.id), col(ScoreEvent.annotator_id), col(ScoreEvent.kind),
            col(ScoreEvent.value), col(ScoreEvent.undoes), col(ScoreEvent.origin),
            col(Annotator.proxy),
        )
        .join(Annotator, col(Annotator.id) == ScoreEvent.annotator_id)
        .where(
            col(ScoreEvent.project_id) == bindparam("project"),
            col(ScoreEvent.image_id) == bindparam("image"),
        )
        .order_by(col(ScoreEvent.id))
    )  # fmt: skip


def standing_on(session: Session, project_id: int, image_id: int) -> list[Event]:
    """The events on an image that are not undone (and are not undos), oldest first."""
    rows = session.connection().execute(_events_on(), {"project": project_id, "image": image_id})
    return standing([Event(*row) for row in rows])


def standing(events: list[Event]) -> list[Event]:
    """Those of an image's events, oldest first, that are not undone (and are not undos)."""
    undone = {event.undoes for event in events if event.kind == "undo"}
    return [event for event in events if event.kind != "undo" and event.id not in undone]
