"""The durable job table: enqueue, claim, report, finish, cancel, requeue.

The table is the truth; whoever works on a job holds a `Claim` with a *fence* number. Every claim
raises the fence, and every write of a result names it, so a worker that was thought dead and comes
back can write nothing. Enqueue a job in the transaction of the change that caused it.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, update
from sqlmodel import Session, col, select

from tastemaker.database.sessions import rows_changed
from tastemaker.database.tables import Job, JobLog, now
from tastemaker.errors import Conflict, NotFound
from tastemaker.jobs.failures import WORKER_STOPPED, Failure

MAX_ATTEMPTS = 3
FINISHED = ("done", "failed", "cancelled")
# Who waits longest is next: since it was queued, or since its last try or turn ended.
TURNS = (func.coalesce(Job.finished_at, Job.created_at), col(Job.id))


class LostJob(Exception):
    """Somebody else works on this job now, or it was cancelled: stop, write nothing."""


class TurnOver(Exception):
    """Others wait: what was done is kept, and the job goes on after them."""


@dataclass(frozen=True)
class Claim:
    job_id: int
    fence: int


def enqueue(
    session: Session,
    kind: str,
    title: str,
    payload: dict[str, Any] | None = None,
    project_id: int | None = None,
    *,
    once: bool = False,
    asked_by: int = 0,
) -> Job:
    """Add a job. `asked_by` is the row of who wants it, 0 for the command line and for duties. With
    `once`, a job of the same kind, project and payload that has not started yet is returned instead
    of a second one."""
    payload = payload or {}
    if once:
        waiting = session.exec(
            select(Job).where(Job.kind == kind, Job.project_id == project_id, Job.state == "queued")
        )
        for job in waiting:
            if job.payload == payload:
                return job
    job = Job(
        kind=kind, title=title, payload=payload, project_id=project_id, asked_by=asked_by
    )  # fmt: skip
    session.add(job)
    session.flush()
    return job


def get(session: Session, job_id: int) -> Job:
    job = session.get(Job, job_id)
    if job is None:
        raise NotFound(f"There is no job {job_id}.", "It may have been removed with its project.")
    return job


def claim_next(session: Session, among: Collection[int] | None = None) -> tuple[Job, Claim] | None:
    """Take the queued job that waits longest, of all or `among` these, raising its fence and its
    attempts; None where none of them is queued any more."""
    query = select(Job).where(Job.state == "queued").order_by(*TURNS).limit(1)
    if among is not None:
        query = query.where(col(Job.id).in_(among))
    if session.get_bind().dialect.name == "postgresql":
        query = query.with_for_update(skip_locked=True)
    job = session.exec(query).first()
    if job is None:
        return None
    job.state, job.fence, job.attempts = "running", job.fence + 1, job.attempts + 1
    job.started_at, job.heartbeat, job.error, job.cause = now(), job.heartbeat + 1, "", ""
    job.done, job.total, job.finished_at = 0, 0, None
    session.add(job)
    session.flush()
    return job, Claim(job.id, job.fence)


def guard(session: Session, claim: Claim) -> None:
    """Call inside the transaction that writes a result. Raises `LostJob` for a stale fence."""
    _update(session, claim, heartbeat=Job.heartbeat + 1)


def report(session: Session, claim: Claim, **fields: Any) -> bool:
    """Write progress fields and a heartbeat. Returns whether cancelling was requested."""
    _update(session, claim, heartbeat=Job.heartbeat + 1, **fields)
    return bool(session.exec(select(Job.cancel_requested).where(Job.id == claim.job_id)).one())


def finish(session: Session, claim: Claim, result: dict[str, Any]) -> None:
    _update(session, claim, state="done", result=result, finished_at=now(), rate=0.0)


def cancelled(session: Session, claim: Claim) -> None:
    _update(session, claim, state="cancelled", finished_at=now(), rate=0.0)


def fail(session: Session, claim: Claim, failure: Failure) -> None:
    """End the job visibly: the same try again would end the same way."""
    why = {"error": failure.error, "cause": failure.cause}
    _update(session, claim, state="failed", finished_at=now(), rate=0.0, **why)


def give_back(session: Session, claim: Claim, failure: Failure, *, counts: bool = True) -> str:
    """The work ended without a result. Queue it again, or fail it after the last attempt;
    `counts=False` for an orderly stop, which is no fault of the job. Returns the new state."""
    job = get(session, claim.job_id)
    if job.cancel_requested:
        cancelled(session, claim)
        return "cancelled"
    if counts and job.attempts >= MAX_ATTEMPTS:
        tried = f"{failure.error} It was tried {job.attempts} times."
        fail(session, claim, Failure(tried, failure.cause))
        return "failed"
    attempts = job.attempts if counts else job.attempts - 1
    waits = {"state": "queued", "attempts": attempts, "rate": 0.0, "finished_at": now()}
    _update(session, claim, error=failure.error, **waits)
    return "queued"


def blame(session: Session, claim: Claim) -> bool:
    """A job was killed. If it had said what it had in hand, that goes into the list of what it died
    on, which the next try leaves out; so there is an end to it, however often. Returns whether."""
    result = dict(get(session, claim.job_id).result)
    if (item := result.pop("in_hand", None)) is None:
        return False
    _update(session, claim, result={"died_on": [*result.get("died_on", []), item]})
    return True


def requeue_orphans(
    session: Session, job_ids: list[int] | None = None, *, counts: bool = True
) -> list[int]:
    """Give back running jobs whose worker is gone: all of them, or the named ones."""
    query = select(Job).where(Job.state == "running")
    if job_ids is not None:
        query = query.where(col(Job.id).in_(job_ids))
    orphans = [(job.id, job.fence) for job in session.exec(query)]
    for job_id, fence in orphans:
        give_back(session, Claim(job_id, fence), WORKER_STOPPED, counts=counts)
        log(session, job_id, "the worker stopped; the job was handed back")
    return [job_id for job_id, _ in orphans]


def cancel(session: Session, job_id: int) -> Job:
    """Ask for the end of a job: a queued one ends now, a running one when its worker sees it."""
    job = get(session, job_id)
    if job.state in FINISHED:
        raise Conflict(f"Job {job_id} has already ended ({job.state}).", "Nothing was changed.")
    job.cancel_requested = True
    if job.state == "queued":
        job.state, job.finished_at = "cancelled", now()
    session.add(job)
    return job


def retry(session: Session, job_id: int) -> Job:
    """Queue a failed or cancelled job again: it has as many attempts as a new one. How often it was
    begun in all is its fence, and the log says where it was queued again."""
    job = get(session, job_id)
    if job.state not in ("failed", "cancelled"):
        raise Conflict(
            f"Job {job_id} is {job.state}; only a failed or cancelled job can be retried."
        )
    job.state, job.attempts, job.error, job.cause = "queued", 0, "", ""
    job.cancel_requested, job.finished_at, job.result = False, now(), {}
    session.add(job)
    log(session, job_id, "queued again by hand")
    return job


def log(session: Session, job_id: int, line: str) -> None:
    session.add(JobLog(job_id=job_id, line=line[:2000]))


def log_of(session: Session, job_id: int, limit: int = 200) -> list[JobLog]:
    """The newest lines of a job's log, oldest first."""
    newest = select(JobLog).where(JobLog.job_id == job_id).order_by(col(JobLog.id).desc())
    return list(session.exec(newest.limit(limit)))[::-1]


def recent(session: Session, limit: int = 50, project_id: int | None = None) -> list[Job]:
    """Unfinished jobs first, then the newest finished ones; all, or those of one project."""
    unfinished = col(Job.state).in_(("queued", "running"))
    order = (unfinished.desc(), col(Job.id).desc())
    query = select(Job) if project_id is None else select(Job).where(Job.project_id == project_id)
    return list(session.exec(query.order_by(*order).limit(limit)))


def unfinished(
    session: Session, kind: str | None = None, project_id: int | None = None
) -> list[Job]:
    query = select(Job).where(col(Job.state).in_(("queued", "running"))).order_by(col(Job.id))
    if kind is not None:
        query = query.where(Job.kind == kind)
    if project_id is not None:
        query = query.where(Job.project_id == project_id)
    return list(session.exec(query))


def seconds_left(job: Job) -> float | None:
    """Estimated seconds to the end, from the rate the worker reported; None while unknown."""
    if job.state != "running" or job.rate <= 0 or job.total <= 0:
        return None
    return max(0.0, (job.total - job.done) / job.rate)


def as_json(job: Job) -> dict[str, Any]:
    """A job for programs; what its worker alone needs (payload, fence) stays out."""
    inner = {"payload", "fence", "heartbeat", "asked_by"}
    return job.model_dump(mode="json", exclude=inner) | {"seconds_left": seconds_left(job)}


def _update(session: Session, claim: Claim, **fields: Any) -> None:
    statement = (
        update(Job)
        .where(col(Job.id) == claim.job_id, col(Job.fence) == claim.fence)
        .where(col(Job.state) == "running")
        .values(**fields)
        .execution_options(synchronize_session=False)
    )
    if rows_changed(session, statement) != 1:
        raise LostJob(f"job {claim.job_id} is no longer ours (fence {claim.fence})")
