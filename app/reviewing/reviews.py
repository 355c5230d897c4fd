"""Review: the lists in which a person checks the model, and a label.

Here the prediction stands before the answer. The lists are walked by the place of the last card
seen, not by how many were seen: what is answered leaves its list, and nothing behind it is missed.
"""

from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlmodel import Session, and_, case, col, func, or_, select

from app import projects
from app.asking import reasons
from app.asking.asker import Asking
from app.asking.cards import Card, Shown, cards
from app.asking.second_look import AGAIN, second_look, sides
from app.asking.unscored import unseen
from app.config import Settings
from app.errors import Invalid, NotFound
from app.scoring import scores
from app.tables import Annotator, Image, Label, Prediction, Project, ScoreEvent, Version
from app.versioning import predictions, versions

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
    if kind not in REVIEWS:
        raise NotFound(f"There is no review “{kind}”.", f"There are: {', '.join(REVIEWS)}.")
    live = predictions.read_live(settings, project.id)
    version = versions.active(session, project)
    asking = Asking(session, project, person, live, frozenset())
    begin = place(after)
    if kind == "doubtful":
        found = _doubtful(asking)
    elif kind == "contradictions":
        found = _contradictions(asking)
    else:
        found = _suspects(asking, kind)
    behind = [(at, shown) for at, shown in found if begin.comes_before(at)]
    labelled = sum(at.part == LABELLED for at, _ in found)
    reviewed = 0
    if version is not None and kind in ("false-positives", "false-negatives"):
        mistakes = _mistakes(project, version, kind)
        done = _settled_since(project, version)
        labelled = _count(session, mistakes.where(~done))
        reviewed = _count(session, mistakes.where(done))
        if begin.part == LABELLED:
            behind = _page(session, mistakes.where(~done), begin, n + 1) + behind
    elif kind == "doubtful" and live is not None:
        reviewed = len(asking.picks("doubtful")) - len(found)
    page = behind[:n]
    return Review(
        cards=cards(
            session, settings, project, person, kind,
            [one for _, shown in page for one in shown], version=version,
        ),
        labelled=labelled,
        suspected=sum(at.part == SUSPECTED for at, _ in found),
        version=version.number if version else "",
        reviewed=reviewed,
        next=str(page[-1][0]) if page and len(behind) > n else "",
    )  # fmt: skip


# --- labels that a version gets wrong ------------------------------------------------------------


def _page(session: Session, mistakes: Any, begin: Place, n: int) -> list[tuple[Place, list[Shown]]]:
    rank = mistakes.selected_columns[3]
    behind = or_(rank < begin.rank, and_(rank == begin.rank, col(Label.image_id) > begin.image_id))
    rows = session.execute(mistakes.where(behind) if begin is not BEGINNING else mistakes)
    return [
        (
            Place(LABELLED, rank, image_id),
            [Shown(image_id, AGAIN, reasons.mistaken(said, value))],
        )
        for image_id, said, value, rank in islice(rows, n)
    ]


def _mistakes(project: Project, version: Version, kind: str) -> Any:
    """Select of (image id, honest prediction, label, rank) of labelled images on the wrong side
    of the threshold: FP = y < t ≤ f, FN = f < t ≤ y; rank = |f − y| / uncertainty."""
    said = func.coalesce(Prediction.out_of_fold, Prediction.score)
    cut = project.threshold
    if kind == "false-positives":
        wrong = and_(said >= cut, col(Label.value) < 10 * cut)
    else:
        wrong = and_(said < cut, col(Label.value) >= 10 * cut)
    gap = said - Label.value / 10.0
    rank = case((gap < 0, -gap), else_=gap) / Prediction.uncertainty
    return (
        select(Label.image_id, said, Label.value, rank)
        .join(Image, col(Image.id) == Label.image_id)
        .join(
            Prediction,
            and_(
                col(Prediction.version_id) == version.id,
                col(Prediction.image_id) == Label.image_id,
            ),
        )
        .where(
            Label.project_id == project.id,
            ~col(Label.holdout),
            wrong,
            ~projects.is_removed(project.id, Label.image_id),
        )
        .order_by(rank.desc(), col(Label.image_id))
    )


def _settled_since(project: Project, version: Version) -> Any:
    return (
        scores.standing_events()
        .where(
            ScoreEvent.project_id == project.id,
            ScoreEvent.image_id == Label.image_id,
            ScoreEvent.origin == AGAIN,
            col(ScoreEvent.id) > version.event_high,
        )
        .exists()
    )


def _count(session: Session, query: Any) -> int:
    return int(session.exec(select(func.count()).select_from(query.subquery())).one())


# --- what the live model lists -------------------------------------------------------------------


def _suspects(asking: Asking, kind: str) -> list[tuple[Place, list[Shown]]]:
    if asking.live is None:
        return []
    picks = asking.live.suspected(kind)
    still_open = unseen(asking, [pick["image_id"] for pick in picks])
    found = [
        (
            Place(SUSPECTED, pick["probability"], pick["image_id"]),
            [Shown(pick["image_id"], AGAIN, reasons.describe(pick), pick.get("neighbour"))],
        )
        for pick in picks
        if pick["image_id"] in still_open
        and _still_predicted(asking.live, asking.project, kind, pick)
    ]
    return _in_order(found)


def _still_predicted(
    live: predictions.Live, project: Project, kind: str, pick: dict[str, Any]
) -> bool:
    """The suspects are searched for less often than the model is refitted: whether this one is
    still predicted on the side that made it one."""
    said = live.of(pick["image_id"])
    passes = said is not None and said[0] >= project.threshold
    return passes == (kind == "false-positives")


def _doubtful(asking: Asking) -> list[tuple[Place, list[Shown]]]:
    picks = {pick["image_id"]: pick for pick in asking.picks("doubtful")}
    return _in_order(
        [
            (Place(LABELLED, -picks[one.image_id]["quality"], one.image_id), [one])
            for one in second_look(asking, picks.values())
        ]
    )


def _contradictions(asking: Asking) -> list[tuple[Place, list[Shown]]]:
    """Pairs of which one image at least was not looked at again, and whose scores are what they
    were when the pair was found."""
    found = []
    for pair in asking.picks("contradictions"):
        both = sides(pair)
        if list(second_look(asking, both)):
            shown = [
                Shown(side["image_id"], AGAIN, reasons.describe(side), side["twin"])
                for side in both
            ]
            found.append((Place(LABELLED, pair["gap"], pair["image_id"]), shown))
    return _in_order(found)


def _in_order(
    found: list[tuple[Place, list[Shown]]],
) -> list[tuple[Place, list[Shown]]]:
    return sorted(found, key=lambda one: one[0]._key())
