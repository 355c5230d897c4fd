"""The queues of a project with classes: what its active version is unsure of, and what it and the
labels disagree about, among a random sample. Without a version, images come at random."""

from collections.abc import Iterator
from itertools import chain, islice

from more_itertools import chunked, interleave_evenly
from sqlmodel import col, select

from tastemaker import projects
from tastemaker.database.tables import ClassPrediction, Image, Label, Version
from tastemaker.queues import confusion, reasons
from tastemaker.queues.cards import QueueItem
from tastemaker.queues.request import BATCH, QueueRequest
from tastemaker.queues.rereview import is_re_ask_due, re_asks, resolved
from tastemaker.queues.unscored import (
    PICKS_AT_ONCE,
    random_sample,
    still_unscored,
    unscored_picks,
)
from tastemaker.scores import Origin, classes
from tastemaker.scores.classes import ClassList
from tastemaker.versions import class_rows

UNSURE = 400  # of the least certain images


def mixed(request: QueueRequest) -> Iterator[QueueItem]:
    """Images near a boundary and random ones, half and half; now and then one that was labelled
    long ago."""
    unsure = list(islice(boundary(request), 32))
    new: Iterator[QueueItem] = chain(
        interleave_evenly([unsure, list(islice(random_sample(request), len(unsure)))]),
        random_sample(request),
    )
    if not is_re_ask_due(request):
        return new
    before = request.draw(len(request.pending)) % 3
    return chain(islice(new, before), islice(re_asks(request), 1), new)


def diverse(request: QueueRequest) -> Iterator[QueueItem]:
    """Typical images of every part of the library, then what is unlike anything labelled, as the
    model process lists them; at random before it has."""
    return unscored_picks(request, request.lists.start) if request.live else random_sample(request)


def boundary(request: QueueRequest) -> Iterator[QueueItem]:
    """Unlabelled images that the active version can least decide about, shuffled; none of the
    hold-out, which a model must not choose."""
    version = confusion.active(request.session, request.project)
    if version is None:
        return
    known = classes.of(request.session, request.project.id)
    labelled = (
        select(Label.image_id)
        .where(Label.project_id == request.project.id, Label.image_id == ClassPrediction.image_id)
        .exists()
    )
    ranked = request.session.exec(
        select(ClassPrediction)
        .join(Image, col(Image.id) == ClassPrediction.image_id)
        .where(
            ClassPrediction.version_id == version.id,
            ~labelled,
            Image.kind != "vector",  # which nobody can look at
        )
        .order_by(col(ClassPrediction.margin), col(ClassPrediction.image_id))
        .limit(UNSURE)
    )
    wanted = (row for row in ranked if row.image_id not in request.pending)
    for batch in chunked(wanted, PICKS_AT_ONCE):
        ids = [row.image_id for row in batch]
        free = still_unscored(request, ids) - _held_out(request, ids)
        for part in chunked(batch, BATCH):
            for row in sorted(part, key=lambda row: request.draw(row.image_id)):
                if row.image_id in free:
                    reason = reasons.undecided(_leading(row, version, known))
                    yield QueueItem(row.image_id, Origin.QUEUE, reason)


def confused(request: QueueRequest) -> Iterator[QueueItem]:
    """Labels that a head which never saw them predicts otherwise, the surest first and shuffled by
    the batch. What was looked at since the version was trained is left out, and so is the
    hold-out."""
    version = confusion.active(request.session, request.project)
    if version is None:
        return
    known = classes.of(request.session, request.project.id)
    rows = confusion.disagreements(request.session, request.project, version)
    for batch in chunked(rows, BATCH):
        done = resolved(request.session, request.project, [row[0] for row in batch])
        for image_id, label, said in sorted(batch, key=lambda row: request.draw(row[0])):
            if image_id not in done and image_id not in request.pending:
                reason = reasons.told_apart(known.words(said), known.words(label))
                yield QueueItem(image_id, Origin.REVIEW, reason)


def _held_out(request: QueueRequest, ids: list[int]) -> set[int]:
    groups = request.session.execute(
        select(Image.id, Image.source_group).where(col(Image.id).in_(ids))
    )
    return {i for i, group in groups if projects.on_holdout_side(request.project, group)}


def _leading(row: ClassPrediction, version: Version, known: ClassList) -> list[tuple[str, float]]:
    """The two likeliest classes with their probabilities; of tags the least certain one."""
    held = class_rows.shares(row, version.classes)
    names = [
        (known.by_number[number].name if number in known.by_number else "?", share)
        for number, share in held.items()
    ]
    if known.several:
        return sorted(names, key=lambda pair: abs(pair[1] - 0.5))[:1]
    return names[:2]


QUEUES = {
    "mixed": ("Mixed", mixed),
    "boundary": ("Near a boundary", boundary),
    "diverse": ("Diverse", diverse),
    "confused": ("Confused classes", confused),
    "re-ask": ("Re-ask", re_asks),
    "random": ("Random", random_sample),
}
