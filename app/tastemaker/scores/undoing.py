"""Hand scores taken back: an undo is an event that names the event it undoes, and the label follows
in the same transaction."""

from sqlmodel import Session, select

from tastemaker.database.tables import Annotator, Image, Project, ScoreEvent, SyntheticImage, now
from tastemaker.errors import Conflict, Forbidden, NotFound
from tastemaker.scores.events import newest_undoable, standing_events, standing_on
from tastemaker.scores.labels import derive_label, hold
from tastemaker.scores.recording import Recorded, append_event, as_recorded, id_of_key

NO_UNDO = "no-undo"  # the code of an undo for which there is nothing to take back


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
            return as_recorded(before)
    if event_id is not None:
        event = session.get(ScoreEvent, event_id)
        if event is None or event.project_id != project.id:
            raise NotFound("There is no such score to undo.", code=NO_UNDO, key=key)
        if event.annotator_id != person.id:
            raise Forbidden("This score is somebody else's.", "Only they can take it back.")
    newest = newest_undoable(session, project, person)
    if newest is not None:
        hold(session, project.id, [event.image_id for event in _undone_with(session, newest)])
        newest = newest_undoable(session, project, person)  # nobody takes it back any more
    if newest is None:
        raise NotFound("Nothing more to take back.", code=NO_UNDO, key=key)
    if event_id is not None and newest.id < event_id:
        raise Conflict(
            "This score was taken back already.", "Nothing was changed.", code=NO_UNDO, key=key
        )
    if event_id is not None and newest.id != event_id:
        raise Conflict(
            "Something newer was scored since.", "Undo that first.", code=NO_UNDO, key=key
        )
    together = _undone_with(session, newest)
    return _take_back(session, project, together, {newest.id: key})[together.index(newest)]


def undo_group(session: Session, project: Project, person: Annotator, group: str) -> int:
    """Take back what of a bulk action of this person still stands, whatever came after it. Returns
    how many events that were."""
    together = _of_group(session, project.id, person.id, group)
    hold(session, project.id, [event.image_id for event in together])
    together = _of_group(session, project.id, person.id, group)  # nobody takes it back any more
    return len(_take_back(session, project, together, {}))


def _take_back(
    session: Session, project: Project, together: list[ScoreEvent], keys: dict[int, str | None]
) -> list[Recorded]:
    """The inverse of each, and the labels that follow."""
    inverse: list[Recorded] = []
    for event in together:
        inverse.append(append_event(
            session,
            project_id=project.id, image_id=event.image_id, annotator_id=event.annotator_id,
            kind="undo", undoes=event.id, origin=event.origin, key=keys.get(event.id), at=now(),
        ))  # fmt: skip
        group = session.exec(select(Image.source_group).where(Image.id == event.image_id)).one()
        standing = standing_on(session, project.id, event.image_id)
        made = session.get(SyntheticImage, event.image_id) is not None
        derive_label(session, project, event.image_id, group, standing, synthetic=made)
    return inverse


def _undone_with(session: Session, newest: ScoreEvent) -> list[ScoreEvent]:
    """The standing events that an undo of `newest` takes back: all of a bulk action."""
    if newest.event_group is None:
        return [newest]
    return _of_group(session, newest.project_id, newest.annotator_id, newest.event_group)


def _of_group(session: Session, project_id: int, annotator_id: int, group: str) -> list[ScoreEvent]:
    events = standing_events().where(
        ScoreEvent.project_id == project_id,
        ScoreEvent.annotator_id == annotator_id,
        ScoreEvent.event_group == group,
    )
    return list(session.exec(events))


def _with_key(session: Session, key: str) -> ScoreEvent | None:
    """The event of an idempotency key: nearly always none, which a bare look-up finds cheapest."""
    found = session.connection().execute(id_of_key(), {"key": key}).scalar_one_or_none()
    return None if found is None else session.get(ScoreEvent, found)
