"""What to show next.

Where the live model is, the resident process has already decided: its picks lie in the live file,
and the queues only leave out what was said since. Before there is a model, images come in the
order of their content hash from a fixed point on, which is a random order that costs nothing, on
any number of images.

Images on the hold-out side are shown only where nothing looked at a model: by random control, by
a re-ask, or because a person asked for them (flagged, skipped, one collection).
"""

from collections.abc import Callable, Iterator
from collections.abc import Collection as Ids
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from typing import Any

from sqlmodel import Session, case, col, func, select

from tastemaker import embeddings, images, projects
from tastemaker.config import Settings
from tastemaker.database import counts
from tastemaker.database.tables import Annotator, Label, Project, SkippedFile
from tastemaker.errors import NotFound
from tastemaker.live import live_model
from tastemaker.queues.cards import Card, QueueItem, card_for, cards, items_for
from tastemaker.queues.history import Answered, answered, previous_event
from tastemaker.queues.request import BATCH, QueueRequest, batches
from tastemaker.queues.rereview import flagged, open_rereviews, re_ask_due, re_asks, sides, skipped
from tastemaker.queues.unscored import collection, random_sample, unscored_picks

__all__ = ["QUEUES", "Card", "card_for", "next_cards", "progress", "score_page"]

QUEUES = {
    "mixed": "Mixed",
    "start": "Start",
    "false-positives": "False positives",
    "false-negatives": "False negatives",
    "near-threshold": "Near threshold",
    "doubtful": "Doubtful labels",
    "contradictions": "Contradictions",
    "re-ask": "Re-ask",
    "random": "Random",
    "flagged": "Flagged",
    "skipped": "Skipped",
    "collection": "One collection",
}


def next_cards(
    session: Session,
    settings: Settings,
    project: Project,
    person: Annotator,
    queue: str = "mixed",
    n: int = 5,
    exclude: Ids[int] = (),
    collection_id: int | None = None,
) -> list[Card]:
    """The next `n` images of a queue, leaving out those in `exclude` (on their way already).
    `collection_id` names the collection of the queue `collection`."""
    items = next_items(session, settings, project, person, queue, n, exclude, collection_id)
    return cards(session, settings, project, person, queue, items)


@dataclass(frozen=True)
class ScorePage:
    """The cards of the Score page: those to be scored, the first one next, and what the person
    scored or skipped before."""

    cards: list[Card]
    previous: Answered | None


def score_page(
    session: Session,
    settings: Settings,
    project: Project,
    person: Annotator,
    queue: str,
    n: int,
    first_id: int = 0,
    collection_id: int | None = None,
) -> ScorePage:
    """The next `n` images of a queue behind the image `first_id` (0: none), and the previous one;
    all cards are built at once."""
    items = next_items(session, settings, project, person, queue, n, [first_id], collection_id)
    event = previous_event(session, project, person, first_id)
    first = [first_id] if first_id else []
    past = [event.image_id] if event else []
    known = items_for(session, project, person, [*first, *past])
    ahead = [*known[: len(first)], *items]
    behind = known[len(first) :]
    made = cards(session, settings, project, person, queue, [*ahead, *behind])
    if first and (not made or made[0].image_id != first_id):
        images.get(session, first_id)  # raises: there is no such image
    previous = answered([event], made[len(ahead) :])[0] if event else None
    return ScorePage(made[: len(ahead)], previous)


def next_items(
    session: Session,
    settings: Settings,
    project: Project,
    person: Annotator,
    queue: str,
    n: int,
    exclude: Ids[int] = (),
    collection_id: int | None = None,
) -> list[QueueItem]:
    """The next `n` images of a queue. Raises `NotFound` for a queue that there is not."""
    if queue not in QUEUES:
        raise NotFound(f"There is no queue “{queue}”.", f"There are: {', '.join(QUEUES)}.")
    live = live_model.read_live(settings, project.id)
    asking = QueueRequest(session, project, person, live, frozenset(exclude), collection_id)
    items: dict[int, QueueItem] = {}
    for item in SOURCES[queue](asking):
        if len(items) >= n:
            break
        if item.image_id not in asking.held:
            items.setdefault(item.image_id, item)
    return list(items.values())


def _mixed(asking: QueueRequest) -> Iterator[QueueItem]:
    """What the live model mixed, and random images where it has nothing (more); and now and then
    an image that was scored long ago."""
    new = chain(unscored_picks(asking, asking.picks("queue")), random_sample(asking))
    if not re_ask_due(asking):
        return new
    return chain(islice(new, asking.draw(len(asking.held)) % 3), islice(re_asks(asking), 1), new)


def _start(asking: QueueRequest) -> Iterator[QueueItem]:
    """Typical images of every part of the library, then what is unlike anything scored."""
    return unscored_picks(asking, asking.picks("start")) if asking.live else random_sample(asking)


def _near_threshold(asking: QueueRequest) -> Iterator[QueueItem]:
    return unscored_picks(asking, asking.shuffled(asking.picks("near")))


def _wrong(kind: str) -> Callable[[QueueRequest], Iterator[QueueItem]]:
    """Labels on the wrong side by the live model that has not seen them, and suspected ones."""

    def source(asking: QueueRequest) -> Iterator[QueueItem]:
        live = asking.live
        mistakes = live.facts.get("mistakes", {}).get(kind, []) if live else []
        suspects = live.suspected(kind) if live else []
        ranked = [
            pick for two in zip_longest(mistakes, suspects) for pick in two if pick is not None
        ]
        for batch in batches(asking.shuffled(ranked), BATCH):
            found = {one.image_id: one for one in open_rereviews(asking, batch)}
            found |= {one.image_id: one for one in unscored_picks(asking, batch)}
            yield from (found[p["image_id"]] for p in batch if p["image_id"] in found)

    return source


def _doubtful(asking: QueueRequest) -> Iterator[QueueItem]:
    return open_rereviews(asking, asking.shuffled(asking.picks("doubtful")))


def _contradictions(asking: QueueRequest) -> Iterator[QueueItem]:
    """Both images of a pair, one after the other, so that they are judged by the same eyes."""
    pairs = asking.shuffled(asking.picks("contradictions"))
    return open_rereviews(asking, (side for pair in pairs for side in sides(pair)))


# Where the images of a queue come from. A queue may name an image twice; it is shown once.
SOURCES: dict[str, Callable[[QueueRequest], Iterator[QueueItem]]] = {
    "mixed": _mixed,
    "start": _start,
    "false-positives": _wrong("false-positives"),
    "false-negatives": _wrong("false-negatives"),
    "near-threshold": _near_threshold,
    "doubtful": _doubtful,
    "contradictions": _contradictions,
    "re-ask": re_asks,
    "random": random_sample,
    "flagged": flagged,
    "skipped": skipped,
    "collection": collection,
}


def progress(session: Session, settings: Settings, project: Project) -> dict[str, Any]:
    """The counts that the pages keep in sight."""
    labels = session.execute(
        select(func.count(), func.coalesce(func.sum(case((col(Label.holdout), 1), else_=0)), 0))
        .where(Label.project_id == project.id)
    ).one()  # fmt: skip
    pool = projects.pool_size(session, project)
    embedded = counts.cached_count(
        ("embedded", str(session.get_bind().engine.url), project.id, project.encoder_id),
        lambda: embeddings.count(session, project.encoder_id, project.id),
        lambda count: pool > counts.LARGE,
    )
    return {
        "images": pool,
        "embedded": embedded,
        "labelled": int(labels[0]),
        "holdout_labelled": int(labels[1]),
        "set_aside": int(session.exec(select(func.count()).select_from(SkippedFile)).one()),
    }
