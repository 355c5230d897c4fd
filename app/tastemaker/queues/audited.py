"""The images drawn for an audit, in the order in which they were drawn, to be scored blind.

They are asked whether or not they have a score: what was said with a prediction in sight is no
answer here. Which side of the cut an image lies on is not told.
"""

from collections.abc import Iterator

from sqlmodel import Session, col, select

from tastemaker import projects, scores
from tastemaker.database.tables import Audit, AuditImage, ScoreEvent
from tastemaker.errors import NotFound
from tastemaker.queues import reasons
from tastemaker.queues.cards import QueueItem
from tastemaker.queues.request import QueueRequest
from tastemaker.scores import Origin


def audit(request: QueueRequest) -> Iterator[QueueItem]:
    """What this person has still to answer of their audit; nothing of somebody else's."""
    if not request.collection_id:
        return
    chosen = request.session.get(Audit, request.collection_id)
    if chosen is None or chosen.project_id != request.project.id:
        raise NotFound("There is no such audit.", "Choose one of the list.")
    if chosen.annotator_id != request.person.id:
        return
    done = answers(request.session, chosen)
    drawn = request.session.exec(
        select(AuditImage.image_id)
        .where(
            AuditImage.audit_id == chosen.id,
            ~projects.is_removed(request.project.id, AuditImage.image_id),
        )
        .order_by(col(AuditImage.position))
    ).all()
    for image_id in drawn:
        if image_id not in done:
            yield QueueItem(image_id, Origin.AUDIT, reasons.AUDIT)


def answers(session: Session, audit: Audit) -> dict[int, int | None]:
    """Image id → the score (0–10) that the audit's person gave it blind, None for a skip: the
    newest answer that stands. One given in an earlier audit counts as well."""
    drawn = select(AuditImage.image_id).where(AuditImage.audit_id == audit.id)
    events = session.execute(
        scores.standing_events()
        .with_only_columns(ScoreEvent.image_id, ScoreEvent.value)
        .where(
            ScoreEvent.project_id == audit.project_id,
            ScoreEvent.annotator_id == audit.annotator_id,
            ScoreEvent.origin == Origin.AUDIT,
            col(ScoreEvent.kind).in_(("set", "skip")),
            col(ScoreEvent.image_id).in_(drawn),
        )
        .order_by(col(ScoreEvent.id))
    )
    return dict(events.tuples().all())
