"""Asking the model process about pictures that are not in the library: versions, routers and the
live model. Nothing is decoded or computed here.

A picture lies under a token of its own in the incoming folder, and what was predicted is kept
beside it. Several that are sent at once are asked about one after the other; one that cannot be
read says so in its place.
"""

import base64
import binascii
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import Field, ValidationError
from sqlalchemy import Engine
from sqlmodel import Session

from tastemaker import projects, versions
from tastemaker.auth.lanes import MODELS
from tastemaker.auth.permissions import (
    FORM,
    AnnotatorUser,
    GuardedRoute,
    LimitsItsBody,
    announced_length,
)
from tastemaker.config import Settings
from tastemaker.database.sessions import reading
from tastemaker.database.tables import EncoderRow, Project
from tastemaker.errors import BadImage, Invalid, NotFound, TastemakerError, TooLarge
from tastemaker.files import write_atomic
from tastemaker.live import model_requests, preview_uploads
from tastemaker.pages.deps import Body, EngineDep, Id, SettingsDep
from tastemaker.pages.json_response import ValidJSON
from tastemaker.pages.uploads import (
    BINARY,
    Upload,
    UploadLimit,
    body_schema,
    form_schema,
    receive,
    require_room,
)
from tastemaker.publishing import routers
from tastemaker.publishing.routers import Kept

api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")

TIMEOUT = 30.0  # seconds; the first request may have to wait for the encoder to load
MOST_PICTURES = 24  # at once
AT_ONCE = 4  # times the largest picture: what several together may weigh
ROUTER = "router:"  # before the name of a router, where models are named


def too_large() -> TooLarge:
    most = preview_uploads.MOST_BYTES
    return TooLarge(
        f"A picture to try has at most {most // 2**20} MB; nothing of it was kept.",
        "Save it smaller.",
    )


def picture_limit(_: Settings) -> UploadLimit:
    """Of the JSON that holds one picture."""
    return UploadLimit(preview_uploads.MOST_BYTES, too_large())


def pictures_limit(_: Settings) -> UploadLimit:
    """Of a form with one picture or several."""
    return UploadLimit(AT_ONCE * preview_uploads.MOST_BYTES, too_large())


# --- pictures ------------------------------------------------------------------------------------


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
    engine: Engine, settings: Settings, project_id: int, upload: Upload, *, keep: bool = False
) -> dict[str, Any]:
    """What the chosen models predict for the pictures of an upload: of one its predictions, of
    `several` those of each, or its `error`. With `keep`, each leaves a derivative to look at, and
    lies under a `token` of its own until it is forgotten. Raises what is wrong with the upload, and
    the error of the first picture where none could be read."""
    upload.require()
    if len(upload.files) > MOST_PICTURES:
        raise Invalid(
            f"These are {len(upload.files)} pictures; at most {MOST_PICTURES} are tried at once.",
            "Try them in parts, or start a test run on them.",
        )
    models = resolve_models(engine, project_id, models_of(upload)) | {"view": keep}
    files = [(upload.staging / stored, name) for stored, name in upload.files]
    if any(file.stat().st_size > preview_uploads.MOST_BYTES for file, _ in files):
        raise too_large()
    if len(files) == 1:
        [(_, name)] = files
        return predict_staged(engine, settings, project_id, token_of(upload), name, models)
    told: list[dict[str, Any]] = []
    errors: list[TastemakerError] = []
    for file, name in files:
        own = Upload(preview_uploads.folder(settings, preview_uploads.new_token()))
        try:
            one = _apart(engine, settings, project_id, own, file, name, models)
            told.append(one | {"token": token_of(own)} if keep else one)
            if keep:
                own.hand_over()
        except TastemakerError as error:  # from the other process, so of no class of its own
            if error.status != BadImage.status:
                raise
            errors.append(error)
            told.append({"name": name, "error": error.message, "hint": error.hint})
        finally:
            own.discard()
    if len(errors) == len(told):
        raise errors[0]
    group = {"project_id": project_id, "name": "", "several": told}
    preview_uploads.store_answer(settings, token_of(upload), group)
    return group


def _apart(
    engine: Engine, settings: Settings, project_id: int, own: Upload, file: Path, name: str,
    models: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    own.staging.mkdir()
    file.rename(preview_uploads.file_path(settings, token_of(own)))
    return predict_staged(engine, settings, project_id, token_of(own), name, models)


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


# --- models --------------------------------------------------------------------------------------


def resolve_models(engine: Engine, project_id: int, chosen: set[str]) -> dict[str, Any]:
    """The versions to ask, by id, the routers, by folder, and whether the live model too. Without a
    choice: the active version, or the live model while there is none. Raises `NotFound`."""
    folders = [name.removeprefix(ROUTER) for name in chosen if name.startswith(ROUTER)]
    chosen = {name for name in chosen if not name.startswith(ROUTER)}
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
        by_itself = not chosen and not folders
        if by_itself:
            ids = [v.id for v in ready if v.active]
        live = "live" in chosen or (by_itself and not ids)
        return {"versions": ids, "live": live, "routers": sorted(folders)}


def routers_for(session: Session, settings: Settings, project: Project) -> list[Kept]:
    """The routers of this home that read the vectors of a project."""
    row = session.get(EncoderRow, project.encoder_id) if project.encoder_id else None
    return routers.reading(settings, row.fingerprint) if row else []


# --- for programs --------------------------------------------------------------------------------


class PredictRequest(Body):
    """One of `image_id` (an image of the library) and `picture` (a file's bytes in base64).
    `versions` holds ids, numbers such as “v1.3”, “active”, “live”, or a router as “router:NAME”;
    without any, the active one is asked."""

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
        prefix, limit = preview_uploads.PREFIX, pictures_limit(settings)
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
) -> ValidJSON:
    """What versions and routers predict for a picture: scores in 0–1 with bracket and uncertainty,
    the probability of each class, how a router came to its score, and the nearest labelled images.

    Nothing of the picture is kept. As multipart, fields named `version-ID`, `version-v1.3`,
    `version-live` or `version-router:NAME` choose who is asked. Several files give `pictures`, a
    list of the same, each with its `name`; one that cannot be read has an `error` in its place.
    """
    if isinstance(body, Upload):
        predicted = predict_upload(engine, settings, project_id, body)
    else:
        predicted = predict_json(engine, settings, project_id, body)
    if "several" not in predicted:
        return ValidJSON(as_json(predicted))
    told = [
        {"name": one["name"]}
        | (as_json(one) if "said" in one else {"error": one["error"], "hint": one["hint"]})
        for one in predicted["several"]
    ]
    return ValidJSON({"pictures": told})


def as_json(predicted: dict[str, Any]) -> dict[str, Any]:
    return {name: predicted[name] for name in ("picture", "said", "neighbours")}


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
