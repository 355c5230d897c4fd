"""Series: bursts and copies, which of each to keep and why; tagged, so that the library shows and
sweeps the best of each. Nothing is deleted."""

from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request, Response
from pydantic import Field, ValidationError
from sqlmodel import Session

from tastemaker import jobs, projects
from tastemaker.auth.permissions import AdminUser, GuardedRoute
from tastemaker.database.sessions import PlainTransactions, reading, writing
from tastemaker.database.tables import Job, Project
from tastemaker.errors import Invalid, NotFound, TastemakerError
from tastemaker.library import series
from tastemaker.library.series import SeriesRequest
from tastemaker.pages.deps import Body, CurrentProject, EngineDep, Id, ReadSession
from tastemaker.pages.project_jobs import newest_job
from tastemaker.pages.render import render, see_other, shell

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")

PER_PAGE = 30
SHOWN = 12  # pictures of one series


@router.get("/projects/{project_id}/series")
def page(
    _: AdminUser,
    request: Request,
    session: ReadSession,
    project: CurrentProject,
    number: Annotated[int, Query(ge=1, le=10**4, alias="page")] = 1,
) -> Response:
    return series_page(request, session, project, number)


def series_page(
    request: Request,
    session: Session,
    project: Project,
    number: int = 1,
    typed: dict[str, str] | None = None,
    error: TastemakerError | None = None,
) -> Response:
    """With an error, the sentence stands under the form, and what was typed is kept."""
    job = newest_job(session, project, "series")
    if typed is None:
        asked = SeriesRequest.model_validate(job.payload if job else {})
        typed = {"within": f"{asked.within:g}", "alike": f"{100 * asked.alike:g}"}
    context = {"typed": typed, "error": error} | found(session, project, job, number)
    frame = shell(session, project, "library") | context
    status = error.status if error else 200
    return render(request, "series.html", None, frame, status=status)


def found(session: Session, project: Project, job: Job | None, number: int) -> dict[str, Any]:
    """What the page shows of the newest job: one page of its series."""
    told = job.result if job and job.state == "done" else None
    listed = told["listed"] if told else []
    pages = max(1, -(-len(listed) // PER_PAGE))
    number = min(number, pages)
    running = job is not None and job.state in ("queued", "running")
    return {
        "job": job, "running": running, "told": told, "most": SHOWN, "number": number,
        "pages": pages, "listed": listed[(number - 1) * PER_PAGE : number * PER_PAGE],
        "tagged": {} if running else series.count_tagged(session, project),
        "best": series.BEST, "rest": series.REST, "rejected": job and job.state == "cancelled",
        "why_together": series.why_together,
    }  # fmt: skip


@router.get("/projects/{project_id}/series/found")
def progress(
    _: AdminUser, request: Request, session: ReadSession, project: CurrentProject
) -> Response:
    """Asked every second while it looks."""
    context = found(session, project, newest_job(session, project, "series"), 1)
    return render(request, "series.html", "found", {"project": project} | context)


def parsed(within: str, alike: str, tag: bool) -> SeriesRequest:
    """`within` in seconds and `alike` in percent, as they are typed. Raises `Invalid`."""
    try:
        share = float(alike.replace(",", ".").rstrip(" %")) / 100
        return SeriesRequest(within=float(within.replace(",", ".")), alike=share, tag=tag)
    except (ValueError, ValidationError):
        raise Invalid(
            "A time is 0 to 86,400 seconds, a likeness 0 to 100 %.",
            "10 seconds and 90 % suit bursts of a camera.",
        ) from None


@router.post("/projects/{project_id}/series")
def look(
    user: AdminUser,
    request: Request,
    engine: EngineDep,
    project_id: Id,
    within: Annotated[str, Form(max_length=20)] = "",
    alike: Annotated[str, Form(max_length=20)] = "",
    tag: Annotated[bool, Form()] = False,
) -> Response:
    """Look for series; with `tag`, tag what is found."""
    try:
        asked = parsed(within, alike, tag)
    except TastemakerError as error:
        with reading(engine) as session:
            project = projects.get(session, project_id)
            typed = {"within": within, "alike": alike}
            return series_page(request, session, project, 1, typed, error)
    with writing(engine) as session:
        project = projects.get(session, project_id)
        series.request_series(session, project, asked, user.annotator_id)
    return see_other(f"/projects/{project_id}/series#found")


@router.post("/projects/{project_id}/series/untag")
def untag(_: AdminUser, engine: EngineDep, project_id: Id) -> Response:
    """Take both tags away again."""
    with reading(engine) as session:
        project = projects.get(session, project_id)
    series.untag(PlainTransactions(engine), project)
    return see_other(f"/projects/{project_id}/series")


# --- the same for programs -----------------------------------------------------------------------


class NewSeries(Body):
    """`within` seconds between one picture and the next, `alike` as a cosine; with `tag` the best
    of each and the others are tagged."""

    within: float = Field(default=series.WITHIN, ge=0, le=86_400)
    alike: float = Field(default=series.ALIKE, ge=0, le=1)
    tag: bool = False


@api.post("/projects/{project_id}/series", status_code=202)
def look_for_series(
    user: AdminUser, engine: EngineDep, project_id: Id, body: NewSeries
) -> dict[str, Any]:
    """Look for bursts and copies; the answer is the job, and its result lists them."""
    with writing(engine) as session:
        project = projects.get(session, project_id)
        asked = SeriesRequest(**body.model_dump())
        return jobs.as_json(series.request_series(session, project, asked, user.annotator_id))


@api.get("/projects/{project_id}/series")
def series_found(_: AdminUser, session: ReadSession, project: CurrentProject) -> dict[str, Any]:
    """What was found the last time: of each series the image to keep, why, what makes them one
    (`links`: `copies`, `taken` by the camera's clock, `written` by their files), and the best
    others."""
    job = newest_job(session, project, "series")
    if job is None or job.state != "done":
        raise NotFound("No series are known here.", "Look for them, and wait for the job's end.")
    return job.result


@api.delete("/projects/{project_id}/series")
def take_tags_away(_: AdminUser, engine: EngineDep, project: CurrentProject) -> dict[str, bool]:
    """Take the tags of series away; the images stay as they are."""
    series.untag(PlainTransactions(engine), project)
    return {"tagged": False}
