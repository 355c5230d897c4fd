"""The classes of a project: their names, colours, keys and weights; added, merged and deleted."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from sqlalchemy import Engine
from sqlmodel import Session

from tastemaker import projects
from tastemaker.auth.permissions import AdminUser, GuardedRoute, ViewerUser
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import Project
from tastemaker.errors import TastemakerError
from tastemaker.pages.deps import Body, CurrentProject, EngineDep, Id, ReadSession
from tastemaker.pages.render import render, see_other, shell
from tastemaker.scores import class_changes, classes

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")


@router.get("/projects/{project_id}/classes")
def page(
    _: ViewerUser, request: Request, session: ReadSession, project: CurrentProject,
    saved: str = "",
) -> Response:  # fmt: skip
    return classes_page(request, session, project, saved=saved[:200])


def classes_page(
    request: Request, session: Session, project: Project, *, saved: str = "",
    error: TastemakerError | None = None,
) -> Response:  # fmt: skip
    known = classes.of(session, project.id)
    context = {
        "known": known,
        "counts": classes.count_labels(session, project, known),
        "colours": range(classes.COLOURS),
        "error": error,
        "toast": {"text": saved} if saved else None,
    }
    return render(
        request, "classes.html", None, shell(session, project, "settings") | context,
        status=error.status if error else 200,
    )  # fmt: skip


def _changed(
    request: Request, engine: Engine, project_id: int, act: Callable[[Session, Project], str]
) -> Response:
    """Do one change, and show the page: with what was done, or with why it was not."""
    try:
        with writing(engine) as session:
            told = act(session, projects.get(session, project_id))
    except TastemakerError as error:
        with reading(engine) as session:
            return classes_page(request, session, projects.get(session, project_id), error=error)
    return see_other(f"/projects/{project_id}/classes?saved={told}")


@router.post("/projects/{project_id}/classes")
def add_one(
    _: AdminUser, request: Request, engine: EngineDep, project_id: Id,
    name: Annotated[str, Form()] = "", key: Annotated[str, Form()] = "",
) -> Response:  # fmt: skip
    def act(session: Session, project: Project) -> str:
        class_changes.add(session, project, name, class_changes.validated_key(key))
        return "Added."

    return _changed(request, engine, project_id, act)


@router.post("/projects/{project_id}/classes/{number}")
def change_one(
    _: AdminUser, request: Request, engine: EngineDep, project_id: Id, number: int,
    name: Annotated[str, Form()] = "", key: Annotated[str, Form()] = "",
    colour: Annotated[int, Form()] = 0, weight: Annotated[str, Form()] = "1",
) -> Response:  # fmt: skip
    def act(session: Session, project: Project) -> str:
        class_changes.change(
            session, project, number, name=name, key=key, colour=colour, weight=weight
        )
        return "Saved."

    return _changed(request, engine, project_id, act)


@router.post("/projects/{project_id}/classes/{number}/merge")
def merge_one(
    _: AdminUser, request: Request, engine: EngineDep, project_id: Id, number: int,
    into: Annotated[int, Form()] = -1,
) -> Response:  # fmt: skip
    def act(session: Session, project: Project) -> str:
        class_changes.merge(session, project, number, into)
        return "Merged."

    return _changed(request, engine, project_id, act)


@router.post("/projects/{project_id}/classes/{number}/delete")
def delete_one(
    _: AdminUser, request: Request, engine: EngineDep, project_id: Id, number: int
) -> Response:
    def act(session: Session, project: Project) -> str:
        class_changes.delete(session, project, number)
        return "Deleted."

    return _changed(request, engine, project_id, act)


# --- for programs --------------------------------------------------------------------------------


class NewClass(Body):
    """`key`: one character; left out, the first that is free."""

    name: str
    key: str = ""


class ChangedClass(Body):
    """What is left out stays. `key` empty: none; `weight`: how much its labels count, 1 as
    usual."""

    name: str | None = None
    key: str | None = None
    colour: int | None = None
    weight: float | None = None


class Merged(Body):
    """`into`: the number of the class that takes the labels over."""

    into: int


@api.get("/projects/{project_id}/classes")
def list_classes(
    _: ViewerUser, session: ReadSession, project: CurrentProject
) -> list[dict[str, Any]]:
    """The classes or tags of a project, and how many images are labelled so."""
    known = classes.of(session, project.id)
    counts = classes.count_labels(session, project, known)
    return [classes.as_json(row, counts[row.number]) for row in known.alive]


@api.post("/projects/{project_id}/classes", status_code=201)
def add_class(_: AdminUser, engine: EngineDep, project_id: Id, body: NewClass) -> dict[str, Any]:
    """A further class. Its number is new, also where another class was deleted."""
    with writing(engine) as session:
        project = projects.get(session, project_id)
        key = class_changes.validated_key(body.key)
        return classes.as_json(class_changes.add(session, project, body.name, key))


@api.put("/projects/{project_id}/classes/{number}")
def change_class(
    _: AdminUser, engine: EngineDep, project_id: Id, number: int, body: ChangedClass
) -> dict[str, Any]:
    """Rename a class, or give it another key, colour or weight. Labels stay; versions keep the name
    they were trained with."""
    changes = body.model_dump(exclude_none=True)
    with writing(engine) as session:
        project = projects.get(session, project_id)
        return classes.as_json(class_changes.change(session, project, number, **changes))


@api.post("/projects/{project_id}/classes/{number}/merge")
def merge_classes(
    _: AdminUser, engine: EngineDep, project_id: Id, number: int, body: Merged
) -> dict[str, Any]:
    """Make one class part of another: what was labelled so is labelled as that."""
    with writing(engine) as session:
        project = projects.get(session, project_id)
        return {"labels": class_changes.merge(session, project, number, body.into)}


@api.delete("/projects/{project_id}/classes/{number}")
def delete_class(_: AdminUser, engine: EngineDep, project_id: Id, number: int) -> dict[str, Any]:
    """Delete a class; its images are without a label again. What was said stays stored."""
    with writing(engine) as session:
        project = projects.get(session, project_id)
        return {"labels": class_changes.delete(session, project, number)}
