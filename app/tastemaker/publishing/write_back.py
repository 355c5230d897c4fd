"""The job “write-back”: scores go into sidecars beside the files of this machine. As a dry run it
tells what would be; asked to write, it writes just that; and it takes the newest writing back."""

from typing import Any

from pydantic import BaseModel, Field
from sqlmodel import Session

from tastemaker import jobs, projects, versions
from tastemaker.config import Settings
from tastemaker.database.tables import Job, Project
from tastemaker.errors import Conflict, Invalid, NotFound
from tastemaker.jobs.context import JobContext
from tastemaker.pictures.pictures import Limits
from tastemaker.publishing import sidecars
from tastemaker.publishing.outgoing import Which, outgoing, parse_borders
from tastemaker.scores import classes

USUAL_BORDERS = "3,5,7,9"
SHOWN = 10  # changes of a result
MOST_PROBLEMS = 200
TAKEN_BACK = (
    "There is no such writing to take back: it was taken back already, or nothing was written."
)


class WriteBackRequest(BaseModel, frozen=True):
    """The payload of the job. `low` and `high` are points of 0–10, `stars` the scores from which 2,
    3, 4 and 5 stars are given. Without `write` nothing is written; `undo` takes back the
    writing of the time `of`, and nothing else counts."""

    which: Which = "both"
    low: float = Field(default=0.0, ge=0, le=10)
    high: float = Field(default=10.0, ge=0, le=10)
    stars: str = Field(default=USUAL_BORDERS, max_length=60)
    replace_stars: bool = False
    write: bool = False
    undo: bool = False
    of: str = Field(default="", max_length=40)


def request_write_back(
    session: Session,
    settings: Settings,
    project: Project,
    request: WriteBackRequest,
    asked_by: int = 0,
) -> Job:
    """Queue the job. What is to be taken back is named (`of`). Raises `Conflict` for a project with
    classes, and where the writing to take back is not the newest any more; `Invalid` for limits and
    borders that are none, and where no writing is named."""
    classes.check_scores(project)
    parse_borders(request.stars)
    if request.low > request.high:
        raise Invalid("The lowest score is above the highest.", "Change one of the two.")
    if request.undo:
        newest = sidecars.newest_writing(settings, project.id)
        if newest is not None and not request.of:
            raise Invalid("Which writing is to be taken back?", f"Name it; the newest is {newest}.")
        if newest is None or request.of != newest:
            raise Conflict(TAKEN_BACK, "Nothing was changed.")
    title = "See what sidecars would be written"
    if request.write or request.undo:
        title = "Take sidecars back" if request.undo else "Write sidecars"
    payload = request.model_dump(mode="json")
    return jobs.enqueue(
        session, "write-back", title, payload, project.id, once=True, asked_by=asked_by
    )


def run(job: JobContext) -> dict[str, Any]:
    """Plan, and write if asked; or take back. Safe to run again: what is written already is
    unchanged then. Returns the request and what was found and done; `writing` is what an undo
    names."""
    request = WriteBackRequest.model_validate(job.payload)
    if request.undo:
        job.stage("Taking sidecars back")
        try:
            undone, problems = sidecars.undo_sidecars(job.settings, job.project_id, request.of)
        except NotFound:  # by an earlier try, or by hand meanwhile
            done = {"undone": 0, "already": True}
            return request.model_dump() | done | _told(job, [])
        done = {"undone": undone, "already": False}
        return request.model_dump() | done | _told(job, problems)
    with job.reading() as session:
        project = projects.get(session, job.project_id)
        version = versions.chosen(session, project)
        rows = list(outgoing(session, project, version, request.which, request.low, request.high))
    job.stage("Reading what lies beside the pictures", len(rows))
    plan = sidecars.plan_sidecars(
        rows, Limits.of(job.settings), parse_borders(request.stars),
        replace_stars=request.replace_stars, progress=job.progress,
    )  # fmt: skip
    written, writing, problems = 0, None, plan.problems
    if request.write and plan.changes:
        job.stage("Writing", len(plan.changes))
        written, more = sidecars.write_sidecars(
            job.settings, plan, project_id=job.project_id, progress=job.progress
        )
        problems = [*problems, *more]
        writing = sidecars.newest_writing(job.settings, job.project_id) if written else None
    shown = [
        {
            "path": str(change.sidecar), "new": not change.before, "score": round(change.score, 2),
            "stars": None if change.kept else change.stars, "by": change.by,
        }
        for change in plan.changes[:SHOWN]
    ]  # fmt: skip
    return request.model_dump() | {
        "looked_at": len(rows), "due": len(plan.changes), "written": written, "writing": writing,
        "rows": shown, "unchanged": plan.unchanged, "stars_kept": plan.kept,
    } | _told(job, problems)  # fmt: skip


def _told(job: JobContext, problems: list[tuple[str, str]]) -> dict[str, Any]:
    for path, reason in problems[:MOST_PROBLEMS]:
        job.log(f"{path}: {reason}")
    return {"problems": problems[:MOST_PROBLEMS], "not_done": len(problems)}
