"""Hand scores: record, undo, and the labels that follow from them.

`score_event` is the truth and only ever grows. `label` is derived from it in the same transaction:
for each person the newest event that was not undone counts, and where several people scored an
image, the project's `aggregate` of their scores is its label (stand-ins count only where no person
spoke). `rebuild_labels` derives all of them anew.
"""

import functools
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import bindparam
from sqlalchemy import select as select_columns
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import aliased
from sqlalchemy.orm.util import identity_key
from sqlmodel import Session, col, delete, func, select

from app.errors import Conflict, Invalid, NotFound, TastemakerError
from app.projects import on_holdout_side
from app.tables import Annotator, Image, Label, Project, RemovedImage, ScoreEvent, now

# Events of these origins were drawn without a look at any model or at the picture; only such
# labels may judge a version.
UNBIASED_ORIGINS = ("control", "import")


class Forbidden(TastemakerError):
    status = 403


@dataclass(frozen=True)
class Recorded:
    """An event and whether this call wrote it (False: the same request came twice)."""

    event: ScoreEvent
    fresh: bool


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
    session: Session,
    project: Project,
    image_id: int,
    person: Annotator,
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
) -> Recorded:
    """Append what a person said: `set` (with a value), `skip` or `flag`.

    `key` makes a repeated request harmless: the first answer is given again. `expected` is the id
    of the newest event of this person on this image that the page knew of (0: none); another one
    means that the score was changed elsewhere meanwhile, and `Conflict` names both values. `at`
    is when it was said, where that was not now: scores brought in from a file keep their time.
    """
    if kind not in ("set", "skip", "flag"):
        raise Invalid(f"“{kind}” is not something one can say about an image.")
    if (kind == "set") != (value is not None):
        raise Invalid("A score needs a value from 0 to 10; a skip or a flag has none.")
    if value is not None:
        value = parse_score(value)
    if key is not None:
        before = _with_key(session, key)
        if before is not None:
            same = (before.project_id, before.image_id, before.annotator_id, before.kind)
            if same != (project.id, image_id, person.id, kind) or before.value != value:
                raise Conflict("This request key was used for another score.", "Reload the page.")
            return Recorded(before, fresh=False)
    source_group, removed = _image(session, project.id, image_id)
    if removed and origin != "import":
        raise NotFound(
            "This image was taken out of the project meanwhile; nothing was saved.",
            "Go on with the next one.",
        )
    said = standing_on(session, project.id, image_id)
    if expected is not None:
        newest = next((e for e in reversed(said) if e.annotator_id == person.id), None)
        if (newest.id if newest else 0) != expected:
            theirs = "nothing" if newest is None or newest.value is None else newest.value
            raise Conflict(
                f"This image was scored elsewhere meanwhile: {theirs} there, "
                f"{'nothing' if value is None else value} here. The first was kept.",
                "Score it again if you want to replace it.",
            )
    event = ScoreEvent(
        project_id=project.id, image_id=image_id, annotator_id=person.id, kind=kind, value=value,
        origin=origin, reason=reason[:300], note=note[:2000], key=key, event_group=group,
        at=at or now(),
    )  # fmt: skip
    event.id = _append(session, event)
    if kind == "set":
        said.append(Said(event.id, person.id, kind, value, None, origin, person.stand_in))
        _write_label(session, _label_from(project, image_id, source_group, said))
    return Recorded(event, fresh=True)


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
            return Recorded(before, fresh=False)
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
    inverse = []
    for event in together:
        taken_back = ScoreEvent(
            project_id=project.id, image_id=event.image_id, annotator_id=person.id, kind="undo",
            undoes=event.id, origin=event.origin, key=key if event is newest else None,
        )  # fmt: skip
        taken_back.id = _append(session, taken_back)
        inverse.append(taken_back)
        derive_label(session, project, event.image_id)
    return Recorded(inverse[together.index(newest)], fresh=True)


# --- reading what stands -----------------------------------------------------------------------


@functools.cache  # building it anew costs more than running it
def standing_events() -> Any:
    """Select of the events that are not undone (and are not undos)."""
    inverse = aliased(ScoreEvent)
    taken_back = select(inverse.undoes).where(inverse.undoes == ScoreEvent.id).exists()
    return select(ScoreEvent).where(ScoreEvent.kind != "undo", ~taken_back)


def newest_event(
    session: Session, project: Project, image_id: int, person: Annotator
) -> ScoreEvent | None:
    """The event of this person on this image that counts now."""
    return session.exec(
        standing_events()
        .where(
            ScoreEvent.project_id == project.id,
            ScoreEvent.image_id == image_id,
            ScoreEvent.annotator_id == person.id,
        )
        .order_by(col(ScoreEvent.id).desc())
        .limit(1)
    ).first()


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


def histogram(session: Session, project: Project) -> list[int]:
    """Number of labels at each whole score 0–10 (a median of .5 counts for the even score)."""
    counts = [0] * 11
    rows = session.exec(
        select(Label.value, func.count())
        .where(Label.project_id == project.id)
        .group_by(col(Label.value))
    )
    for value, count in rows:
        counts[round(value)] += count
    return counts


def histogram_text(counts: list[int], raw: int) -> str:
    """The histogram as the original's author prints it: one bar for every whole 1 % of all
    images, `raw` being those without a score."""
    total = sum(counts) + raw
    lines = [f"{total} images in dataset."]
    for name, count in [*((f"{score:3d}", n) for score, n in enumerate(counts)), ("raw", raw)]:
        bars = "|" * (100 * count // total) if total else ""
        lines.append(f"{name} - {count:4d} {bars}".rstrip())
    return "\n".join(lines)


# --- the short way, taken at every key press ---------------------------------------------------
# Statements on the bare connection cost a fifth of the same through the object layer.


class Said(NamedTuple):
    """One event on an image, and whether a stand-in said it."""

    id: int
    annotator_id: int
    kind: str
    value: int | None
    undoes: int | None
    origin: str
    stand_in: bool


@functools.cache
def _events_on() -> Any:
    return (
        select_columns(
            col(ScoreEvent.id), col(ScoreEvent.annotator_id), col(ScoreEvent.kind),
            col(ScoreEvent.value), col(ScoreEvent.undoes), col(ScoreEvent.origin),
            col(Annotator.stand_in),
        )
        .join(Annotator, col(Annotator.id) == ScoreEvent.annotator_id)
        .where(
            col(ScoreEvent.project_id) == bindparam("project"),
            col(ScoreEvent.image_id) == bindparam("image"),
        )
        .order_by(col(ScoreEvent.id))
    )  # fmt: skip


def standing_on(session: Session, project_id: int, image_id: int) -> list[Said]:
    """The events on an image that are not undone (and are not undos), oldest first."""
    rows = session.connection().execute(_events_on(), {"project": project_id, "image": image_id})
    return _standing([Said(*row) for row in rows])


def _standing(said: list[Said]) -> list[Said]:
    undone = {event.undoes for event in said if event.kind == "undo"}
    return [event for event in said if event.kind != "undo" and event.id not in undone]


@functools.cache
def _image_facts() -> Any:
    removed = (
        select_columns(col(RemovedImage.image_id))
        .where(
            col(RemovedImage.project_id) == bindparam("project"),
            col(RemovedImage.image_id) == col(Image.id),
        )
        .exists()
    )
    return select_columns(col(Image.source_group), removed).where(
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


def _append(session: Session, event: ScoreEvent) -> int:
    """Write an event; returns its id."""
    session.flush()
    values = event.model_dump(exclude={"id"})
    written = session.connection().execute(_insert_event(), values)
    assert written.inserted_primary_key is not None
    return int(written.inserted_primary_key[0])


@functools.cache
def _upsert_label(dialect: str) -> Any:
    insert = (postgres_insert if dialect == "postgresql" else sqlite_insert)(Label)
    key = ("project_id", "image_id")
    changed = {name: insert.excluded[name] for name in Label.model_fields if name not in key}
    return insert.on_conflict_do_update(index_elements=key, set_=changed)


def _write_label(session: Session, label: Label) -> None:
    statement = _upsert_label(session.get_bind().dialect.name)
    session.connection().execute(statement, label.model_dump())
    known = session.identity_map.get(identity_key(Label, (label.project_id, label.image_id)))
    if known is not None:
        session.expire(known)


# --- labels ------------------------------------------------------------------------------------


def derive_label(session: Session, project: Project, image_id: int) -> None:
    """Make the label of one image agree with its events; gone when nobody's score stands."""
    said = standing_on(session, project.id, image_id)
    if any(event.kind == "set" for event in said):
        source_group, _ = _image(session, project.id, image_id)
        _write_label(session, _label_from(project, image_id, source_group, said))
        return
    label = session.get(Label, (project.id, image_id))
    if label is not None:
        session.delete(label)
        session.flush()


def labels_at(session: Session, project: Project, event_high: int) -> dict[int, Label]:
    """Every label as it stood right after the event `event_high`, by image id, derived from the
    events alone in one pass. The rows are not attached to the session."""
    events = session.exec(
        select(ScoreEvent)
        .where(ScoreEvent.project_id == project.id, col(ScoreEvent.id) <= event_high)
        .order_by(col(ScoreEvent.id))
    ).all()
    stand_ins = set(session.exec(select(Annotator.id).where(col(Annotator.stand_in))))
    about: dict[int, list[Said]] = {}
    for e in events:
        said = Said(
            e.id, e.annotator_id, e.kind, e.value, e.undoes, e.origin, e.annotator_id in stand_ins
        )
        about.setdefault(e.image_id, []).append(said)
    groups = dict(
        session.execute(
            select(Image.id, Image.source_group).where(
                col(Image.id).in_(
                    select(ScoreEvent.image_id).where(ScoreEvent.project_id == project.id)
                )
            )
        ).all()
    )
    standing = {image_id: _standing(said) for image_id, said in about.items()}
    return {
        image_id: _label_from(project, image_id, groups[image_id], said)
        for image_id, said in standing.items()
        if any(event.kind == "set" for event in said)
    }


def _label_from(project: Project, image_id: int, source_group: str, said: Iterable[Said]) -> Label:
    """The label that follows from the standing events of an image, oldest first, of which one at
    least is a score."""
    scored = [event for event in said if event.kind == "set"]
    by_people = [event for event in scored if not event.stand_in]
    per_person = {event.annotator_id: event for event in by_people or scored}
    by_age = sorted(per_person.values(), key=lambda event: event.id)
    holdout = on_holdout_side(project, source_group)
    return Label(
        project_id=project.id,
        image_id=image_id,
        value=aggregate(project.aggregate, [event.value or 0 for event in by_age]),
        annotators=len(per_person),
        event_id=max(event.id for event in per_person.values()),
        holdout=holdout,
        # How the image came to be scored at all decides; a later correction does not change that.
        measures=holdout and scored[0].origin in UNBIASED_ORIGINS,
    )


def aggregate(how: str, values: list[int]) -> float:
    """One label from several people's scores, oldest first."""
    if how == "newest":
        return float(values[-1])
    if how in ("lowest", "highest"):
        return float(min(values) if how == "lowest" else max(values))
    return float(statistics.fmean(values) if how == "mean" else statistics.median(values))


def rebuild_labels(session: Session, project: Project) -> int:
    """Throw the project's labels away and derive them from the events. Returns how many there
    are. The result equals what incremental derivation left (a test holds this)."""
    session.execute(delete(Label).where(col(Label.project_id) == project.id))
    session.expire_all()
    labels = labels_at(session, project, highest_event(session, project))
    session.add_all(labels.values())
    session.flush()
    return len(labels)


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
        record(session, project, image_id, person, "set", value, origin=origin, group=group, at=at)
        written += 1
    return written
