"""Try it: drop one picture, see what versions predict, and which of your scores are nearest.

The picture is not decoded here, nor is anything computed: the model process answers. It stays for
an hour beside its predictions, so that the page can be loaded again, other versions can predict, or
the picture can be added to the project after all.
"""

import base64
import binascii
import json
import secrets
import shutil
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from pydantic import Field, ValidationError
from sqlalchemy import Engine
from sqlmodel import Session, col, select

from tastemaker import projects, versions
from tastemaker.auth.lanes import MODELS
from tastemaker.auth.origins import by_htmx
from tastemaker.auth.permissions import (
    FORM,
    AdminUser,
    AnnotatorUser,
    GuardedRoute,
    LimitsItsBody,
    ViewerUser,
    announced_length,
)
from tastemaker.config import Settings
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import CollectionImage, Image, Project
from tastemaker.errors import Invalid, NotFound, TastemakerError, TooLarge
from tastemaker.files import write_atomic
from tastemaker.importing import requests
from tastemaker.live import live_model, model_requests, preview_uploads
from tastemaker.pages.deps import Body, CurrentProject, EngineDep, Id, ReadSession, SettingsDep
from tastemaker.pages.project_jobs import newest_job
from tastemaker.pages.render import redirect, render, see_other, shell
from tastemaker.pages.uploads import (
    BINARY,
    Reception,
    Upload,
    UploadLimit,
    body_schema,
    form_schema,
    receive,
    require_room,
)

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")

TIMEOUT = 30.0  # seconds; the first request may have to wait for the encoder to load
COLLECTION = "Tried"  # where a tried picture goes that is added after all


def picture_limit(_: Settings) -> UploadLimit:
    most = preview_uploads.MOST_BYTES
    error = TooLarge(
        f"A picture to try has at most {most // 2**20} MB; nothing of it was kept.",
        "Save it smaller.",
    )
    return UploadLimit(most, error)


# The folder's name tells the token under which the picture and its predictions are kept.
PictureFile = Annotated[
    Upload, Depends(Reception(picture_limit, preview_uploads.PREFIX), scope="function")
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
    """`tried` is a picture with its predictions; `chosen` names the models (ids, “live”)."""
    ready = versions.list_ready(session, project)
    live = has_live_model(settings, project)
    active = next((str(v.id) for v in ready if v.active), "live" if live else "")
    if tried is not None:
        chosen = {str(prediction["version_id"] or "live") for prediction in tried["said"]}
    known = tried["picture"]["image_id"] if tried else None
    context = {
        "versions": ready, "live": live, "tried": tried, "error": error,
        "chosen": chosen or {active}, "here_already": in_project(session, project, known),
        "most": preview_uploads.MOST_BYTES // 2**20,
    }  # fmt: skip
    frame = shell(session, project, "try")
    status = error.status if error else 200
    return render(request, "try.html", None, frame | context, status=status)


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
def try_picture(
    _: AnnotatorUser,
    request: Request,
    engine: EngineDep,
    settings: SettingsDep,
    project_id: Id,
    upload: PictureFile,
) -> Response:
    """Take one picture and show what the chosen models predict."""
    try:
        predict_upload(engine, settings, project_id, upload, with_view=True)
        upload.hand_over()  # it is kept, beside its predictions
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
    """Ask other models about the same picture."""
    # `async`, because only so can a form of any fields be read.
    fields = (name for name in await request.form() if name != "opened_in")
    chosen = {name.removeprefix("version-") for name in fields}

    def ask() -> None:
        tried = find_tried(settings, project_id, token)
        models = resolve_models(engine, project_id, chosen)
        predict_staged(engine, settings, project_id, token, tried["name"], models)

    await MODELS.run(ask)
    return redirect(request, f"/projects/{project_id}/try/{token}")


@router.post("/projects/{project_id}/try/{token}/add")
def add(
    user: AdminUser, engine: EngineDep, settings: SettingsDep, project_id: Id, token: str
) -> Response:
    """Import the tried picture by the ordinary import, then score it."""
    tried = find_tried(settings, project_id, token)
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


# --- asking the model process --------------------------------------------------------------------


def find_tried(settings: Settings, project_id: int, token: str) -> dict[str, Any]:
    """A tried picture with its predictions. Raises `NotFound`."""
    tried = preview_uploads.find_answer(settings, token)
    if tried["project_id"] != project_id:
        raise NotFound("This picture was tried in another project.", "Drop it here as well.")
    return tried


def token_of(upload: Upload) -> str:
    return upload.staging.name.removeprefix(preview_uploads.PREFIX)


def models_of(upload: Upload) -> set[str]:
    """The models that the form of an upload chooses."""
    return {name.removeprefix("version-") for name in upload.fields}


def predict_upload(
    engine: Engine, settings: Settings, project_id: int, upload: Upload, *, with_view: bool = False
) -> dict[str, Any]:
    """What the chosen models predict for the one picture of an upload; `with_view` makes a
    derivative to look at."""
    upload.require()
    if len(upload.files) > 1:
        raise Invalid("One picture at a time can be tried.", "Choose one of them.")
    models = resolve_models(engine, project_id, models_of(upload)) | {"view": with_view}
    [(_, name)] = upload.files
    return predict_staged(engine, settings, project_id, token_of(upload), name, models)


def predict_staged(
    engine: Engine, settings: Settings, project_id: int, token: str, name: str,
    models: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Ask about the picture that lies under `token`, and keep the predictions beside it."""
    tried = model_requests.call(
        engine, "predict", models | {"staged": token}, project_id=project_id, timeout=TIMEOUT
    ) | {"project_id": project_id, "name": name}  # fmt: skip
    preview_uploads.store_answer(settings, token, tried)
    return tried


def resolve_models(engine: Engine, project_id: int, chosen: set[str]) -> dict[str, Any]:
    """The versions to ask, by id, and whether the live model too. Without a choice: the active
    version, or the live model while there is none."""
    with reading(engine) as session:
        project = projects.get(session, project_id)
        ready = versions.list_ready(session, project)
        ids = [v.id for v in ready if {str(v.id), v.number} & chosen]
        ids += [v.id for v in ready if v.active and "active" in chosen and v.id not in ids]
        unknown = chosen - {str(v.id) for v in ready} - {v.number for v in ready}
        if unknown := unknown - {"live", "active"}:
            raise NotFound(
                f"“{project.name}” has no version {min(unknown)[:40]}.",
                f"There are: {', '.join(v.number for v in ready) or 'none yet'}.",
            )
        if not chosen:
            ids = [v.id for v in ready if v.active]
        live = "live" in chosen or (not chosen and not ids)
        return {"versions": ids, "live": live}


def has_live_model(settings: Settings, project: Project) -> bool:
    live = live_model.read_live(settings, project.id)
    return live is not None and live.fit.penalty is not None


def in_project(session: Session, project: Project, image_id: int | None) -> bool:
    if image_id is None:
        return False
    mine = projects.image_ids(project.id, projects.ANY_ROLE).where(
        col(CollectionImage.image_id) == image_id
    )
    return session.exec(mine.limit(1)).first() is not None


# --- for programs --------------------------------------------------------------------------------


class PredictRequest(Body):
    """One of `image_id` (an image of the library) and `picture` (a file's bytes in base64).
    `versions` holds ids, numbers such as “v1.3”, “active” or “live”; without any, the active one
    is asked."""

    image_id: int | None = Field(default=None, ge=1, lt=2**63)
    picture: str | None = None
    versions: list[int | str] = Field(default_factory=list, max_length=20)


class JsonOrPicture(LimitsItsBody):
    """The body of `predict`: JSON, or a picture as multipart."""

    async def __call__(
        self, request: Request, engine: EngineDep, settings: SettingsDep, project_id: Id
    ) -> AsyncIterator[Upload | PredictRequest]:
        limit = picture_limit(settings)
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            if request.headers.get("content-type", "").startswith(FORM):
                raise Invalid("A form cannot be predicted for.", "Send JSON, or multipart.")
            yield await read_json(request, limit)
            return
        prefix = preview_uploads.PREFIX
        async with receive(request, engine, settings, project_id, limit, prefix) as upload:
            yield upload


OPENAPI_BODY = body_schema(
    {
        "application/json": {"schema": PredictRequest.model_json_schema()},
        **form_schema("file", file=BINARY),
    }
)


@api.post("/projects/{project_id}/predict", openapi_extra=OPENAPI_BODY)
@MODELS
def predict(
    _: AnnotatorUser,
    engine: EngineDep,
    settings: SettingsDep,
    project_id: Id,
    body: Annotated[Upload | PredictRequest, Depends(JsonOrPicture(), scope="function")],
) -> JSONResponse:
    """What versions predict for a picture: scores in 0–1 with bracket and uncertainty, and the
    nearest labelled images. Nothing of the picture is kept. As multipart, fields named
    `version-ID`, `version-v1.3` or `version-live` choose who is asked."""
    if isinstance(body, Upload):
        predicted = predict_upload(engine, settings, project_id, body)
    else:
        predicted = predict_json(engine, settings, project_id, body)
    return JSONResponse({name: predicted[name] for name in ("picture", "said", "neighbours")})


async def read_json(request: Request, limit: UploadLimit) -> PredictRequest:
    """Raises the error of the limit, or `Invalid`."""
    if announced_length(request) > limit.bytes:
        raise limit.error
    content = bytearray()
    async for piece in request.stream():
        content += piece
        if len(content) > limit.bytes:
            raise limit.error
    try:
        return PredictRequest.model_validate(json.loads(content))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "the body"
        raise Invalid(f"“{name}” cannot be used: {first['msg']}.") from None
    except (ValueError, RecursionError):
        raise Invalid("The body is not JSON.", "Send a picture as multipart, or JSON.") from None


def predict_json(
    engine: Engine, settings: Settings, project_id: int, body: PredictRequest
) -> dict[str, Any]:
    if (body.image_id is None) == (body.picture is None):
        raise Invalid("Name one picture.", "Give either image_id or picture (base64).")
    models = resolve_models(engine, project_id, {str(version) for version in body.versions})
    if body.image_id is not None:
        models |= {"image_id": body.image_id}
        return model_requests.call(
            engine, "predict", models, project_id=project_id, timeout=TIMEOUT
        )
    require_room(engine, settings, project_id)
    try:
        content = base64.b64decode(body.picture or "", validate=True)
    except (binascii.Error, ValueError):
        raise Invalid("“picture” is not base64.", "Encode the bytes of the file.") from None
    token = preview_uploads.new_token()
    upload = Upload(preview_uploads.folder(settings, token))
    try:
        upload.staging.mkdir()
        write_atomic(preview_uploads.file_path(settings, token), content)
        return predict_staged(engine, settings, project_id, token, "", models)
    finally:
        upload.discard()
