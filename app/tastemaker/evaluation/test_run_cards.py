"""Looking at test runs, and correcting what they got wrong.

Scores given while looking at a run are labels of the project like any other, and remember the run.
They never measure a version, because the model picked what they are about.
"""

from dataclasses import dataclass
from typing import Any

from sqlmodel import Session, col, func, select

from tastemaker import scores
from tastemaker.database.tables import (
    Annotator,
    Collection,
    Image,
    Job,
    Label,
    Project,
    ScoreEvent,
    TestRun,
    TestRunScore,
    Version,
)
from tastemaker.errors import NotFound
from tastemaker.evaluation.test_runs import GRIDS

ORIGIN = "test-run"


@dataclass(frozen=True)
class TestRunReport:
    """A run with what belongs to it. `corrected` counts the images that were scored in it."""

    run: TestRun
    version: Version
    collection: Collection
    job: Job | None
    corrected: int

    @property
    def state(self) -> str:
        """done, running (or queued), failed, or cancelled."""
        if self.run.summary:
            return "done"
        return self.job.state if self.job else "failed"


def listing(session: Session, project: Project) -> list[TestRunReport]:
    """Every run of a project, newest first."""
    return _told(session, _runs().where(TestRun.project_id == project.id))


def get(session: Session, project: Project, run_id: int) -> TestRunReport:
    found = _told(session, _runs().where(TestRun.project_id == project.id, TestRun.id == run_id))
    if not found:
        raise NotFound("There is no such test run.", "Choose one of the list.")
    return found[0]


def _runs() -> Any:
    return (
        select(TestRun, Version, Collection, Job)
        .join(Version, col(Version.id) == TestRun.version_id)
        .join(Collection, col(Collection.id) == TestRun.collection_id)
        .outerjoin(Job, col(Job.id) == TestRun.job_id)
        .order_by(col(TestRun.id).desc())
    )


def _told(session: Session, query: Any) -> list[TestRunReport]:
    rows = session.execute(query).all()
    standing = scores.standing_events().subquery()
    counts: dict[int, int] = dict(
        session.execute(
            select(TestRunScore.test_run_id, func.count(standing.c.image_id.distinct()))
            .join(standing, standing.c.id == TestRunScore.event_id)
            .where(col(TestRunScore.test_run_id).in_([row[0].id for row in rows]))
            .group_by(col(TestRunScore.test_run_id))
        ).all()
    )
    return [TestRunReport(run, v, c, job, counts.get(run.id, 0)) for run, v, c, job in rows]


@dataclass(frozen=True)
class RunCard:
    """One image of a run. `prediction` and `uncertainty` are in [0, 1], the label in 0–10;
    `event_id` is the newest event of the person who looks (0: none)."""

    image_id: int
    name: str
    has_pixels: bool
    prediction: float
    uncertainty: float
    predicted_by: str
    label: float | None
    event_id: int
    origin: str
    reason: str


def cards(
    session: Session, told: TestRunReport, grid: str, person: Annotator, after: int = 0, n: int = 48
) -> list[RunCard]:
    """A page of one of the run's grids."""
    if grid not in GRIDS:
        raise NotFound(f"A test run has no part “{grid[:40]}”.", f"It has {', '.join(GRIDS)}.")
    shown = told.run.summary.get("grids", {}).get(grid, [])[after : after + n]
    return _cards(session, told, shown, person)


def card_of(session: Session, told: TestRunReport, image_id: int, person: Annotator) -> RunCard:
    """The card of one image that the run shows. Raises `NotFound` for any other."""
    for shown in told.run.summary.get("grids", {}).values():
        for entry in shown:
            if entry[0] == image_id:
                return _cards(session, told, [entry], person)[0]
    raise NotFound("This test run does not show that image.", "Choose one of its cards.")


def _cards(
    session: Session, told: TestRunReport, shown: list[list[Any]], person: Annotator
) -> list[RunCard]:
    ids = [entry[0] for entry in shown]
    rows = {i.id: i for i in session.exec(select(Image).where(col(Image.id).in_(ids)))}
    project_id = told.run.project_id
    labels: dict[int, float] = dict(
        session.execute(
            select(Label.image_id, Label.value).where(
                Label.project_id == project_id, col(Label.image_id).in_(ids)
            )
        ).all()
    )
    newest: dict[int, int] = dict(
        session.execute(
            scores.standing_events()
            .with_only_columns(ScoreEvent.image_id, func.max(ScoreEvent.id))
            .where(
                ScoreEvent.project_id == project_id,
                ScoreEvent.annotator_id == person.id,
                col(ScoreEvent.image_id).in_(ids),
            )
            .group_by(ScoreEvent.image_id)
        ).all()
    )
    return [
        RunCard(
            image_id=image_id, name=rows[image_id].name,
            has_pixels=rows[image_id].kind != "vector", prediction=score, uncertainty=spread,
            predicted_by=told.version.number, label=labels.get(image_id),
            event_id=newest.get(image_id, 0), origin=ORIGIN, reason=reason_of(told),
        )
        for image_id, score, spread in shown
        if image_id in rows
    ]  # fmt: skip


def reason_of(told: TestRunReport) -> str:
    return f"test run of {told.version.number} on “{told.collection.name}”"


# --- correcting --------------------------------------------------------------------------------


def correct(
    session: Session,
    project: Project,
    told: TestRunReport,
    image_id: int,
    person: Annotator,
    value: Any,
    *,
    key: str | None = None,
    expected: int | None = None,
) -> ScoreEvent:
    """Score an image that the run shows; the score remembers the run."""
    card_of(session, told, image_id, person)
    recorded = scores.record(
        session, project, image_id, person, "set", scores.parse_score(value), origin=ORIGIN,
        reason=reason_of(told), key=key, expected=expected,
    )  # fmt: skip
    if recorded.fresh:
        session.add(TestRunScore(test_run_id=told.run.id, event_id=recorded.event.id))
        session.flush()
    return recorded.event
