"""Adding images: a folder on this machine, or files and zips from the browser.

Nothing is decoded here: that is the import job's work, in a process that may die of it.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Depends, Form, Request, Response
from pydantic import Field
from sqlalchemy import Engine
from sqlmodel import Session

from tastemaker import jobs, projects
from tastemaker.auth.identity import Identity
from tastemaker.auth.origins import by_htmx
from tastemaker.auth.permissions import AdminUser, GuardedRoute
from tastemaker.config import Settings
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import Job, Project
from tastemaker.encoding.encoder_specs import known_encoders, spec_of
from tastemaker.encoding.weights import weights_of
from tastemaker.errors import Invalid, TastemakerError
from tastemaker.importing import requests, watching
from tastemaker.importing.requests import SyntheticPairs
from tastemaker.pages.deps import Body, CurrentProject, EngineDep, Id, ReadSession, SettingsDep
from tastemaker.pages.project_jobs import newest_job
from tastemaker.pages.render import redirect, render, see_other, shell
from tastemaker.pages.uploads import (
    BINARY,
    Reception,
    Upload,
    body_schema,
    form_schema,
)
from tastemaker.pictures.damage import KINDS
from tastemaker.scores import classes, imported_tables
from tastemaker.scores.imported_tables import TakenBack
from tastemaker.scores.score_files import ImportedScores

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")

TABLE_FIELDS = ("scale", "image_column", "score_column", "as_hints")  # of a table of scores
Files = Annotated[Upload, Depends(Reception(), scope="function")]


@router.get("/projects/{project_id}/add")
def page(
    _: AdminUser,
    request: Request,
    session: ReadSession,
    settings: SettingsDep,
    project: CurrentProject,
) -> Response:
    return add_page(request, session, settings, project)


def add_page(
    request: Request,
    session: Session,
    settings: Settings,
    project: Project,
    folder: str = "",
    folder_error: TastemakerError | None = None,
    files_error: TastemakerError | None = None,
    scores_told: ImportedScores | None = None,
    scores_error: TastemakerError | None = None,
    table: Mapping[str, str] | None = None,
    taken_back: TakenBack | None = None,
    twins: Mapping[str, Any] | None = None,
) -> Response:
    """With an error, the sentence stands beside its form, and what was typed is kept."""
    error = folder_error or files_error or scores_error
    table = table or {}
    on = table.get("scale", "").strip() != ""
    unmade = project.encoder_id is None
    context = {
        "weights": weights_of(project.encoder) if unmade else None,
        "fetching": fetching(session, project),
        "watched": watching.as_json(session, project),
        "classes": _classes(session, project),
        "damage": KINDS,
        "twins": twins or {"kinds": [], "clean": "", "damaged": ""},
        "encoders": known_encoders(), "frames": spec_of(project.encoder).frames,
        "max_upload_mb": settings.max_upload_mb, "folder": folder, "folder_error": folder_error,
        "files_error": files_error, "scores_told": scores_told, "scores_error": scores_error,
        "table": {name: table.get(name, "") for name in TABLE_FIELDS},
        "range_line": scores_told.range_line(on) if scores_told else "",
        "tables": imported_tables.listed(session, project), "taken_back": taken_back,
    }  # fmt: skip
    frame = shell(session, project, "add")
    status = error.status if error else 200
    return render(request, "add.html", None, frame | context, status=status)


def _classes(session: Session, project: Project) -> list[str]:
    """The names that a pair can be labelled with."""
    if project.labelling == "scores":
        return []
    return [row.name for row in classes.of(session, project.id).alive]


def fetching(session: Session, project: Project) -> Job | None:
    """The job that loads the encoder before the first image is embedded, and fetches its weights
    for that."""
    job = newest_job(session, project, "embed")
    loads = project.encoder_id is None and job is not None and job.state == "running"
    return job if loads else None


@router.get("/projects/{project_id}/add/encoder")
def encoder_progress(
    _: AdminUser, request: Request, session: ReadSession, project: CurrentProject
) -> Response:
    """Asked every second while the encoder's weights are fetched."""
    job = fetching(session, project)
    weights = None if job or project.encoder_id else weights_of(project.encoder)
    context = {"project": project, "fetching": job, "weights": weights}
    return render(request, "add.html", "encoder", context)


def refused(
    request: Request,
    engine: Engine,
    settings: Settings,
    project_id: int,
    folder: str = "",
    folder_error: TastemakerError | None = None,
    files_error: TastemakerError | None = None,
    twins: Mapping[str, Any] | None = None,
) -> Response:
    """The Add page again, after an error."""
    with reading(engine) as session:
        project = projects.get(session, project_id)
        return add_page(
            request, session, settings, project, folder, folder_error, files_error, twins=twins
        )


@router.post("/projects/{project_id}/add/folder")
def add_folder(
    user: AdminUser,
    request: Request,
    engine: EngineDep,
    settings: SettingsDep,
    project_id: Id,
    folder: Annotated[str, Form()] = "",
    watch: Annotated[bool, Form()] = False,
    damage: Annotated[list[str] | None, Form()] = None,
    clean: Annotated[str, Form()] = "",
    damaged: Annotated[str, Form()] = "",
) -> Response:
    """Import a folder on this machine, recursively; the files stay where they are. It may be
    watched from now on, and then be empty. With kinds of `damage`, twins of them are made."""
    try:
        if not folder.strip():
            raise Invalid("No folder was named.", "Type its path, such as /home/me/Pictures.")
        asked = AskedPairs(damage or [], clean, damaged)
        bring_in(engine, settings, project_id, folder.strip(), "", watch, user, asked)
    except TastemakerError as error:
        twins = {"kinds": damage or [], "clean": clean, "damaged": damaged}
        return refused(
            request, engine, settings, project_id, folder=folder, folder_error=error, twins=twins
        )
    return see_other(f"/projects/{project_id}/score")


class AskedPairs(NamedTuple):
    """The damaged twins that somebody asks for: kinds of damage, and what either is labelled as."""

    kinds: Sequence[str]
    clean: str
    damaged: str


def bring_in(
    engine: Engine, settings: Settings, project_id: int, folder: str, collection: str,
    watch: bool, user: Identity, asked: AskedPairs,
) -> dict[str, Any]:  # fmt: skip
    """The job of the import; with `watch`, an empty folder has none yet. The folder is gone through
    before anything is written, as that takes time."""
    name, asked_by = collection.strip() or None, user.annotator_id
    if watch and asked.kinds:
        raise Invalid(
            "What comes into a watched folder later would get no damaged twins. Nothing was "
            "imported.",
            "Ask for the one or the other.",
        )
    try:
        resolved = requests.validate_paths(settings, [folder])
    except requests.NoPicture:
        if not watch:
            raise
        resolved = []
    with writing(engine) as session:
        project = projects.get(session, project_id)
        if watch:
            watching.watch(session, settings, project, folder, collection=name, asked_by=asked_by)
        if not resolved:
            return {}
        return jobs.as_json(
            requests.enqueue_import(
                session,
                settings,
                resolved,
                project=project,
                collection=name,
                synthetic=asked_pairs(session, project, *asked),
                asked_by=asked_by,
            )
        )


def asked_pairs(
    session: Session, project: Project, kinds: Sequence[str], clean: str, damaged: str
) -> SyntheticPairs | None:
    """The pairs that a form or a program asks for by naming kinds of damage, if it does."""
    if not kinds:
        return None
    return requests.pairs_for(session, project, kinds, clean, damaged)


@router.post("/projects/{project_id}/watched/{watched_id}/stop")
def stop_watching(_: AdminUser, engine: EngineDep, project_id: Id, watched_id: Id) -> Response:
    """Watch a folder no longer; its images stay."""
    with writing(engine) as session:
        watching.stop(session, projects.get(session, project_id), watched_id)
    return see_other(f"/projects/{project_id}/add")


@router.post("/projects/{project_id}/add/files")
def add_files(
    user: AdminUser,
    request: Request,
    engine: EngineDep,
    settings: SettingsDep,
    project_id: Id,
    upload: Files,
) -> Response:
    """Queue the import of uploaded files."""
    try:
        queue_import(engine, settings, project_id, upload, user)
    except TastemakerError as error:
        if by_htmx(request):
            raise
        return refused(request, engine, settings, project_id, files_error=error)
    return redirect(request, f"/projects/{project_id}/score")


def queue_import(
    engine: Engine, settings: Settings, project_id: int, upload: Upload, user: Identity
) -> Job:
    upload.require()
    fields = upload.fields
    kinds = [kind for kind in fields.get("damage", "").split(",") if kind.strip()]
    kinds += [kind for kind in KINDS if f"damage-{kind}" in fields]
    with writing(engine) as session:
        project = projects.get(session, project_id)
        pairs = asked_pairs(
            session, project, kinds, fields.get("clean", ""), fields.get("damaged", "")
        )
        job = requests.request_upload_import(
            session,
            settings,
            upload.staging,
            upload.files,
            project=project,
            collection=fields.get("collection", "").strip() or "Uploads",
            synthetic=pairs,
            asked_by=user.annotator_id,
        )
    upload.hand_over()
    return job


# --- the same for programs -----------------------------------------------------------------------

FILES = body_schema(
    form_schema(
        "files",
        files={"type": "array", "items": BINARY},
        collection={"type": "string"},
        damage={"type": "string"},
        clean={"type": "string"},
        damaged={"type": "string"},
    )
)


class NewImport(Body):
    """A folder on the server's machine. `collection` is what it comes to; its own name if empty.
    With `watch`, what is new in it comes in by itself from now on. `damage` names kinds of it: then
    each clean picture gets a damaged twin, and they are labelled as the classes `clean` and
    `damaged`."""

    folder: str = Field(min_length=1)
    collection: str = Field(default="", max_length=120)
    watch: bool = False
    damage: list[str] = Field(default_factory=list, max_length=20)
    clean: str = Field(default="", max_length=120)
    damaged: str = Field(default="", max_length=120)


@api.post("/projects/{project_id}/imports", status_code=202)
def import_folder(
    user: AdminUser, engine: EngineDep, settings: SettingsDep, project_id: Id, body: NewImport
) -> dict[str, Any]:
    """Import a folder of the server's machine, recursively; the answer is its job, or empty for a
    folder without a picture that is watched from now on. The files stay where they are."""
    asked = AskedPairs(body.damage, body.clean, body.damaged)
    return bring_in(
        engine, settings, project_id, body.folder, body.collection, body.watch, user, asked
    )


@api.get("/projects/{project_id}/watched")
def watched_folders(
    _: AdminUser, session: ReadSession, project: CurrentProject
) -> list[dict[str, Any]]:
    """The folders that are watched for a project, each with what is the trouble with it, and how
    many images that were in it are nowhere any more."""
    return watching.as_json(session, project)


@api.delete("/projects/{project_id}/watched/{watched_id}")
def watch_no_longer(
    _: AdminUser, engine: EngineDep, project_id: Id, watched_id: Id
) -> dict[str, str]:
    """Watch a folder no longer; its images stay."""
    with writing(engine) as session:
        return {"path": watching.stop(session, projects.get(session, project_id), watched_id)}


@api.post("/projects/{project_id}/uploads", status_code=202, openapi_extra=FILES)
def upload_files(
    user: AdminUser, engine: EngineDep, settings: SettingsDep, project_id: Id, upload: Files
) -> dict[str, Any]:
    """Take pictures and zips of pictures, with the sidecars that lie beside them; the answer is the
    job of their import. A field `collection` says where they come to: “Uploads” without it. The
    fields `damage` (kinds with commas between them), `clean` and `damaged` ask for damaged twins,
    as of a folder."""
    return jobs.as_json(queue_import(engine, settings, project_id, upload, user))
