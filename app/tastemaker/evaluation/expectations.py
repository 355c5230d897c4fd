"""Expectations: what a version must make of a slice, and whether it does.

“Real-life photos: mean at most 10 %” is how the author of a predictor states what it is biased
against. Each is held against every version; one that blocks keeps a version that misses it from
becoming active.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from sqlmodel import Session, col, select

from tastemaker import projects
from tastemaker.database.tables import Expectation, Project, Version
from tastemaker.errors import Invalid, NotFound
from tastemaker.evaluation import slices
from tastemaker.evaluation.slices import Measured

MEASURES = {"mean": "mean prediction", "pass_rate": "pass rate"}
BOUNDS = ("at most", "at least")
ROUNDING = 1e-9  # a mean of exactly 65 % is at most 65 %


@dataclass(frozen=True)
class Checked:
    """An expectation held against a version. `met` is None where the slice has no image to tell;
    that blocks nothing."""

    id: int
    slice_id: int
    slice: str
    measure: str
    bound: str
    limit: float
    blocks: bool
    value: float | None
    images: int
    met: bool | None

    @property
    def wanted(self) -> str:
        return f"{MEASURES[self.measure]} {self.bound} {_percent(self.limit)}"

    @property
    def missed(self) -> str:
        """Why it is not met, in words; empty where it is."""
        if self.met is not False:
            return ""
        return f"“{self.slice}”: {MEASURES[self.measure]} {_percent(self.value or 0)}, " + (
            f"expected {self.bound} {_percent(self.limit)}"
        )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Report:
    """All slices and all expectations of a project, for one version."""

    slices: list[Measured] = field(default_factory=list)
    expectations: list[Checked] = field(default_factory=list)

    @property
    def missed(self) -> list[Checked]:
        return [check for check in self.expectations if check.met is False]

    @property
    def blocking(self) -> list[Checked]:
        return [check for check in self.missed if check.blocks]

    def as_dict(self) -> dict[str, Any]:
        return {
            "slices": [row.as_dict() for row in self.slices],
            "expectations": [row.as_dict() for row in self.expectations],
        }


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
    told: dict[str, Any] = {
        "slice_id": row.id, "measure": measure, "bound": bound, "value": value, "blocks": blocks,
    }  # fmt: skip
    if expectation_id:
        stated = get(session, project, expectation_id).sqlmodel_update(told)
    else:
        stated = Expectation(project_id=project.id, **told)
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


def is_met(stated: Expectation, row: Measured) -> Checked:
    """One expectation against one measured slice."""
    value = row.mean if stated.measure == "mean" else row.pass_rate
    met = None
    if value is not None:
        over = value - stated.value
        met = over <= ROUNDING if stated.bound == "at most" else over >= -ROUNDING
    return Checked(
        id=stated.id, slice_id=row.id, slice=row.name, measure=stated.measure, bound=stated.bound,
        limit=stated.value, blocks=stated.blocks, value=value, images=row.images, met=met,
    )  # fmt: skip


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"
