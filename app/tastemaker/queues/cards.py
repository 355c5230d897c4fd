"""Cards: an image as a page shows it, to be scored or to have its score corrected.

Every page that shows images to score builds its cards here: what is known of each, why it is here,
what is near it, and the offer that its score brings back.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from sqlmodel import Session, col, select

from tastemaker import images, scores, versions
from tastemaker.config import Settings
from tastemaker.database.tables import (
    Annotator,
    Image,
    Project,
    ScoreEvent,
    TestRunScore,
    Version,
)
from tastemaker.live import live_model
from tastemaker.pictures.pictures import VIEW
from tastemaker.queues import reasons
from tastemaker.scores import Origin, classes, neighbours, offers
from tastemaker.scores.neighbours import Neighbour
from tastemaker.versions import class_rows, predictions


@dataclass(frozen=True)
class QueueItem:
    """An image that a page is about to show: where its score will come from, and why it is shown;
    `test_run` is the run in which it is seen, if any."""

    image_id: int
    origin: Origin
    reason: str
    twin: int | None = None  # a labelled image that the reason speaks of
    test_run: int | None = None


class Predicted(NamedTuple):
    """What a model predicts of an image: score and standard deviation in [0, 1], and which one; of
    classes what it `says`, as a label holds it, and how sure it is of that."""

    score: float
    uncertainty: float | None
    by: str
    says: int | None = None


@dataclass(frozen=True)
class Card:
    """One image as a page shows it. Scores of a model are in [0, 1], labels in 0–10.

    `neighbours` are up to three labelled images, the nearest first. A `blind` card is a re-ask or
    one of an audit: its label is withheld, and nothing but the image should be shown before the
    answer, whatever the project's setting; in an audit, no prediction after it either. Of a project
    with classes, `says` is what is predicted, as a label holds it, and `prediction` how
    sure it is of that. `offer` goes back with the score; `event_id` is the newest event of the
    person who looks (0: none).
    """

    image_id: int
    sha256: str
    name: str
    width: int
    height: int
    queue: str
    origin: Origin
    reason: str
    prediction: float | None
    uncertainty: float | None
    predicted_by: str
    label: float | None
    event_id: int
    has_pixels: bool
    neighbours: tuple[Neighbour, ...] = ()
    blind: bool = False
    says: int | None = None
    offer: str = field(default="", repr=False)

    def picture(self, size: str) -> str:
        """The address of its `thumb`, `view` or `full`."""
        return picture_address(self.image_id, self.sha256, size)


def picture_address(image_id: int, sha256: str, size: str) -> str:
    """Where the pages get the `thumb`, `view` or `full` of these very pixels. Ids begin at one in
    every library, so the address names the hash as well."""
    return f"/images/{image_id}/{size}?h={sha256[:16]}"


def items_for(
    session: Session, project: Project, person: Annotator, image_ids: Sequence[int]
) -> list[QueueItem]:
    """Images that no queue brings just now: after a score, for a correction, from the past.

    One that this person only flagged just now, or took back, is still as the queue brought it: it
    keeps where it came from, which decides whether its score may measure a version."""
    events: dict[int, list[ScoreEvent]] = {image_id: [] for image_id in image_ids}
    own = (
        select(ScoreEvent)
        .where(
            ScoreEvent.project_id == project.id,
            ScoreEvent.annotator_id == person.id,
            col(ScoreEvent.image_id).in_(image_ids),
        )
        .order_by(col(ScoreEvent.id))
    )
    for row in session.exec(own):
        events[row.image_id].append(row)
    still_open = {image_id: _still_open(of) for image_id, of in events.items()}
    brought = {image_id: event for image_id, event in still_open.items() if event is not None}
    seen_in = select(TestRunScore.event_id, TestRunScore.test_run_id).where(
        col(TestRunScore.event_id).in_([event.id for event in brought.values()])
    )
    runs = dict(session.execute(seen_in).tuples().all()) if brought else {}
    return [
        QueueItem(i, Origin(of.origin), of.reason, test_run=runs.get(of.id))
        if (of := brought.get(i)) is not None
        else QueueItem(i, Origin.REVIEW, _review_reason(session, project, events[i]))
        for i in image_ids
    ]


def _still_open(events: list[ScoreEvent]) -> ScoreEvent | None:
    """Of a person's events on an image, oldest first, the one whose offer still holds: a flag, or
    what was taken back. None where the newest is an answer, or no queue brought the image."""
    newest = events[-1] if events else None
    if newest is not None and newest.undoes is not None:
        newest = next(event for event in events if event.id == newest.undoes)
    elif newest is not None and newest.kind != "flag":
        return None
    return None if newest is None or newest.origin == Origin.IMPORT else newest


def _review_reason(session: Session, project: Project, events: list[ScoreEvent]) -> str:
    """After a re-ask is answered: the score of the time before."""
    undone = {event.undoes for event in events}
    scored = [event for event in events if event.kind == "set" and event.id not in undone]
    if len(scored) > 1 and scored[-1].origin == Origin.RE_ASK:
        earlier = classes.in_words(session, project, scored[-2].value)
        return reasons.asked_again(earlier, scored[-2].at)
    return ""


def card_for(
    session: Session, settings: Settings, project: Project, person: Annotator, image_id: int
) -> Card:
    """The card of one image, as after a score or for a correction. Raises `NotFound`."""
    images.get(session, image_id)
    items = items_for(session, project, person, [image_id])
    return cards(session, settings, project, person, "one", items)[0]


def cards(
    session: Session,
    settings: Settings,
    project: Project,
    person: Annotator,
    queue: str,
    items: Sequence[QueueItem],
    version: Version | None = None,
    *,
    predicted: Mapping[int, Predicted] | None = None,
    with_neighbours: bool = True,
) -> list[Card]:
    """Cards in the order of `items`, in a fixed number of queries. Images that are gone are left
    out.

    Labelled images are judged by `version` where one is given, by predictions that never saw their
    label; everything else by the live model. With `predicted`, by that alone, which of classes says
    how sure `version` is of what it takes each image for."""
    ids = [item.image_id for item in items]
    rows = {i.id: i for i in session.exec(select(Image).where(col(Image.id).in_(ids)))}
    labels = scores.values_of(session, project.id, ids)
    events = scores.newest_of(session, project.id, person, ids)
    near = neighbours.nearest(session, settings, project, ids) if with_neighbours else {}
    if predicted is None:
        predicted = _predicted(session, settings, project, ids, labels if version else {}, version)
    elif version is not None and project.labelling != "scores":
        said = class_rows.of_images(session, version, ids)
        predicted = {i: one._replace(says=said.get(i)) for i, one in predicted.items()}
    known = classes.of_project(session, project)
    made = []
    for item in items:
        if item.image_id not in rows:
            continue
        image, judged = rows[item.image_id], predicted.get(item.image_id)
        if item.origin == Origin.AUDIT:
            judged = None  # also after the key: a slip is put right as blindly
        blind = item.origin in (Origin.RE_ASK, Origin.AUDIT)
        offer = offers.Offer(item.origin, item.reason, item.test_run)
        made.append(
            Card(
                image_id=image.id, sha256=image.sha256, name=image.name, width=image.width,
                height=image.height, queue=queue, origin=item.origin, reason=item.reason,
                prediction=judged.score if judged else None,
                uncertainty=judged.uncertainty if judged else None,
                predicted_by=judged.by if judged else "",
                label=None if blind else labels.get(image.id),
                event_id=events.get(image.id, 0),
                has_pixels=image.kind != "vector",
                neighbours=_named_first(near.get(image.id, []), item.twin),
                blind=blind,
                says=known.current(judged.says)
                if known and judged and judged.says is not None
                else None,
                offer=offers.sign(session, project.id, image.id, person.id, offer),
            )
        )  # fmt: skip
    return made


def _predicted(
    session: Session, settings: Settings, project: Project, ids: Sequence[int],
    by_version: Container[int], version: Version | None,
) -> dict[int, Predicted]:  # fmt: skip
    """By the live model; where it knows nothing, and for the images in `by_version`, by the version
    (without one, the active)."""
    live = live_model.read_live(settings, project.id)
    judge = version or versions.active(session, project)
    honest = predictions.of_images(session, judge.id, list(ids)) if judge else {}
    with_classes = project.labelling != "scores"
    said = class_rows.of_images(session, judge, ids) if judge and with_classes else {}
    predicted: dict[int, Predicted] = {}
    for image_id in ids:
        by_live = live.of(image_id) if live else None
        if judge and image_id in honest and (by_live is None or image_id in by_version):
            predicted[image_id] = Predicted(*honest[image_id], judge.number, said.get(image_id))
        elif live and by_live is not None:
            says = live.says(image_id) if with_classes else None
            predicted[image_id] = Predicted(*by_live, "live model", says)
    return predicted


def _named_first(near: list[Neighbour], twin: int | None) -> tuple[Neighbour, ...]:
    """The neighbour that the reason speaks of comes before the others."""
    return tuple(sorted(near, key=lambda neighbour: neighbour.image_id != twin))


def card_json(card: Card) -> dict[str, Any]:
    """A card for programs and for the scripts of the pages, with the addresses of its pictures.
    `full` is there only where `view` shows less than the file holds."""
    larger = max(card.width, card.height) > VIEW
    pictures = {
        "view": card.picture("view") if card.has_pixels else None,
        "thumb": card.picture("thumb") if card.has_pixels else None,
        "full": card.picture("full") if card.has_pixels and larger else None,
    }
    return asdict(card) | pictures
