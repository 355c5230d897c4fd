"""Review: the lists in which a person checks the model, and a label.

Here the prediction stands before the answer. The lists are walked by the place of the last card
seen, not by how many were seen: what is answered leaves its list, and nothing behind it is missed.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlmodel import Session, and_, col, func, select

from tastemaker import projects, scores, versions
from tastemaker.config import Settings
from tastemaker.database.tables import Annotator, Label, Prediction, Project, ScoreEvent, Version
from tastemaker.errors import Invalid, NotFound
from tastemaker.live import live_model
from tastemaker.queues import reasons
from tastemaker.queues.cards import Card, QueueItem, cards
from tastemaker.queues.request import QueueRequest
from tastemaker.queues.rereview import open_rereviews, sides
from tastemaker.queues.unscored import still_unscored
from tastemaker.scores import Origin

REVIEWS = {
    "false-positives": "False positives",
    "false-negatives": "False negatives",
    "doubtful": "Doubtful labels",
    "contradictions": "Contradictions",
}
LABELLED, SUSPECTED = 0, 1  # the parts of a list, one after the other


@dataclass(frozen=True)
class Review:
    """A page of a review list. `labelled` and `suspected` count all that is open in it, `reviewed`
    what was settled since the version was trained; `next` is the place where the next page begins,
    empty at the end. In a list of contradictions, two cards in a row are a pair."""

    cards: list[Card]
    labelled: int
    suspected: int
    version: str
    reviewed: int
    next: str


@dataclass(frozen=True)
class Place:
    """A place in a list: the part, then the rank (falling), then the image (rising)."""

    part: int
    rank: float
    image_id: int

    def __str__(self) -> str:
        return f"{self.part}_{self.rank!r}_{self.image_id}"

    def comes_before(self, other: "Place") -> bool:
        return self._key() < other._key()

    def _key(self) -> tuple[int, float, int]:
        return self.part, -self.rank, self.image_id


BEGINNING = Place(LABELLED, float("inf"), 0)


def place(text: str) -> Place:
    """A place as a page address holds it; the beginning for none."""
    if text in ("", "0"):
        return BEGINNING
    try:
        part, rank, image_id = text.split("_")
        found = Place(int(part), float(rank), int(image_id))
    except ValueError:
        found = None
    if found is None or found.part not in (0, 1) or not 0 <= found.image_id < 2**63:
        raise Invalid("This is no place in the list.", "Begin with its first page.")
    return found


def known_review(kind: str) -> str:
    """`kind`, if it is a list. Raises `NotFound`."""
    if kind not in REVIEWS:
        raise NotFound(f"There is no review “{kind[:40]}”.", f"There are: {', '.join(REVIEWS)}.")
    return kind


def review(
    session: Session,
    settings: Settings,
    project: Project,
    person: Annotator,
    kind: str,
    *,
    after: str = "",
    n: int = 48,
) -> Review:
    """A page of the list `kind`, beginning behind the place `after`.

    False positives and negatives: first the mistakes among the labels, by out-of-fold predictions
    of the active version, ranked by error ÷ uncertainty; then unlabelled images that the live
    model's evidence makes suspects. Doubtful labels and contradictions come from the live model.
    Hold-out images are never in it.
    """
    known_review(kind)
    live = live_model.read_live(settings, project.id)
    version = versions.active(session, project)
    asking = QueueRequest(session, project, person, live, frozenset())
    begin = place(after)
    reviewed = 0
    if kind == "doubtful":
        found = _doubtful(asking)
        reviewed = len(asking.picks("doubtful")) - len(found)
    elif kind == "contradictions":
        found = _contradictions(asking)
    else:
        found = _suspects(asking, kind)
        if version is not None:
            wrong = mistakes(session, project, version, kind)
            done = resolved_since(session, project, version) if wrong else frozenset()
            still_open = [one for one in wrong if one.image_id not in done]
            reviewed = len(wrong) - len(still_open)
            found = [(one.place, [one.shown]) for one in still_open] + found
    behind = [(at, shown) for at, shown in found if begin.comes_before(at)]
    page = behind[:n]
    return Review(
        cards=cards(
            session, settings, project, person, kind,
            [one for _, shown in page for one in shown], version=version,
        ),
        labelled=sum(at.part == LABELLED for at, _ in found),
        suspected=sum(at.part == SUSPECTED for at, _ in found),
        version=version.number if version else "",
        reviewed=reviewed,
        next=str(page[-1][0]) if page and len(behind) > n else "",
    )  # fmt: skip


# --- labels that a version gets wrong ------------------------------------------------------------


class Mistake(NamedTuple):
    """A label on the wrong side of the threshold: what an honest prediction says in [0, 1], the
    label in 0–10, the standard deviation of the prediction."""

    image_id: int
    said: float
    value: float
    uncertainty: float

    @property
    def place(self) -> Place:
        gap = abs(self.said - self.value / 10)
        rank = gap / self.uncertainty if self.uncertainty > 0 else math.inf
        return Place(LABELLED, rank, self.image_id)

    @property
    def shown(self) -> QueueItem:
        return QueueItem(self.image_id, Origin.REVIEW, reasons.mistaken(self.said, self.value))


def mistakes(session: Session, project: Project, version: Version, kind: str) -> list[Mistake]:
    """Labels that a version gets wrong, in the order of the list: FP = y < t ≤ f, FN = f < t ≤ y,
    ranked by |f − y| / uncertainty."""
    rows = session.execute(wrong_labels(project, version, kind))
    found = [Mistake(*row) for row in rows]
    return sorted(found, key=lambda one: one.place._key())


def wrong_labels(project: Project, version: Version, kind: str) -> Any:
    """Select of `Mistake` rows. It begins at the labels, of which there are far fewer than
    predictions: as a subquery with a limit they keep every planner from beginning elsewhere. Each
    prediction is looked up by its key: nothing is added to it so that the index of predictions,
    which would give half a million for each label, does not seem to fit."""
    too_high = kind == "false-positives"
    cut = project.threshold
    label_side = col(Label.value) < 10 * cut if too_high else col(Label.value) >= 10 * cut
    labels = (
        select(Label.image_id, Label.value)
        .where(Label.project_id == project.id, label_side, ~col(Label.holdout))
        .limit(10**9)
        .subquery()
    )
    said = func.coalesce(Prediction.out_of_fold, Prediction.score)
    return (
        select(labels.c.image_id, said, labels.c.value, Prediction.uncertainty)
        .join(
            Prediction,
            and_(
                col(Prediction.version_id) == version.id,
                col(Prediction.image_id) == labels.c.image_id,
            ),
        )
        .where(
            said + 0.0 >= cut if too_high else said + 0.0 < cut,
            ~projects.is_removed(project.id, labels.c.image_id),
        )
    )


def resolved_since(session: Session, project: Project, version: Version) -> frozenset[int]:
    """The images that were looked at again since a version was trained: one pass over the events
    since then, not a search for each label."""
    query = scores.standing_events().with_only_columns(ScoreEvent.image_id)
    newer = query.where(
        ScoreEvent.project_id == project.id,
        ScoreEvent.origin == Origin.REVIEW,
        col(ScoreEvent.id) > version.event_high,
    )
    return frozenset(session.exec(newer))


# --- what the live model lists -------------------------------------------------------------------


def _suspects(asking: QueueRequest, kind: str) -> list[tuple[Place, list[QueueItem]]]:
    if asking.live is None:
        return []
    picks = asking.live.suspected(kind)
    still_open = still_unscored(asking, [pick["image_id"] for pick in picks])
    found = [
        (
            Place(SUSPECTED, pick["probability"], pick["image_id"]),
            [
                QueueItem(
                    pick["image_id"], Origin.REVIEW, reasons.describe(pick), pick.get("neighbour")
                )
            ],
        )
        for pick in picks
        if pick["image_id"] in still_open
        and _still_predicted(asking.live, asking.project, kind, pick)
    ]
    return _in_order(found)


def _still_predicted(
    live: live_model.LiveModel, project: Project, kind: str, pick: dict[str, Any]
) -> bool:
    """The suspects are searched for less often than the model is refitted: whether this one is
    still predicted on the side that made it one."""
    said = live.of(pick["image_id"])
    passes = said is not None and said[0] >= project.threshold
    return passes == (kind == "false-positives")


def _doubtful(asking: QueueRequest) -> list[tuple[Place, list[QueueItem]]]:
    picks = {pick["image_id"]: pick for pick in asking.picks("doubtful")}
    return _in_order(
        [
            (Place(LABELLED, -picks[one.image_id]["quality"], one.image_id), [one])
            for one in open_rereviews(asking, picks.values())
        ]
    )


def _contradictions(asking: QueueRequest) -> list[tuple[Place, list[QueueItem]]]:
    """Pairs of which one image at least was not looked at again, and whose scores are what they
    were when the pair was found."""
    pairs = [sides(pair) for pair in asking.picks("contradictions")]
    every_side = [side for both in pairs for side in both]  # an image is in one pair
    still_open = {one.image_id for one in open_rereviews(asking, every_side)}
    found = []
    for both in pairs:
        pair = both[0]
        if any(side["image_id"] in still_open for side in both):
            shown = [
                QueueItem(side["image_id"], Origin.REVIEW, reasons.describe(side), side["twin"])
                for side in both
            ]
            found.append((Place(LABELLED, pair["gap"], pair["image_id"]), shown))
    return _in_order(found)


def _in_order(
    found: list[tuple[Place, list[QueueItem]]],
) -> list[tuple[Place, list[QueueItem]]]:
    return sorted(found, key=lambda one: one[0]._key())
