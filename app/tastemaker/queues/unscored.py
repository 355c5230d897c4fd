"""Images without a score, in the order in which a queue wants them."""

from collections.abc import Iterable, Iterator

from more_itertools import chunked
from sqlalchemy import ColumnElement
from sqlmodel import col, select

from tastemaker import projects, scores
from tastemaker.database.tables import Collection, CollectionImage, Image, Label, ProjectCollection
from tastemaker.errors import Invalid
from tastemaker.live.live_model import Pick
from tastemaker.queues import reasons
from tastemaker.queues.cards import QueueItem
from tastemaker.queues.request import QueueRequest
from tastemaker.scores import Origin
from tastemaker.scores.answers import SWEEPS

PICKS_AT_ONCE = 32  # looked up in the database together


def unscored_picks(request: QueueRequest, picks: Iterable[Pick]) -> Iterator[QueueItem]:
    """Those of the picks that have no label, and no event of this person."""
    wanted = (pick for pick in picks if pick.image_id not in request.pending)
    for batch in chunked(wanted, PICKS_AT_ONCE):
        drawn = {pick.image_id for pick in batch if pick.why == "control"}
        unscored = still_unscored(request, [pick.image_id for pick in batch])
        if drawn and request.swept_too:
            unscored |= still_unscored(request, list(drawn), swept_too=True)
        for pick in batch:
            if pick.image_id in unscored:
                origin = Origin.CONTROL if pick.why == "control" else Origin.QUEUE
                yield QueueItem(pick.image_id, origin, request.describe(pick), pick.twin)


def random_sample(request: QueueRequest) -> Iterator[QueueItem]:
    """Pool images in the order of their content hash, which is a random one: beginning at a point
    that depends on the project, and going round."""
    ids = _by_hash(request, _in_pool(request), request.swept_too)
    return (QueueItem(image_id, Origin.CONTROL, reasons.CONTROL) for image_id in ids)


def collection(request: QueueRequest) -> Iterator[QueueItem]:
    """The images of one collection of the project, in random order. Somebody chose the collection,
    so they are no random sample."""
    if request.collection_id is None:
        return
    collection = request.session.get(Collection, request.collection_id)
    link = request.session.get(ProjectCollection, (request.project.id, request.collection_id))
    if collection is None or link is None:
        raise Invalid("This collection is not part of the project.", "Choose one that is.")
    inside = (
        select(CollectionImage.image_id)
        .where(
            CollectionImage.collection_id == request.collection_id,
            CollectionImage.image_id == Image.id,
        )
        .exists()
    )
    reason = f"from the collection “{collection.name}”"
    yield from (QueueItem(i, Origin.QUEUE, reason) for i in _by_hash(request, inside))


def _by_hash(
    request: QueueRequest, condition: ColumnElement[bool], swept_too: bool = False
) -> Iterator[int]:
    """Ids of the unscored images that meet a condition, in the order of their content hash."""
    start = f"{request.project.seed * 2654435761 % 2**32:08x}"
    for from_start in (True, False):
        cursor = start if from_start else ""
        while True:
            batch = request.session.execute(
                select(Image.id, Image.sha256)
                .where(Image.sha256 > cursor, Image.kind != "vector")
                .where(True if from_start else Image.sha256 < start)
                .where(condition, *_unscored(request, swept_too))
                .order_by(col(Image.sha256))
                .limit(16 + len(request.pending))
            ).all()
            yield from (image_id for image_id, _ in batch)
            if not batch:
                break
            cursor = batch[-1][1]


# --- conditions --------------------------------------------------------------------------------


def still_unscored(request: QueueRequest, ids: list[int], swept_too: bool = False) -> set[int]:
    """Those of the images that are in the pool, without a label and without an event of this
    person; with `swept_too`, sweeps are none."""
    conditions = _in_pool(request), *_unscored(request, swept_too)
    query = select(Image.id).where(col(Image.id).in_(ids), *conditions)
    return set(request.session.exec(query).all())


def _unscored(request: QueueRequest, swept_too: bool) -> tuple[ColumnElement[bool], ...]:
    """Without a label, without an event of this person, not removed from the project."""
    labelled = (
        select(Label.image_id)
        .where(Label.project_id == request.project.id, Label.image_id == Image.id)
        .exists()
    )
    standing = scores.standing_events().subquery()
    with_event = (
        select(standing.c.id)
        .where(
            standing.c.project_id == request.project.id,
            standing.c.image_id == Image.id,
            standing.c.annotator_id == request.person.id,
            *([standing.c.kind.not_in(SWEEPS)] if swept_too else []),
            # A class that is gone leaves its event without a label: such an image comes again.
            *([standing.c.kind != "set"] if request.project.labelling != "scores" else []),
        )
        .exists()
    )
    return ~labelled, ~with_event, ~projects.is_removed(request.project.id, Image.id)


def _in_pool(request: QueueRequest) -> ColumnElement[bool]:
    return projects.is_member(request.project.id, Image.id, removed_too=True)
