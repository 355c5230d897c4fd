"""Publish: what a version can be taken away as, its model card, and heads brought in."""

from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Form, Query, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy import Engine
from sqlmodel import Session

from tastemaker import jobs, projects, versions
from tastemaker.auth.origins import by_htmx
from tastemaker.auth.permissions import AdminUser, GuardedRoute, ViewerUser
from tastemaker.config import Settings
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import Project, Version
from tastemaker.encoding.encoder_specs import known_encoders
from tastemaker.errors import Invalid, TastemakerError, TooLarge
from tastemaker.learning.checkpoints import MAX_FILE_BYTES
from tastemaker.pages.deps import Body, CurrentProject, EngineDep, Id, ReadSession, SettingsDep
from tastemaker.pages.downloads import attachment, zip_of
from tastemaker.pages.project_jobs import job_of, job_to_show
from tastemaker.pages.render import load_anew, redirect, render, see_other, shell
from tastemaker.pages.uploads import Reception, Upload, UploadLimit
from tastemaker.publishing import card_blocks, elsewhere, exports, import_head, model_card
from tastemaker.scores import score_files
from tastemaker.versions import prediction_files

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")

Ending = Literal["csv", "jsonl", "parquet"]
MEDIA = {
    "csv": "text/csv", "jsonl": "application/jsonl", "parquet": "application/vnd.apache.parquet",
}  # fmt: skip


def head_limit(_: Settings) -> UploadLimit:
    """A head, its sidecar and the form around them."""
    error = TooLarge(
        f"A head is about 16 MB; more than {MAX_FILE_BYTES // 2**20} MB are not taken.",
        "Choose the .safetensors file of the head itself.",
    )
    return UploadLimit(MAX_FILE_BYTES + 2**21, error)


HeadFiles = Annotated[Upload, Depends(Reception(head_limit), scope="function")]


# --- the page ------------------------------------------------------------------------------------


@router.get("/projects/{project_id}/publish")
def page(
    _: AdminUser,
    request: Request,
    session: ReadSession,
    settings: SettingsDep,
    project: CurrentProject,
    version: Annotated[str, Query(max_length=20)] = "",
) -> Response:
    return publish_page(request, session, settings, project, version)


def publish_page(
    request: Request,
    session: Session,
    settings: Settings,
    project: Project,
    number: str = "",
    given: dict[str, str] | None = None,
    import_error: TastemakerError | None = None,
) -> Response:
    """Without a number, the active version. After an error, what was typed is kept."""
    chosen = versions.chosen(session, project, number)
    context: dict[str, Any] = {
        "versions": versions.list_ready(session, project),
        "version": chosen,
        "card": model_card.card_of(session, settings, chosen) if chosen else None,
        "headings": model_card.TEXTS,
        "texts": model_card.texts(project),
        "most": model_card.MOST_CHARACTERS,
        "trouble": _trouble(settings, chosen) if chosen else "",
        "no_laion": exports.why_no_laion(session, settings, chosen) if chosen else "",
        "elsewhere": elsewhere.offers(session, settings, chosen) if chosen else [],
        "encoders": dict.fromkeys([project.encoder, *(e.name for e in known_encoders())]),
        "job": job_to_show(session, project, "adopt"),
        "given": given or {},
        "import_error": import_error,
    }
    status = import_error.status if import_error else 200
    frame = shell(session, project, "versions")
    return render(request, "publish.html", None, frame | context, status=status)


def _trouble(settings: Settings, version: Version) -> str:
    """Why the version's file is not given out; empty when it is."""
    try:
        versions.verify(settings, version)
    except TastemakerError as error:
        return str(error)
    return ""


@router.get("/projects/{project_id}/publish/adopting")
def adopting(
    _: AdminUser, request: Request, session: ReadSession, project: CurrentProject, job_id: int = 0
) -> Response:
    """Asked every second while a head is brought in; the page reloads when that has ended well."""
    job = job_of(session, project, job_id)
    if job.state in ("done", "cancelled"):
        return load_anew()
    return render(request, "publish.html", "adopting", {"project": project, "job": job})


@router.post("/projects/{project_id}/card")
def write_card(
    _: AdminUser,
    engine: EngineDep,
    project_id: Id,
    goals: Annotated[str, Form()] = "",
    biases: Annotated[str, Form()] = "",
    issues: Annotated[str, Form()] = "",
    scope: Annotated[str, Form()] = "",
    version: Annotated[str, Form(max_length=20)] = "",
) -> Response:
    """Keep the author's own words."""
    with writing(engine) as session:
        project = projects.get(session, project_id)
        written = {"goals": goals, "biases": biases, "issues": issues, "scope": scope}
        model_card.set_texts(session, project, written)
        numbers = [v.number for v in versions.list_ready(session, project)]
    chosen = f"?version={version}" if version in numbers else ""
    return see_other(f"/projects/{project_id}/publish{chosen}#card")


# --- what is taken away --------------------------------------------------------------------------


def attached(part: exports.Part, media_type: str) -> StreamingResponse:
    return StreamingResponse(part.pieces(), media_type=media_type, headers=attachment(part.name))


@router.get("/versions/{version_id}/download")
def download(_: AdminUser, session: ReadSession, settings: SettingsDep, version_id: Id) -> Response:
    """Everything about a version in one zip, sent as it is made."""
    version = versions.get(session, version_id)
    parts, stem = exports.export_all(session, settings, version), exports.stem(version)
    return zip_of(parts, stem, version.created_at)


@router.get("/versions/{version_id}/card.md")
def card_file(
    _: ViewerUser, session: ReadSession, settings: SettingsDep, version_id: Id
) -> Response:
    version = versions.get(session, version_id)
    part = exports.card(session, settings, version)
    named = exports.Part(f"{exports.stem(version)}.md", part.content)
    return attached(named, "text/markdown; charset=utf-8")


@router.get("/versions/{version_id}/laion")
def laion(_: AdminUser, session: ReadSession, settings: SettingsDep, version_id: Id) -> Response:
    """The head in the LAION layout, or the reason why it cannot be written so."""
    part = exports.laion_file(session, settings, versions.get(session, version_id))
    return attached(part, "application/octet-stream")


@router.get("/versions/{version_id}/elsewhere/{form}")
def published(
    _: AdminUser, session: ReadSession, settings: SettingsDep, version_id: Id, form: elsewhere.Form
) -> Response:
    """The version as it runs without this program: one file, or a zip of several."""
    version = versions.get(session, version_id)
    bundle = elsewhere.bundle_of(session, settings, version, form)
    if not bundle.folder:
        return attached(bundle.parts[0], "text/html; charset=utf-8")
    return zip_of(bundle.parts, bundle.folder, version.created_at)


@router.get("/versions/{version_id}/predictions.{ending}")
def predictions(_: AdminUser, session: ReadSession, version_id: Id, ending: Ending) -> Response:
    version = versions.get(session, version_id)
    content = prediction_files.prediction_bytes(session, version, f".{ending}")
    name = f"{exports.stem(version)}.predictions.{ending}"
    return attached(exports.Part(name, content), MEDIA[ending])


@router.get("/projects/{project_id}/labels.{ending}")
def labels(_: AdminUser, session: ReadSession, project: CurrentProject, ending: Ending) -> Response:
    """Every score that stands: sha256, path, score, annotator, scored_at."""
    rows = score_files.labels_of(session, project)
    name = f"{versions.base_name(project)}.labels.{ending}"
    content = score_files.score_bytes(rows, f".{ending}", score_files.columns_of(project))
    return attached(exports.Part(name, content), MEDIA[ending])


# --- what is brought in --------------------------------------------------------------------------


@router.post("/projects/{project_id}/heads")
def bring_in(
    _: AdminUser,
    request: Request,
    engine: EngineDep,
    settings: SettingsDep,
    project_id: Id,
    upload: HeadFiles,
) -> Response:
    """Take a head made elsewhere."""
    try:
        adopt(engine, settings, project_id, upload)
    except TastemakerError as error:
        if by_htmx(request):
            raise
        return refused(request, engine, settings, project_id, upload.fields, error)
    return redirect(request, f"/projects/{project_id}/publish")


def refused(
    request: Request,
    engine: Engine,
    settings: Settings,
    project_id: int,
    given: dict[str, str],
    error: TastemakerError,
) -> Response:
    with reading(engine) as session:
        project = projects.get(session, project_id)
        return publish_page(request, session, settings, project, given=given, import_error=error)


def adopt(engine: Engine, settings: Settings, project_id: int, upload: Upload) -> dict[str, Any]:
    """Queue the import of an upload: one .safetensors file, and its .config.json or none. It is
    checked and copied here, so nothing is handed over."""
    upload.require(0)
    heads = [file for file in upload.files if not file[1].lower().endswith(".json")]
    configs = [stored for stored, name in upload.files if name.lower().endswith(".json")]
    if not heads:
        raise Invalid("No head was sent.", "Choose its .safetensors file.")
    if len(heads) > 1 or len(configs) > 1:
        raise Invalid(
            "One head at a time can be brought in.", "Choose one file, and its sidecar if any."
        )
    fields = upload.fields
    job = import_head.import_checkpoint(
        engine,
        settings,
        project_id,
        upload.staging / heads[0][0],
        name=Path(heads[0][1].replace("\\", "/")).name[:200] or "head.safetensors",
        config=upload.staging / configs[0] if configs else None,
        encoder=fields.get("encoder", "").strip() or None,
        note=fields.get("note", ""),
        activate=fields.get("activate", "") == "true",
    )
    return jobs.as_json(job)


# --- for programs --------------------------------------------------------------------------------


class Texts(Body):
    """The author's words for the model card; what is left out stays as it is."""

    goals: str | None = None
    biases: str | None = None
    issues: str | None = None
    scope: str | None = None


@api.get("/versions/{version_id}/card")
def show_card(
    _: ViewerUser, session: ReadSession, settings: SettingsDep, version_id: Id
) -> dict[str, Any]:
    """The model card: as Markdown, and the words in it that are the author's."""
    version = versions.get(session, version_id)
    project = projects.get(session, version.project_id)
    card = model_card.card_of(session, settings, version)
    return {
        "version": version.number,
        "sections": [section.title for section in card.sections if section.title],
        "texts": model_card.texts(project),
        "markdown": card_blocks.markdown(card),
    }


@api.put("/projects/{project_id}/card")
def put_card(_: AdminUser, engine: EngineDep, project_id: Id, body: Texts) -> dict[str, str]:
    """Keep the author's words for the model card; the answer is all of them."""
    with writing(engine) as session:
        project = projects.get(session, project_id)
        model_card.set_texts(session, project, body.model_dump(exclude_none=True))
        return model_card.texts(project)


@api.get("/versions/{version_id}/download")
def download_all(
    user: AdminUser, session: ReadSession, settings: SettingsDep, version_id: Id
) -> Response:
    """Everything about a version in one zip."""
    return download(user, session, settings, version_id)


@api.get("/versions/{version_id}/export")
def export(
    user: AdminUser,
    session: ReadSession,
    settings: SettingsDep,
    version_id: Id,
    format: Literal["city96", "config", "laion", elsewhere.Form] = "city96",
) -> Response:
    """One file: the head (`city96`), its sidecar (`config`), the head in the LAION layout; or the
    version as it runs without this program: a web page (`html`), a zip with ComfyUI nodes
    (`comfyui`), ONNX files (`onnx`) or what a model hub takes (`hub`)."""
    version = versions.get(session, version_id)
    if format in elsewhere.FORMS:
        return published(user, session, settings, version_id, format)
    if format == "config":
        return attached(exports.config(session, settings, version), "application/json")
    if format == "laion":
        return laion(user, session, settings, version_id)
    return attached(exports.checkpoint(settings, version), "application/octet-stream")


@api.get("/versions/{version_id}/predictions")
def export_predictions(
    user: AdminUser, session: ReadSession, version_id: Id, format: Ending = "jsonl"
) -> Response:
    """What a version says of every image: sha256, path, aesthetic_score, out_of_fold,
    uncertainty, model_sha256."""
    return predictions(user, session, version_id, format)


@api.get("/projects/{project_id}/labels")
def export_labels(
    user: AdminUser, session: ReadSession, project: CurrentProject, format: Ending = "jsonl"
) -> Response:
    """Every score that stands: sha256, path, score, annotator, scored_at."""
    return labels(user, session, project, format)


@api.post("/projects/{project_id}/heads", status_code=202)
def adopt_head(
    _: AdminUser, engine: EngineDep, settings: SettingsDep, project_id: Id, upload: HeadFiles
) -> dict[str, Any]:
    """Import a model: multipart with the file, its sidecar if any, and the fields
    `encoder`, `note`, `activate`. The answer is the job."""
    return adopt(engine, settings, project_id, upload)
