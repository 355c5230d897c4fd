"""An import that goes on where one was stopped: since when its images may have come in."""

from datetime import datetime

from sqlmodel import Session, col, select

from tastemaker import jobs
from tastemaker.database.tables import Job, in_utc
from tastemaker.importing.requests import ImportRequest


def stopped_since(session: Session, job_id: int, request: ImportRequest) -> datetime | None:
    """When the run began that this one goes on with: an earlier attempt at this very job, or the
    newest job before it for the same paths of the same project, if that was cancelled or failed.
    None where there is no such run."""
    job = jobs.get(session, job_id)
    if job.attempts > 1:
        return in_utc(job.created_at)
    if job.kind != "import" or not request.paths:
        return None
    earlier = select(Job).where(
        Job.kind == "import", Job.project_id == job.project_id, col(Job.id) < job.id
    )
    # Some at a time: there may be thousands, and one of the last is mostly the one.
    newest_first = earlier.order_by(col(Job.id).desc()).execution_options(yield_per=50)
    same = (
        one
        for one in session.exec(newest_first)
        if tuple(one.payload.get("paths", ())) == request.paths
    )
    before = next(same, None)
    if before is None or before.state not in ("cancelled", "failed"):
        return None
    return in_utc(before.created_at)
