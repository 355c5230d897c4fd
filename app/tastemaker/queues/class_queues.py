"""The queues that only a project with classes has: what its active version and the labels disagree
about, and what no class is likely for."""

from collections.abc import Iterator

from more_itertools import chunked

from tastemaker.database.tables import Project
from tastemaker.queues import confusion, reasons
from tastemaker.queues.cards import QueueItem
from tastemaker.queues.request import BATCH, QueueRequest
from tastemaker.queues.rereview import resolved
from tastemaker.queues.unscored import unscored_picks
from tastemaker.scores import Origin, classes

TITLES = {"confused": "Confused classes", "no-class": "No class fits"}
TAG_TITLES = {"confused": "Confused tags", "no-class": "No tag fits"}


def titles(project: Project) -> dict[str, str]:
    """Their names on the pages; those of the review lists as well."""
    return TAG_TITLES if project.labelling == classes.TAGS else TITLES


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
        done = resolved(request.session, request.project, [row.image_id for row in batch])
        for row in sorted(batch, key=lambda row: request.draw(row.image_id)):
            if row.image_id not in done and row.image_id not in request.pending:
                reason = reasons.told_apart(known.words(row.said), known.words(row.label))
                yield QueueItem(row.image_id, Origin.REVIEW, reason)


def no_class(request: QueueRequest) -> Iterator[QueueItem]:
    """Unlabelled images that no class is likely for, shuffled: perhaps one is missing."""
    picks = (pick for pick in request.lists.no_class if pick.label is None)
    return unscored_picks(request, request.shuffled(picks))
