"""Scores back into Lightroom, digiKam and darktable: what would be written, writing it, taking it
back."""

from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request, Response
from pydantic import Field, ValidationError
from sqlmodel import Session

from tastemaker import jobs, projects, versions
from tastemaker.auth.permissions import AdminUser, GuardedRoute
from tastemaker.config import Settings
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import Job, Project
from tastemaker.errors import Invalid, TastemakerError
from tastemaker.pages.deps import Body, CurrentProject, EngineDep, Id, ReadSession, SettingsDep
from tastemaker.pages.project_jobs import newest_job
from tastemaker.pages.render import render, see_other, shell
from tastemaker.publishing import sidecars, write_back
from tastemaker.publishing.outgoing import Which
from tastemaker.publishing.write_back import USUAL_BORDERS, WriteBackRequest

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")

WHICH = {
    "both": "Your scores, else the prediction",
    "scores": "Your scores alone",
    "predictions": "Predictions alone",
}
Typed = Annotated[str, Form(max_length=60)]


@router.get("/projects/{project_id}/write-back")
def page(
    _: AdminUser, request: Request, session: ReadSession, settings: SettingsDep,
    project: CurrentProject,
) -> Response:  # fmt: skip
    return write_back_page(request, session, settings, project)


def write_back_page(
    request: Request,
    session: Session,
    settings: Settings,
    project: Project,
    typed: dict[str, Any] | None = None,
    error: TastemakerError | None = None,
    undo_error: TastemakerError | None = None,
) -> Response:
    """With an error, the sentence stands under its form, and what was typed is kept."""
    job = newest_job(session, project, "write-back")
    if typed is None:
        asked = WriteBackRequest.model_validate(job.payload if job else {})
        typed = asked.model_dump(exclude={"undo", "of"}) | {
            "low": f"{asked.low:g}",
            "high": f"{asked.high:g}",
        }
    version = versions.chosen(session, project)
    context = {
        "typed": typed, "error": error, "which": WHICH, "version": version,
        "undo_error": undo_error,
    }  # fmt: skip
    frame = shell(session, project, "versions") | context | found(settings, project, job)
    failed = error or undo_error
    status = failed.status if failed else 200
    return render(request, "write_back.html", None, frame, status=status)


def found(settings: Settings, project: Project, job: Job | None) -> dict[str, Any]:
    """What the page shows of the newest job, and whether a writing can be taken back."""
    running = job is not None and job.state in ("queued", "running")
    told = job.result if job and job.state == "done" else None
    newest = None if running else sidecars.newest_writing(settings, project.id)
    newest_at = sidecars.written_at(newest) if newest else None
    return {
        "job": job, "running": running, "told": told, "newest": newest,
        "newest_at": newest_at,
        "begun": bool(newest_at and job and job.started_at and newest_at >= job.started_at),
        "stopped": job is not None and job.state == "cancelled",
    }  # fmt: skip


@router.get("/projects/{project_id}/write-back/found")
def progress(
    _: AdminUser, request: Request, session: ReadSession, settings: SettingsDep,
    project: CurrentProject,
) -> Response:  # fmt: skip
    """Asked every second while it works."""
    context = found(settings, project, newest_job(session, project, "write-back"))
    context |= {"project": project, "undo_error": None}
    return render(request, "write_back.html", "found", context)


@router.post("/projects/{project_id}/write-back")
def look(
    user: AdminUser,
    request: Request,
    engine: EngineDep,
    settings: SettingsDep,
    project_id: Id,
    which: Typed = "both",
    low: Typed = "0",
    high: Typed = "10",
    stars: Typed = USUAL_BORDERS,
    replace_stars: Annotated[bool, Form()] = False,
    write: Annotated[bool, Form()] = False,
) -> Response:
    """See what would be written; with `write`, write it."""
    typed = {
        "which": which, "low": low or "0", "high": high or "10", "stars": stars or USUAL_BORDERS,
        "replace_stars": replace_stars,
    }  # fmt: skip
    try:
        try:
            asked = WriteBackRequest.model_validate(typed | {"write": write})
        except ValidationError:
            raise Invalid("A score is a number from 0 to 10.", "Change the limits.") from None
        _enqueue(engine, settings, project_id, asked, user.annotator_id)
    except TastemakerError as error:
        with reading(engine) as session:
            project = projects.get(session, project_id)
            return write_back_page(request, session, settings, project, typed, error)
    return see_other(f"/projects/{project_id}/write-back#found")


def _enqueue(
    engine: Any, settings: Settings, project_id: int, asked: WriteBackRequest, by: int
) -> dict[str, Any]:
    with writing(engine) as session:
        project = projects.get(session, project_id)
        return jobs.as_json(write_back.request_write_back(session, settings, project, asked, by))


@router.post("/projects/{project_id}/write-back/undo")
def undo(
    user: AdminUser,
    request: Request,
    engine: EngineDep,
    settings: SettingsDep,
    project_id: Id,
    of: Annotated[str, Form(max_length=40)] = "",
) -> Response:
    """Take the writing `of` that time back, the newest of the project: pressed twice it says so,
    and the writing before stays."""
    try:
        asked = WriteBackRequest(undo=True, of=of)
        _enqueue(engine, settings, project_id, asked, user.annotator_id)
    except TastemakerError as error:
        with reading(engine) as session:
            project = projects.get(session, project_id)
            return write_back_page(request, session, settings, project, undo_error=error)
    return see_other(f"/projects/{project_id}/write-back#found")


# --- the same for programs -----------------------------------------------------------------------


class NewWriteBack(Body):
    """`low` and `high` are scores of 0–10, `stars` those from which 2, 3, 4 and 5 stars are given.
    Without `write` the job only tells what it would do."""

    which: Which = "both"
    low: float = Field(default=0.0, ge=0, le=10)
    high: float = Field(default=10.0, ge=0, le=10)
    stars: str = Field(default=USUAL_BORDERS, max_length=60)
    replace_stars: bool = False
    write: bool = False


@api.post("/projects/{project_id}/write-back", status_code=202)
def write_scores_back(
    user: AdminUser, engine: EngineDep, settings: SettingsDep, project_id: Id, body: NewWriteBack
) -> dict[str, Any]:
    """Write scores as stars into XMP sidecars beside the files of the server's machine, or tell
    what would be written; the answer is the job."""
    asked = WriteBackRequest(**body.model_dump())
    return _enqueue(engine, settings, project_id, asked, user.annotator_id)


@api.delete("/projects/{project_id}/write-back", status_code=202)
def take_sidecars_back(
    user: AdminUser,
    engine: EngineDep,
    settings: SettingsDep,
    project_id: Id,
    of: Annotated[str, Query(max_length=40)] = "",
) -> dict[str, Any]:
    """Take the writing `of` that name back, the newest of the project (`writing` in the result of
    its job); the answer is the job. A second request does not take back the one before."""
    asked = WriteBackRequest(undo=True, of=of)
    return _enqueue(engine, settings, project_id, asked, user.annotator_id)
