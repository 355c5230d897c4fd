"""The statements of every key press: what must be known before an event is written, and its row.

Bare, on the connection: through the object layer the same would cost five times as much.
"""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Integer, bindparam, func
from sqlalchemy import select as select_columns
from sqlmodel import Session, col

from tastemaker import projects
from tastemaker.database.tables import Annotator, Image, Project, ScoreEvent, SyntheticImage
from tastemaker.projects import LabelRules


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


class Scene(NamedTuple):
    """What must be known before anything is written: the project's terms, the image, the person,
    the event of the request's key if it came before, whether anybody spoke of the image, and
    whether it is synthetic."""

    terms: LabelRules
    sha256: str
    source_group: str
    member: bool
    removed: bool
    annotator_id: int
    proxy: bool
    with_key: int | None
    spoken_of: bool
    synthetic: bool


@functools.cache
def _scene() -> Any:
    project: Any = bindparam("project")
    image: Any = bindparam("image")
    chosen: Any = Annotator.__table__.alias()  # type: ignore[attr-defined]  # a table has it
    welcome = select_columns(chosen.c.id).where(
        chosen.c.id == bindparam("person"), ~chosen.c.proxy, ~chosen.c.disabled
    )
    event = ScoreEvent.__table__.alias()  # type: ignore[attr-defined]  # a table has it
    spoken_of = (
        select_columns(event.c.id)
        .where(event.c.project_id == project, event.c.image_id == image)
        .exists()
    )
    synthetic = (
        select_columns(col(SyntheticImage.image_id))
        .where(col(SyntheticImage.image_id) == image)
        .exists()
    )
    return (
        select_columns(
            col(Project.id), col(Project.seed), col(Project.holdout_share),
            col(Project.aggregate), col(Project.labelling), col(Image.sha256),
            col(Image.source_group),
            projects.is_member(project, Image.id, projects.ANY_ROLE, removed_too=True),
            projects.is_removed(project, Image.id), col(Annotator.id),
            col(Annotator.proxy), _id_of_key().scalar_subquery(), spoken_of, synthetic,
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
    return None if row is None else Scene(LabelRules(*row[:5]), *row[5:])


@functools.cache
def _id_of_key() -> Any:
    return select_columns(col(ScoreEvent.id)).where(col(ScoreEvent.key) == bindparam("key"))


def with_key(session: Session, key: str) -> ScoreEvent | None:
    """The event of an idempotency key: nearly always none, which a bare look-up finds cheapest."""
    found = session.connection().execute(_id_of_key(), {"key": key}).scalar_one_or_none()
    return None if found is None else session.get(ScoreEvent, found)


@functools.cache
def _insert_event() -> Any:
    return ScoreEvent.__table__.insert()  # type: ignore[attr-defined]  # a table has it


def append(session: Session, **columns: Any) -> Recorded:
    """Write an event."""
    blank = {"value": None, "undoes": None, "event_group": None, "reason": "", "note": ""}
    columns = blank | columns
    session.flush()
    written = session.connection().execute(_insert_event(), columns)
    assert written.inserted_primary_key is not None
    new = int(written.inserted_primary_key[0])
    return Recorded(new, columns["image_id"], columns["value"], columns, fresh=True)


def again(event: ScoreEvent) -> Recorded:
    """What is answered to a request that came before."""
    columns = event.model_dump(exclude={"id"})
    return Recorded(event.id, event.image_id, event.value, columns, fresh=False)
