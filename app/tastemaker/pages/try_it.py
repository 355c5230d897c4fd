"""Try it: drop one picture, see what versions say, and which of your scores it is nearest to.

The picture is not decoded here, nor is anything computed: the resident model process answers. It
stays for an hour beside its answer, so that the page can be loaded again, other versions asked,
or the picture added to the project after all.
"""

import base64
import binascii
import json
import secrets
import shutil
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import Engine
from sqlmodel import Session, col, select
from starlette.concurrency import run_in_threadpool

from tastemaker import projects, versions
from tastemaker.auth.origins import by_htmx
from tastemaker.auth.permissions import AdminUser, AnnotatorUser, GuardedRoute, ViewerUser
from tastemaker.config import Settings
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import CollectionImage, Image, Project
from tastemaker.errors import Invalid, NotFound, TastemakerError, TooLarge
from tastemaker.files import write_atomic
from tastemaker.importing import requests
from tastemaker.live import live_model, model_requests, preview_uploads
from tastemaker.pages.add import Upload, check_room
from tastemaker.pages.deps import CurrentProject, EngineDep, Id, ReadSession, SettingsDep
from tastemaker.pages.render import redirect, render, see_other, shell
from tastemaker.pages.scoring_session import newest_job

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")

PATIENCE = 30.0  # seconds; the first question may have to wait for the encoder to load
COLLECTION = "Tried"  # where a tried picture goes that is added after all


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
    told = preview_uploads.find_answer(settings, token)
    if told["project_id"] != project.id:
        raise NotFound("This picture was tried in another project.", "Drop it here as well.")
    return try_page(request, session, settings, project, told | {"token": token})


def try_page(
    request: Request,
    session: Session,
    settings: Settings,
    project: Project,
    told: dict[str, Any] | None = None,
    error: TastemakerError | None = None,
    chosen: set[str] | None = None,
) -> Response:
    """`told` is what was said about a picture; `chosen` names what was asked (ids, “live”)."""
    every = versions.list_ready(session, project)
    live = has_live_model(settings, project)
    active = next((str(v.id) for v in every if v.active), "live" if live else "")
    if told is not None:
        chosen = {str(said["version_id"] or "live") for said in told["said"]}
    known = told["picture"]["image_id"] if told else None
    context = {
        "versions": every, "live": live, "told": told, "error": error,
        "chosen": chosen or {active}, "here_already": in_project(session, project, known),
        "most": preview_uploads.MOST_BYTES // 2**20,
    }  # fmt: skip
    frame = shell(session, project, "try")
    status = error.status if error else 200
    return render(request, "try.html", None, frame | context, status=status)


@router.get("/projects/{project_id}/try/{token}/view")
def view(_: ViewerUser, settings: SettingsDep, project_id: Id, token: str) -> Response:
    """The tried picture, re-encoded and without any metadata."""
    path = preview_uploads.view_path(settings, token)
    if not path.is_file():
        raise NotFound("This picture is no longer kept.", "Drop it again.")
    headers = {"Content-Security-Policy": "default-src 'none'; sandbox"}
    return FileResponse(path, media_type="image/webp", headers=headers)


@router.post("/projects/{project_id}/try")
async def try_picture(
    _: AnnotatorUser, request: Request, engine: EngineDep, settings: SettingsDep, project_id: Id
) -> Response:
    """Take one picture and ask. `async`, because only so can a body be read as it comes."""
    token, chosen = preview_uploads.new_token(), set[str]()
    try:
        await ask_about_upload(
            request, engine, settings, project_id, token, chosen, to_show=True
        )  # fmt: skip
    except TastemakerError as error:
        if by_htmx(request):
            raise
        return await run_in_threadpool(
            refused, request, engine, settings, project_id, error, chosen
        )
    return redirect(request, f"/projects/{project_id}/try/{token}")


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
    """Ask other versions about the same picture."""
    form = await request.form()
    chosen = {str(name) for name in form}
    await run_in_threadpool(ask_again, engine, settings, project_id, token, chosen)
    return redirect(request, f"/projects/{project_id}/try/{token}")


@router.post("/projects/{project_id}/try/{token}/add")
def add(
    _: AdminUser, engine: EngineDep, settings: SettingsDep, project_id: Id, token: str
) -> Response:
    """Import the tried picture by the ordinary import, then score it."""
    told = preview_uploads.find_answer(settings, token)
    check_room(engine, settings, project_id)
    staging = settings.incoming / secrets.token_hex(16)
    staging.mkdir()
    try:
        file = preview_uploads.file_path(settings, token)
        shutil.copyfile(file, staging / file.name)
        with writing(engine) as session:
            requests.request_upload_import(
                session, settings, staging, [(file.name, told["name"])],
                project=projects.get(session, project_id), collection=COLLECTION,
            )  # fmt: skip
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return see_other(f"/projects/{project_id}/added/{told['picture']['sha256']}")


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


# --- asking --------------------------------------------------------------------------------------


async def ask_about_upload(
    request: Request,
    engine: Engine,
    settings: Settings,
    project_id: int,
    token: str,
    chosen: set[str],
    *,
    to_show: bool = False,
) -> dict[str, Any]:
    """Stream the picture to the disk, ask, and keep the answer beside it. What was chosen is put
    into `chosen`; after a refusal nothing is kept."""
    await run_in_threadpool(check_room, engine, settings, project_id)
    check_length(request)
    upload = Upload(
        request.headers.get("content-type", ""), preview_uploads.folder(settings, token), settings,
        most_bytes=preview_uploads.MOST_BYTES, beyond=too_large(),
    )  # fmt: skip
    try:
        async for chunk in request.stream():
            await run_in_threadpool(upload.write, chunk)
        chosen |= {name.removeprefix("version-") for name in upload.fields}
        await run_in_threadpool(upload.finish)
        if len(upload.files) > 1:
            raise Invalid("One picture at a time can be tried.", "Choose one of them.")
        asked = await run_in_threadpool(question, engine, settings, project_id, chosen)
        asked |= {"view": to_show}
        told: dict[str, Any] = await run_in_threadpool(
            said_about, engine, settings, project_id, token, upload.files[0][1], asked
        )
        return told
    except BaseException:
        await run_in_threadpool(upload.discard)
        raise


def ask_again(
    engine: Engine, settings: Settings, project_id: int, token: str, chosen: set[str]
) -> None:
    told = preview_uploads.find_answer(settings, token)
    if told["project_id"] != project_id:
        raise NotFound("This picture was tried in another project.", "Drop it here as well.")
    wanted = {name.removeprefix("version-") for name in chosen}
    asked = question(engine, settings, project_id, wanted)
    said_about(engine, settings, project_id, token, told["name"], asked)


def said_about(
    engine: Engine,
    settings: Settings,
    project_id: int,
    token: str,
    name: str,
    asked: dict[str, Any],
) -> dict[str, Any]:
    """Ask about the picture staged under `token`, and keep what is said."""
    told = model_requests.call(
        engine, "predict", asked | {"staged": token}, project_id=project_id, timeout=PATIENCE
    ) | {"project_id": project_id, "name": name}  # fmt: skip
    preview_uploads.store_answer(settings, token, told)
    return told


def question(
    engine: Engine, settings: Settings, project_id: int, chosen: set[str]
) -> dict[str, Any]:
    """The versions to ask, by id, and whether the live model too. Without a choice: the active
    version, or the live model while there is none."""
    with reading(engine) as session:
        project = projects.get(session, project_id)
        every = versions.list_ready(session, project)
        wanted = [v.id for v in every if {str(v.id), v.number} & chosen]
        wanted += [v.id for v in every if v.active and "active" in chosen and v.id not in wanted]
        strange = chosen - {str(v.id) for v in every} - {v.number for v in every}
        if strange := strange - {"live", "active"}:
            raise NotFound(
                f"“{project.name}” has no version {min(strange)[:40]}.",
                f"There are: {', '.join(v.number for v in every) or 'none yet'}.",
            )
        if not chosen:
            wanted = [v.id for v in every if v.active]
        live = "live" in chosen or (not chosen and not wanted)
        return {"versions": wanted, "live": live}


def has_live_model(settings: Settings, project: Project) -> bool:
    live = live_model.read_live(settings, project.id)
    return live is not None and live.fit.penalty is not None


def in_project(session: Session, project: Project, image_id: int | None) -> bool:
    if image_id is None:
        return False
    mine = projects.image_ids(project.id).where(col(CollectionImage.image_id) == image_id)
    return session.exec(mine.limit(1)).first() is not None


def check_length(request: Request) -> None:
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > preview_uploads.MOST_BYTES:
        raise too_large()


def too_large() -> TooLarge:
    most = preview_uploads.MOST_BYTES // 2**20
    return TooLarge(
        f"A picture to try has at most {most} MB; nothing of it was kept.", "Save it smaller."
    )


# --- for programs --------------------------------------------------------------------------------


class Asked(BaseModel):
    """One of `image_id` (an image of the library) and `picture` (a file's bytes in base64).
    `versions` holds ids, numbers such as “v1.3”, “active” or “live”; without any, the active one
    is asked."""

    model_config = ConfigDict(extra="forbid")

    image_id: int | None = Field(default=None, ge=1, lt=2**63)
    picture: str | None = None
    versions: list[int | str] = Field(default_factory=list, max_length=20)


BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": Asked.model_json_schema()},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}


@api.post("/projects/{project_id}/predict", openapi_extra=BODY)
async def predict(
    _: AnnotatorUser, request: Request, engine: EngineDep, settings: SettingsDep, project_id: Id
) -> JSONResponse:
    """What versions say about a picture: scores in 0–1 with bracket and uncertainty, and the
    nearest labelled images. Nothing of the picture is kept. As multipart, fields named
    `version-ID`, `version-v1.3` or `version-live` choose who is asked."""
    token = preview_uploads.new_token()
    try:
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            told = await ask_about_upload(request, engine, settings, project_id, token, set())
        else:
            body = await json_body(request)
            told = await run_in_threadpool(ask_json, engine, settings, project_id, token, body)
    finally:
        folder = preview_uploads.folder(settings, token)
        await run_in_threadpool(shutil.rmtree, folder, ignore_errors=True)
    return JSONResponse({name: told[name] for name in ("picture", "said", "neighbours")})


async def json_body(request: Request) -> Asked:
    """The body, up to the cap. Raises `TooLarge` or `Invalid`."""
    check_length(request)
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > preview_uploads.MOST_BYTES:
            raise too_large()
    try:
        return Asked.model_validate(json.loads(content))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "the body"
        raise Invalid(f"“{name}” cannot be used: {first['msg']}.") from None
    except (ValueError, RecursionError):
        raise Invalid("The body is not JSON.", "Send a picture as multipart, or JSON.") from None


def ask_json(
    engine: Engine, settings: Settings, project_id: int, token: str, body: Asked
) -> dict[str, Any]:
    if (body.image_id is None) == (body.picture is None):
        raise Invalid("Name one picture.", "Give either image_id or picture (base64).")
    asked = question(engine, settings, project_id, {str(version) for version in body.versions})
    if body.image_id is not None:
        asked |= {"image_id": body.image_id}
        return model_requests.call(
            engine, "predict", asked, project_id=project_id, timeout=PATIENCE
        )
    check_room(engine, settings, project_id)
    try:
        content = base64.b64decode(body.picture or "", validate=True)
    except (binascii.Error, ValueError):
        raise Invalid("“picture” is not base64.", "Encode the bytes of the file.") from None
    preview_uploads.folder(settings, token).mkdir()
    write_atomic(preview_uploads.file_path(settings, token), content)
    return said_about(engine, settings, project_id, token, "", asked)
