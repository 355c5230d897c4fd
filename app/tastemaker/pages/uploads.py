"""The reception of uploads: the one way of files from a browser or a program onto this disk.

    def add_files(_: AdminUser, …, upload: Annotated[Upload, Depends(Reception())]): …

The permission is checked first (`GuardedRoute`). Then the body is streamed, piece by piece, to a
folder of its own below `incoming`; nothing is decoded here. The endpoint decides: it raises what
was wrong (`require`), so that the sentence can stand beside its form, or hands the folder over to a
job (`hand_over`). A folder that was not handed over is gone when the answer is sent.
"""

import secrets
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from anyio import CancelScope
from fastapi import Request
from python_multipart import MultipartParser
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import parse_options_header
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool

from tastemaker import projects
from tastemaker.auth.permissions import LimitsItsBody, announced_length
from tastemaker.config import Settings
from tastemaker.database.sessions import reading
from tastemaker.errors import Invalid, TastemakerError, TooLarge
from tastemaker.files import require_free_space
from tastemaker.pages.deps import EngineDep, Id, SettingsDep

MAX_FILES = 100_000
MAX_NAME = 1000  # characters: it may bring its folders
MAX_FIELDS = 1000
MAX_FIELD_BYTES = 1000
DISK_CHECK_BYTES = 256 * 2**20  # the free space is looked at again after so many


@dataclass(frozen=True)
class UploadLimit:
    """The largest body that is taken, in bytes, and the error that a larger one gets."""

    bytes: int
    error: TooLarge


def settings_limit(settings: Settings) -> UploadLimit:
    error = TooLarge(
        f"This upload is larger than the {settings.max_upload_mb} MB allowed at once; nothing of "
        "it was kept.",
        "Send it in parts, add the folder by its path, or raise TASTEMAKER_MAX_UPLOAD_MB.",
    )
    return UploadLimit(settings.max_upload_mb * 2**20, error)


class Upload:
    """What was received. `files` pairs the name under which a file is stored in `staging`, a number
    of our own choosing, with the name it came with, which is never used as a path. `refusal` is
    what was wrong; `fields` then holds what was read of the form before."""

    def __init__(self, staging: Path) -> None:
        self.staging = staging
        self.files: list[tuple[str, str]] = []
        self.fields: dict[str, str] = {}
        self.refusal: TastemakerError | None = None
        self._handed_over = False

    def require(self, fewest: int = 1) -> None:
        """Raise what was wrong with the upload, `Invalid` for fewer files than that."""
        if self.refusal is not None:
            raise self.refusal
        if len(self.files) < fewest:
            raise Invalid("No file was sent.", "Choose pictures or a zip of pictures.")

    def hand_over(self) -> None:
        """The folder is a job's, which removes it. To be called once the job is committed."""
        self._handed_over = True

    def discard(self) -> None:
        if not self._handed_over:
            shutil.rmtree(self.staging, ignore_errors=True)


class Reception(LimitsItsBody):
    """The dependency of an endpoint that takes an upload, into a folder with a `prefix`."""

    def __init__(
        self, limit: Callable[[Settings], UploadLimit] = settings_limit, prefix: str = ""
    ) -> None:
        self.limit, self.prefix = limit, prefix

    async def __call__(
        self, request: Request, engine: EngineDep, settings: SettingsDep, project_id: Id
    ) -> AsyncIterator[Upload]:
        limit = self.limit(settings)
        async with receive(request, engine, settings, project_id, limit, self.prefix) as upload:
            yield upload


@asynccontextmanager
async def receive(
    request: Request,
    engine: Engine,
    settings: Settings,
    project_id: int,
    limit: UploadLimit,
    prefix: str = "",
) -> AsyncIterator[Upload]:
    """Stream the body to the disk. Raises nothing for a person: see `Upload.require`."""
    upload = Upload(settings.incoming / f"{prefix}{secrets.token_hex(16)}")
    try:
        try:
            await run_in_threadpool(require_room, engine, settings, project_id)
            await _stream(request, settings, limit, upload)
        except TastemakerError as error:
            upload.refusal = error
        yield upload
    finally:
        with CancelScope(shield=True):  # also when the server is stopped meanwhile
            await run_in_threadpool(upload.discard)


def require_room(engine: Engine, settings: Settings, project_id: int) -> None:
    """Refuse before the first byte what would be refused after the last. Raises `NotFound` for a
    project that is not there and `StorageFull`."""
    with reading(engine) as session:
        projects.get(session, project_id)
    require_free_space(settings.incoming, settings.min_free_gb)


async def _stream(request: Request, settings: Settings, limit: UploadLimit, upload: Upload) -> None:
    """Raises `limit.error`, `StorageFull`, or `Invalid` for a body that is no upload of files."""
    if announced_length(request) > limit.bytes:
        raise limit.error
    writer = MultipartWriter(request.headers.get("content-type", ""), upload)
    taken = next_check = 0
    try:
        async for piece in request.stream():
            taken += len(piece)
            if taken > limit.bytes:
                raise limit.error
            if taken >= next_check:
                require_free_space(settings.incoming, settings.min_free_gb)
                next_check = taken + DISK_CHECK_BYTES
            await run_in_threadpool(writer.write, piece)
        writer.finish()
    finally:
        writer.close()


BINARY = {"type": "string", "format": "binary"}


def form_schema(required: str, /, **fields: Any) -> dict[str, Any]:
    """A multipart body of these fields, one of them `required`, as OpenAPI has it: what streams is
    read without FastAPI, which so knows nothing of it."""
    schema = {"type": "object", "required": [required], "properties": fields}
    return {"multipart/form-data": {"schema": schema}}


def body_schema(content: dict[str, Any]) -> dict[str, Any]:
    """The same as the `openapi_extra` of a route, by content type."""
    return {"requestBody": {"required": True, "content": content}}


class MultipartWriter:
    """Writes the parts of a multipart body to the folder and the fields of an upload.

    The parsing is python-multipart's; what it calls back here says where a part begins and ends.
    Its `FormParser` would name the files itself, keep small ones and every text field in memory
    without a limit, and undo transfer encodings; Starlette's `form()` keeps every file open.
    """

    def __init__(self, content_type: str, upload: Upload) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or b"boundary" not in options:
            raise Invalid(
                "This is not an upload of files.",
                "They are sent as multipart/form-data, as the form on the Add page does.",
            )
        self._upload = upload
        self._header, self._value = bytearray(), bytearray()  # of the part's header at hand
        self._disposition: dict[bytes, bytes] = {}
        self._text = bytearray()  # of a field
        self._file: BinaryIO | None = None
        self._ended = False
        self._parser = MultipartParser(
            options[b"boundary"],
            {
                "on_part_begin": self._begin_part,
                "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._begin_content,
                "on_part_data": self._write_content,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    def write(self, piece: bytes) -> None:
        """Raises `TooLarge` for too many files, `Invalid` for a malformed body or a long field."""
        try:
            self._parser.write(piece)
        except MultipartParseError:
            raise Invalid("The upload is malformed; nothing of it was kept.") from None

    def finish(self) -> None:
        """Raises `Invalid` when the body ended too early."""
        if not self._ended:
            raise Invalid("The upload was cut short; nothing of it was kept.", "Send it again.")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _begin_part(self) -> None:
        self._disposition = {}
        for buffer in (self._header, self._value, self._text):
            buffer.clear()

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, self._disposition = parse_options_header(bytes(self._value))
        self._header.clear()
        self._value.clear()

    def _begin_content(self) -> None:
        name = self._disposition.get(b"filename")
        if not name:  # a text field, or a file input left empty
            return
        files = self._upload.files
        if len(files) >= MAX_FILES:
            raise TooLarge(f"These are more than {MAX_FILES} files at once.", "Send a zip.")
        self._upload.staging.mkdir(parents=True, exist_ok=True)
        stored = f"{len(files):06d}"
        files.append((stored, name.decode("utf-8", "replace")[-MAX_NAME:]))
        self._file = (self._upload.staging / stored).open("wb")

    def _write_content(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])
        elif b"filename" not in self._disposition:
            if len(self._text) + end - start > MAX_FIELD_BYTES:
                raise Invalid("A field of the form is too long; nothing of it was kept.")
            self._text.extend(data[start:end])

    def _end_part(self) -> None:
        if self._file is None and b"filename" not in self._disposition:
            if len(self._upload.fields) >= MAX_FIELDS:
                raise Invalid("The form has too many fields; nothing of it was kept.")
            name = self._disposition.get(b"name", b"").decode("utf-8", "replace")
            self._upload.fields[name] = self._text.decode("utf-8", "replace")
        self.close()

    def _end(self) -> None:
        self._ended = True
