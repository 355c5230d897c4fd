"""Taking away what the library shows: its list, or copies of the files."""

from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Form, Request, Response
from sqlmodel import Session

from tastemaker import projects, versions
from tastemaker.auth.permissions import AdminUser, GuardedRoute, takes
from tastemaker.config import Settings
from tastemaker.database.sessions import reading
from tastemaker.database.tables import Project
from tastemaker.errors import Invalid
from tastemaker.library import bulk, exports, scopes
from tastemaker.library.scopes import ResolvedFilter
from tastemaker.pages.deps import Body, CurrentProject, EngineDep, Id, ReadSession, SettingsDep
from tastemaker.pages.downloads import attachment
from tastemaker.pages.library_view import PARAMETERS, view_of
from tastemaker.pages.places import with_done
from tastemaker.pages.render import see_other

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")


def meant(
    session: Session, settings: Settings, project: Project, pairs: list[tuple[str, str]]
) -> tuple[ResolvedFilter, list[int]]:
    """All images that an address of the library means. Raises `Invalid` for a search, which has no
    end, and for the live model's predictions."""
    view = view_of(pairs)
    if view.searches:
        raise Invalid(
            "A search by likeness has no end, so it cannot be taken away as a whole.",
            "Select images, put them into a collection, and show that one.",
        )
    resolved = scopes.resolve(session, project, view.filter, settings)
    return resolved, bulk.matching_images(session, project, view.filter)


@router.get("/projects/{project_id}/library.csv")
@takes(*PARAMETERS)
def csv_list(
    _: AdminUser,
    request: Request,
    session: ReadSession,
    settings: SettingsDep,
    project: CurrentProject,
) -> Response:
    """Every image that the filter shows: sha256, path, score, prediction."""
    pairs = list(request.query_params.multi_items())
    resolved, ids = meant(session, settings, project, pairs)
    content = b"".join(exports.listed(session, project, resolved, ids))
    name = f"{versions.base_name(project)}.images.csv"
    media_type = "text/csv; charset=utf-8"
    return Response(content, media_type=media_type, headers=attachment(name))


@router.post("/projects/{project_id}/library/copy")
def copy(
    _: AdminUser,
    engine: EngineDep,
    settings: SettingsDep,
    project_id: Id,
    query: Annotated[str, Form()] = "",
    folder: Annotated[str, Form()] = "",
) -> Response:
    """Copy the files of every image that the filter shows into a folder of this machine."""
    copies = copied(settings, engine, project_id, parse_qsl(query), folder)
    done = {"done": "copied", "n": str(copies.copied), "there": str(copies.there),
            "gone": str(copies.gone)}  # fmt: skip
    return see_other(with_done(f"/projects/{project_id}/library", query, done))


def copied(
    settings: Settings, engine: Any, project_id: int, pairs: list[tuple[str, str]], folder: str
) -> exports.Copies:
    with reading(engine) as session:
        project = projects.get(session, project_id)
        _, ids = meant(session, settings, project, pairs)
        return exports.copy_into(session, settings, ids, folder)


class CopyRequest(Body):
    """`query` is the query of an address of the library, such as `predicted_from=6&scored=no`;
    `folder` a full path on the server's machine."""

    folder: str
    query: str = ""


@api.post("/projects/{project_id}/library/copies")
def copy_images(
    _: AdminUser, engine: EngineDep, settings: SettingsDep, project_id: Id, body: CopyRequest
) -> dict[str, int]:
    """Copy the files of every image that a filter means into a folder; nothing is overwritten. The
    answer counts those copied, those that lay there already, and those whose file is gone."""
    pairs = parse_qsl(body.query)
    return copied(settings, engine, project_id, pairs, body.folder).as_dict()
