"""Two versions, an older one `a` and a newer one `b`, and the images they put on different sides of
the threshold. What counts is what the two files say, so versions of different encoders pair too.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, case, or_
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, func, select

from tastemaker import projects, versions
from tastemaker.config import Settings
from tastemaker.database.tables import Annotator, Image, Label, Prediction, Project, Version
from tastemaker.errors import Invalid
from tastemaker.queues.cards import Card, Predicted, QueueItem, cards
from tastemaker.scores import Origin

DIRECTIONS = {"up": "fail to pass", "down": "pass to fail"}


@dataclass(frozen=True)
class Pair:
    """The two versions of a comparison; `a` is the one that `b` is measured against."""

    project: Project
    a: Version
    b: Version


def pair(session: Session, project: Project, a: str = "", b: str = "") -> Pair:
    """The versions of these numbers. Without `b` the active one (or the newest); without `a` the
    parent of `b` (or the one before it). Raises `NotFound`, and `Invalid` where there are not
    two."""
    there = versions.list_ready(session, project)
    if len(there) < 2:
        raise Invalid(
            f"“{project.name}” has {'one version' if there else 'no version'}; two are needed.",
            "Train once more.",
        )
    if b:
        newer = versions.by_number(session, project, b)
    else:
        newer = next((v for v in there if v.active and v.id != there[-1].id), there[0])
    if a:
        older = versions.by_number(session, project, a)
    else:
        others = [v for v in there if v.id != newer.id]
        before = [v for v in others if (v.major, v.minor) < (newer.major, newer.minor)]
        older = next((v for v in others if v.id == newer.parent_id), (before or others)[0])
    if older.id == newer.id:
        raise Invalid(f"{newer.number} is the same as itself.", "Choose two versions.")
    return Pair(project, older, newer)


Old: Any = aliased(Prediction)
New: Any = aliased(Prediction)


def predicted_by_both(both: Pair, *columns: Any) -> Any:
    """Select over the images that both versions predicted and that are still in the project: not
    those that only test runs brought in."""
    tried = projects.outside_the_pool(both.project.id)
    return _predicted_by_both(both, *columns).where(New.image_id.not_in(tried))


def _flipped_images(both: Pair, direction: str, *columns: Any) -> Any:
    """Select over the images that flipped, with their labels. Of those that only test runs brought
    in, what was corrected there: it is trained on, and whether it is right now is what the person
    wants to see."""
    tried = projects.outside_the_pool(both.project.id)
    ours = or_(New.image_id.not_in(tried), col(Label.value).is_not(None))
    query = _predicted_by_both(both, *columns).outerjoin(Label, label_of(both))
    return query.where(ours, _flipped(both, direction))


def _predicted_by_both(both: Pair, *columns: Any) -> Any:
    return (
        select(*columns)
        .select_from(New)
        .join(Old, and_(col(Old.image_id) == New.image_id, col(Old.version_id) == both.a.id))
        .where(
            New.version_id == both.b.id,
            ~projects.is_removed(both.project.id, New.image_id),
        )
    )


def known_direction(direction: str) -> str:
    """`direction`, if it is one. Raises `Invalid`."""
    if direction not in DIRECTIONS:
        raise Invalid(f"“{direction[:20]}” is no direction.", "Use up or down.")
    return direction


def _flipped(both: Pair, direction: str) -> ColumnElement[bool]:
    cut = both.project.threshold
    if known_direction(direction) == "up":
        return and_(Old.score < cut, col(New.score) >= cut)
    return and_(col(Old.score) >= cut, New.score < cut)


@dataclass(frozen=True)
class Flip:
    """An image on the other side of the threshold now. Predictions are what the files say."""

    image_id: int
    name: str
    before: float
    after: float
    label: float | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def listing(
    session: Session, both: Pair, direction: str, *, after: int = 0, n: int = 48
) -> list[Flip]:
    """A page of the images that went up to a pass or down to a fail, furthest first. What was
    labelled to measure is left out: a label must not follow what a version says of it."""
    moved = New.score - Old.score
    rows = session.execute(
        _flipped_images(
            both, direction, New.image_id, Image.name, Old.score, New.score, Label.value
        )
        .join(Image, col(Image.id) == New.image_id)
        .where(col(Label.holdout).is_not(True))
        .order_by(moved.desc() if direction == "up" else moved, col(New.image_id))
        .offset(after)
        .limit(n)
    )
    return [Flip(*row) for row in rows]


def flip_cards(
    session: Session, settings: Settings, both: Pair, person: Annotator, flips: Sequence[Flip]
) -> list[Card]:
    """The cards on which the scores of images that flipped are corrected."""
    items = [
        QueueItem(
            flip.image_id,
            Origin.REVIEW,
            f"{DIRECTIONS['up' if flip.after > flip.before else 'down']} from {both.a.number} to "
            f"{both.b.number}: {10 * flip.before:.1f} → {10 * flip.after:.1f}",
        )
        for flip in flips
    ]
    predicted = {flip.image_id: Predicted(flip.after, None, both.b.number) for flip in flips}
    return cards(
        session, settings, both.project, person, "compare", items,
        predicted=predicted, with_neighbours=False,
    )  # fmt: skip


@dataclass(frozen=True)
class FlipCount:
    """How many images flipped one way, how many of those are labelled, how many labels agree with
    the side they are on now, and how many are of the hold-out, which no list shows."""

    images: int
    labelled: int
    right: int
    held: int

    @property
    def shown(self) -> int:
        """How many a list shows, all its pages together."""
        return self.images - self.held


def counts(session: Session, both: Pair) -> dict[str, FlipCount]:
    """How many flipped, for each direction."""
    cut = 10 * both.project.threshold - 1e-9
    by_direction = {}
    for direction in DIRECTIONS:
        agrees = col(Label.value) >= cut if direction == "up" else col(Label.value) < cut
        total, labelled, right, held = session.execute(
            _flipped_images(
                both,
                direction,
                func.count(),
                func.count(col(Label.value)),
                func.coalesce(func.sum(case((agrees, 1), else_=0)), 0),
                func.coalesce(func.sum(case((col(Label.holdout), 1), else_=0)), 0),
            )
        ).one()
        by_direction[direction] = FlipCount(total, labelled, int(right), int(held))
    return by_direction


def label_of(both: Pair) -> ColumnElement[bool]:
    return and_(col(Label.image_id) == New.image_id, col(Label.project_id) == both.project.id)
