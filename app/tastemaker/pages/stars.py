"""Stars of other programs: what each mark means, what was found, and recording it."""

from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request, Response
from pydantic import Field
from sqlmodel import Session

from tastemaker import jobs, projects
from tastemaker.auth.permissions import AdminUser, GuardedRoute
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import Job, Project
from tastemaker.errors import TastemakerError
from tastemaker.importing import stars
from tastemaker.importing.mark_rules import DEFAULT_RULE, MarkRule, parse_rule
from tastemaker.importing.stars import StarsRequest
from tastemaker.pages.deps import Body, CurrentProject, EngineDep, Id, ReadSession
from tastemaker.pages.project_jobs import newest_job
from tastemaker.pages.render import render, see_other, shell

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")

MARKS = {str(n): f"{n} star{'s' * (n != 1)}" for n in range(1, 6)} | {"reject": "Rejected"}
Cell = Annotated[str, Form(max_length=10)]


@router.get("/projects/{project_id}/stars")
def page(_: AdminUser, request: Request, session: ReadSession, project: CurrentProject) -> Response:
    return stars_page(request, session, project)


def stars_page(
    request: Request,
    session: Session,
    project: Project,
    typed: dict[str, str] | None = None,
    error: TastemakerError | None = None,
) -> Response:
    """With an error, the sentence stands under the form, and what was typed is kept."""
    job = newest_job(session, project, "stars")
    if typed is None:
        typed = form_of(parse_rule(job.payload["rule"]) if job else DEFAULT_RULE)
    context = {"typed": typed, "error": error} | found(session, project, job)
    status = error.status if error else 200
    frame = shell(session, project, "add")
    return render(request, "stars.html", None, frame | context, status=status)


def found(session: Session, project: Project, job: Job | None) -> dict[str, Any]:
    """What the page shows of the newest job; whether a recording stands that can be taken back,
    whether the newest is this job's, and whether what this job recorded was taken back."""
    running = job is not None and job.state in ("queued", "running")
    done = job is not None and job.state == "done"
    told = job.result if job and done else None
    newest = None if running else stars.newest_recording(session, project)
    of_this = newest is not None and job is not None and stars.job_of(newest[0]) == job.id
    mine = of_this or (job is not None and stars.newest_recording(session, project, job.id))
    return {
        "job": job, "running": running, "told": told, "marks": MARKS,
        "stands": stars.recording_of(newest[0]) if newest else "",
        "of_this": of_this, "part": mine and not done,
        "taken_back": bool(told and told["recorded"] and not mine),
    }  # fmt: skip


def form_of(rule: MarkRule) -> dict[str, str]:
    """The fields that show a rule: one for each of `MARKS`, and `others`."""
    rest = {word: score for word, score in rule.scores.items() if word not in MARKS}
    others = str(MarkRule(rest, rule.points))
    return {word: str(rule.scores.get(word, "")) for word in MARKS} | {"others": others}


@router.get("/projects/{project_id}/stars/found")
def progress(
    _: AdminUser, request: Request, session: ReadSession, project: CurrentProject
) -> Response:
    """Asked every second while it looks."""
    context = found(session, project, newest_job(session, project, "stars"))
    return render(request, "stars.html", "found", {"project": project} | context)


@router.post("/projects/{project_id}/stars")
def look(
    user: AdminUser,
    request: Request,
    engine: EngineDep,
    project_id: Id,
    one: Cell = "",
    two: Cell = "",
    three: Cell = "",
    four: Cell = "",
    five: Cell = "",
    reject: Cell = "",
    others: Annotated[str, Form(max_length=2000)] = "",
) -> Response:
    """Look for marks, and show what would follow from them."""
    typed = dict(zip(MARKS, (one, two, three, four, five, reject), strict=True))
    given = [f"{word}={score}" for word, score in typed.items() if score.strip()]
    rule = ", ".join([*given, others]) if given or others.strip() else ","
    try:
        with writing(engine) as session:
            project = projects.get(session, project_id)
            stars.request_stars(session, project, StarsRequest(rule=rule), user.annotator_id)
    except TastemakerError as error:
        with reading(engine) as session:
            project = projects.get(session, project_id)
            return stars_page(request, session, project, typed | {"others": others}, error)
    return see_other(f"/projects/{project_id}/stars#found")


@router.post("/projects/{project_id}/stars/record")
def record(
    user: AdminUser,
    engine: EngineDep,
    project_id: Id,
    rule: Annotated[str, Form(max_length=4000)],
    what: Annotated[str, Form(max_length=10)] = "hints",
) -> Response:
    """Record what was shown, by the rule that it was shown with."""
    asked = StarsRequest(rule=rule, record=True, as_scores=what == "scores")
    with writing(engine) as session:
        project = projects.get(session, project_id)
        stars.request_stars(session, project, asked, user.annotator_id)
    return see_other(f"/projects/{project_id}/stars#found")


@router.post("/projects/{project_id}/stars/undo")
def undo(
    _: AdminUser,
    engine: EngineDep,
    project_id: Id,
    of: Annotated[str, Form(max_length=80)] = "",
) -> Response:
    """Take the recording `of` that name back, the newest: pressed twice, the one before stays."""
    stars.take_back(engine, project_id, of)
    return see_other(f"/projects/{project_id}/stars")


# --- the same for programs -----------------------------------------------------------------------


class NewStars(Body):
    """`rule` says what each mark means (“1=2, 5=10, reject=0, red=3”); the usual one if empty.
    Without `record` the job only tells what it found."""

    rule: str = Field(default="", max_length=4000)
    record: bool = False
    as_scores: bool = False


@api.post("/projects/{project_id}/stars", status_code=202)
def look_for_stars(
    user: AdminUser, engine: EngineDep, project_id: Id, body: NewStars
) -> dict[str, Any]:
    """Look for the stars, labels and flags of other programs, and record them if asked; the answer
    is the job, whose result tells what was found."""
    with writing(engine) as session:
        project = projects.get(session, project_id)
        asked = StarsRequest(**body.model_dump())
        return jobs.as_json(stars.request_stars(session, project, asked, user.annotator_id))


@api.delete("/projects/{project_id}/stars")
def take_stars_back(
    _: AdminUser,
    engine: EngineDep,
    project_id: Id,
    of: Annotated[str, Query(max_length=80)] = "",
) -> dict[str, int]:
    """Take the recording `of` that name back, the newest (`recording` in the result of its job);
    tells how many images' it was. A second request does not take back the one before."""
    return {"undone": stars.take_back(engine, project_id, of)}
