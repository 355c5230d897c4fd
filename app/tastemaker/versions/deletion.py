"""Deleting a version: its file, its predictions and the test runs that show them go.

The row stays as one that nobody sees, without its labels: its number is never given to another
head, versions that were measured against it can still name it, and what it started from is known,
so that no project starts from its own scores by way of it.
"""

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Engine
from sqlmodel import Session, col, delete, func, select, update

from tastemaker import jobs
from tastemaker.config import Settings
from tastemaker.database.sessions import writing
from tastemaker.database.tables import (
    Audit,
    ClassPrediction,
    Job,
    Prediction,
    TestRun,
    Version,
    VersionAnswer,
    VersionLabel,
    VersionPrior,
)
from tastemaker.errors import Conflict
from tastemaker.files.texts import enumerated
from tastemaker.learning.class_metrics import ClassRecord
from tastemaker.learning.version_metrics import LossCurve, VersionMetrics
from tastemaker.versions import registry
from tastemaker.versions.publication import DELETED


@dataclass(frozen=True)
class DeletedVersion:
    """What goes, or went, with a version. Scores that were given in its test runs and audits
    stay."""

    version: str
    predictions: int
    test_runs: int
    audits: int
    bytes: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def in_words(self) -> str:
        """“its file, 80 predictions, 1 test run and 2 audits”."""
        counts = ((self.predictions, "prediction"), (self.test_runs, "test run"),
                  (self.audits, "audit"))  # fmt: skip
        parts = ["its file"] + [
            f"{count:,} {what}{'s' * (count != 1)}"
            for count, what in counts
            if count or what == "prediction"
        ]
        return enumerated(parts)


def what_goes(session: Session, version: Version) -> DeletedVersion:
    """What deleting the version would take. Raises `Conflict` for the active one, and while a test
    run of it is under way."""
    if version.active:
        raise Conflict(
            f"{version.number} is the active version and stays.",
            "Make another one active first: its page has a button, and there is `tastemaker "
            "versions activate`.",
        )
    runs = select(func.count()).select_from(TestRun).where(TestRun.version_id == version.id)
    audits = select(func.count()).select_from(Audit).where(Audit.version_id == version.id)
    under_way = (
        select(TestRun.id)
        .join(Job, col(Job.id) == TestRun.job_id)
        .where(TestRun.version_id == version.id, col(Job.state).not_in(jobs.FINISHED))
    )
    drawing = (
        select(Audit.id)
        .join(Job, col(Job.id) == Audit.job_id)
        .where(Audit.version_id == version.id, col(Job.state).not_in(jobs.FINISHED))
    )
    if session.exec(drawing.limit(1)).first() is not None:
        raise Conflict(
            f"An audit of {version.number} is being drawn and needs it.",
            "Cancel its job first, or wait for its end.",
        )
    if session.exec(under_way.limit(1)).first() is not None:
        raise Conflict(
            f"A test run of {version.number} is under way and needs it.",
            "Cancel the run first, or wait for its end.",
        )
    predictions = select(func.count()).where(Prediction.version_id == version.id)
    return DeletedVersion(
        version.number, int(session.exec(predictions).one()), int(session.exec(runs).one()),
        int(session.exec(audits).one()), version.bytes,
    )  # fmt: skip


def delete_version(settings: Settings, engine: Engine, version_id: int) -> DeletedVersion:
    """Delete a version for good. Raises what `what_goes` does."""
    with writing(engine) as session:
        version = registry.get(session, version_id)
        gone = what_goes(session, version)
        files = [
            registry.checkpoint_path(settings, version), registry.config_path(settings, version),
            registry.original_path(settings, version),
        ]  # fmt: skip
        tables = (Prediction, ClassPrediction, VersionLabel, VersionAnswer, TestRun, Audit)
        for table in tables:
            session.execute(delete(table).where(col(table.version_id) == version.id))
        started = update(VersionPrior).where(col(VersionPrior.version_id) == version.id)
        session.execute(started.values(weights=None))
        version.state, version.made_by = "building", f"{DELETED}: version {version.id}"
        version.note = version.activation = version.file = ""
        version.recipe, version.metrics, version.curve = {}, VersionMetrics(), LossCurve()
        version.bytes, version.classes = 0, ClassRecord()
        session.add(version)
    try:
        for file in files:
            file.unlink(missing_ok=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise Conflict(
            f"{gone.version} is deleted, but {error.filename} could not be removed: {reason}.",
            "Remove it by hand; nothing names it any more.",
        ) from error
    return gone
