"""Background work: what runs, how fast, how long still, and what went wrong."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from sqlmodel import Session

from tastemaker import jobs
from tastemaker.auth.origins import by_htmx
from tastemaker.auth.permissions import AdminUser, GuardedRoute
from tastemaker.database.sessions import writing
from tastemaker.database.tables import Job, Project
from tastemaker.jobs import failures
from tastemaker.pages.deps import EngineDep, Id, ReadSession
from tastemaker.pages.render import lead_to, load_anew, render, see_other, shell

LINES_IN_LIST = 12  # of a failed job's log; its own page shows more

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")


@router.get("/jobs")
def page(
    _: AdminUser,
    request: Request,
    session: ReadSession,
    project: Annotated[int, Query(ge=0, lt=2**63)] = 0,
) -> Response:
    """All jobs; with a `project`, inside its frame."""
    around = session.get(Project, project) if project else None
    context = listed(session)
    return render(request, "jobs.html", None, shell(session, around, "jobs") | context)


@router.get("/jobs/list")
def listing(
    _: AdminUser,
    request: Request,
    session: ReadSession,
    running: Annotated[int, Query(ge=0, lt=2**31)] = 0,
) -> Response:
    """Asked while something runs; a page that shows so many `running` jobs is loaded anew, frame
    and all, once there are more or fewer."""
    unfinished = [job for job in jobs.recent(session) if job.state not in jobs.FINISHED]
    if not unfinished or (running and len(unfinished) != running):
        return load_anew()
    return render(request, "jobs.html", "running", {"jobs": unfinished})


def listed(session: Session) -> dict[str, Any]:
    recent = jobs.recent(session)
    failed = [job for job in recent if job.state == "failed"]
    return {
        "jobs": recent,
        "groups": failures.grouped(failed),
        "repairs": {job.id: repair_of(session, job) for job in failed},
        "logs": {job.id: jobs.log_of(session, job.id, LINES_IN_LIST) for job in failed},
    }


def repair_of(session: Session, job: Job) -> tuple[str, str] | None:
    """Where what made a job fail is put right: what is done there, in words, and the page."""
    project = session.get(Project, job.project_id) if job.project_id else None
    if job.state != "failed" or project is None:
        return None
    at = f"/projects/{project.id}"
    if job.cause in failures.MENDED_ELSEWHERE:  # and then a retry is all it takes
        return None
    match job.cause, job.kind:
        case (failures.NO_WEIGHTS, _) | (_, "embed") if project.encoder_id is None:
            return "Change the encoder", f"{at}/add#encoder"
        case failures.NO_WEIGHTS, _:
            return "Use another encoder", f"{at}/encoders"
        case _, "embed" | "tournament" | "migrate":
            return "To the encoders", f"{at}/encoders"
        case _, "test-run":
            return "To the test run", f"{at}/test-runs/{job.payload.get('run', '')}"
        case _, "audit":
            return "To the audit", f"{at}/audits/{job.payload.get('audit', '')}"
        case (failures.GONE, _) | (_, "import"):
            return "Add them anew", f"{at}/add"
        case _, "adopt":
            return "Import the model anew", f"{at}/publish#bring"
        case failures.NOT_TRAINABLE, _:
            return "Score more images", f"{at}/score"
        case _, "train" | "predict":
            return "To the versions", f"{at}/versions"
    return None


@router.get("/jobs/{job_id}")
def job_page(_: AdminUser, request: Request, session: ReadSession, job_id: Id) -> Response:
    job = jobs.get(session, job_id)
    project = session.get(Project, job.project_id) if job.project_id else None
    return render(
        request, "job.html", None, shell(session, project, "jobs") | job_context(session, job)
    )


@router.get("/jobs/{job_id}/progress")
def progress(_: AdminUser, request: Request, session: ReadSession, job_id: Id) -> Response:
    """Asked every second while the job runs; then the page is loaded anew, for its frame counts
    the unfinished jobs. The sample project leads to its results."""
    job = jobs.get(session, job_id)
    if job.kind == "demo" and job.state == "done" and job.result.get("project_id"):
        return lead_to(f"/projects/{job.result['project_id']}/results")
    if job.state in jobs.FINISHED:
        return load_anew()
    return render(request, "job.html", "job", job_context(session, job))


@router.post("/jobs/{job_id}/cancel")
def cancel(_: AdminUser, request: Request, engine: EngineDep, job_id: Id) -> Response:
    with writing(engine) as session:
        job = jobs.cancel(session, job_id)
        context = job_context(session, job)
    return render(request, "job.html", "job", context) if by_htmx(request) else back_to(job)


@router.post("/jobs/{job_id}/retry")
def retry(_: AdminUser, request: Request, engine: EngineDep, job_id: Id) -> Response:
    with writing(engine) as session:
        job = jobs.retry(session, job_id)
        context = job_context(session, job)
    return render(request, "job.html", "job", context) if by_htmx(request) else back_to(job)


def job_context(session: Session, job: Job) -> dict[str, object]:
    return {
        "job": job,
        "repair": repair_of(session, job),
        "cause": failures.cause_of(job) if job.state == "failed" else None,
        "log": jobs.log_of(session, job.id or 0),
        "result_project": job.result.get("project_id") or job.project_id,
    }


def back_to(job: Job) -> Response:
    return see_other(f"/jobs/{job.id}")


# --- for programs --------------------------------------------------------------------------------


@api.get("/jobs")
def list_jobs(_: AdminUser, session: ReadSession) -> list[dict[str, Any]]:
    """Unfinished jobs first, then the newest finished ones."""
    return [jobs.as_json(job) for job in jobs.recent(session)]


@api.get("/jobs/{job_id}")
def show_job(_: AdminUser, session: ReadSession, job_id: Id) -> dict[str, Any]:
    """One job with its log; a failed one with what to do."""
    lines = [entry.line for entry in jobs.log_of(session, job_id)]
    job = jobs.get(session, job_id)
    remedy = failures.cause_of(job).remedy if job.state == "failed" else ""
    return jobs.as_json(job) | {"log": lines, "remedy": remedy}


@api.post("/jobs/{job_id}/cancel")
def cancel_job(_: AdminUser, engine: EngineDep, job_id: Id) -> dict[str, Any]:
    """Ask for the end of a job: a queued one ends now, a running one within seconds."""
    with writing(engine) as session:
        return jobs.as_json(jobs.cancel(session, job_id))


@api.post("/jobs/{job_id}/retry")
def retry_job(_: AdminUser, engine: EngineDep, job_id: Id) -> dict[str, Any]:
    """Queue a failed or cancelled job again."""
    with writing(engine) as session:
        return jobs.as_json(jobs.retry(session, job_id))
