"""Several images scored at once: one key says the same of all of them, one undo takes it back."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlmodel import Session, col, select

from tastemaker import scores
from tastemaker.database.tables import Annotator, Project, ScoreEvent
from tastemaker.errors import Conflict, Invalid, NotFound, Stale
from tastemaker.scores.labels import hold
from tastemaker.scores.ledgers import all_at_once
from tastemaker.scores.origin import Origin

MOST = 500


@dataclass(frozen=True)
class BatchItem:
    """One image of a batch as the page showed it; the fields are those of `scores.record`."""

    image_id: int
    expected: int | None = None
    origin: Origin = Origin.API
    reason: str = ""
    offer: str = ""
    sha256: str | None = None


@dataclass(frozen=True)
class Batch:
    """What was saved, in the order given, and the images that were left as they are, with why;
    `stale` are those of them that were scored elsewhere meanwhile."""

    events: list[ScoreEvent]
    refused: dict[int, str]
    stale: list[int]


def record_batch(
    session: Session,
    project: Project,
    person: Annotator,
    chosen: Sequence[BatchItem],
    kind: str,
    value: int | str | None,
    key: str,
) -> Batch:
    """Say the same of every chosen image. One that was scored elsewhere meanwhile, or is gone, is
    left out, the others are saved. The same `key` again changes nothing."""
    if not chosen:
        raise Invalid("No image is selected.", "Click the images first, then press a score.")
    if len({one.image_id for one in chosen}) > MOST:
        raise Invalid(f"At most {MOST} images can be scored at once.", "Select fewer.")
    each = {one.image_id: one for one in chosen}
    hold(session, project.id, each)
    events: list[ScoreEvent] = []
    refused: dict[int, str] = {}
    stale: list[int] = []
    keys = (f"{key}:{image_id}" for image_id in each)
    with all_at_once(session, project.id, each, keys) as ledger:
        for one in each.values():
            try:
                recorded = scores.record(
                    session, project, one.image_id, person, kind, value, origin=one.origin,
                    reason=one.reason, offer=one.offer, key=f"{key}:{one.image_id}",
                    group=f"batch:{key}", expected=one.expected,
                    sha256=one.sha256, ledger=ledger,
                )  # fmt: skip
                events.append(recorded.event)
            except (Conflict, NotFound) as error:
                refused[one.image_id] = error.message
                if isinstance(error, Stale):
                    stale.append(one.image_id)
    return Batch(events, refused, stale)


def undone_together(session: Session, inverse: ScoreEvent) -> list[ScoreEvent]:
    """Every inverse event of the undo that wrote `inverse`: of a batch, all of it."""
    undone = session.get(ScoreEvent, inverse.undoes)
    if undone is None or undone.event_group is None:
        return [inverse]
    group = select(ScoreEvent.id).where(
        ScoreEvent.project_id == undone.project_id,
        ScoreEvent.annotator_id == undone.annotator_id,
        ScoreEvent.event_group == undone.event_group,
    )
    found = select(ScoreEvent).where(col(ScoreEvent.undoes).in_(group))
    return list(session.exec(found.order_by(col(ScoreEvent.id))))
