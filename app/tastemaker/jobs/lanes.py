"""Which queued job may start beside those that run, and when one that runs must let another go on.

Each kind of job has one lane, so that a long embedding holds up no import and no training. Within
a lane nobody waits for somebody else's hours: imports of different people run beside each other,
and an embedding goes back to the end of its queue after a while where another project waits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlmodel import Session, col, select

from tastemaker.database.tables import Job, in_utc, now
from tastemaker.jobs.records import TURNS

IMPORTS_AT_ONCE = 4
LONG_SECONDS = 30.0  # after which a second import of the same person may start beside the first
TURN_SECONDS = 120.0  # of an embedding that others wait for: loading the encoder takes a few


@dataclass(frozen=True)
class Place:
    """A job in its lane. `seconds`: for how long it has run, 0 for one that waits."""

    job_id: int
    kind: str
    asked_by: int
    project_id: int
    seconds: float = 0.0

    @classmethod
    def of(cls, job: Job, seconds: float) -> "Place":
        return cls(job.id, job.kind, job.asked_by, job.project_id or 0, seconds)


def waiting(session: Session) -> list[Place]:
    """The queued jobs in the order of their turns, without their payloads, which may be large."""
    query = select(Job.id, Job.kind, Job.asked_by, Job.project_id).where(Job.state == "queued")
    rows = session.exec(query.order_by(*TURNS))
    return [Place(job_id, kind, person, project or 0) for job_id, kind, person, project in rows]


def may_start(job: Place, at_work: Sequence[Place]) -> bool:
    """Whether a queued job may start beside those at work."""
    beside = [other for other in at_work if other.kind == job.kind]
    if not beside:
        return True
    if job.kind != "import" or len(beside) >= IMPORTS_AT_ONCE:
        return False
    own = [other for other in beside if other.asked_by == job.asked_by]
    return not own or (len(beside) == 1 and own[0].seconds > LONG_SECONDS)


def held_up_by(session: Session, job: Job) -> int | None:
    """The id of the running job that a queued one waits for; None where it waits for its turn, or
    for a worker."""
    running = select(Job).where(Job.state == "running", Job.kind == job.kind, Job.id != job.id)
    at_work = [
        Place.of(one, _seconds_of(one)) for one in session.exec(running.order_by(col(Job.id)))
    ]
    if job.state != "queued" or may_start(Place.of(job, 0.0), at_work):
        return None
    return at_work[0].job_id


def _seconds_of(job: Job) -> float:
    return (now() - in_utc(job.started_at)).total_seconds() if job.started_at else 0.0


def turn_is_over(job: Place, queued: Sequence[Place]) -> bool:
    """Whether a running job has had its turn, and is asked to let those go on that wait for longer.
    It ends it itself, at its next `JobContext.give_way`: what it did is kept."""
    others = (one for one in queued if one.kind == job.kind and one.project_id != job.project_id)
    return job.kind == "embed" and job.seconds > TURN_SECONDS and any(True for _ in others)
