"""Try it: drop a picture, or several, see what versions and routers predict, and which of your
labels are nearest.

The pictures stay for an hour beside their predictions, so that the page can be loaded again, other
models can predict, or a picture can be added to the project after all.
"""

import secrets
import shutil
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import FileResponse
from sqlalchemy import Engine
from sqlmodel import Session, col, select

from tastemaker import projects, versions
from tastemaker.auth.lanes import MODELS
from tastemaker.auth.origins import by_htmx
from tastemaker.auth.permissions import AdminUser, AnnotatorUser, GuardedRoute, ViewerUser
from tastemaker.config import Settings
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import CollectionImage, Image, Project
from tastemaker.errors import NotFound, TastemakerError
from tastemaker.importing import requests
from tastemaker.live import live_model, model_requests, preview_uploads
from tastemaker.pages import predictions
from tastemaker.pages.deps import CurrentProject, EngineDep, Id, ReadSession, SettingsDep
from tastemaker.pages.predictions import find_tried, models_of, resolve_models, token_of
from tastemaker.pages.project_jobs import newest_job
from tastemaker.pages.render import kinds_of, redirect, render, see_other, shell
from tastemaker.pages.uploads import Reception, Upload, require_room

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)

COLLECTION = "Tried"  # where a tried picture goes that is added after all

# The folder's name tells the token under which the pictures and their predictions are kept.
PictureFiles = Annotated[
    Upload,
    Depends(Reception(predictions.pictures_limit, preview_uploads.PREFIX), scope="function"),
]


# --- pages ---------------------------------------------------------------------------------------


@router.get("/projects/{project_id}/try")
def page(
    _: ViewerUser,
    request: Request,
    session: ReadSession,
    settings: SettingsDep,
    project: CurrentProject,
) -> Response:
    return try_page(request, session, settings, project)


@router.get("/projects/{project_id}/try/{token}")
def result(
    _: ViewerUser,
    request: Request,
    session: ReadSession,
    settings: SettingsDep,
    project: CurrentProject,
    token: str,
) -> Response:
    tried = find_tried(settings, project.id, token)
    return try_page(request, session, settings, project, tried | {"token": token})


def try_page(
    request: Request,
    session: Session,
    settings: Settings,
    project: Project,
    tried: dict[str, Any] | None = None,
    error: TastemakerError | None = None,
    chosen: set[str] | None = None,
) -> Response:
    """`tried` is a picture with its predictions, or `several` of them; `chosen` names the models
    (ids, “live”, “router:NAME”)."""
    ready = versions.list_ready(session, project)
    live = has_live_model(settings, project)
    active = next((str(v.id) for v in ready if v.active), "live" if live else "")
    several = tried.get("several") if tried else None
    readable = [one for one in several or [tried or {}] if "said" in one]
    if readable:
        chosen = {model_of(prediction) for prediction in readable[0]["said"]}
    known = None if several or not tried else tried["picture"]["image_id"]
    context = {
        "versions": ready, "live": live, "tried": tried, "several": several, "error": error,
        "routers": predictions.routers_for(session, settings, project),
        "kinds": kinds_of(request, project),
        "chosen": chosen or {active}, "here_already": in_project(session, project, known),
        "most": preview_uploads.MOST_BYTES // 2**20, "most_pictures": predictions.MOST_PICTURES,
    }  # fmt: skip
    frame = shell(session, project, "try")
    status = error.status if error else 200
    return render(request, "try.html", None, frame | context, status=status)


def model_of(prediction: dict[str, Any]) -> str:
    """How the forms name the model that a prediction is by."""
    if "router" in prediction:
        return f"{predictions.ROUTER}{prediction['router']}"
    return str(prediction["version_id"] or "live")


@router.get("/projects/{project_id}/try/{token}/view")
def view(_: ViewerUser, settings: SettingsDep, project_id: Id, token: str) -> Response:
    """The tried picture, re-encoded and without any metadata."""
    find_tried(settings, project_id, token)
    path = preview_uploads.view_path(settings, token)
    if not path.is_file():
        raise NotFound("This picture is no longer kept.", "Drop it again.")
    headers = {"Content-Security-Policy": "default-src 'none'; sandbox"}
    return FileResponse(path, media_type="image/webp", headers=headers)


@router.post("/projects/{project_id}/try")
@MODELS
def try_pictures(
    _: AnnotatorUser,
    request: Request,
    engine: EngineDep,
    settings: SettingsDep,
    project_id: Id,
    upload: PictureFiles,
) -> Response:
    """Take a picture, or several, and show what the chosen models predict."""
    try:
        predictions.predict_upload(engine, settings, project_id, upload, keep=True)
        upload.hand_over()  # they are kept, beside their predictions
    except TastemakerError as error:
        if by_htmx(request):
            raise
        chosen = models_of(upload)
        return refused(request, engine, settings, project_id, error, chosen)
    return redirect(request, f"/projects/{project_id}/try/{token_of(upload)}")


def refused(
    request: Request,
    engine: Engine,
    settings: Settings,
    project_id: int,
    error: TastemakerError,
    chosen: set[str],
) -> Response:
    with reading(engine) as session:
        project = projects.get(session, project_id)
        return try_page(request, session, settings, project, error=error, chosen=chosen)


@router.post("/projects/{project_id}/try/warm")
def warm(_: AnnotatorUser, engine: EngineDep, project_id: Id) -> Response:
    """Asked when the page is opened, so that the encoder is loaded by the time it is needed."""
    with reading(engine) as session:
        project = projects.get(session, project_id)
    if project.encoder_id is not None:
        model_requests.submit(engine, "warm", {}, project_id=project_id)
    return Response(status_code=204)


@router.post("/projects/{project_id}/try/{token}/again")
async def predict_again(
    _: AnnotatorUser,
    request: Request,
    engine: EngineDep,
    settings: SettingsDep,
    project_id: Id,
    token: str,
) -> Response:
    """Ask other models about the same picture, or each of several."""
    # `async`, because only so can a form of any fields be read.
    fields = (name for name in await request.form() if name != "opened_in")
    chosen = {name.removeprefix("version-") for name in fields}

    def ask() -> None:
        tried = find_tried(settings, project_id, token)
        models = resolve_models(engine, project_id, chosen)
        each = tried.get("several") or [tried | {"token": token}]
        for one in (one for one in each if "said" in one):
            one |= predictions.predict_staged(
                engine, settings, project_id, one["token"], one["name"], models
            )
        if "several" in tried:
            preview_uploads.store_answer(settings, token, tried)

    await MODELS.run(ask)
    return redirect(request, f"/projects/{project_id}/try/{token}")


@router.post("/projects/{project_id}/try/{token}/add")
def add(
    user: AdminUser, engine: EngineDep, settings: SettingsDep, project_id: Id, token: str
) -> Response:
    """Import the tried picture by the ordinary import, then score it."""
    tried = find_tried(settings, project_id, token)
    if "several" in tried:
        raise NotFound("These are several pictures.", "Open one of them, and add that.")
    require_room(engine, settings, project_id)
    upload = Upload(settings.incoming / secrets.token_hex(16))
    try:
        upload.staging.mkdir()
        file = preview_uploads.file_path(settings, token)
        shutil.copyfile(file, upload.staging / file.name)
        with writing(engine) as session:
            requests.request_upload_import(
                session, settings, upload.staging, [(file.name, tried["name"])],
                project=projects.get(session, project_id), collection=COLLECTION,
                asked_by=user.annotator_id,
            )  # fmt: skip
        upload.hand_over()
    finally:
        upload.discard()
    return see_other(f"/projects/{project_id}/added/{tried['picture']['sha256']}")


@router.get("/projects/{project_id}/added/{sha256}")
def added(
    _: ViewerUser, request: Request, session: ReadSession, project: CurrentProject, sha256: str
) -> Response:
    """Wait for the import of one picture, then go and score it."""
    image = session.exec(select(Image).where(Image.sha256 == sha256)).first()
    if image is not None and in_project(session, project, image.id):
        return redirect(request, f"/projects/{project.id}/score?image={image.id}")
    if by_htmx(request):
        return Response(status_code=204)
    context = {"sha256": sha256[:64], "job": newest_job(session, project, "import")}
    return render(request, "try_added.html", None, shell(session, project, "try") | context)


# --- what the page shows -------------------------------------------------------------------------


def has_live_model(settings: Settings, project: Project) -> bool:
    live = live_model.read_live(settings, project.id)
    return live is not None and live.fit.predicts


def in_project(session: Session, project: Project, image_id: int | None) -> bool:
    if image_id is None:
        return False
    mine = projects.image_ids(project.id, projects.ANY_ROLE).where(
        col(CollectionImage.image_id) == image_id
    )
    return session.exec(mine.limit(1)).first() is not None
