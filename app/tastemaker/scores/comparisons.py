"""Which of two images is better: the order inside a band that one score cannot tell apart.

Several hundred images with a 7 are not equally good. What a person says about pairs of them is
kept as its own events and gives each image a strength after Bradley & Terry (1952): P(i beats j) =
sᵢ/(sᵢ + sⱼ), fitted by the iteration of Hunter (2004), an equal pair counting half for each. Every
image also meets an imaginary one of strength 1 once, half won, so that one lost pair does not make
a strength of zero. Labels are not touched; heads learn from pairs as from scores (`answers`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, func, select

from tastemaker import projects
from tastemaker.database.tables import Annotator, Comparison, Image, Label, Project
from tastemaker.errors import Conflict, Invalid, NotFound
from tastemaker.scores import classes

SHARES = {"first": 1.0, "second": 0.0, "equal": 0.5}  # of the win, that go to the first image
VERDICTS = tuple(SHARES)
ITERATIONS = 60


@dataclass(frozen=True)
class ComparisonResult:
    """One standing comparison: `share` of the win that goes to the first image: 1, 0 or ½."""

    first_id: int
    second_id: int
    share: float


@dataclass(frozen=True)
class Ranked:
    """An image in the order so far; `met` is how many pairs it was in."""

    image_id: int
    strength: float
    met: int


def record(
    session: Session,
    project: Project,
    person: Annotator,
    first_id: int,
    second_id: int,
    verdict: str,
    key: str | None = None,
) -> Comparison:
    """Append a verdict on a pair. The same `key` again returns the row that it wrote first."""
    classes.check_scores(project)
    if verdict not in VERDICTS:
        raise Invalid(f"“{verdict[:40]}” is no verdict.", f"Use {', '.join(VERDICTS)}.")
    if first_id == second_id:
        raise Invalid("An image cannot be compared with itself.")
    if (before := _with_key(session, key)) is not None:
        same = (before.project_id, before.annotator_id, before.first_id, before.second_id)
        if same != (project.id, person.id, first_id, second_id) or before.verdict != verdict:
            raise Conflict("This request key was used for another pair.", "Reload the page.")
        return before
    pair = select(Image.id).where(
        col(Image.id).in_((first_id, second_id)), projects.is_member(project.id, Image.id)
    )
    if len(session.exec(pair).all()) < 2:
        raise NotFound(
            "One of these images is not in this project; nothing was saved.",
            "It may have been taken out; go on with the next pair.",
        )
    row = Comparison(
        project_id=project.id, annotator_id=person.id, first_id=first_id, second_id=second_id,
        verdict=verdict, key=key,
    )  # fmt: skip
    session.add(row)
    session.flush()
    return row


def undo(
    session: Session, project: Project, person: Annotator, key: str | None = None,
    comparison_id: int | None = None,
) -> Comparison:  # fmt: skip
    """Take back this person's newest comparison that stands; with `comparison_id`, only if it is
    that one. Returns the row that does it. Raises `Conflict` where it is another."""
    if (before := _with_key(session, key)) is not None:
        same = (before.project_id, before.annotator_id, before.verdict)
        if same != (project.id, person.id, "undo"):
            raise Conflict("This request key was used for another pair.", "Reload the page.")
        return before
    newest = newest_comparison(session, project, person)
    if newest is None:
        raise NotFound("Nothing more to take back.")
    if comparison_id is not None and newest.id != comparison_id:
        raise Conflict(
            "This pair was taken back already, or another was compared since.",
            "Nothing was changed.",
        )
    inverse = Comparison(
        project_id=project.id, annotator_id=person.id, first_id=newest.first_id,
        second_id=newest.second_id, verdict="undo", undoes=newest.id, key=key,
    )  # fmt: skip
    session.add(inverse)
    session.flush()
    return inverse


def newest_comparison(session: Session, project: Project, person: Annotator) -> Comparison | None:
    """This person's newest comparison that stands: what `undo` takes back."""
    found: Comparison | None = session.exec(
        standing(project)
        .where(Comparison.annotator_id == person.id)
        .order_by(col(Comparison.id).desc())
        .limit(1)
    ).first()
    return found


def standing_results(session: Session, project: Project) -> list[ComparisonResult]:
    """Everybody's comparisons that stand, oldest first."""
    rows = session.exec(standing(project).order_by(col(Comparison.id)))
    return [ComparisonResult(row.first_id, row.second_id, SHARES[row.verdict]) for row in rows]


def labels_between(session: Session, project: Project, low: float, high: float = 10) -> list[int]:
    """Ids of the images labelled from `low` to `high`, by id."""
    query = (
        select(Label.image_id)
        .where(Label.project_id == project.id, col(Label.value).between(low, high))
        .order_by(col(Label.image_id))
    )
    return list(session.exec(query))


def default_low(session: Session, project: Project) -> int:
    """Where the vague top band begins: the highest score with two images at it or above."""
    counts = session.execute(
        select(Label.value, func.count())
        .where(Label.project_id == project.id)
        .group_by(col(Label.value))
        .order_by(col(Label.value).desc())
    ).all()
    above = 0
    for value, count in counts:
        above += count
        if above >= 2:
            return int(value)
    return 0


def order(ids: Sequence[int], pairs: Sequence[ComparisonResult]) -> list[Ranked]:
    """The images `ids` by their strength, strongest first; those never compared have strength 1."""
    row = {image_id: at for at, image_id in enumerate(ids)}
    inside = [p for p in pairs if p.first_id in row and p.second_id in row]
    first = np.array([row[p.first_id] for p in inside], np.intp)
    second = np.array([row[p.second_id] for p in inside], np.intp)
    share = np.array([p.share for p in inside], np.float64)
    n = len(ids)
    won = 0.5 + np.bincount(first, share, n) + np.bincount(second, 1 - share, n)
    strength = np.ones(n)
    for _ in range(ITERATIONS):
        together = 1 / (strength[first] + strength[second])
        met = np.bincount(first, together, n) + np.bincount(second, together, n)
        strength = won / (met + 1 / (strength + 1))
    times = np.bincount(first, minlength=n) + np.bincount(second, minlength=n)
    best = np.argsort(-strength, kind="stable")
    return [Ranked(ids[at], float(strength[at]), int(times[at])) for at in best]


def next_pair(
    ranked: Sequence[Ranked], pairs: Sequence[ComparisonResult], seed: int
) -> tuple[int, int] | None:
    """The pair that teaches most: an image met least often, and of those it has not met the one
    nearest in strength. None once every pair was compared. Sides are drawn, so that no side wins
    by habit."""
    random = np.random.default_rng([seed, len(pairs)])
    known = {frozenset((p.first_id, p.second_id)) for p in pairs}
    drawn = [ranked[int(at)] for at in random.permutation(len(ranked))]
    for one in sorted(drawn, key=lambda image: image.met):
        others = [
            other
            for other in drawn
            if other is not one and frozenset((one.image_id, other.image_id)) not in known
        ]
        if others:
            log = np.log([other.strength for other in others])
            nearest = others[int(np.argmin(np.abs(log - np.log(one.strength))))]
            sides = (one.image_id, nearest.image_id)
            return sides if random.random() < 0.5 else sides[::-1]
    return None


def standing(project: Project, high: int | None = None) -> Any:
    """Select of the comparisons that are not undone (and are not undos), as it stood right after
    the comparison `high`, now without it."""
    inverse = aliased(Comparison)
    until = (lambda row: []) if high is None else (lambda row: [col(row.id) <= high])
    taken_back = select(inverse.undoes).where(inverse.undoes == Comparison.id, *until(inverse))
    return select(Comparison).where(
        Comparison.project_id == project.id, Comparison.verdict != "undo",
        *until(Comparison), ~taken_back.exists(),
    )  # fmt: skip


def _with_key(session: Session, key: str | None) -> Comparison | None:
    if key is None:
        return None
    return session.exec(select(Comparison).where(Comparison.key == key)).first()
