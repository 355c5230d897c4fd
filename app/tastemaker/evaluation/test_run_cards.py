"""Looking at test runs, and at the cards on which what they got wrong is corrected.

Scores given while looking at a run are labels of the project like any other; their offer names the
run, which remembers them. They never measure a version, because the model picked their images.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select
from sqlalchemy import select as select_columns
from sqlmodel import Session, col, func, select

from tastemaker import scores
from tastemaker.config import Settings
from tastemaker.database.tables import (
    Annotator,
    Collection,
    Job,
    Project,
    TestRun,
    TestRunScore,
    Version,
)
from tastemaker.errors import NotFound
from tastemaker.evaluation import class_test_runs
from tastemaker.evaluation.class_test_runs import RunFigures
from tastemaker.evaluation.test_runs import GRIDS
from tastemaker.queues.cards import Card, Predicted, QueueItem
from tastemaker.queues.cards import cards as build_cards
from tastemaker.scores import Origin

FIGURES = ("n", "passes", "pass_rate", "mean", "median", "threshold", "histogram", "holdout",
           "without_prediction", "against")  # fmt: skip
CLASS_PARTS = {class_test_runs.SAMPLE: "Random sample", class_test_runs.UNSURE: "Least certain"}
Entry = tuple[int, float, float]  # of a grid: image id, prediction and its uncertainty in [0, 1]


@dataclass(frozen=True)
class TestRunReport:
    """A run with what belongs to it. `corrected` counts the images that were scored in it; `right`
    is, of a classifier, how often that is right on the labels there."""

    run: TestRun
    version: Version
    collection: Collection
    job: Job | None
    corrected: int
    right: RunFigures | None = None

    @property
    def parts(self) -> dict[str, str]:
        """Name → title of each part that it shows, the first one first."""
        taken = self.run.summary.get("taken_for")
        if taken is None:
            return GRIDS
        named = {f"{class_test_runs.OF_CLASS}{one['number']}": one["name"] for one in taken}
        there = self.run.summary.get("grids", {})
        return CLASS_PARTS | {part: name for part, name in named.items() if part in there}

    @property
    def state(self) -> str:
        """done, running (or queued), failed, or cancelled."""
        if self.run.summary:
            return "done"
        return self.job.state if self.job else "failed"

    @property
    def reason(self) -> str:
        """Why its images are shown."""
        return f"test run of {self.version.number} on “{self.collection.name}”"

    def grid(self, part: str) -> list[Entry]:
        """The images of one part of the run, as they are shown."""
        entries = self.run.summary.get("grids", {}).get(part, [])
        return [(image_id, score, spread) for image_id, score, spread in entries]

    def as_json(self) -> dict[str, Any]:
        """A run for programs: its figures are null while it is under way."""
        return {
            "id": self.run.id, "version": self.version.number, "version_id": self.run.version_id,
            "collection": self.collection.name, "collection_id": self.run.collection_id,
            "state": self.state, "job_id": self.run.job_id, "corrected": self.corrected,
            "error": self.job.error if self.job else "",
            "created_at": self.run.created_at.isoformat(),
            **{name: self.run.summary.get(name) for name in FIGURES},
            **({"taken_for": self.run.summary.get("taken_for")} | self.right.as_json()
               if self.right else {}),
        }  # fmt: skip


def listing(session: Session, project: Project) -> list[TestRunReport]:
    """Every run of a project, newest first."""
    return _reports(session, project, _runs().where(col(TestRun.project_id) == project.id))


def get(session: Session, project: Project, run_id: int, *, measured: bool = True) -> TestRunReport:
    """A run of a project; how often a classifier is right only where it is `measured`. Raises
    `NotFound`."""
    mine = _runs().where(col(TestRun.project_id) == project.id, col(TestRun.id) == run_id)
    reports = _reports(session, project, mine, measured)
    if not reports:
        raise NotFound("There is no such test run.", "Choose one of the list.")
    return reports[0]


def _runs() -> Select[TestRun, Version, Collection, Job]:
    return (
        select_columns(TestRun, Version, Collection, Job)
        .join(Version, col(Version.id) == TestRun.version_id)
        .join(Collection, col(Collection.id) == TestRun.collection_id)
        .outerjoin(Job, col(Job.id) == TestRun.job_id)
        .order_by(col(TestRun.id).desc())
    )


def _reports(
    session: Session,
    project: Project,
    query: Select[TestRun, Version, Collection, Job],
    measured: bool = True,
) -> list[TestRunReport]:
    rows = session.execute(query).all()
    standing = scores.standing_events().subquery()
    counts: dict[int, int] = dict(
        session.execute(
            select(TestRunScore.test_run_id, func.count(standing.c.image_id.distinct()))
            .join(standing, standing.c.id == TestRunScore.event_id)
            .where(col(TestRunScore.test_run_id).in_([row[0].id for row in rows]))
            .group_by(col(TestRunScore.test_run_id))
        )
        .tuples()
        .all()
    )
    return [
        TestRunReport(
            run, v, c, job, counts.get(run.id, 0),
            class_test_runs.figures(session, project, run, v)
            if measured and v.classes.numbers
            else None,
        )
        for run, v, c, job in rows
    ]  # fmt: skip


def cards(
    session: Session, settings: Settings, project: Project, report: TestRunReport, part: str,
    person: Annotator, after: int = 0, n: int = 48,
) -> list[Card]:  # fmt: skip
    """A page of one of the run's grids, with what the version predicted in the run."""
    if part not in report.parts:
        known = ", ".join(report.parts)
        raise NotFound(f"This test run has no part “{part[:40]}”.", f"It has {known}.")
    entries = report.grid(part)[after : after + n]
    items = [
        QueueItem(image_id, Origin.TEST_RUN, report.reason, test_run=report.run.id)
        for image_id, *_ in entries
    ]
    number = report.version.number
    predicted = {image_id: Predicted(score, spread, number) for image_id, score, spread in entries}
    return build_cards(
        session, settings, project, person, "test-run", items,
        report.version, predicted=predicted, with_neighbours=False,
    )  # fmt: skip


def offer(
    session: Session, project: Project, report: TestRunReport, image_id: int, person: Annotator
) -> str:
    """What a score of one image that the run shows has to bring back. Raises `NotFound` for any
    other image."""
    if not any(image_id == entry[0] for part in report.parts for entry in report.grid(part)):
        raise NotFound("This test run does not show that image.", "Choose one of its cards.")
    seen = scores.Offer(Origin.TEST_RUN, report.reason, report.run.id)
    return scores.sign_offer(session, project.id, image_id, person.id, seen)
