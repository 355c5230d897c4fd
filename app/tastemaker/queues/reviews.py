"""Review: the lists in which a person checks the model, and a label.

Here the prediction stands before the answer. A page begins behind the place of the last card of the
page before, not after so many cards: what is answered leaves its list, and nothing behind it is
missed.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from sqlalchemy import Executable
from sqlmodel import Session, and_, col, select

from tastemaker import projects, scores, versions
from tastemaker.config import Settings
from tastemaker.database.tables import Annotator, Label, Prediction, Project, ScoreEvent, Version
from tastemaker.errors import Invalid, NotFound
from tastemaker.live import live_model
from tastemaker.live.live_model import LISTED, PAIRS, Pick
from tastemaker.queues import class_queues, confusion, reasons
from tastemaker.queues.cards import Card, QueueItem, cards
from tastemaker.queues.confusion import Cell, Judged
from tastemaker.queues.request import QueueRequest
from tastemaker.queues.rereview import open_rereviews, sides, unresolved
from tastemaker.queues.unscored import still_unscored
from tastemaker.scores import Origin, classes
from tastemaker.scores.classes import ClassList

REVIEWS = {
    "false-positives": "False positives",
    "false-negatives": "False negatives",
    "doubtful": "Possible label errors",
    "contradictions": "Conflicting near-duplicates",
}
CLASS_REVIEWS = {
    **class_queues.TITLES,
    **{kind: REVIEWS[kind] for kind in ("doubtful", "contradictions")},
}
OF_LIVE = ("doubtful", "contradictions", "no-class")  # whose lists come from the live model alone
ORDERS = {
    "evidence": "what most speaks for a mistake",
    "confidence": "what the model is surest of",
}
IN_TWO_ORDERS = ("false-positives", "false-negatives")  # the others have the first alone
LABELLED, SUSPECTED = 0, 1  # the parts of a list, one after the other


@dataclass(frozen=True)
class Review:
    """A page of a review list. `labelled` and `suspected` count all that is open in it, and there
    may be more where the live model lists no more of them (`capped`); `reviewed` counts what was
    resolved since the version was trained; `next` is the place where the next page begins, empty
    at the end. In a list of contradictions, two cards in a row are a pair."""

    cards: list[Card]
    labelled: int
    suspected: int
    version: str
    reviewed: int
    next: str
    capped: bool = False


class Place(NamedTuple):
    """A place in a list: the part, then the rank (falling), then the image (rising)."""

    part: int
    rank: float
    image_id: int

    def __str__(self) -> str:
        return f"{self.part}_{self.rank!r}_{self.image_id}"

    @property
    def key(self) -> tuple[int, float, int]:
        return self.part, -self.rank, self.image_id


class Entry(NamedTuple):
    """What stands at a place: an image, or the pair of a contradiction."""

    place: Place
    items: tuple[QueueItem, ...]


BEGINNING = Place(LABELLED, float("inf"), 0)
LAST_LABELLED = Place(LABELLED, float("-inf"), 2**63)


def place(text: str) -> Place:
    """A place as a page address holds it; the beginning for none."""
    if text in ("", "0"):
        return BEGINNING
    try:
        part, rank, image_id = text.split("_")
        parsed = Place(int(part), float(rank), int(image_id))
    except ValueError:
        parsed = None
    if parsed is None or parsed.part not in (0, 1) or not 0 <= parsed.image_id < 2**63:
        raise Invalid("This is no place in the list.", "Begin with its first page.")
    return parsed


def reviews_of(project: Project) -> dict[str, str]:
    """The lists of a project → their names on the pages."""
    return (
        REVIEWS if project.labelling == "scores" else CLASS_REVIEWS | class_queues.titles(project)
    )


def known_review(kind: str, offered: Mapping[str, str] = REVIEWS | CLASS_REVIEWS) -> str:
    """`kind`, if it is a list. Raises `NotFound`."""
    if kind not in offered:
        raise NotFound(f"There is no review “{kind[:40]}”.", f"There are: {', '.join(offered)}.")
    return kind


def known_order(order: str, kind: str = IN_TWO_ORDERS[0]) -> str:
    """`order`, if the list `kind` can have it. Raises `Invalid`."""
    if order not in ORDERS:
        raise Invalid(f"There is no order “{order[:40]}”.", f"Use {' or '.join(ORDERS)}.")
    if kind not in IN_TWO_ORDERS and order != "evidence":
        raise Invalid("This list has one order, by the evidence.", "Leave “order” out.")
    return order


def review(
    session: Session,
    settings: Settings,
    project: Project,
    person: Annotator,
    kind: str,
    *,
    after: str = "",
    n: int = 48,
    order: str = "evidence",
    cell: Cell | None = None,
) -> Review:
    """A page of the list `kind`, beginning behind the place `after`.

    False positives and negatives: first the mistakes among the labels, by out-of-fold predictions
    of the active version; then the suspects among the unlabelled images. By evidence, mistakes are
    ranked by error ÷ uncertainty and suspects by how likely they are; by confidence, both by how
    far the prediction lies from the threshold. Suspects, doubtful labels and contradictions come
    from the live model. Hold-out images are never in it. Raises `NotFound` for a list that the
    project has not.
    """
    known_review(kind, reviews_of(project))
    known_order(order, kind)
    live = live_model.read_live(settings, project.id)
    version = versions.active(session, project)
    request = QueueRequest(session, project, person, live)
    begin = place(after)
    reviewed = 0
    entries: list[Entry | Mistake | Confused]
    if kind == "doubtful":
        entries = [*_label_issues(request)]
        reviewed = len(request.lists.label_issues) - len(entries)
    elif kind == "contradictions":
        entries = [*_contradictions(request)]
    elif kind == "no-class":
        entries = [*_no_class(request)]
    elif kind == "confused":
        judged = confusion.active(session, project)
        wrong = confusion.disagreements(session, project, judged, cell) if judged else []
        done = resolved_since(session, project, judged) if judged and wrong else frozenset()
        known = classes.of(session, project.id)
        entries = [Confused(row, known) for row in wrong if row.image_id not in done]
        reviewed = len(wrong) - len(entries)
    else:
        suspects = _suspects(request, kind, order)
        entries = [*suspects]
        if version is not None:
            found = mistakes(session, project, version, kind, order)
            done = resolved_since(session, project, version) if found else frozenset()
            left = [mistake for mistake in found if mistake.image_id not in done]
            reviewed = len(found) - len(left)
            entries = [*left, *suspects]
    # The list is in its order: places are found by halving it, whatever its length.
    first = bisect_right(entries, begin.key, key=_key)
    suspected_from = bisect_right(entries, LAST_LABELLED.key, key=_key)
    page = entries[first : first + n]
    return Review(
        cards=cards(
            session, settings, project, person, kind,
            [item for entry in page for item in entry.items], version=version,
        ),
        labelled=suspected_from,
        suspected=len(entries) - suspected_from,
        version=version.number if version else "",
        reviewed=reviewed,
        next=str(page[-1].place) if page and len(entries) > first + n else "",
        capped=_is_capped(request, kind),
    )  # fmt: skip


def label_errors(session: Session, settings: Settings, project: Project) -> int:
    """How many possible label errors nobody looked at since the version was trained."""
    live = live_model.read_live(settings, project.id)
    return len(unresolved(session, project, live.lists.label_issues)) if live else 0


# --- labels that a version gets wrong ------------------------------------------------------------


class Mistake(NamedTuple):
    """A label on the wrong side of the threshold: its rank in the list, falling, a prediction in
    [0, 1] that never saw it, the label in 0–10. There may be thousands, of which a page shows a
    few: what the card says is made only for those."""

    minus_rank: float
    image_id: int
    predicted: float
    label: float

    @property
    def place(self) -> Place:
        return Place(LABELLED, -self.minus_rank, self.image_id)

    @property
    def items(self) -> tuple[QueueItem, ...]:
        reason = reasons.mistaken(self.predicted, self.label)
        return (QueueItem(self.image_id, Origin.REVIEW, reason),)


class Confused(NamedTuple):
    """A label that a version predicts otherwise."""

    row: Judged
    known: ClassList

    @property
    def place(self) -> Place:
        return Place(LABELLED, self.row.margin, self.row.image_id)

    @property
    def items(self) -> tuple[QueueItem, ...]:
        said, label = self.known.words(self.row.said), self.known.words(self.row.label)
        reason = reasons.told_apart(said, label)
        return (QueueItem(self.row.image_id, Origin.REVIEW, reason),)


def _confidence(project: Project, predicted: float) -> float:
    return round(abs(predicted - project.threshold), 6)


def mistakes(
    session: Session, project: Project, version: Version, kind: str, order: str = "evidence"
) -> list[Mistake]:
    """Labels that a version gets wrong, in the order of the list: FP = y < t ≤ f, FN = f < t ≤ y,
    ranked by |f − y| / uncertainty, or by |f − t|."""
    rows = session.execute(wrong_labels(project, version, kind))
    return sorted(
        Mistake(-_rank(project, order, predicted, label, uncertainty), image_id, predicted, label)
        for image_id, predicted, label, uncertainty in rows
    )


def _rank(
    project: Project, order: str, predicted: float, label: float, uncertainty: float
) -> float:
    if order == "confidence":
        return _confidence(project, predicted)
    gap = abs(predicted - label / 10)
    return gap / uncertainty if uncertainty > 0 else math.inf


def wrong_labels(project: Project, version: Version, kind: str) -> Executable:
    """Select of (image id, prediction, label, uncertainty). It begins at the labels, of which
    there are far fewer than predictions: as a subquery with a limit they keep every planner from
    beginning elsewhere. Each prediction is looked up by its key: `+ 0.0` hides its column from
    the index of predictions, which would give half a million rows for each label."""
    too_high = kind == "false-positives"
    cut = project.threshold
    label_side = col(Label.value) < 10 * cut if too_high else col(Label.value) >= 10 * cut
    labels = (
        select(Label.image_id, Label.value)
        .where(Label.project_id == project.id, label_side, ~col(Label.holdout))
        .limit(10**9)
        .subquery()
    )
    predicted = Prediction.honest
    return (
        select(labels.c.image_id, predicted, labels.c.value, Prediction.uncertainty)
        .join(
            Prediction,
            and_(
                col(Prediction.version_id) == version.id,
                col(Prediction.image_id) == labels.c.image_id,
            ),
        )
        .where(
            predicted + 0.0 >= cut if too_high else predicted + 0.0 < cut,
            ~projects.is_removed(project.id, labels.c.image_id),
        )
    )


def resolved_since(session: Session, project: Project, version: Version) -> frozenset[int]:
    """The images that had a rereview since a version was trained: one pass over the events since
    then, not a search for each label."""
    query = scores.standing_events().with_only_columns(ScoreEvent.image_id)
    newer = query.where(
        ScoreEvent.project_id == project.id,
        ScoreEvent.origin == Origin.REVIEW,
        col(ScoreEvent.id) > version.event_high,
    )
    return frozenset(session.exec(newer))


# --- what the live model lists -------------------------------------------------------------------


def _is_capped(request: QueueRequest, kind: str) -> bool:
    """Whether the live model may know more than it lists."""
    if kind == "doubtful":
        return len(request.lists.label_issues) >= LISTED
    if kind == "contradictions":
        return len(request.lists.contradictions) >= PAIRS
    if kind == "no-class":
        return len(request.lists.no_class) >= LISTED
    if kind == "confused":
        return False
    return len(request.lists.suspected.of(kind)) >= LISTED


def _suspects(request: QueueRequest, kind: str, order: str) -> list[Entry]:
    live = request.live
    if live is None:
        return []
    suspects = [
        pick
        for pick in live.lists.suspected.of(kind)
        if _is_still_predicted(live, request.project, kind, pick)
    ]
    unscored = still_unscored(request, [pick.image_id for pick in suspects])
    return _in_order(
        Entry(
            Place(
                SUSPECTED,
                pick.probability
                if order == "evidence"
                else _confidence(request.project, pick.score or 0.0),
                pick.image_id,
            ),
            (QueueItem(pick.image_id, Origin.REVIEW, request.describe(pick), pick.twin),),
        )
        for pick in suspects
        if pick.image_id in unscored
    )


def _is_still_predicted(
    live: live_model.LiveModel, project: Project, kind: str, pick: Pick
) -> bool:
    """The suspects are searched for less often than the model is refitted: whether this one is
    still predicted on the side that made it one."""
    prediction = live.of(pick.image_id)
    passes = prediction is not None and prediction[0] >= project.threshold
    return passes == (kind == "false-positives")


def _label_issues(request: QueueRequest) -> list[Entry]:
    quality = {pick.image_id: pick.quality for pick in request.lists.label_issues}
    return _in_order(
        Entry(Place(LABELLED, -quality[item.image_id], item.image_id), (item,))
        for item in open_rereviews(request, request.lists.label_issues)
    )


def _contradictions(request: QueueRequest) -> list[Entry]:
    """Pairs of which one image at least is not resolved, and whose scores are what they were when
    the pair was found."""
    pairs = [sides(pair) for pair in request.lists.contradictions]
    every_side = chain.from_iterable(pairs)  # an image is in one pair
    still_open = {item.image_id for item in open_rereviews(request, every_side)}
    return _in_order(
        Entry(
            Place(LABELLED, pair[0].gap, pair[0].image_id),
            tuple(
                QueueItem(side.image_id, Origin.REVIEW, request.describe(side), side.twin)
                for side in pair
            ),
        )
        for pair in pairs
        if still_open.intersection(side.image_id for side in pair)
    )


def _no_class(request: QueueRequest) -> list[Entry]:
    picks = {pick.image_id: pick for pick in request.lists.no_class}
    labelled = {item.image_id: item for item in open_rereviews(request, picks.values())}
    unscored = still_unscored(request, [pick.image_id for pick in picks.values()])
    items = labelled | {
        image_id: QueueItem(image_id, Origin.REVIEW, request.describe(picks[image_id]))
        for image_id in unscored
    }
    return _in_order(
        Entry(
            Place(
                LABELLED if image_id in labelled else SUSPECTED,
                -max(share for _, share in picks[image_id].likely),
                image_id,
            ),
            (item,),
        )
        for image_id, item in items.items()
    )


def _key(entry: Entry | Mistake | Confused) -> tuple[int, float, int]:
    return entry.place.key


def _in_order(entries: Iterable[Entry]) -> list[Entry]:
    return sorted(entries, key=_key)
