"""Expectations: what a version must make of a slice, and whether it does.

“Real-life photos: mean at most 1 point” is how the author of a predictor states what it is biased
against. Each is held against every version; one that blocks keeps a version that misses it from
becoming active.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlmodel import Session, col, func, select

from tastemaker import projects, versions
from tastemaker.database.tables import Expectation, Label, Project, Version
from tastemaker.errors import Invalid, NotFound
from tastemaker.evaluation import class_slices, slices
from tastemaker.files.percentages import percent_in_three
from tastemaker.learning.class_metrics import ClassSlice
from tastemaker.learning.version_metrics import (
    ENOUGH_FOR_ONE_RATE,
    NOTHING,
    Estimate,
    ExpectationCheck,
    SliceMetrics,
)
from tastemaker.scores import classes
from tastemaker.scores.classes import ClassList
from tastemaker.scores.scales import number_in

MEASURES = {"mean": "mean prediction", "pass_rate": "pass rate"}
IN_POINTS = "mean"  # told and typed in points of 0–10; every other measure is a rate, in percent
# Of classes; all but the first are of one class, and said with its number: “recall:3”.
CLASS_MEASURES = {
    "accuracy": "accuracy", "recall": "recall of {}", "precision": "precision of {}",
    "f1": "F1 of {}", "share": "share taken for {}",
}  # fmt: skip
OF_ALL = "accuracy"
BOUNDS = ("at most", "at least")
ROUNDING = 1e-9  # a mean of exactly 65 % is at most 65 %


@dataclass(frozen=True)
class Report:
    """All slices and all expectations of a project, for one version. `recorded` is what was found
    of the expectations when it was published, by id; `labels_since` how many labels are newer than
    it."""

    slices: list[SliceMetrics] = field(default_factory=list)
    expectations: list[ExpectationCheck] = field(default_factory=list)
    class_slices: list[ClassSlice] = field(default_factory=list)
    recorded: dict[int, ExpectationCheck] = field(default_factory=dict)
    labels_since: int = 0

    @property
    def missed(self) -> list[ExpectationCheck]:
        return [check for check in self.expectations if check.met is False]

    @property
    def blocking(self) -> list[ExpectationCheck]:
        return [check for check in self.missed if check.blocks]

    def when_published(self, check: ExpectationCheck) -> str:
        """What was found of an expectation when the version was published, where that is something
        else than is found now: “1.4, missed”. Empty where it is the same."""
        then = self.recorded.get(check.id)
        if then is None:
            return "not stated yet"
        told = "too little to tell" if then.met is None else "met" if then.met else "missed"
        value = f"{shown(then)}, " if then.value is not None else ""
        if wanted(then) != wanted(check):
            return f"{value}{told}: {wanted(then)}"
        same = then.met == check.met and shown(then) == shown(check)
        return "" if same else f"{value}{told}"

    def as_json(self) -> dict[str, Any]:
        """Each expectation with what it is now, and `when_published` with what it was then; null
        where it was not stated yet."""
        checks = []
        for check in self.expectations:
            then = self.recorded.get(check.id)
            checks.append(check.as_json() | {"when_published": then.as_json() if then else None})
        return {
            "slices": [row.as_json() for row in (*self.slices, *self.class_slices)],
            "expectations": checks,
            "labels_since": self.labels_since,
        }


def wanted(check: ExpectationCheck) -> str:
    """“mean prediction at most 1 point”, “pass rate at most 10 %”."""
    measure = in_words(check.measure, check.of)
    return f"{measure} {check.bound} {limit(check.measure, check.limit)}"


def in_words(measure: str, of: str = "") -> str:
    """“pass rate”, or “recall of photo”."""
    kind = measure.partition(":")[0]
    return MEASURES.get(kind) or CLASS_MEASURES.get(kind, kind).format(of)


def measures(project: Project) -> dict[str, str]:
    """What can be expected in a project, in words; of classes, all but the accuracy is of one."""
    if project.labelling == "scores":
        return MEASURES
    several = project.labelling == "tags"
    of = "a tag" if several else "a class"
    return {kind: text.format(of) for kind, text in CLASS_MEASURES.items()}


def shown(check: ExpectationCheck) -> str:
    """What the slice scores, as `amount` tells it; empty without."""
    return "" if check.value is None else amount(check.measure, check.value)


def amount(measure: str, value: float | None) -> str:
    """A value in 0–1 of a measure, with as many digits wherever it is told: “3.17” points of a
    mean, “31.7 %” of a rate; “–” of None."""
    if measure != IN_POINTS:
        return percent_in_three(value)
    return "–" if value is None else f"{round(10 * value, 2):g}"


def limit(measure: str, value: float) -> str:
    """What is expected, in 0–1, as it was typed: “3.5 points”; 99.95 % is not 100 %."""
    number = typed(measure, value)
    if measure != IN_POINTS:
        return f"{number} %"
    return f"{number} {'point' if number == '1' else 'points'}"


def typed(measure: str, value: float) -> str:
    """The bare number of a limit in 0–1, in the unit of its measure."""
    return f"{round((10 if measure == IN_POINTS else 100) * value, 6):g}"


def parse_limit(measure: str, text: str) -> float:
    """A limit as people write it, in 0–1: of a mean “3.5” points or “35 %”, of a rate “35” or
    “35 %”. Raises `Invalid`."""
    number = number_in(text)
    points = measure == IN_POINTS and not text.strip().endswith("%")
    value = math.nan if number is None else number / (10 if points else 100)
    if 0 <= value <= 1:
        return value
    if not points:
        raise Invalid(f"“{text[:20]}” is not a share.", "Give a number from 0 to 100, in per cent.")
    hint = "Give a number from 0 to 10."
    if number is not None and 10 < number <= 100:
        hint = f"{number:g} % are {number / 10:g} points."
    raise Invalid(f"“{text[:20]}” is not in points of 0–10.", hint)


def missed(check: ExpectationCheck) -> str:
    """Why it is not met, in words; empty where it is."""
    if check.met is not False:
        return ""
    return (
        f"“{check.slice}”: {in_words(check.measure, check.of)} {shown(check)}, "
        f"expected {check.bound} {limit(check.measure, check.limit)}"
    )


def listing(session: Session, project: Project) -> list[Expectation]:
    return list(
        session.exec(
            select(Expectation)
            .where(Expectation.project_id == project.id)
            .order_by(col(Expectation.id))
        )
    )


def expect(
    session: Session,
    project: Project,
    slice_id: int,
    measure: str,
    bound: str,
    value: float,
    blocks: bool = False,
    expectation_id: int | None = None,
) -> Expectation:
    """State, or with `expectation_id` change, what a slice must score; `value` is in 0–1. In a
    project with classes a measure is “accuracy”, or another one with a class by its number or its
    name: “recall:photo”."""
    row = slices.get(session, project, slice_id)
    kind, class_number = _parsed(session, project, measure)
    if bound not in BOUNDS:
        raise Invalid(f"“{bound[:20]}” is no bound.", "Use “at most” or “at least”.")
    if not 0 <= value <= 1:  # also refuses NaN
        raise Invalid(
            f"What is expected lies between 0 and {limit(kind, 1)}.", "Give a number of that range."
        )
    fields: dict[str, Any] = {
        "slice_id": row.id, "measure": kind, "class_number": class_number, "bound": bound,
        "value": value, "blocks": blocks,
    }  # fmt: skip
    if expectation_id:
        stated = get(session, project, expectation_id)
        stated.sqlmodel_update(fields)
    else:
        stated = Expectation(project_id=project.id, **fields)
    session.add(stated)
    session.flush()
    return stated


def remove(session: Session, stated: Expectation) -> None:
    """Its slice stays."""
    session.delete(stated)
    session.flush()


def measure_of(stated: Expectation) -> str:
    """What an expectation is of, as it is said: “mean”, “accuracy”, or of a class “recall:3”."""
    if stated.class_number is None:
        return stated.measure
    return f"{stated.measure}:{stated.class_number}"


def as_json(stated: Expectation) -> dict[str, Any]:
    """An expectation for programs."""
    return stated.model_dump(exclude={"class_number"}) | {"measure": measure_of(stated)}


def _parsed(session: Session, project: Project, measure: str) -> tuple[str, int | None]:
    """The measure, and the number of the class that it is of. Raises `Invalid` for what cannot be
    expected in the project."""
    if project.labelling == "scores":
        if measure not in MEASURES:
            raise Invalid(f"“{measure[:20]}” cannot be expected.", "Use mean or pass_rate.")
        return measure, None
    kind, _, of = measure.partition(":")
    if kind not in CLASS_MEASURES:
        known = ", ".join(CLASS_MEASURES)
        raise Invalid(f"“{measure[:20]}” cannot be expected of classes.", f"Use one of {known}.")
    if kind == OF_ALL:
        return OF_ALL, None
    if not of.strip():
        raise Invalid(f"The {kind} of which class?", f"Write {kind}:NAME.")
    return kind, classes.of(session, project.id).find(of).number


def get(session: Session, project: Project, expectation_id: int) -> Expectation:
    stated = session.get(Expectation, expectation_id)
    if stated is None or stated.project_id != project.id:
        raise NotFound("There is no such expectation.", "It may have been removed meanwhile.")
    return stated


def check(session: Session, version: Version) -> Report:
    """Measure every slice and hold every expectation against a version as all is now: the labels,
    the images of the slices, the threshold. Beside it what was found when it was published."""
    project = projects.get(session, version.project_id)
    newer = select(func.count()).where(
        Label.project_id == project.id, col(Label.event_id) > version.event_high
    )
    return replace(
        _measured(session, project, version),
        recorded={check.id: check for check in version.metrics.expectations},
        labels_since=session.exec(newer).one(),
    )


def check_to_publish(session: Session, version: Version) -> Report:
    """The same of a version that is about to be published, by the labels that it saw: what is
    recorded of it, and decides whether it becomes active."""
    return _measured(session, projects.get(session, version.project_id), version, frozen=True)


def _measured(session: Session, project: Project, version: Version, frozen: bool = False) -> Report:
    if project.labelling != "scores":
        return _of_classes(session, project, version, frozen)
    rows = slices.measured(session, project, version, frozen)
    by_id = {row.id: row for row in rows}
    checks = [
        is_met(stated, by_id[stated.slice_id])
        for stated in listing(session, project)
        if stated.slice_id in by_id
    ]
    return Report(rows, checks)


def _of_classes(session: Session, project: Project, version: Version, frozen: bool) -> Report:
    rows = class_slices.measured(session, project, version, frozen)
    by_id = {row.id: row for row in rows}
    known = classes.of(session, project.id)
    checks = [
        is_met_by_classes(stated, by_id[stated.slice_id], known)
        for stated in listing(session, project)
        if stated.slice_id in by_id
    ]
    return Report(class_slices=rows, expectations=checks)


def overview(session: Session, project: Project, number: str = "") -> dict[str, Any]:
    """For programs: every slice with its numbers under a version (the active one) and every
    expectation; `under_represented` are the slices, and large tags, that lack labels. Before a
    version, `slices` hold names only."""
    chosen = versions.chosen(session, project, number)
    if chosen is None:
        rows = [slices.as_json(session, row) for row in slices.listing(session, project)]
        return {"version": None, "slices": rows, "expectations": [], "under_represented": []}
    lacks = [row.as_json() for row in slices.unmeasured(session, project, chosen)]
    report = check(session, chosen).as_json()
    return {"version": chosen.number} | report | {"under_represented": lacks}


def history(ready: Sequence[Version]) -> dict[int, list[tuple[str, bool | None]]]:
    """Expectation id → (number, whether it was met) of each of the newest versions, oldest first,
    as found when they were published."""
    results: dict[int, list[tuple[str, bool | None]]] = {}
    for version in reversed(ready[:12]):
        for check in version.metrics.expectations:
            results.setdefault(check.id, []).append((version.number, check.met))
    return results


def is_met(stated: Expectation, row: SliceMetrics) -> ExpectationCheck:
    """One expectation against one measured slice."""
    value = row.mean if stated.measure == "mean" else row.pass_rate
    met = _within(value, stated)
    return ExpectationCheck(
        id=stated.id, slice_id=row.id, slice=row.name, measure=stated.measure, bound=stated.bound,
        limit=stated.value, blocks=stated.blocks, value=value, images=row.images, met=met,
    )  # fmt: skip


def is_met_by_classes(stated: Expectation, row: ClassSlice, known: ClassList) -> ExpectationCheck:
    """The same of classes. A class that was merged counts as what it became; of one that is gone
    nothing can be told, nor by a rate over fewer than ten images."""
    kind, asked = stated.measure, stated.class_number
    of, found = "", row.accuracy
    if asked is not None:
        now = known.current_number(asked) if asked in known.by_number else None
        own = known.by_number.get(asked if now is None else now)
        of = own.name if own else str(asked)
        share = next((one for one in row.classes if one.number == now), None)
        if kind == "share":
            n = row.images
            value = (share.images if share else 0) / n if n and now is not None else None
            found = Estimate(value=value, low=None, high=None, n=n)
        else:
            found = getattr(share, kind) if share else NOTHING
    value = found.value if kind == "share" or found.n >= ENOUGH_FOR_ONE_RATE else None
    return ExpectationCheck(
        id=stated.id, slice_id=row.id, slice=row.name, measure=measure_of(stated),
        bound=stated.bound, limit=stated.value, blocks=stated.blocks, value=value, images=found.n,
        met=_within(value, stated), of=of, low=found.low, high=found.high,
    )  # fmt: skip


def _within(value: float | None, stated: Expectation) -> bool | None:
    if value is None:
        return None
    over = value - stated.value
    return over <= ROUNDING if stated.bound == "at most" else over >= -ROUNDING
