"""Encoders: the one in use, others tried on the project's own labels, and the move to one."""

from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from pydantic import Field
from sqlmodel import Session

from tastemaker import jobs, projects, versions
from tastemaker.auth.permissions import AdminUser, GuardedRoute, ViewerUser
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import EncoderRow, Project, Version
from tastemaker.encoding.encoder_specs import known_encoders
from tastemaker.encoding.weights import are_here
from tastemaker.errors import TastemakerError
from tastemaker.evaluation import tournament
from tastemaker.pages.deps import Body, CurrentProject, EngineDep, Id, ReadSession, SettingsDep
from tastemaker.pages.project_jobs import job_to_show
from tastemaker.pages.render import redirect, render, shell
from tastemaker.training import migration

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")


@router.get("/projects/{project_id}/encoders")
def page(_: AdminUser, request: Request, session: ReadSession, project: CurrentProject) -> Response:
    return encoders_page(request, session, project)


def encoders_page(
    request: Request,
    session: Session,
    project: Project,
    typed: dict[str, Any] | None = None,
    error: TastemakerError | None = None,
    move_error: TastemakerError | None = None,
) -> Response:
    """After a refusal with what was `typed`: the encoders ticked, another one, how many images, and
    the one to move to (`move`)."""
    try:
        migration.check_movable(session, project)
        fixed = None
    except TastemakerError as reason:
        fixed = reason
    done = tournament.latest(session, project)
    used = session.get(EncoderRow, project.encoder_id) if project.encoder_id else None
    others: dict[int, Version] = {}
    for version in versions.list_ready(session, project):
        if version.encoder_id != project.encoder_id:
            others.setdefault(version.encoder_id, version)
    return render(
        request, "encoders.html", None,
        shell(session, project, "settings") | {
            "fixed": fixed, "error": error, "move_error": move_error, "used": used, "done": done,
            "rows": done.result["rows"] if done else [],
            "under_way": [
                job for kind in ("tournament", "migrate")
                if (job := job_to_show(session, project, kind))
            ],
            "former": [(v, session.get(EncoderRow, v.encoder_id)) for v in others.values()],
            "choices": [
                (known, are_here(known.name))
                for known in known_encoders() if known.name != project.encoder
            ],
            "typed": {"encoder": [], "other": "", "images": tournament.IMAGES, "move": ""}
            | (typed or {}),
            "least": tournament.FEWEST, "most": tournament.MOST,
        },
        status=refusal.status if (refusal := error or move_error) else 200,
    )  # fmt: skip


@router.post("/projects/{project_id}/tournament")
def start_tournament(
    _: AdminUser,
    request: Request,
    engine: EngineDep,
    settings: SettingsDep,
    project_id: Id,
    encoder: Annotated[list[str] | None, Form()] = None,
    other: Annotated[str, Form()] = "",
    images: Annotated[int, Form()] = tournament.IMAGES,
) -> Response:
    """Try the encoders that were ticked, and another one where its name was typed."""
    chosen = [*(encoder or []), other]
    try:
        with writing(engine) as session:
            project = projects.get(session, project_id)
            job = tournament.request_tournament(session, settings, project, chosen, images)
    except TastemakerError as error:
        typed = {"encoder": encoder or [], "other": other, "images": images}
        return refused(request, engine, project_id, typed, error=error)
    return redirect(request, f"/jobs/{job.id}")


@router.post("/projects/{project_id}/migrate")
def start_migration(
    _: AdminUser,
    request: Request,
    engine: EngineDep,
    settings: SettingsDep,
    project_id: Id,
    encoder: Annotated[str, Form()] = "",
) -> Response:
    """Move the project to an encoder."""
    try:
        with writing(engine) as session:
            project = projects.get(session, project_id)
            job = migration.request_migration(session, settings, project, encoder)
    except TastemakerError as error:
        return refused(request, engine, project_id, {"move": encoder}, move_error=error)
    return redirect(request, f"/jobs/{job.id}")


def refused(
    request: Request,
    engine: EngineDep,
    project_id: int,
    typed: dict[str, Any],
    **errors: TastemakerError,
) -> Response:
    with reading(engine) as session:
        return encoders_page(request, session, projects.get(session, project_id), typed, **errors)


# --- for programs --------------------------------------------------------------------------------


class Tournament(Body):
    """The encoders to try beside the project's own, and on how many labelled images at most."""

    encoders: list[str] = Field(max_length=100)
    images: int = tournament.IMAGES


class Migration(Body):
    """MODEL/TAG, MODEL@FILE.safetensors, or several joined by a plus."""

    encoder: str


@api.post("/projects/{project_id}/tournament", status_code=202)
def try_encoders(
    _: AdminUser, engine: EngineDep, settings: SettingsDep, project_id: Id, body: Tournament
) -> dict[str, Any]:
    """Try encoders on the project's own labels. The answer is the job; its result has a row for
    each encoder, the one in use first."""
    with writing(engine) as session:
        project = projects.get(session, project_id)
        return jobs.as_json(
            tournament.request_tournament(session, settings, project, body.encoders, body.images)
        )


@api.get("/projects/{project_id}/tournament")
def show_tournament(
    _: ViewerUser, session: ReadSession, project: CurrentProject
) -> dict[str, Any] | None:
    """The newest tournament that ended, as its job; null before there is one. `mae` is in points of
    0–10, `difference` from the encoder in use; `hours` and `gigabytes` are for all its images."""
    done = tournament.latest(session, project)
    return jobs.as_json(done) if done else None


@api.post("/projects/{project_id}/migrate", status_code=202)
def migrate_project(
    _: AdminUser, engine: EngineDep, settings: SettingsDep, project_id: Id, body: Migration
) -> dict[str, Any]:
    """Move a project to another encoder: embed its images, train a new major version, and change
    over unless that version is worse. The answer is the job. An old version, activated, leads
    back."""
    with writing(engine) as session:
        project = projects.get(session, project_id)
        return jobs.as_json(migration.request_migration(session, settings, project, body.encoder))
