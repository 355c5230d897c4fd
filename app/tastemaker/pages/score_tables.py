"""Scores from a table: a file of this browser's, or a program's, as `scores import` reads them."""

from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from sqlalchemy import Engine

from tastemaker import projects
from tastemaker.auth.permissions import AdminUser, GuardedRoute
from tastemaker.config import Settings
from tastemaker.database.sessions import reading
from tastemaker.errors import Invalid, TastemakerError, TooLarge
from tastemaker.pages.add import TABLE_FIELDS, add_page
from tastemaker.pages.deps import CurrentProject, EngineDep, Id, ReadSession, SettingsDep
from tastemaker.pages.uploads import (
    BINARY,
    Reception,
    Upload,
    UploadLimit,
    body_schema,
    form_schema,
)
from tastemaker.scores import imported_tables
from tastemaker.scores.scales import parse_scale
from tastemaker.scores.score_files import ColumnNames, ImportedScores, import_scores

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")

MOST_BYTES = 4 * 2**20
MOST_ROWS = 2_000  # they are one transaction, and other people's scores wait for it


def table_limit(_: Settings) -> UploadLimit:
    error = TooLarge(
        f"A table of scores has at most {MOST_BYTES // 2**20} MB here; nothing of it was kept.",
        "Split it, or use `tastemaker scores import` on the machine of the server.",
    )
    return UploadLimit(MOST_BYTES, error)


Table = Annotated[Upload, Depends(Reception(table_limit), scope="function")]


@router.post("/projects/{project_id}/add/scores")
def add_scores(
    _: AdminUser,
    request: Request,
    engine: EngineDep,
    settings: SettingsDep,
    project_id: Id,
    upload: Table,
) -> Response:
    """Record the scores of a table; what was recorded, or what is wrong, stands beside the form."""
    told: ImportedScores | None = None
    error: TastemakerError | None = None
    try:
        told = bring_in(engine, project_id, upload)
    except TastemakerError as fault:
        error = fault
    with reading(engine) as session:
        project = projects.get(session, project_id)
        return add_page(
            request, session, settings, project, scores_told=told, scores_error=error,
            table=upload.fields,
        )  # fmt: skip


@router.post("/projects/{project_id}/add/scores/{table_id}/undo")
def undo(
    _: AdminUser,
    request: Request,
    engine: EngineDep,
    settings: SettingsDep,
    project_id: Id,
    table_id: Id,
) -> Response:
    """Take a table back; what that came to stands beside the list."""
    taken_back = imported_tables.take_back(engine, project_id, table_id)
    with reading(engine) as session:
        project = projects.get(session, project_id)
        return add_page(request, session, settings, project, taken_back=taken_back)


def bring_in(engine: Engine, project_id: int, upload: Upload) -> ImportedScores:
    """Read the one file of an upload. Its name is shown, and used for nothing but its ending."""
    upload.require(0)
    if len(upload.files) != 1:
        raise Invalid("One file of scores is needed.", "Choose a .csv, .jsonl or .parquet file.")
    stored, name = upload.files[0]
    shown = PurePosixPath(name.replace("\\", "/"))
    ending = shown.suffix.lower()
    file = upload.staging / f"scores{ending if ending[1:].isalnum() else ''}"
    (upload.staging / stored).rename(file)
    fields = {name: upload.fields.get(name, "").strip() for name in TABLE_FIELDS}
    scale = fields["scale"]
    with reading(engine) as session:
        project_name = projects.get(session, project_id).name
    return import_scores(
        engine, project_name, file, scale=parse_scale(scale) if scale else None,
        skip_bad_rows=upload.fields.get("skip_bad_rows", "") == "true", most_rows=MOST_ROWS,
        columns=ColumnNames(fields["image_column"], fields["score_column"]),
        preview=upload.fields.get("preview", "") == "true", as_hints=fields["as_hints"] == "true",
        called=shown.name,
    )  # fmt: skip


FILE = body_schema(
    form_schema(
        "file", file=BINARY, scale={"type": "string"},
        image_column={"type": "string"}, score_column={"type": "string"},
        skip_bad_rows={"type": "string", "enum": ["true", "false"]},
        preview={"type": "string", "enum": ["true", "false"]},
        as_hints={"type": "string", "enum": ["true", "false"]},
    )
)  # fmt: skip


@api.post("/projects/{project_id}/labels", openapi_extra=FILE)
def import_labels(_: AdminUser, engine: EngineDep, project_id: Id, upload: Table) -> dict[str, Any]:
    """Record the scores of a table (.csv, .jsonl, .parquet; at most 2,000 rows): a column `score`,
    and `sha256` or `path`. With bad rows nothing is recorded and all are told; the field
    `skip_bad_rows` records the others. The field `scale` maps another scale, as `1-5`;
    `image_column` and `score_column` name columns that are called otherwise. With `preview` nothing
    is recorded, and the first ten rows are shown as they would be. With `as_hints` they are
    another program's ratings, trusted as far as they fit, and no labels. `DELETE` of
    `labels/tables/{table}` takes back what was recorded, by the number `table` of the answer."""
    return bring_in(engine, project_id, upload).as_dict()


@api.get("/projects/{project_id}/labels/tables")
def list_tables(
    _: AdminUser, session: ReadSession, project: CurrentProject
) -> list[dict[str, Any]]:
    """The newest twenty tables of scores that were imported, newest first."""
    return [table.as_dict() for table in imported_tables.listed(session, project)]


@api.delete("/projects/{project_id}/labels/tables/{table_id}")
def take_table_back(
    _: AdminUser, engine: EngineDep, project_id: Id, table_id: Id
) -> dict[str, int]:
    """Take back what still stands of a table: how many scores were `undone`, and of how many of its
    images one stands that was given since (`corrected`) and goes on counting. A second request
    undoes nothing more."""
    return asdict(imported_tables.take_back(engine, project_id, table_id))
