"""Saved filters: what a person looks for often, by name."""

from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Form, Response
from pydantic import BaseModel, ConfigDict

from tastemaker import projects
from tastemaker.auth.permissions import AdminUser, GuardedRoute, ViewerUser
from tastemaker.database.sessions import writing
from tastemaker.database.tables import Slice
from tastemaker.library import filters, saved_filters
from tastemaker.pages.deps import CurrentProject, EngineDep, Id, ReadSession
from tastemaker.pages.library_changes import with_done
from tastemaker.pages.library_view import view_of
from tastemaker.pages.render import see_other

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")


class NewFilter(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    filter: dict[str, Any]


@router.post("/projects/{project_id}/library/filters")
def save_filter(
    _: AdminUser,
    engine: EngineDep,
    project_id: Id,
    name: Annotated[str, Form()] = "",
    query: Annotated[str, Form()] = "",
) -> Response:
    view = view_of(parse_qsl(query))
    with writing(engine) as session:
        saved_filters.save(session, projects.get(session, project_id), name, view.filter)
    return see_other(with_done(f"/projects/{project_id}/library?{view.query()}", {"done": "saved"}))


@router.post("/projects/{project_id}/library/filters/{slice_id}/delete")
def forget_filter(_: AdminUser, engine: EngineDep, project_id: Id, slice_id: Id) -> Response:
    with writing(engine) as session:
        saved_filters.delete(session, projects.get(session, project_id), slice_id)
    return see_other(f"/projects/{project_id}/library?done=forgotten")


@api.get("/projects/{project_id}/filters")
def list_filters(
    _: ViewerUser, session: ReadSession, project: CurrentProject
) -> list[dict[str, Any]]:
    return [_filter_json(row) for row, _ in saved_filters.list_saved(session, project)]


@api.post("/projects/{project_id}/filters", status_code=201)
def create_filter(
    _: AdminUser, engine: EngineDep, project_id: Id, body: NewFilter
) -> dict[str, Any]:
    """Save a filter under a name; one of that name is replaced."""
    asked = filters.from_dict(body.filter)
    with writing(engine) as session:
        return _filter_json(
            saved_filters.save(session, projects.get(session, project_id), body.name, asked)
        )


@api.delete("/projects/{project_id}/filters/{slice_id}", status_code=204)
def delete_filter(_: AdminUser, engine: EngineDep, project_id: Id, slice_id: Id) -> Response:
    with writing(engine) as session:
        saved_filters.delete(session, projects.get(session, project_id), slice_id)
    return Response(status_code=204)


def _filter_json(row: Slice) -> dict[str, Any]:
    return {"id": row.id, "name": row.name, **row.definition}
