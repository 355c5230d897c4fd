"""The queues: which images a person is offered next, and in which order.

A list that a model ranks lies in the live file; its queue leaves out what changed since. Images
without any rank come in the order of their content hash from a fixed point on, which is a random
order that costs nothing, on any number of images. Each image carries its reason (`reasons`).

Images on the hold-out side are shown only where no model chose: by the random sample, by a re-ask,
or because a person chose them (flagged, skipped, one collection).
"""

from collections.abc import Callable, Iterator
from collections.abc import Collection as Ids
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice

from more_itertools import chunked, interleave_longest
from sqlmodel import Session, case, col, func, select

from tastemaker import embeddings, images, projects
from tastemaker.config import Settings
from tastemaker.database import counts
from tastemaker.database.tables import Annotator, Label, Project, SkippedFile
from tastemaker.errors import NotFound
from tastemaker.live import live_model
from tastemaker.queues import class_queues
from tastemaker.queues.audited import audit
from tastemaker.queues.cards import Card, QueueItem, cards, items_for
from tastemaker.queues.history import Answered, answered, items_of, previous_event
from tastemaker.queues.request import BATCH, QueueRequest
from tastemaker.queues.rereview import (
    flagged,
    is_re_ask_due,
    open_rereviews,
    re_asks,
    sides,
    skipped,
)
from tastemaker.queues.unscored import collection, random_sample, unscored_picks


def next_cards(
    session: Session,
    settings: Settings,
    project: Project,
    person: Annotator,
    queue: str = "mixed",
    n: int = 5,
    exclude: Ids[int] = (),
    collection_id: int | None = None,
    swept_too: bool = True,
) -> list[Card]:
    """The next `n` images of a queue, leaving out those in `exclude` (on their way already), and
    without `swept_too` what this person swept. `collection_id` says which one, for the queues
    `collection` and `audit`."""
    items = next_items(
        session, settings, project, person, queue, n, exclude, collection_id, swept_too
    )
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
    ahead = [*items_for(session, project, person, first), *items]
    behind = items_of(session, project, person, [event] if event else [])
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
    swept_too: bool = True,
) -> list[QueueItem]:
    """The next `n` images of a queue. Raises `NotFound` for a queue that there is not."""
    offered = catalogue(project)
    if queue not in offered:
        raise NotFound(f"There is no queue “{queue}”.", f"There are: {', '.join(offered)}.")
    live = live_model.read_live(settings, project.id)
    request = QueueRequest(
        session, project, person, live, frozenset(exclude), collection_id, swept_too
    )
    items: dict[int, QueueItem] = {}
    for item in offered[queue].items(request):
        if len(items) >= n:
            break
        if item.image_id not in request.pending:
            items.setdefault(item.image_id, item)
    return list(items.values())


# --- what a model ranked -------------------------------------------------------------------------


def _mixed(request: QueueRequest) -> Iterator[QueueItem]:
    """What teaches the live model most, among a random sample; random images where it has nothing
    more; and now and then an image that was scored long ago."""
    new = chain(unscored_picks(request, request.lists.mixed), random_sample(request))
    if not is_re_ask_due(request):
        return new
    before = request.draw(len(request.pending)) % 3
    return chain(islice(new, before), islice(re_asks(request), 1), new)


def _start(request: QueueRequest) -> Iterator[QueueItem]:
    """Typical images of every part of the library, then what is unlike anything scored."""
    return unscored_picks(request, request.lists.start) if request.live else random_sample(request)


def _near_threshold(request: QueueRequest) -> Iterator[QueueItem]:
    """Unlabelled images that may pass or fail, by prediction and uncertainty; or that could as well
    be of another class; shuffled."""
    return unscored_picks(request, request.shuffled(request.lists.near_threshold))


def _errors(kind: str, request: QueueRequest) -> Iterator[QueueItem]:
    """Labels that the live model without them predicts on the other side of the threshold, and
    unlabelled suspects, in turn and shuffled; the worst in the first batch."""
    lists = request.lists
    ranked = interleave_longest(lists.mistakes.of(kind), lists.suspected.of(kind))
    for batch in chunked(request.shuffled(ranked), BATCH):
        items = {item.image_id: item for item in open_rereviews(request, batch)}
        items |= {item.image_id: item for item in unscored_picks(request, batch)}
        yield from (items[pick.image_id] for pick in batch if pick.image_id in items)


def _label_issues(request: QueueRequest) -> Iterator[QueueItem]:
    """Labels that similar images disagree with, shuffled; the worst in the first batch."""
    return open_rereviews(request, request.shuffled(request.lists.label_issues))


def _contradictions(request: QueueRequest) -> Iterator[QueueItem]:
    """Both images of a pair, one after the other, so that they are scored by the same eyes."""
    pairs = request.shuffled(request.lists.contradictions)
    return open_rereviews(request, (side for pair in pairs for side in sides(pair)))


# --- the catalogue -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Queue:
    """`title` is its name on the pages; `items` gives its images in order. It may give an image
    twice; the image is shown once."""

    title: str
    items: Callable[[QueueRequest], Iterator[QueueItem]]


CATALOGUE = {
    "mixed": Queue("Mixed", _mixed),
    "start": Queue("Start", _start),
    "false-positives": Queue("False positives", partial(_errors, "false-positives")),
    "false-negatives": Queue("False negatives", partial(_errors, "false-negatives")),
    "near-threshold": Queue("Near threshold", _near_threshold),
    "doubtful": Queue("Possible label errors", _label_issues),
    "contradictions": Queue("Conflicting near-duplicates", _contradictions),
    "re-ask": Queue("Re-ask", re_asks),
    "random": Queue("Random", random_sample),
    "flagged": Queue("Flagged", flagged),
    "skipped": Queue("Skipped", skipped),
    "collection": Queue("One collection", collection),
    "audit": Queue("Audit", audit),
}
OF_ONE = ("collection", "audit")  # queues of one collection, or one audit
CLASS_CATALOGUE = {
    "mixed": CATALOGUE["mixed"],
    "boundary": Queue("Near a boundary", _near_threshold),
    "diverse": Queue("Diverse", _start),
    "confused": Queue(class_queues.TITLES["confused"], class_queues.confused),
    "no-class": Queue(class_queues.TITLES["no-class"], class_queues.no_class),
    **{
        name: CATALOGUE[name]
        for name in (
            "doubtful", "contradictions", "re-ask", "random", "flagged", "skipped", "collection",
        )
    },
}  # fmt: skip
QUEUES = {name: queue.title for name, queue in CATALOGUE.items()}
EVERY_QUEUE = (*CATALOGUE, *(name for name in CLASS_CATALOGUE if name not in CATALOGUE))


def catalogue(project: Project) -> dict[str, Queue]:
    """The queues of a project, by what it labels with."""
    return CATALOGUE if project.labelling == "scores" else CLASS_CATALOGUE


def titles(project: Project) -> dict[str, str]:
    """Queue → its name on the pages, of those that a project has."""
    own = class_queues.titles(project)
    return {name: own.get(name, queue.title) for name, queue in catalogue(project).items()}


@dataclass(frozen=True)
class Counts:
    """What the pages keep in sight: the images of a project's queues, and how many of them have a
    vector, or a score; how many labels there are in all, those of test runs among them; and the
    files that no import could read."""

    images: int
    embedded: int
    scored: int
    labelled: int
    holdout_labelled: int
    set_aside: int


def progress(session: Session, settings: Settings, project: Project) -> Counts:
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
    return Counts(
        images=pool,
        embedded=embedded,
        scored=projects.count_labels(session, project.id, projects.POOL),
        labelled=int(labels[0]),
        holdout_labelled=int(labels[1]),
        set_aside=int(session.exec(select(func.count()).select_from(SkippedFile)).one()),
    )
