"""Hand scores: record and undo.

`score_event` is the truth and only ever grows; what an image's label is follows from it, and is
written in the same transaction (`labels`).

This is the way of every key press, so it goes by bare statements on the connection: through the
object layer the same would cost five times as much.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Integer, bindparam, func
from sqlalchemy import select as select_columns
from sqlmodel import Session, col

from tastemaker.database.tables import Annotator, Image, Project, RemovedImage, ScoreEvent, now
from tastemaker.errors import Conflict, Forbidden, Invalid, NotFound, Stale
from tastemaker.projects import LabelRules
from tastemaker.scores.events import Event, newest_event, standing_events, standing_on
from tastemaker.scores.labels import (
    derive_label,
)


@dataclass(frozen=True)
class Recorded:
    """An event and whether this call wrote it (False: the same request came twice)."""

    id: int
    image_id: int
    value: int | None
    columns: dict[str, Any]
    fresh: bool

    @property
    def event(self) -> ScoreEvent:
        """The event as an object that belongs to no session."""
        return ScoreEvent(id=self.id, **self.columns)


def parse_score(value: Any) -> int:
    """A score as typed, posted or imported: a whole number from 0 to 10."""
    text = str(value).strip()
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if isinstance(value, bool) or "_" in text or not number.is_integer() or not 0 <= number <= 10:
        raise Invalid(f"“{text[:40]}” is not a score.", "A score is a whole number from 0 to 10.")
    return int(number)


def record(
    session: Session, project: Project, image_id: int, person: Annotator, kind: str,
    value: int | None = None, **more: Any,
) -> Recorded:  # fmt: skip
    """`record_for` with the rows of the project and the person at hand."""
    session.flush()  # what was changed in them decides the label
    return record_for(session, project.id, image_id, person.id, kind, value, **more)


def record_for(
    session: Session,
    project_id: int,
    image_id: int,
    annotator_id: int,
    kind: str,
    value: int | None = None,
    *,
    origin: str = "queue",
    reason: str = "",
    note: str = "",
    key: str | None = None,
    group: str | None = None,
    expected: int | None = None,
    at: datetime | None = None,
    otherwise: int | None = None,
) -> Recorded:
    """Append what a person said: `set` (with a value), `skip` or `flag`. `otherwise` is whose it
    is where that person is gone, shut out or a proxy.

    `key` makes a repeated request harmless: the first answer is given again. `expected` is the id
    of the newest event of this person on this image that the page knew of (0: none); another one
    means that the score was changed elsewhere meanwhile, and `Conflict` names both values. `at`
    is when it was said, where that was not now: scores brought in from a file keep their time.
    Raises `NotFound` for an image (project, person) that is not there or was taken out.
    """
    if kind not in ("set", "skip", "flag"):
        raise Invalid(f"“{kind}” is not something one can say about an image.")
    if (kind == "set") != (value is not None):
        raise Invalid("A score needs a value from 0 to 10; a skip or a flag has none.")
    if value is not None:
        value = parse_score(value)
    scene = _scene_of(session, project_id, image_id, annotator_id, otherwise, key)
    if scene is None:
        raise NotFound("This image is not in the library.", "It may have been removed; go on.")
    annotator_id = scene.annotator_id
    if scene.with_key is not None:
        before = session.get(ScoreEvent, scene.with_key)
        assert before is not None, "it was there a statement ago, in this transaction"
        same = (before.project_id, before.image_id, before.annotator_id, before.kind)
        if same != (project_id, image_id, annotator_id, kind) or before.value != value:
            raise Conflict("This request key was used for another score.", "Reload the page.")
        return _again(before)
    if scene.removed and origin != "import":
        raise NotFound(
            "This image was taken out of the project meanwhile; nothing was saved.",
            "Go on with the next one.",
        )
    said = standing_on(session, project_id, image_id) if scene.spoken_of else []
    if expected is not None:
        newest = next((e for e in reversed(said) if e.annotator_id == annotator_id), None)
        if (newest.id if newest else 0) != expected:
            theirs = "nothing" if newest is None or newest.value is None else newest.value
            raise Stale(
                f"This image was scored elsewhere meanwhile: {theirs} there, "
                f"{'nothing' if value is None else value} here. The first was kept.",
                "Score it again if you want to replace it.",
                newest.id if newest else 0,
            )
    written = _append(
        session,
        project_id=project_id, image_id=image_id, annotator_id=annotator_id, kind=kind,
        value=value, origin=origin, reason=reason[:300], note=note[:2000], key=key,
        event_group=group, at=at or now(),
    )  # fmt: skip
    if kind == "set":
        said.append(Event(written.id, annotator_id, kind, value, None, origin, scene.proxy))
        derive_label(session, scene.terms, image_id, scene.source_group, said)
    return written


def record_many(
    session: Session,
    project: Project,
    person: Annotator,
    scores: Iterable[tuple[int, int]],
    *,
    origin: str,
    group: str | None = None,
    at: datetime | None = None,
) -> int:
    """Record (image id, score) pairs, leaving out those that already say the same."""
    written = 0
    for image_id, value in scores:
        newest = newest_event(session, project, image_id, person)
        if newest is not None and newest.kind == "set" and newest.value == value:
            continue
        record_for(
            session, project.id, image_id, person.id, "set", value, origin=origin, group=group,
            at=at,
        )  # fmt: skip
        written += 1
    return written


def undo(
    session: Session, project: Project, person: Annotator, event_id: int | None = None,
    key: str | None = None,
) -> Recorded:  # fmt: skip
    """Take back this person's newest event that still stands (a bulk action as a whole). With
    `event_id`, only if that one is the newest. Returns the inverse event.

    Raises `NotFound` with nothing to undo, `Forbidden` for another person's event, `Conflict` for
    an older one.
    """
    if key is not None:
        before = _with_key(session, key)
        if before is not None:
            same = (before.project_id, before.annotator_id, before.kind)
            if same != (project.id, person.id, "undo"):
                raise Conflict("This request key was used for another score.", "Reload the page.")
            return _again(before)
    if event_id is not None:
        event = session.get(ScoreEvent, event_id)
        if event is None or event.project_id != project.id:
            raise NotFound("There is no such score to undo.")
        if event.annotator_id != person.id:
            raise Forbidden("This score is somebody else's.", "Only they can take it back.")
    newest = session.exec(
        standing_events()
        .where(ScoreEvent.project_id == project.id, ScoreEvent.annotator_id == person.id)
        .order_by(col(ScoreEvent.id).desc())
        .limit(1)
    ).first()
    if newest is None:
        raise NotFound("Nothing more to take back.")
    if event_id is not None and newest.id < event_id:
        raise Conflict("This score was taken back already.", "Nothing was changed.")
    if event_id is not None and newest.id != event_id:
        raise Conflict("Something newer was scored since.", "Undo that first.")
    together = [newest]
    if newest.event_group is not None:
        together = list(
            session.exec(
                standing_events().where(
                    ScoreEvent.project_id == project.id,
                    ScoreEvent.annotator_id == person.id,
                    ScoreEvent.event_group == newest.event_group,
                )
            )
        )
    inverse: list[Recorded] = []
    for event in together:
        written = _append(
            session,
            project_id=project.id, image_id=event.image_id, annotator_id=person.id, kind="undo",
            undoes=event.id, origin=event.origin, key=key if event is newest else None, at=now(),
        )  # fmt: skip
        inverse.append(written)
        source_group, _ = _image(session, project.id, event.image_id)
        said = standing_on(session, project.id, event.image_id)
        derive_label(session, project, event.image_id, source_group, said)
    return inverse[together.index(newest)]


# --- the statements of every key press -----------------------------------------------------------


class Scene(NamedTuple):
    """What must be known before anything is written: the project's terms, the image, the person,
    the event of the request's key if it came before, and whether anybody spoke of the image."""

    terms: LabelRules
    source_group: str
    removed: bool
    annotator_id: int
    proxy: bool
    with_key: int | None
    spoken_of: bool


@functools.cache
def _scene() -> Any:
    project: Any = bindparam("project")
    image: Any = bindparam("image")
    asked: Any = Annotator.__table__.alias()  # type: ignore[attr-defined]
    welcome = select_columns(asked.c.id).where(
        asked.c.id == bindparam("person"), ~asked.c.proxy, ~asked.c.disabled
    )
    event = ScoreEvent.__table__.alias()  # type: ignore[attr-defined]
    spoken_of = (
        select_columns(event.c.id)
        .where(event.c.project_id == project, event.c.image_id == image)
        .exists()
    )
    return (
        select_columns(
            col(Project.id), col(Project.seed), col(Project.holdout_share),
            col(Project.aggregate), col(Image.source_group), _removed(), col(Annotator.id),
            col(Annotator.proxy), _id_of_key().scalar_subquery(), spoken_of,
        )
        .select_from(Image)
        .join(Project, col(Project.id) == project)
        .join(
            Annotator,
            col(Annotator.id)
            == func.coalesce(welcome.scalar_subquery(), bindparam("otherwise", type_=Integer)),
        )
        .where(col(Image.id) == image)
    )  # fmt: skip


def _removed() -> Any:
    return (
        select_columns(col(RemovedImage.image_id))
        .where(
            col(RemovedImage.project_id) == bindparam("project"),
            col(RemovedImage.image_id) == bindparam("image"),
        )
        .exists()
    )


def _scene_of(
    session: Session, project_id: int, image_id: int, annotator_id: int, otherwise: int | None,
    key: str | None,
) -> Scene | None:  # fmt: skip
    """None where the project, the image or the person is not there."""
    names = {
        "project": project_id, "image": image_id, "person": annotator_id, "key": key,
        "otherwise": annotator_id if otherwise is None else otherwise,
    }  # fmt: skip
    row = session.connection().execute(_scene(), names).one_or_none()
    return None if row is None else Scene(LabelRules(*row[:4]), *row[4:])


@functools.cache
def _image_facts() -> Any:
    return select_columns(col(Image.source_group), _removed()).where(
        col(Image.id) == bindparam("image")
    )


def _image(session: Session, project_id: int, image_id: int) -> tuple[str, bool]:
    """The source group of an image, and whether it was taken out of the project."""
    facts = {"project": project_id, "image": image_id}
    found = session.connection().execute(_image_facts(), facts).one_or_none()
    if found is None:
        raise NotFound("This image is not in the library.", "It may have been removed; go on.")
    return str(found[0]), bool(found[1])


@functools.cache
def _id_of_key() -> Any:
    return select_columns(col(ScoreEvent.id)).where(col(ScoreEvent.key) == bindparam("key"))


def _with_key(session: Session, key: str) -> ScoreEvent | None:
    """The event of an idempotency key: nearly always none, which a bare look-up finds cheapest."""
    found = session.connection().execute(_id_of_key(), {"key": key}).scalar_one_or_none()
    return None if found is None else session.get(ScoreEvent, found)


@functools.cache
def _insert_event() -> Any:
    return ScoreEvent.__table__.insert()  # type: ignore[attr-defined]


def _append(session: Session, **columns: Any) -> Recorded:
    """Write an event."""
    blank = {"value": None, "undoes": None, "event_group": None, "reason": "", "note": ""}
    columns = blank | columns
    session.flush()
    written = session.connection().execute(_insert_event(), columns)
    assert written.inserted_primary_key is not None
    new = int(written.inserted_primary_key[0])
    return Recorded(new, columns["image_id"], columns["value"], columns, fresh=True)


def _again(event: ScoreEvent) -> Recorded:
    columns = event.model_dump(exclude={"id"})
    return Recorded(event.id, event.image_id, event.value, columns, fresh=False)
