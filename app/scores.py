"""Hand scores: record, undo, and the labels that follow from them.

`score_event` is the truth and only ever grows. `label` is derived from it in the same transaction:
for each person the newest event that was not undone counts, and where several people scored an
image the median is its label (stand-ins count only where no person spoke). `rebuild_labels`
derives all of them anew.
"""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import aliased
from sqlmodel import Session, col, delete, func, select

from app.errors import Conflict, Invalid, NotFound, TastemakerError
from app.projects import on_holdout_side
from app.tables import Annotator, Image, Label, Project, ScoreEvent

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
) -> Recorded:
    """Append what a person said: `set` (with a value), `skip` or `flag`.

    `key` makes a repeated request harmless: the first answer is given again. `expected` is the id
    of the newest event of this person on this image that the page knew of (0: none); another one
    means that the score was changed elsewhere meanwhile, and `Conflict` names both values.
    """
    if kind not in ("set", "skip", "flag"):
        raise Invalid(f"“{kind}” is not something one can say about an image.")
    if (kind == "set") != (value is not None):
        raise Invalid("A score needs a value from 0 to 10; a skip or a flag has none.")
    if value is not None:
        value = parse_score(value)
    if key is not None:
        before = session.exec(select(ScoreEvent).where(ScoreEvent.key == key)).first()
        if before is not None:
            same = (before.project_id, before.image_id, before.annotator_id, before.kind)
            if same != (project.id, image_id, person.id, kind) or before.value != value:
                raise Conflict("This request key was used for another score.", "Reload the page.")
            return Recorded(before, fresh=False)
    image = session.get(Image, image_id)
    if image is None:
        raise NotFound("This image is not in the library.", "It may have been removed; go on.")
    if expected is not None:
        newest = newest_event(session, project, image_id, person)
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
    )  # fmt: skip
    session.add(event)
    session.flush()
    derive_label(session, project, image)
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
        before = session.exec(select(ScoreEvent).where(ScoreEvent.key == key)).first()
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
        raise NotFound("There is nothing to undo.", "You have not scored anything here yet.")
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
        session.add(taken_back)
        session.flush()
        inverse.append(taken_back)
        image = session.get(Image, event.image_id)
        assert image is not None
        derive_label(session, project, image)
    return Recorded(inverse[together.index(newest)], fresh=True)


# --- reading what stands -----------------------------------------------------------------------


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
    rows = session.exec(
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


# --- labels ------------------------------------------------------------------------------------


def derive_label(session: Session, project: Project, image: Image) -> Label | None:
    """Make the label of one image agree with its events; None when nobody's score stands."""
    said = list(
        session.exec(
            standing_events()
            .where(
                ScoreEvent.project_id == project.id,
                ScoreEvent.image_id == image.id,
                ScoreEvent.kind == "set",
            )
            .order_by(col(ScoreEvent.id))
        )
    )
    if said:
        derived = _label_from(project, image.id, image.source_group, said, _stand_ins(session))
        return session.merge(derived)
    label = session.get(Label, (project.id, image.id))
    if label is not None:
        session.delete(label)
        session.flush()
    return None


def labels_at(session: Session, project: Project, event_high: int) -> dict[int, Label]:
    """Every label as it stood right after the event `event_high`, by image id, derived from the
    events alone in one pass. The rows are not attached to the session."""
    events = session.exec(
        select(ScoreEvent)
        .where(ScoreEvent.project_id == project.id, col(ScoreEvent.id) <= event_high)
        .order_by(col(ScoreEvent.id))
    ).all()
    undone = {event.undoes for event in events if event.kind == "undo"}
    standing: dict[int, list[ScoreEvent]] = {}
    for event in events:
        if event.kind == "set" and event.id not in undone:
            standing.setdefault(event.image_id, []).append(event)
    groups = dict(
        session.execute(
            select(Image.id, Image.source_group).where(
                col(Image.id).in_(
                    select(ScoreEvent.image_id).where(ScoreEvent.project_id == project.id)
                )
            )
        ).all()
    )
    stand_ins = _stand_ins(session)
    return {
        image_id: _label_from(project, image_id, groups[image_id], said, stand_ins)
        for image_id, said in standing.items()
    }


def _stand_ins(session: Session) -> set[int]:
    return set(session.exec(select(Annotator.id).where(col(Annotator.stand_in))).all())


def _label_from(
    project: Project,
    image_id: int,
    source_group: str,
    said: list[ScoreEvent],
    stand_ins: set[int],
) -> Label:
    """The label that follows from the standing `set` events of an image, oldest first."""
    by_people = [event for event in said if event.annotator_id not in stand_ins]
    per_person = {event.annotator_id: event for event in by_people or said}
    holdout = on_holdout_side(project, source_group)
    return Label(
        project_id=project.id,
        image_id=image_id,
        value=float(statistics.median(event.value or 0 for event in per_person.values())),
        annotators=len(per_person),
        event_id=max(event.id for event in per_person.values()),
        holdout=holdout,
        # How the image came to be scored at all decides; a later correction does not change that.
        measures=holdout and said[0].origin in UNBIASED_ORIGINS,
    )


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
) -> int:
    """Record (image id, score) pairs, leaving out those that already say the same."""
    written = 0
    for image_id, value in scores:
        newest = newest_event(session, project, image_id, person)
        if newest is not None and newest.kind == "set" and newest.value == value:
            continue
        record(session, project, image_id, person, "set", value, origin=origin, group=group)
        written += 1
    return written
