"""Training that begins by itself: after so many new scores, or once the model has drifted.

The worker's clock looks every few seconds. What was trained once is not trained again: new scores
are counted from the newest training, also one that failed or was cancelled, so that a training that
cannot succeed is not begun over and over.
"""

import math
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Engine
from sqlmodel import Session, col, func, select

from tastemaker import jobs, projects, scores, versions
from tastemaker.config import Settings
from tastemaker.database import sessions
from tastemaker.database.tables import Job, Label, Project, ScoreEvent, Version
from tastemaker.errors import StorageFull
from tastemaker.files import require_free_space
from tastemaker.live import live_model
from tastemaker.training import retrain, trainable

ENOUGH_FOR_DRIFT = 20  # new labels, below which a difference of the errors means nothing
Z95 = 1.96
BY_ITSELF = "by itself: "  # how the note of such a training begins


@dataclass(frozen=True)
class Drift:
    """The live model's mean error on `n` labels that are newer than the active version, and the
    error that the version was published with; in points of 0–10. `error` is the standard error of
    the first."""

    live: float
    recorded: float
    error: float
    n: int

    def exceeds(self, limit: float) -> bool:
        """Whether the errors are `limit` points apart, and more than chance would put them."""
        apart = abs(self.live - self.recorded)
        return self.n >= ENOUGH_FOR_DRIFT and apart >= limit and apart > Z95 * self.error


def tick(settings: Settings, engine: Engine) -> list[Job]:
    """Queue what is due in every project; returns the jobs. Called by the worker's clock."""
    with sessions.reading(engine) as session:  # cheap look first: no write lock while idle
        if not any(due_reason(session, settings, p) for p in projects.list_all(session)):
            return []
    queued = []
    with sessions.writing(engine) as session:
        for project in projects.list_all(session):
            why = due_reason(session, settings, project)
            if why:
                note = f"{BY_ITSELF}{why}"
                queued.append(retrain.request_training(session, settings, project, note=note))
    return queued


def due_reason(session: Session, settings: Settings, project: Project) -> str:
    """Why this project should be trained now, in words; empty where it should not, or cannot."""
    if not (project.auto_train_every or project.auto_train_drift) or project.encoder_id is None:
        return ""
    if any(jobs.unfinished(session, kind, project.id) for kind in ("train", "migrate")):
        return ""
    why = _because_of_scores(session, project) or _because_of_drift(session, settings, project)
    if not why:
        return ""
    if trainable.why_not(trainable.known_now(session, project)):
        return ""
    try:
        require_free_space(settings.root, settings.min_free_gb)
    except StorageFull:
        return ""
    return why


def streak(session: Session, project: Project) -> tuple[int, int]:
    """How many new scores there are, and how many make a training begin (0: none does)."""
    new = select(func.count()).select_from(
        scores.standing_events()
        .where(
            ScoreEvent.project_id == project.id,
            ScoreEvent.kind == "set",
            col(ScoreEvent.id) > _trained_up_to(session, project),
        )
        .subquery()
    )
    return int(session.exec(new).one()), project.auto_train_every


def drift(session: Session, settings: Settings, project: Project) -> Drift | None:
    """How the live model does on new labels, each predicted without itself and its relatives; None
    without a live model, an active version or a new label."""
    live, version = live_model.read_live(settings, project.id), versions.active(session, project)
    recorded = version.metrics.out_of_fold.mae.value if version else None
    if live is None or version is None or recorded is None:
        return None
    labels = session.execute(
        select(Label.image_id, Label.value).where(
            Label.project_id == project.id,
            ~col(Label.holdout),
            col(Label.event_id) > max(version.event_high, _trained_up_to(session, project)),
            col(Label.event_id) <= live.fit.event_high,
        )
    ).all()
    pairs = [(live.of(image_id), value) for image_id, value in labels]
    errors = np.array([abs(10 * score[0] - value) for score, value in pairs if score is not None])
    if len(errors) < 2:
        return None
    spread = float(errors.std(ddof=1)) / math.sqrt(len(errors))
    return Drift(float(errors.mean()), float(recorded), spread, len(errors))


def _because_of_scores(session: Session, project: Project) -> str:
    have, want = streak(session, project) if project.auto_train_every else (0, 0)
    if not want or have < want:
        return ""
    what = "score" if project.labelling == "scores" else "label"
    return f"{have} new {what}{'s' * (have != 1)}"


def _because_of_drift(session: Session, settings: Settings, project: Project) -> str:
    measured = drift(session, settings, project) if project.auto_train_drift else None
    if measured is None or not measured.exceeds(project.auto_train_drift):
        return ""
    return (
        f"the error on {measured.n} new labels is {measured.live:.2f} points, "
        f"not {measured.recorded:.2f} as published"
    )


def _trained_up_to(session: Session, project: Project) -> int:
    """The newest score event that a version or a training job has looked at."""
    version = session.exec(
        select(func.max(Version.event_high)).where(Version.project_id == project.id)
    ).one()
    job = session.exec(
        select(Job)
        .where(Job.project_id == project.id, Job.kind == "train")
        .order_by(col(Job.id).desc())
        .limit(1)
    ).first()
    return max(int(version or 0), int(job.payload.get("event_high", 0)) if job else 0)
