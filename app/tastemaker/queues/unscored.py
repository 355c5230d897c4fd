"""Images without a score, in the order in which a queue wants them."""

from collections.abc import Iterable, Iterator
from typing import Any

from sqlmodel import col, select

from tastemaker import projects, scores
from tastemaker.database.tables import Collection, CollectionImage, Image, Label, ProjectCollection
from tastemaker.errors import Invalid
from tastemaker.queues import reasons
from tastemaker.queues.cards import QueueItem
from tastemaker.queues.request import QueueRequest, batches
from tastemaker.scores import Origin


def unscored_picks(asking: QueueRequest, picks: Iterable[dict[str, Any]]) -> Iterator[QueueItem]:
    """Those of the picks that nobody has scored, and this person has not spoken of."""
    for batch in batches((p for p in picks if p["image_id"] not in asking.held), 32):
        still_open = still_unscored(asking, [pick["image_id"] for pick in batch])
        for pick in batch:
            if pick["image_id"] in still_open:
                origin = Origin.CONTROL if pick["why"] == "control" else Origin.QUEUE
                yield QueueItem(
                    pick["image_id"], origin, reasons.describe(pick), pick.get("neighbour")
                )


def random_sample(asking: QueueRequest) -> Iterator[QueueItem]:
    """Unscored pool images in the order of their hash, which is a random one: beginning at a
    point that depends on the project, and going round."""
    return (
        QueueItem(i, Origin.CONTROL, reasons.CONTROL) for i in _by_hash(asking, _in_pool(asking))
    )


def collection(asking: QueueRequest) -> Iterator[QueueItem]:
    """The unscored images of one collection of the project, in random order. Somebody chose the
    collection, so they are no random control."""
    if asking.collection_id is None:
        return
    collection = asking.session.get(Collection, asking.collection_id)
    link = asking.session.get(ProjectCollection, (asking.project.id, asking.collection_id))
    if collection is None or link is None:
        raise Invalid("This collection is not part of the project.", "Choose one that is.")
    inside = (
        select(CollectionImage.image_id)
        .where(
            CollectionImage.collection_id == asking.collection_id,
            CollectionImage.image_id == Image.id,
        )
        .exists()
    )
    reason = f"from the collection “{collection.name}”"
    yield from (QueueItem(i, Origin.QUEUE, reason) for i in _by_hash(asking, inside))


def _by_hash(asking: QueueRequest, where: Any) -> Iterator[int]:
    """Ids of the unscored images that meet a condition, in the order of their hash."""
    start = f"{asking.project.seed * 2654435761 % 2**32:08x}"
    for from_start in (True, False):
        cursor = start if from_start else ""
        while True:
            batch = asking.session.execute(
                select(Image.id, Image.sha256)
                .where(Image.sha256 > cursor, Image.kind != "vector")
                .where(True if from_start else Image.sha256 < start)
                .where(where, *_open(asking))
                .order_by(col(Image.sha256))
                .limit(16 + len(asking.held))
            ).all()
            yield from (image_id for image_id, _ in batch)
            if not batch:
                break
            cursor = batch[-1][1]


# --- conditions --------------------------------------------------------------------------------


def still_unscored(asking: QueueRequest, ids: list[int]) -> set[int]:
    """Those of the images that are in the pool still, without a label or a word of this person."""
    query = select(Image.id).where(col(Image.id).in_(ids), _in_pool(asking), *_open(asking))
    return set(asking.session.exec(query).all())


def _open(asking: QueueRequest) -> tuple[Any, ...]:
    """Without a label, without a word of this person, not removed from the project."""
    labelled = (
        select(Label.image_id)
        .where(Label.project_id == asking.project.id, Label.image_id == Image.id)
        .exists()
    )
    standing = scores.standing_events().subquery()
    spoken_of = (
        select(standing.c.id)
        .where(
            standing.c.project_id == asking.project.id,
            standing.c.image_id == Image.id,
            standing.c.annotator_id == asking.person.id,
        )
        .exists()
    )
    return ~labelled, ~spoken_of, ~projects.is_removed(asking.project.id, Image.id)


def _in_pool(asking: QueueRequest) -> Any:
    return projects.is_member(asking.project.id, Image.id, "pool", removed_too=True)
