"""Expectations: what a version must make of a slice, and whether it does.

“Real-life photos: mean at most 10 %” is how the author of a predictor states what it is biased
against. Each is held against every version; one that blocks keeps a version that misses it from
becoming active.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlmodel import Session, col, select

from tastemaker import projects, versions
from tastemaker.database.tables import Expectation, Project, Version
from tastemaker.errors import Invalid, NotFound
from tastemaker.evaluation import slices
from tastemaker.learning.version_metrics import ExpectationCheck, SliceMetrics

MEASURES = {"mean": "mean prediction", "pass_rate": "pass rate"}
BOUNDS = ("at most", "at least")
ROUNDING = 1e-9  # a mean of exactly 65 % is at most 65 %


@dataclass(frozen=True)
class Report:
    """All slices and all expectations of a project, for one version."""

    slices: list[SliceMetrics] = field(default_factory=list)
    expectations: list[ExpectationCheck] = field(default_factory=list)

    @property
    def missed(self) -> list[ExpectationCheck]:
        return [check for check in self.expectations if check.met is False]

    @property
    def blocking(self) -> list[ExpectationCheck]:
        return [check for check in self.missed if check.blocks]

    def as_json(self) -> dict[str, Any]:
        return {
            "slices": [row.as_json() for row in self.slices],
            "expectations": [check.as_json() for check in self.expectations],
        }


def wanted(check: ExpectationCheck) -> str:
    """“mean prediction at most 10 %”."""
    return f"{MEASURES[check.measure]} {check.bound} {_percent(check.limit)}"


def missed(check: ExpectationCheck) -> str:
    """Why it is not met, in words; empty where it is."""
    if check.met is not False:
        return ""
    return (
        f"“{check.slice}”: {MEASURES[check.measure]} {_percent(check.value or 0)}, "
        f"expected {check.bound} {_percent(check.limit)}"
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
    """State, or with `expectation_id` change, what a slice must score; `value` is in 0–1."""
    row = slices.get(session, project, slice_id)
    if measure not in MEASURES:
        raise Invalid(f"“{measure[:20]}” cannot be expected.", "Use mean or pass_rate.")
    if bound not in BOUNDS:
        raise Invalid(f"“{bound[:20]}” is no bound.", "Use “at most” or “at least”.")
    if not 0 <= value <= 1:  # also refuses NaN
        raise Invalid("What is expected lies between 0 and 100 %.", "Give a number of that range.")
    fields: dict[str, Any] = {
        "slice_id": row.id, "measure": measure, "bound": bound, "value": value, "blocks": blocks,
    }  # fmt: skip
    if expectation_id:
        stated = get(session, project, expectation_id).sqlmodel_update(fields)
    else:
        stated = Expectation(project_id=project.id, **fields)
    session.add(stated)
    session.flush()
    return stated


def get(session: Session, project: Project, expectation_id: int) -> Expectation:
    stated = session.get(Expectation, expectation_id)
    if stated is None or stated.project_id != project.id:
        raise NotFound("There is no such expectation.", "It may have been removed meanwhile.")
    return stated


def check(session: Session, version: Version, frozen: bool = False) -> Report:
    """Measure every slice and hold every expectation against a version."""
    project = projects.get(session, version.project_id)
    rows = slices.measured(session, project, version, frozen)
    by_id = {row.id: row for row in rows}
    checks = [
        is_met(stated, by_id[stated.slice_id])
        for stated in listing(session, project)
        if stated.slice_id in by_id
    ]
    return Report(rows, checks)


def overview(session: Session, project: Project, number: str = "") -> dict[str, Any]:
    """For programs: every slice with its numbers under a version (the active one) and every
    expectation; `under_represented` are the slices, and large tags, that lack labels. Before a
    version, `slices` hold names only."""
    chosen = versions.chosen(session, project, number)
    if chosen is None:
        rows = [slices.as_json(row) for row in slices.listing(session, project)]
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
    met = None
    if value is not None:
        over = value - stated.value
        met = over <= ROUNDING if stated.bound == "at most" else over >= -ROUNDING
    return ExpectationCheck(
        id=stated.id, slice_id=row.id, slice=row.name, measure=stated.measure, bound=stated.bound,
        limit=stated.value, blocks=stated.blocks, value=value, images=row.images, met=met,
    )  # fmt: skip


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"
