"""An image as a page shows it: what is known of it, why it is here, and what is near it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlmodel import Session, col, select

from tastemaker import images, scores, versions
from tastemaker.config import Settings
from tastemaker.database.tables import Annotator, Image, Label, Project, ScoreEvent, Version
from tastemaker.live import live_model
from tastemaker.pictures.pictures import VIEW
from tastemaker.queues import reasons
from tastemaker.scores import neighbours
from tastemaker.scores.agreement import RE_ASK
from tastemaker.scores.neighbours import Neighbour
from tastemaker.versions import predictions


@dataclass(frozen=True)
class QueueItem:
    """An image that a queue or a review shows: where its score will say it came from, and why."""

    image_id: int
    origin: str
    reason: str
    twin: int | None = None  # a labelled image that the reason speaks of


@dataclass(frozen=True)
class Card:
    """One image as a page shows it. Scores of a model are in [0, 1], labels in 0–10.

    `neighbours` are up to three labelled images, the nearest first. A `blind` card is a re-ask: its
    label is withheld, and nothing but the image should be shown before the answer, whatever the
    project's setting.
    """

    image_id: int
    sha256: str
    name: str
    width: int
    height: int
    queue: str
    origin: str
    reason: str
    prediction: float | None
    uncertainty: float | None
    predicted_by: str
    label: float | None
    event_id: int
    has_pixels: bool
    neighbours: tuple[Neighbour, ...] = ()
    blind: bool = False


def card_for(
    session: Session, settings: Settings, project: Project, person: Annotator, image_id: int
) -> Card:
    """The card of one image, as after a score or for a correction.

    One that this person only flagged just now, or took back, is still as the queue brought it: it
    keeps where it came from, which decides whether its score may measure a version."""
    images.get(session, image_id)
    shown = _original_item(session, project, person, image_id) or QueueItem(
        image_id, "review", _review_reason(session, project, person, image_id)
    )
    return cards(session, settings, project, person, "one", [shown])[0]


def _original_item(
    session: Session, project: Project, person: Annotator, image_id: int
) -> QueueItem | None:
    """None where the newest that this person said of the image, or took back, is an answer."""
    newest = scores.newest_event(session, project, image_id, person, undone_too=True)
    if newest is not None and newest.undoes is not None:
        newest = session.get(ScoreEvent, newest.undoes)
    elif newest is not None and newest.kind != "flag":
        return None
    if newest is None or newest.origin == "import":  # no queue brought it
        return None
    return QueueItem(image_id, newest.origin, newest.reason)


def cards(
    session: Session,
    settings: Settings,
    project: Project,
    person: Annotator,
    queue: str,
    shown: Sequence[QueueItem],
    version: Version | None = None,
) -> list[Card]:
    """Cards in the order of `shown`. Labelled images are judged by `version` where one is given,
    by predictions that never saw their label; everything else by the live model."""
    ids = [one.image_id for one in shown]
    rows = {i.id: i for i in session.exec(select(Image).where(col(Image.id).in_(ids)))}
    labels = dict(
        session.execute(
            select(Label.image_id, Label.value).where(
                Label.project_id == project.id, col(Label.image_id).in_(ids)
            )
        ).all()
    )
    near = neighbours.nearest(session, settings, project, ids)
    events = _newest_events(session, project, person, ids)
    judge = version or versions.active(session, project)
    by_version = predictions.of_images(session, judge.id, ids) if judge else {}
    live = live_model.read_live(settings, project.id)
    made = []
    for one in shown:
        image, label = rows[one.image_id], labels.get(one.image_id)
        said, by = (live.of(one.image_id) if live else None), "live model"
        if one.image_id in by_version and (said is None or (version and label is not None)):
            said, by = by_version[one.image_id], judge.number if judge else ""
        blind = one.origin == RE_ASK
        made.append(
            Card(
                image_id=image.id, sha256=image.sha256, name=image.name, width=image.width,
                height=image.height, queue=queue, origin=one.origin, reason=one.reason,
                prediction=said[0] if said else None,
                uncertainty=said[1] if said else None,
                predicted_by=by if said else "",
                label=None if blind else label,
                event_id=events.get(image.id, 0),
                has_pixels=image.kind != "vector",
                neighbours=_named_first(near.get(image.id, []), one.twin),
                blind=blind,
            )
        )  # fmt: skip
    return made


def _named_first(near: list[Neighbour], twin: int | None) -> tuple[Neighbour, ...]:
    """The neighbour that the reason speaks of comes before the others."""
    return tuple(sorted(near, key=lambda neighbour: neighbour.image_id != twin))


def _newest_events(
    session: Session, project: Project, person: Annotator, ids: list[int]
) -> dict[int, int]:
    """Image id -> the newest standing event of this person, where there is one."""
    rows = session.execute(
        scores.standing_events()
        .with_only_columns(ScoreEvent.image_id, ScoreEvent.id)
        .where(
            ScoreEvent.project_id == project.id,
            col(ScoreEvent.image_id).in_(ids),
            ScoreEvent.annotator_id == person.id,
        )
        .order_by(col(ScoreEvent.id))
    )
    return dict(rows.all())  # the last one of an image wins


def _review_reason(session: Session, project: Project, person: Annotator, image_id: int) -> str:
    """After a re-ask is answered: what was said the time before."""
    said = session.exec(
        scores.standing_events()
        .where(
            ScoreEvent.project_id == project.id,
            ScoreEvent.image_id == image_id,
            ScoreEvent.annotator_id == person.id,
            ScoreEvent.kind == "set",
        )
        .order_by(col(ScoreEvent.id).desc())
        .limit(2)
    ).all()
    if len(said) == 2 and said[0].origin == RE_ASK:
        return reasons.asked_again(said[1].value, said[1].at)
    return ""


def card_json(card: Card) -> dict[str, Any]:
    """A card for programs and for the scripts of the pages, with the addresses of its pictures.
    `full` is there only where `view` shows less than the file holds."""
    at = f"/images/{card.image_id}"
    larger = max(card.width, card.height) > VIEW
    pictures = {
        "view": f"{at}/view" if card.has_pixels else None,
        "thumb": f"{at}/thumb" if card.has_pixels else None,
        "full": f"{at}/full" if card.has_pixels and larger else None,
    }
    return asdict(card) | pictures
