"""The jobs of one project, as its pages ask for them."""

from sqlmodel import Session, col, select

from tastemaker import jobs
from tastemaker.database.tables import Job, Project
from tastemaker.errors import NotFound


def importing(session: Session, project: Project) -> Job | None:
    """The job that brings images in at the moment, if any."""
    under_way = col(Job.state).in_(("queued", "running"))
    return session.exec(
        select(Job)
        .where(Job.project_id == project.id, col(Job.kind).in_(("import", "demo")), under_way)
        .order_by(col(Job.id))
        .limit(1)
    ).first()


def newest_job(session: Session, project: Project, kind: str) -> Job | None:
    return session.exec(
        select(Job)
        .where(Job.project_id == project.id, Job.kind == kind)
        .order_by(col(Job.id).desc())
        .limit(1)
    ).first()


def job_to_show(session: Session, project: Project, kind: str) -> Job | None:
    """The job of a kind for the page that asks for it: the one that runs, or the newest if it
    failed."""
    running = jobs.unfinished(session, kind, project.id)
    newest = running[0] if running else newest_job(session, project, kind)
    return newest if newest is not None and (running or newest.state == "failed") else None


def job_of(session: Session, project: Project, job_id: int) -> Job:
    """A job of this project. Raises `NotFound` for any other."""
    job = session.get(Job, job_id)
    if job is None or job.project_id != project.id:
        raise NotFound("There is no such job in this project.")
    return job
