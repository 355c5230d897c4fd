"""Routers: of a version with classes and versions that score, one model is made and given out."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Query, Request, Response
from pydantic import Field
from sqlmodel import Session

from tastemaker import projects, versions
from tastemaker.auth.permissions import AdminUser, GuardedRoute, ViewerUser
from tastemaker.config import Settings
from tastemaker.database.sessions import reading
from tastemaker.database.tables import EncoderRow, Project, Version
from tastemaker.errors import Invalid, TastemakerError
from tastemaker.pages import downloads
from tastemaker.pages.deps import Body, CurrentProject, EngineDep, Id, ReadSession, SettingsDep
from tastemaker.pages.render import render, see_other, shell
from tastemaker.publishing import routers

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")

REJECT = ""  # what the form sends for a class that never passes
Number = Annotated[str, Query(max_length=20)]


@router.get("/projects/{project_id}/routers")
def page(
    _: AdminUser,
    request: Request,
    session: ReadSession,
    settings: SettingsDep,
    project: CurrentProject,
    version: Number = "",
) -> Response:
    return routers_page(request, session, settings, project, version)


def routers_page(
    request: Request, session: Session, settings: Settings, project: Project, number: str = "",
    given: dict[str, Any] | None = None, error: TastemakerError | None = None,
) -> Response:  # fmt: skip
    """After an error, what was chosen is kept."""
    chosen = versions.chosen(session, project, number)
    tells = chosen is not None and chosen.classes.labelling == "classes"
    context = {
        "kept": routers.kept(settings),
        "version": chosen if tells else None,
        "scorers": scorers_for(session, chosen) if chosen is not None and tells else [],
        "encoder": session.get(EncoderRow, chosen.encoder_id) if chosen else None,
        "given": given or {"name": "", "to": [], "mode": "hard", "abstain": "60"},
        "error": error,
    }
    frame = shell(session, project, "versions")
    status = error.status if error else 200
    return render(request, "routers.html", None, frame | context, status=status)


def scorers_for(session: Session, classifier: Version) -> list[tuple[Project, Version]]:
    """The versions that can score for it: of projects that score, on the same encoder; the active
    one of each project before its others."""
    on_it = versions.ready_on(session, classifier.encoder_id)
    return [(project, one) for project, one in on_it if project.labelling == "scores"]


@router.post("/projects/{project_id}/routers")
def make(
    _: AdminUser,
    request: Request,
    engine: EngineDep,
    settings: SettingsDep,
    project_id: Id,
    name: Annotated[str, Form()] = "",
    version: Annotated[str, Form(max_length=20)] = "",
    to: Annotated[list[str] | None, Form()] = None,
    mode: Annotated[Literal["hard", "soft"], Form()] = "hard",
    abstain: Annotated[str, Form()] = "",
) -> Response:
    """Publish a router; `to` names a version for each class in its order, or nothing."""
    given = {"name": name, "to": to or [], "mode": mode, "abstain": abstain}
    with reading(engine) as session:
        project = projects.get(session, project_id)
        try:
            classifier = versions.by_number(session, project, version or "active")
            kinds = classifier.classes.names
            if len(to or []) != len(kinds):
                raise Invalid("Every class needs a version, or never passes.", "Choose for each.")
            scorers = {
                kind: None if one == REJECT else _version(session, one)
                for kind, one in zip(kinds, to or [], strict=True)
            }
            routers.make(
                session, settings, name, classifier, scorers, mode=mode, abstain=_share(abstain)
            )
        except TastemakerError as error:
            return routers_page(request, session, settings, project, version, given, error)
    return see_other(f"/projects/{project_id}/routers")


def _version(session: Session, typed: str) -> Version:
    if not (typed.isascii() and typed.isdecimal() and len(typed) < 10):
        raise Invalid(f"“{typed[:20]}” is no version.", "Choose one of the list.")
    return versions.get(session, int(typed))


def _share(percent: str) -> float:
    """A percentage as typed, as a share; nothing is none."""
    try:
        return float(percent.strip().removesuffix("%") or 0) / 100
    except ValueError:
        raise Invalid(f"“{percent[:20]}” is no percentage.", "Write 60.") from None


@router.get("/routers/{name}/download")
def download(_: AdminUser, settings: SettingsDep, name: str) -> Response:
    """Its folder as a zip."""
    return zip_of(settings, name)


def zip_of(settings: Settings, name: str) -> Response:
    one = routers.find(settings, name)
    return downloads.zip_of(routers.parts_of(one), one.folder.name, routers.made_at(one))


@router.post("/projects/{project_id}/routers/{name}/delete")
def delete(_: AdminUser, settings: SettingsDep, project_id: Id, name: str) -> Response:
    """Delete a router; its versions stay."""
    routers.delete(settings, name)
    return see_other(f"/projects/{project_id}/routers")


# --- the same for programs -----------------------------------------------------------------------


class NewRouter(Body):
    """A router to publish: the classifier's version (“v1.0”; the active one if empty), and for each
    of its classes the project and the version that scores it, as “Photos@v1.2”, or null for one
    that never passes. `abstain` is a share."""

    name: str = Field(max_length=120)
    version: str = Field(default="", max_length=20)
    classes: dict[str, str | None] = Field(max_length=200)
    mode: Literal["hard", "soft"] = "hard"
    scale: Literal["percentile", "score"] = "percentile"
    abstain: float = 0.0


@api.get("/routers")
def listed(_: ViewerUser, settings: SettingsDep) -> list[dict[str, Any]]:
    """The routers of this home, each with what is the trouble with it."""
    return [one.as_json() for one in routers.kept(settings)]


@api.post("/projects/{project_id}/routers", status_code=201)
def publish(
    _: AdminUser, session: ReadSession, settings: SettingsDep, project: CurrentProject,
    body: NewRouter,
) -> dict[str, Any]:  # fmt: skip
    """Publish a router of a version of this project, which tells the classes apart."""
    classifier = versions.by_number(session, project, body.version or "active")
    scorers = {
        kind: None if named is None else versions.named(session, named)
        for kind, named in body.classes.items()
    }
    one = routers.make(
        session, settings, body.name, classifier, scorers, mode=body.mode, scale=body.scale,
        abstain=body.abstain,
    )  # fmt: skip
    return one.as_json()


@api.get("/routers/{name}/file")
def file(_: AdminUser, settings: SettingsDep, name: str) -> Response:
    """The folder of a router as a zip: `tastemaker router import` takes it."""
    return zip_of(settings, name)


@api.delete("/routers/{name}")
def remove(_: AdminUser, settings: SettingsDep, name: str) -> dict[str, Any]:
    """Delete a router; its versions stay."""
    return routers.delete(settings, name).as_json()
