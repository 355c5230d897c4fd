"""Adding images: a folder on this machine, or files and zips from the browser.

An upload is streamed to its own folder under `incoming/` piece by piece. Nothing is decoded here:
that is the import job's work, in a process that may die of it.
"""

import secrets
import shutil
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Form, Request, Response
from pydantic import Field
from python_multipart import MultipartParser
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import parse_options_header
from sqlalchemy import Engine
from sqlmodel import Session
from starlette.concurrency import run_in_threadpool

from tastemaker import projects
from tastemaker.auth.origins import by_htmx
from tastemaker.auth.permissions import AdminUser, GuardedRoute
from tastemaker.config import Settings
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import Job, Project
from tastemaker.errors import Invalid, TastemakerError, TooLarge
from tastemaker.files import require_free_space
from tastemaker.importing import requests
from tastemaker.pages.deps import Body, CurrentProject, EngineDep, Id, ReadSession, SettingsDep
from tastemaker.pages.jobs import job_json
from tastemaker.pages.render import redirect, render, see_other, shell

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")

MAX_FILES = 100_000
MAX_FIELD = 1000  # bytes of a text field
LOOK_AT_DISK_EVERY = 256 * 2**20


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
) -> Response:
    """With an error, the sentence stands beside its form, and what was typed is kept."""
    error = folder_error or files_error
    context = {
        "max_upload_mb": settings.max_upload_mb, "folder": folder, "folder_error": folder_error,
        "files_error": files_error,
    }  # fmt: skip
    frame = shell(session, project, "add")
    status = error.status if error else 200
    return render(request, "add.html", None, frame | context, status=status)


def refused(
    request: Request, engine: Engine, settings: Settings, project_id: int, **given: Any
) -> Response:
    """The Add page again, after an error."""
    with reading(engine) as session:
        project = projects.get(session, project_id)
        return add_page(request, session, settings, project, **given)


@router.post("/projects/{project_id}/add/folder")
def add_folder(
    _: AdminUser,
    request: Request,
    engine: EngineDep,
    settings: SettingsDep,
    project_id: Id,
    folder: Annotated[str, Form()] = "",
) -> Response:
    """Import a folder on this machine, recursively; the files stay where they are."""
    try:
        if not folder.strip():
            raise Invalid("No folder was named.", "Type its path, such as /home/me/Pictures.")
        with writing(engine) as session:
            project = projects.get(session, project_id)
            requests.request_import(session, settings, [folder.strip()], project=project)
    except TastemakerError as error:
        return refused(request, engine, settings, project_id, folder=folder, folder_error=error)
    return see_other(f"/projects/{project_id}/score")


@router.post("/projects/{project_id}/add/files")
async def add_files(
    _: AdminUser, request: Request, engine: EngineDep, settings: SettingsDep, project_id: Id
) -> Response:
    """Take uploaded files. The one endpoint that is `async`, because only so can a body be read as
    it comes; whatever touches the disk runs in a thread."""
    try:
        await take_files(request, engine, settings, project_id)
    except TastemakerError as error:
        if by_htmx(request):
            raise
        return await run_in_threadpool(
            refused, request, engine, settings, project_id, files_error=error
        )
    return redirect(request, f"/projects/{project_id}/score")


async def take_files(request: Request, engine: Engine, settings: Settings, project_id: int) -> Job:
    """Stream the body to the disk and queue its import; whatever is refused leaves nothing."""
    await run_in_threadpool(check_room, engine, settings, project_id)
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > settings.max_upload_mb * 2**20:
        raise too_large(settings)
    staging = settings.incoming / secrets.token_hex(16)
    upload = Upload(request.headers.get("content-type", ""), staging, settings)
    try:
        async for chunk in request.stream():
            await run_in_threadpool(upload.write, chunk)
        await run_in_threadpool(upload.finish)
        return await run_in_threadpool(enqueue, engine, settings, project_id, upload)
    except BaseException:
        await run_in_threadpool(upload.discard)
        raise


def check_room(engine: Engine, settings: Settings, project_id: int) -> None:
    """Refuse before the first byte what would be refused after the last."""
    with reading(engine) as session:
        projects.get(session, project_id)
    require_free_space(settings.incoming, settings.min_free_gb)


def enqueue(engine: Engine, settings: Settings, project_id: int, upload: "Upload") -> Job:
    with writing(engine) as session:
        return requests.request_upload_import(
            session,
            settings,
            upload.staging,
            upload.files,
            project=projects.get(session, project_id),
            collection=upload.fields.get("collection", "").strip() or "Uploads",
        )


def too_large(settings: Settings) -> TooLarge:
    return TooLarge(
        f"This upload is larger than the {settings.max_upload_mb} MB allowed at once; nothing of "
        "it was kept.",
        "Send it in parts, add the folder by its path, or raise TASTEMAKER_MAX_UPLOAD_MB.",
    )


# --- the same for programs -----------------------------------------------------------------------

FILES = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "properties": {
                        "files": {
                            "type": "array", "items": {"type": "string", "format": "binary"},
                        },
                        "collection": {"type": "string"},
                    },
                }
            }
        },
    }
}  # fmt: skip


class NewImport(Body):
    """A folder on the server's machine. `collection` is what it comes to; its own name if empty."""

    folder: str = Field(min_length=1)
    collection: str = Field(default="", max_length=120)


@api.post("/projects/{project_id}/imports", status_code=202)
def import_folder(
    _: AdminUser, engine: EngineDep, settings: SettingsDep, project_id: Id, body: NewImport
) -> dict[str, Any]:
    """Import a folder of the server's machine, recursively; the answer is its job. The files stay
    where they are."""
    with writing(engine) as session:
        project = projects.get(session, project_id)
        job = requests.request_import(
            session, settings, [body.folder], project=project,
            collection=body.collection.strip() or None,
        )  # fmt: skip
        return job_json(job)


@api.post("/projects/{project_id}/uploads", status_code=202, openapi_extra=FILES)
async def upload_files(
    _: AdminUser, request: Request, engine: EngineDep, settings: SettingsDep, project_id: Id
) -> dict[str, Any]:
    """Take pictures and zips of pictures, with the sidecars that lie beside them; the answer is the
    job of their import. A field `collection` says where they come to: “Uploads” without it."""
    return job_json(await take_files(request, engine, settings, project_id))


# --- a body on its way to the disk ---------------------------------------------------------------


class Upload:
    """A multipart body on its way to the disk.

    Invariant: every file part lies under a number of our own choosing in `staging`, and `files`
    pairs that number with the name it came with. The name is never used as a path. More than
    `most_bytes` (0: what the settings allow) raises `beyond`.
    """

    def __init__(
        self,
        content_type: str,
        staging: Path,
        settings: Settings,
        most_bytes: int = 0,
        beyond: TooLarge | None = None,
    ) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or b"boundary" not in options:
            raise Invalid(
                "This is not an upload of files.",
                "They are sent as multipart/form-data, as the form on the Add page does.",
            )
        self.staging, self.settings = staging, settings
        self._most_bytes = most_bytes or settings.max_upload_mb * 2**20
        self._beyond = beyond or too_large(settings)
        self.files: list[tuple[str, str]] = []
        self.fields: dict[str, str] = {}
        self._seen = self._next_look = 0
        self._out: BinaryIO | None = None
        self._text = bytearray()
        self._disposition: dict[bytes, bytes] = {}
        self._header, self._header_value = bytearray(), bytearray()
        self._ended = False
        self._parser = MultipartParser(
            options[b"boundary"],
            {
                "on_part_begin": self._part_begins,
                "on_header_field": lambda d, a, b: self._header.extend(d[a:b]),
                "on_header_value": lambda d, a, b: self._header_value.extend(d[a:b]),
                "on_header_end": self._header_ends,
                "on_headers_finished": self._body_begins,
                "on_part_data": self._data,
                "on_part_end": self._part_ends,
                "on_end": self._ends,
            },
        )

    def write(self, chunk: bytes) -> None:
        """Raises `TooLarge`, `StorageFull`, or `Invalid` for a malformed body."""
        self._seen += len(chunk)
        if self._seen > self._most_bytes:
            raise self._beyond
        if self._seen >= self._next_look:
            require_free_space(self.settings.incoming, self.settings.min_free_gb)
            self._next_look = self._seen + LOOK_AT_DISK_EVERY
        if chunk:
            try:
                self._parser.write(chunk)
            except MultipartParseError:
                raise Invalid("The upload is malformed; nothing of it was kept.") from None

    def finish(self, least: int = 1) -> None:
        """Raises `Invalid` when the body ended too early or brought fewer files than `least`."""
        if not self._ended:
            raise Invalid("The upload was cut short; nothing of it was kept.", "Send it again.")
        if len(self.files) < least:
            raise Invalid("No file was sent.", "Choose pictures or a zip of pictures.")

    def discard(self) -> None:
        if self._out is not None:
            self._out.close()
            self._out = None
        shutil.rmtree(self.staging, ignore_errors=True)

    def _part_begins(self) -> None:
        self._disposition = {}
        self._header.clear()
        self._header_value.clear()
        self._text.clear()

    def _header_ends(self) -> None:
        if bytes(self._header).lower() == b"content-disposition":
            _, self._disposition = parse_options_header(bytes(self._header_value))
        self._header.clear()
        self._header_value.clear()

    def _body_begins(self) -> None:
        name = self._disposition.get(b"filename")
        if not name:  # a text field, or a file input left empty
            return
        if len(self.files) >= MAX_FILES:
            raise TooLarge(f"These are more than {MAX_FILES} files at once.", "Send a zip.")
        self.staging.mkdir(parents=True, exist_ok=True)
        stored = f"{len(self.files):06d}"
        self.files.append((stored, name.decode("utf-8", "replace")[-255:]))
        self._out = (self.staging / stored).open("wb")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._out is not None:
            self._out.write(data[start:end])
        elif b"filename" not in self._disposition:
            if len(self._text) + end - start > MAX_FIELD:
                raise Invalid("A field of the form is too long; nothing of it was kept.")
            self._text.extend(data[start:end])

    def _part_ends(self) -> None:
        if self._out is not None:
            self._out.close()
            self._out = None
        elif b"filename" not in self._disposition:
            field = self._disposition.get(b"name", b"").decode("utf-8", "replace")
            self.fields[field] = bytes(self._text).decode("utf-8", "replace")

    def _ends(self) -> None:
        self._ended = True
