"""Two versions that tell classes apart, side by side: which errs less, class by class, on images
drawn at random, each predicted by heads of either that never saw it; and which images they take for
something else. Classes merged since count as what they became.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, and_
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, func, select

from tastemaker import projects
from tastemaker.config import Settings
from tastemaker.database.tables import Annotator, ClassPrediction, Image, Label, Prediction
from tastemaker.evaluation.comparison import measuring_labels
from tastemaker.evaluation.flips import Pair
from tastemaker.files.percentages import percent
from tastemaker.learning import metrics
from tastemaker.learning.version_metrics import ENOUGH_FOR_ONE_RATE, NOTHING, Estimate
from tastemaker.learning.weighted import Floats, ratio
from tastemaker.queues.cards import Card, Predicted, QueueItem, cards
from tastemaker.scores import Origin, classes
from tastemaker.scores.classes import ClassList
from tastemaker.versions import class_rows

Weighted = Callable[[NDArray[np.float64]], float]
MOST_CHANGES = 40


@dataclass(frozen=True)
class Rate:
    """A share in 0–1 under both versions; None where there was nothing to take it of."""

    old: float | None
    new: float | None


@dataclass(frozen=True)
class ClassMove:
    """One class on the images that judge both: how many are `labelled` so, its figures under both,
    and the `difference` of F1, newer minus older, with what it shows."""

    number: int
    name: str
    labelled: int
    precision: Rate
    recall: Rate
    f1: Rate
    difference: Estimate
    verdict: str


@dataclass(frozen=True)
class Change:
    """`images` that the older version takes for `before` and the newer for `after`, both as a label
    holds them; of the `labelled` ones, so many the newer one has `right`, and the older `was`; the
    `held` ones are of the hold-out, which no list shows."""

    before: int
    after: int
    images: int
    labelled: int
    right: int
    was: int
    held: int

    @property
    def shown(self) -> int:
        """How many a list shows, all its pages together."""
        return self.images - self.held


@dataclass(frozen=True)
class ClassComparison:
    """`wrong` is the share of the `n` judging images that is wrong (of tags: any of the image's),
    `difference` newer minus older. `images` were predicted by both."""

    n: int
    wrong: Rate
    difference: Estimate
    verdict: str
    classes: tuple[ClassMove, ...]
    images: int
    changes: tuple[Change, ...]
    why_not: str = ""

    @property
    def changed(self) -> int:
        return sum(change.images for change in self.changes)

    def as_json(self, known: ClassList) -> dict[str, Any]:
        def told(change: Change) -> dict[str, Any]:
            names = {"before": known.words(change.before), "after": known.words(change.after)}
            return asdict(change) | names

        return {
            "n": self.n, "wrong": asdict(self.wrong), "verdict": self.verdict,
            **self.difference.flat("difference", n=False), "why_not": self.why_not,
            "classes": [
                asdict(row) | {"difference": row.difference.model_dump()} for row in self.classes
            ],
            "images": self.images, "changed": self.changed,
            "changes": [told(change) for change in self.changes[:MOST_CHANGES]],
        }  # fmt: skip

    def in_words(self, both: Pair, known: ClassList) -> list[str]:
        """Line by line, as the command prints it."""
        if self.n:
            shown = self.verdict != "no difference shown"
            who = f"{both.b.number} is {self.verdict}" if shown else self.verdict
            lines = [
                f"{who}: {percent(self.wrong.old)} wrong → {percent(self.wrong.new)}, "
                f"on {self.n} images drawn at random or labelled in files",
            ]
            lines += [
                f"{row.name}: F1 {percent(row.f1.old)} → {percent(row.f1.new)} "
                f"({row.labelled} labelled; {row.verdict})"
                for row in self.classes
            ]
        else:
            lines = [self.why_not]
        lines.append(f"{self.changed} of {self.images} images are taken for something else:")
        lines += [
            f"{known.words(c.before)} → {known.words(c.after)}: {c.images}"
            for c in self.changes[:MOST_CHANGES]
        ]
        return lines


def compare(session: Session, both: Pair) -> ClassComparison:
    """The older version of a pair against the newer one, by the labels that the newer one saw."""
    known = classes.of(session, both.project.id)
    images, moved = changes(session, both)
    labels = measuring_labels(session, both)
    before = class_rows.of_images(session, both.a, sorted(labels))
    after = class_rows.of_images(session, both.b, sorted(labels))
    ids = [
        i
        for i in sorted(labels)
        if i in before and i in after and known.current(int(labels[i])) is not None
    ]
    if not ids:
        why = (
            f"{both.a.number} and {both.b.number} have no image drawn at random or labelled in a "
            "file that both can be judged by, so which of them errs less cannot be known."
        )
        return ClassComparison(
            0, Rate(None, None), NOTHING, "not known", (), images, moved, why
        )  # fmt: skip
    groups = dict(
        session.execute(
            select(Image.id, Image.source_group).where(col(Image.id).in_(ids))
        ).tuples().all()
    )  # fmt: skip
    keys = np.unique([groups[i] for i in ids], return_inverse=True)[1]
    truth = known.truth([labels[i] for i in ids])
    old, new = (known.truth([some[i] for i in ids]) for some in (before, after))
    wrong = [(said != truth).any(axis=1).astype(np.float64) for said in (old, new)]
    result = metrics.compare(wrong[1], wrong[0], keys)
    apart = result.difference
    difference = Estimate(n=apart.n, **{
        name: None if (value := getattr(apart, name)) is None else value / 10
        for name in ("value", "low", "high")
    })  # fmt: skip
    rows = tuple(
        _move(row.number, row.name, truth[:, k], old[:, k], new[:, k], keys)
        for k, row in enumerate(known.alive)
        if truth[:, k].any() or old[:, k].any() or new[:, k].any()
    )
    shares = Rate(*(float(some.mean()) for some in wrong))
    return ClassComparison(
        len(ids), shares, difference, result.verdict, rows, images, moved
    )  # fmt: skip


def _move(
    number: int, name: str, truth: NDArray[np.bool_], old: NDArray[np.bool_],
    new: NDArray[np.bool_], keys: NDArray[np.intp],
) -> ClassMove:  # fmt: skip
    t, a, b = (some.astype(np.float64) for some in (truth, old, new))

    def share(hit: NDArray[np.float64], of: NDArray[np.float64]) -> float | None:
        return float(hit.sum() / of.sum()) if of.any() else None

    def f1(w: Floats, said: Floats) -> Floats:
        return ratio(2 * (w @ (t * said)), w @ (t + said))

    labelled = int(truth.sum())
    ones = np.ones(len(t))
    difference, verdict, theirs = NOTHING, "too few labels", keys[truth]
    if labelled >= ENOUGH_FOR_ONE_RATE and len(np.unique(theirs)) >= metrics.FEWEST_GROUPS:
        difference = metrics.estimate(lambda w: f1(w, b) - f1(w, a), keys, labelled, resamples=400)
        verdict = metrics.verdict_of(difference, theirs, lower_is_better=False)
    return ClassMove(
        number, name, labelled,
        precision=Rate(share(t * a, a), share(t * b, b)),
        recall=Rate(share(t * a, t), share(t * b, t)),
        f1=Rate(*(_known(float(f1(ones, said))) for said in (a, b))),
        difference=difference,
        verdict=verdict,
    )  # fmt: skip


def change(moved: Sequence[Change], before: int, after: int) -> Change | None:
    """That change of all that were made, if any image made it."""
    return next((c for c in moved if (c.before, c.after) == (before, after)), None)


def changes(session: Session, both: Pair) -> tuple[int, tuple[Change, ...]]:
    """How many images of the project both have predicted, and those that are taken for something
    else now, most common first."""
    known = classes.of(session, both.project.id)
    old, new = aliased(ClassPrediction), aliased(ClassPrediction)
    label = aliased(Label)
    said: tuple[Any, ...] = (old.predicted, new.predicted, label.value, label.holdout)
    columns: tuple[Any, ...] = (*said, func.count())
    rows = session.execute(
        select(*columns)
        .select_from(new)
        .join(old, (col(old.image_id) == new.image_id) & (col(old.version_id) == both.a.id))
        .outerjoin(
            label,
            (col(label.image_id) == new.image_id) & (col(label.project_id) == both.project.id),
        )
        .where(
            new.version_id == both.b.id,
            _in_project(both, new.image_id),
        )
        .group_by(*said)
    )
    images = 0
    counts: dict[tuple[int, int], Counter[str]] = {}
    for was, now, value, holdout, n in rows.tuples():
        images += n
        before, after = known.current(was), known.current(now)
        if before is None or after is None or before == after:
            continue
        counted = counts.setdefault((before, after), Counter())
        counted["images"] += n
        if value is not None:
            counted["labelled"] += n
            counted["held"] += n * holdout
            counted["right"] += n * (after == int(value))
            counted["was"] += n * (before == int(value))
    found = [
        Change(before, after, c["images"], c["labelled"], c["right"], c["was"], c["held"])
        for (before, after), c in counts.items()
    ]
    return images, tuple(sorted(found, key=lambda c: (-c.images, c.before, c.after)))


def _in_project(both: Pair, image_id: Any) -> ColumnElement[bool]:
    """Condition: neither taken out of the project nor brought in by test runs alone."""
    tried = projects.outside_the_pool(both.project.id)
    return and_(
        col(image_id).not_in(tried), ~projects.is_removed(both.project.id, image_id)
    )  # fmt: skip


@dataclass(frozen=True)
class Changed:
    """An image that the newer version takes for something else, and how sure both are."""

    image_id: int
    before: int
    after: int
    was_sure: float
    sure: float


def changed_images(
    session: Session, both: Pair, before: int, after: int, *, skip: int = 0, n: int = 48
) -> list[Changed]:
    """A page of the images that the older version takes for `before` and the newer one for `after`,
    both as a label holds them, those first of which the newer one is surest. What was labelled to
    measure is left out: a label must not follow what a version says of it."""
    known = classes.of(session, both.project.id)

    def meaning(value: int) -> list[int]:
        if known.several:  # a set: every one that was said and means the same by now
            told = select(ClassPrediction.predicted).where(
                col(ClassPrediction.version_id).in_([both.a.id, both.b.id])
            )
            return [one for one in session.exec(told.distinct()) if known.current(one) == value]
        return known.merged_with(value)

    old, new = aliased(ClassPrediction), aliased(ClassPrediction)
    was, now = aliased(Prediction), aliased(Prediction)
    columns: tuple[Any, ...] = (new.image_id, was.honest, now.honest)
    held = select(Label.image_id).where(Label.project_id == both.project.id, col(Label.holdout))
    rows = session.execute(
        select(*columns)
        .select_from(new)
        .join(old, (col(old.image_id) == new.image_id) & (col(old.version_id) == both.a.id))
        .join(was, (col(was.image_id) == new.image_id) & (col(was.version_id) == both.a.id))
        .join(now, (col(now.image_id) == new.image_id) & (col(now.version_id) == both.b.id))
        .where(
            new.version_id == both.b.id,
            col(old.predicted).in_(meaning(before)),
            col(new.predicted).in_(meaning(after)),
            _in_project(both, new.image_id),
            col(new.image_id).not_in(held),
        )
        .order_by(col(new.margin).desc(), col(new.image_id))
        .offset(skip)
        .limit(n)
    )
    return [Changed(image_id, before, after, p, q) for image_id, p, q in rows]


def change_cards(
    session: Session, settings: Settings, both: Pair, person: Annotator, found: Sequence[Changed]
) -> list[Card]:
    """The cards on which these images are corrected."""
    known = classes.of(session, both.project.id)
    items = [
        QueueItem(
            one.image_id, Origin.REVIEW,
            f"{known.words(one.before)} by {both.a.number}, {known.words(one.after)} by "
            f"{both.b.number}",
        )
        for one in found
    ]  # fmt: skip
    predicted = {one.image_id: Predicted(one.sure, None, both.b.number) for one in found}
    return cards(
        session, settings, both.project, person, "compare", items, both.b,
        predicted=predicted, with_neighbours=False,
    )  # fmt: skip


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
