"""What was said of one image, said of another: the same picture in another file."""

from sqlmodel import Session, col

from tastemaker.database.tables import Project, ScoreEvent
from tastemaker.scores.answers import RECORDING
from tastemaker.scores.events import TABLE, standing_events, standing_on
from tastemaker.scores.origin import Origin
from tastemaker.scores.recording import record_for


def carry_over(session: Session, project: Project, old_id: int, new_id: int) -> int:
    """Append what stands on the old image to the new one, as of the same person, time and origin;
    not of a person who spoke of the new one already. The old image keeps its own. Returns how many
    events were written. Raises `NotFound` where the new image is not in the project."""
    spoken = {event.annotator_id for event in standing_on(session, project.id, new_id)}
    events = session.execute(
        standing_events()
        .where(ScoreEvent.project_id == project.id, ScoreEvent.image_id == old_id)
        .order_by(col(ScoreEvent.id))
    ).scalars()
    carried = [event for event in events if event.annotator_id not in spoken]
    for event in carried:
        record_for(
            session, project.id, new_id, event.annotator_id, event.kind, event.value,
            origin=Origin(event.origin), reason=event.reason, note=event.note, at=event.at,
            group=_recording(event.event_group),  # taken back with the others
        )  # fmt: skip
    return len(carried)


def _recording(group: str | None) -> str | None:
    """The group of what another program's marks or a table brought in; none of a person's act."""
    return group if group and group.startswith((RECORDING, TABLE)) else None
