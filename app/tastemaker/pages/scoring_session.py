"""The strip below the image: how this session of scoring goes, and what it has taught the model."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlmodel import Session, col

from tastemaker import queues, scores, versions
from tastemaker.config import Settings
from tastemaker.database.tables import Annotator, Job, Project, ScoreEvent, in_utc, now
from tastemaker.live import live_model
from tastemaker.live.live_model import ErrorRecord
from tastemaker.pages.project_jobs import importing, newest_job
from tastemaker.queues.history import PAUSE
from tastemaker.scores import classes
from tastemaker.training import auto_train
from tastemaker.training.trainable import ENOUGH_TO_TRAIN
from tastemaker.versions.outlook import Outlook, outlook, short

BRIEF = timedelta(minutes=1)  # a shorter one has no pace yet
LATELY = 50  # scores, over which a change of the live error is told


@dataclass(frozen=True)
class ScoringSession:
    """A stretch of scoring without a long pause. `per_hour` is None while it is too short."""

    images: int
    per_hour: float | None


@dataclass(frozen=True)
class ErrorTrend:
    """The live model's error in points of 0–10, and by how much it differs from the one `scores`
    scores ago (None: it was not measured then)."""

    error: float
    since: float | None
    scores: int


def session_summary(
    session: Session, settings: Settings, project: Project, person: Annotator
) -> dict[str, Any]:
    """What the strip shows: pace, streak, histogram, the live error or accuracy, what the live
    model starts from, and how far the import and the embedding are."""
    progress = queues.progress(session, settings, project)
    embedding = newest_job(session, project, "embed")
    stopped = embedding is not None and embedding.state in ("failed", "cancelled")
    live = live_model.read_live(settings, project.id)
    return {
        "sitting": current_session(session, project, person),
        "streak": auto_train.streak(session, project) if project.auto_train_every else (0, 0),
        **of_labels(session, project),
        "outlook": newest_outlook(session, project),
        "short_gain": short,
        "change": error_trend(live.fit.errors) if live else None,
        "accuracy": live.fit.accuracy if live else None,
        "starts_from": live_model.lineage_in_words(live.fit) if live else "",
        "progress": progress,
        "imported": imported(session, project),
        "unembedded": embedding if stopped and progress.embedded < progress.images else None,
        "importing": importing(session, project),
        "enough": ENOUGH_TO_TRAIN,
    }


def of_labels(session: Session, project: Project) -> dict[str, Any]:
    """How many labels there are of each score, or of each class, the commonest first."""
    if project.labelling == "scores":
        return {"histogram": scores.histogram(session, project), "class_counts": []}
    known = classes.of(session, project.id)
    counts = classes.count_labels(session, project, known)
    listed = sorted(((row, counts[row.number]) for row in known.alive), key=lambda pair: -pair[1])
    return {"histogram": [], "class_counts": listed}


def current_session(session: Session, project: Project, person: Annotator) -> ScoringSession:
    """How many images were scored since the last long pause, and how fast."""
    times = session.exec(
        scores.standing_events()
        .with_only_columns(ScoreEvent.at)
        .where(
            ScoreEvent.project_id == project.id,
            ScoreEvent.annotator_id == person.id,
            ScoreEvent.kind == "set",
            ScoreEvent.origin != scores.Origin.IMPORT,
        )
        .order_by(col(ScoreEvent.id).desc())
        .limit(5000)
    ).all()
    later = now()
    count = 0
    begun = later
    for at in times:
        if later - in_utc(at) > PAUSE:
            break
        later = begun = in_utc(at)
        count += 1
    hours = (now() - begun) / timedelta(hours=1)
    long_enough = count >= 5 and hours * timedelta(hours=1) >= BRIEF
    return ScoringSession(count, count / hours if long_enough else None)


def error_trend(errors: Sequence[ErrorRecord]) -> ErrorTrend | None:
    """What the newest scores changed, from the live model's own record, oldest first."""
    if not errors:
        return None
    newest = errors[-1]
    before = [record for record in errors if record.labels <= newest.labels - LATELY]
    if not before:
        return ErrorTrend(newest.error, None, 0)
    then = before[-1]
    return ErrorTrend(newest.error, newest.error - then.error, newest.labels - then.labels)


def newest_outlook(session: Session, project: Project) -> Outlook | None:
    """What more labels would bring the newest version."""
    newest = versions.newest(session, project)
    return outlook(newest.metrics) if newest else None


def imported(session: Session, project: Project) -> Job | None:
    """The newest import, for a while after it left files aside."""
    job = newest_job(session, project, "import")
    if job is None or job.finished_at is None or now() - in_utc(job.finished_at) > PAUSE:
        return None
    return job if job.state == "done" and job.result.get("set_aside") else None
