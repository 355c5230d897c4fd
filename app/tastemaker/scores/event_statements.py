"""The statements of every key press: what must be known before an event is written, and its row;
and the same of many images at once.

Bare, on the connection: through the object layer the same would cost five times as much.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Integer, bindparam, func, text
from sqlalchemy import select as select_columns
from sqlmodel import Session, col

from tastemaker import projects
from tastemaker.database.tables import Annotator, Image, Project, ScoreEvent, SyntheticImage
from tastemaker.projects import LabelRules

EVENTS = ScoreEvent.metadata.tables[str(ScoreEvent.__tablename__)]
ANNOTATORS = Annotator.metadata.tables[str(Annotator.__tablename__)]


@dataclass(frozen=True)
class Recorded:
    """An event and whether this call wrote it (False: the same request came twice)."""

    id: int
    image_id: int
    value: int | None
    columns: dict[str, Any]
    fresh: bool

    @property
    def kind(self) -> str:
        """set, skip, flag, at_least, below or undo."""
        return str(self.columns["kind"])

    @property
    def event(self) -> ScoreEvent:
        """The event as an object that belongs to no session."""
        return ScoreEvent(id=self.id, **self.columns)


class Whose(NamedTuple):
    """The project's terms, the person whose the score is, and whether that is a proxy."""

    terms: LabelRules
    annotator_id: int
    proxy: bool


class About(NamedTuple):
    """An image: whether it is synthetic, of the project, and taken out of it."""

    sha256: str
    source_group: str
    synthetic: bool
    member: bool
    removed: bool


class Scene(NamedTuple):
    """What must be known before anything is written; also the event of the request's key if it came
    before, and whether anybody spoke of the image."""

    whose: Whose
    image: About
    with_key: int | None
    spoken_of: bool


@functools.cache
def _scene() -> Any:
    project: Any = bindparam("project")
    image: Any = bindparam("image")
    event = EVENTS.alias()
    spoken_of = (
        select_columns(event.c.id)
        .where(event.c.project_id == project, event.c.image_id == image)
        .exists()
    )
    key = _id_of_key().scalar_subquery()
    whose, about = _whose_columns(), _about_columns()
    return (
        select_columns(*whose, *about, key, spoken_of)
        .select_from(Image)
        .join(Project, col(Project.id) == project)
        .join(Annotator, _is_whose())
        .where(col(Image.id) == image)
    )


def _whose_columns() -> Any:
    return (
        col(Project.id), col(Project.seed), col(Project.holdout_share), col(Project.aggregate),
        col(Project.labelling), col(Annotator.id), col(Annotator.proxy),
    )  # fmt: skip


def _about_columns() -> Any:
    project: Any = bindparam("project")
    synthetic = (
        select_columns(col(SyntheticImage.image_id))
        .where(col(SyntheticImage.image_id) == Image.id)
        .exists()
    )
    return (
        col(Image.sha256), col(Image.source_group), synthetic,
        projects.is_member(project, Image.id, projects.ANY_ROLE, removed_too=True),
        projects.is_removed(project, Image.id),
    )  # fmt: skip


def _is_whose() -> Any:
    """Condition: the annotator is the person; where they are gone, shut out or a proxy, the one
    whose it is `otherwise`."""
    chosen: Any = ANNOTATORS.alias()
    welcome = select_columns(chosen.c.id).where(
        chosen.c.id == bindparam("person"), ~chosen.c.proxy, ~chosen.c.disabled
    )
    otherwise = bindparam("otherwise", type_=Integer)
    return col(Annotator.id) == func.coalesce(welcome.scalar_subquery(), otherwise)


def scene_of(
    session: Session, project_id: int, image_id: int, annotator_id: int, otherwise: int | None,
    key: str | None,
) -> Scene | None:  # fmt: skip
    """None where the project, the image or the person is not there."""
    names = {
        "project": project_id, "image": image_id, "person": annotator_id, "key": key,
        "otherwise": annotator_id if otherwise is None else otherwise,
    }  # fmt: skip
    row = session.connection().execute(_scene(), names).one_or_none()
    if row is None:
        return None
    return Scene(Whose(LabelRules(*row[:5]), *row[5:7]), About(*row[7:12]), *row[12:])


@functools.cache
def _whose() -> Any:
    return (
        select_columns(*_whose_columns())
        .join(Annotator, _is_whose())
        .where(col(Project.id) == bindparam("project"))
    )


def whose(
    session: Session, project_id: int, annotator_id: int, otherwise: int | None
) -> Whose | None:
    """What of a `Scene` is the same for all images."""
    names = {
        "project": project_id, "person": annotator_id,
        "otherwise": annotator_id if otherwise is None else otherwise,
    }  # fmt: skip
    row = session.connection().execute(_whose(), names).one_or_none()
    return None if row is None else Whose(LabelRules(*row[:5]), *row[5:])


@functools.cache
def _about() -> Any:
    images: Any = bindparam("images", expanding=True)
    return select_columns(col(Image.id), *_about_columns()).where(col(Image.id).in_(images))


def about(session: Session, project_id: int, image_ids: Sequence[int]) -> dict[int, About]:
    """Image id -> what of a `Scene` is the image's, for those that are there."""
    names = {"project": project_id, "images": image_ids}
    rows = session.connection().execute(_about(), names)
    return {row[0]: About(*row[1:]) for row in rows}


@functools.cache
def _events_about() -> Any:
    return (
        select_columns(*EVENTS.columns, col(Annotator.proxy).label("by_proxy"))
        .join(Annotator, col(Annotator.id) == ScoreEvent.annotator_id)
        .where(
            col(ScoreEvent.project_id) == bindparam("project"),
            col(ScoreEvent.image_id).in_(bindparam("images", expanding=True)),
        )
        .order_by(col(ScoreEvent.id))
    )


def events_about(
    session: Session, project_id: int, image_ids: Sequence[int]
) -> list[tuple[Recorded, bool]]:
    """Every event on the images, undos and what they took back among them, oldest first, and
    whether it is a proxy's."""
    names = {"project": project_id, "images": image_ids}
    found: list[tuple[Recorded, bool]] = []
    for row in session.connection().execute(_events_about(), names).mappings():
        columns = dict(row)
        proxy = columns.pop("by_proxy")
        found.append((_recorded(columns), proxy))
    return found


@functools.cache
def _id_of_key() -> Any:
    return select_columns(col(ScoreEvent.id)).where(col(ScoreEvent.key) == bindparam("key"))


def with_key(session: Session, key: str) -> Recorded | None:
    """The event of an idempotency key: nearly always none, which a bare look-up finds cheapest."""
    found = session.connection().execute(_id_of_key(), {"key": key}).scalar_one_or_none()
    return None if found is None else again(session, found)


@functools.cache
def _ids_of_keys() -> Any:
    keys: Any = bindparam("keys", expanding=True)
    return select_columns(col(ScoreEvent.key), col(ScoreEvent.id)).where(
        col(ScoreEvent.key).in_(keys)
    )


def ids_of_keys(session: Session, keys: Sequence[str]) -> dict[str, int]:
    """Idempotency key -> its event, for those that came before."""
    rows = session.connection().execute(_ids_of_keys(), {"keys": keys})
    return dict(rows.tuples().all())


@functools.cache
def _insert_event() -> Any:
    return EVENTS.insert()


BLANK = {"value": None, "undoes": None, "event_group": None, "reason": "", "note": "", "key": None}


def append(session: Session, **columns: Any) -> Recorded:
    """Write an event."""
    columns = BLANK | columns
    session.flush()
    written = session.connection().execute(_insert_event(), columns)
    assert written.inserted_primary_key is not None
    new = int(written.inserted_primary_key[0])
    return Recorded(new, columns["image_id"], columns["value"], columns, fresh=True)


def next_ids(session: Session, count: int) -> Iterator[int]:
    """The ids of the next events, of which at most so many are written, in their order and by
    `append_all`. SQLite gives the same ones; on PostgreSQL those that are not used are left out."""
    connection = session.connection()
    if connection.dialect.name == "sqlite":
        newest = connection.execute(select_columns(func.max(col(ScoreEvent.id)))).scalar() or 0
        return iter(range(newest + 1, newest + 1 + count))
    following = "nextval(pg_get_serial_sequence('score_event', 'id'))"
    drawn = text(f"SELECT {following} FROM generate_series(1, :count)")
    return iter(sorted(connection.execute(drawn, {"count": count}).scalars()))


def append_all(session: Session, events: Sequence[Recorded]) -> None:
    """Write events that have their ids (`next_ids`)."""
    if events:
        rows = [{"id": event.id, **event.columns} for event in events]
        session.connection().execute(_insert_event(), rows)


def again(session: Session, event_id: int) -> Recorded | None:
    """What is answered to a request that came before."""
    event = session.get(ScoreEvent, event_id)
    return None if event is None else _recorded(event.model_dump())


def _recorded(columns: dict[str, Any]) -> Recorded:
    event_id = columns.pop("id")
    return Recorded(event_id, columns["image_id"], columns["value"], columns, fresh=False)
