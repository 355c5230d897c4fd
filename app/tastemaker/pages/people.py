"""People: who scores in this project, how well they agree, and who may sign in."""

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Request, Response
from sqlmodel import Session

from tastemaker import projects, scores
from tastemaker.auth import accounts, tokens
from tastemaker.auth.identity import Identity
from tastemaker.auth.origins import referring_path
from tastemaker.auth.permissions import AdminUser, AnnotatorUser, GuardedRoute, ViewerUser
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import Annotator, Project
from tastemaker.errors import Conflict, NotFound, TastemakerError
from tastemaker.learning.version_metrics import NOTHING, NoiseFloor
from tastemaker.pages.deps import (
    Body,
    CurrentProject,
    EngineDep,
    Id,
    ReadSession,
    SettingsDep,
)
from tastemaker.pages.render import kinds_of, render, see_other, shell
from tastemaker.scores import people
from tastemaker.scores.agreement import annotator_noise

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")

ROLES = {"viewer": "look", "annotator": "score and review", "admin": "do everything"}
SCOPES = {"read": "read", "score": "read and score", "admin": "do everything"}  # of a token
TOKEN_DAYS = {7: "a week", 30: "30 days", 90: "90 days", 365: "a year"}


@router.get("/projects/{project_id}/people")
def page(
    request: Request,
    session: ReadSession,
    project: CurrentProject,
    user: ViewerUser,
) -> Response:
    return _page(request, session, project, user)


@router.post("/projects/{project_id}/people")
def add(
    request: Request,
    engine: EngineDep,
    user: AdminUser,
    project_id: Id,
    name: Annotated[str, Form()] = "",
    password: Annotated[str, Form()] = "",
    role: Annotated[str, Form()] = "annotator",
) -> Response:
    try:
        with writing(engine) as session:
            accounts.add(session, name, password, role)
    except TastemakerError as error:
        with reading(engine) as session:
            project = session.get(Project, project_id)
            if project is None:
                raise
            typed = {"name": name, "role": role}
            return _page(request, session, project, user, typed, error)
    return see_other(f"/projects/{project_id}/people")


@router.post("/people/{person_id}/disable")
def disable(
    request: Request, engine: EngineDep, user: AdminUser, person_id: Id,
    back: Annotated[bool, Form()] = False,
) -> Response:  # fmt: skip
    """Shut somebody out, or with `back` let them in again."""
    with writing(engine) as session:
        _disable(session, user, person_id, not back)
    return see_other(referring_path(request) or "/")


@router.post("/people/{person_id}/role")
def set_role(
    request: Request, engine: EngineDep, user: AdminUser, person_id: Id,
    role: Annotated[str, Form()] = "",
) -> Response:  # fmt: skip
    with writing(engine) as session:
        _set_role(session, user, person_id, role)
    return see_other(referring_path(request) or "/")


@router.post("/people/{person_id}/password")
def set_password(
    _: AdminUser,
    request: Request,
    engine: EngineDep,
    person_id: Id,
    password: Annotated[str, Form()] = "",
) -> Response:
    with writing(engine) as session:
        accounts.set_password(session, _person(session, person_id), password)
    return see_other(referring_path(request) or "/")


# --- API tokens ----------------------------------------------------------------------------------


@router.post("/projects/{project_id}/people/tokens")
def make_token(
    request: Request,
    engine: EngineDep,
    settings: SettingsDep,
    user: AnnotatorUser,
    project_id: Id,
    name: Annotated[str, Form()] = "",
    scope: Annotated[str, Form()] = "read",
    days: Annotated[int, Form()] = tokens.DAYS,
) -> Response:
    """Shows the token, once: it stands in this answer only."""
    token, error = "", None
    try:
        with writing(engine) as session:
            token, _ = tokens.create(session, settings, user, name, scope, days)
    except TastemakerError as refused:
        error = refused
    with reading(engine) as session:
        project = projects.get(session, project_id)
        answer = _page(request, session, project, user, token=token, token_error=error)
    answer.headers["Cache-Control"] = "no-store"
    return answer


@router.post("/tokens/{token_id}/revoke")
def end_token(request: Request, engine: EngineDep, user: AnnotatorUser, token_id: Id) -> Response:
    with writing(engine) as session:
        tokens.revoke(session, user, token_id)
    return see_other(referring_path(request) or "/")


class NewToken(Body):
    name: str
    scope: Literal["read", "score", "admin"] = "read"
    days: int = tokens.DAYS


@api.get("/tokens")
def list_tokens(user: ViewerUser, session: ReadSession) -> list[dict[str, Any]]:
    """Your API tokens, without the tokens themselves; for an admin everybody's."""
    return [token.as_json() for token in tokens.list_all(session, user)]


@api.post("/tokens", status_code=201)
def create_token(
    response: Response, engine: EngineDep, settings: SettingsDep, user: AnnotatorUser,
    body: NewToken,
) -> dict[str, Any]:  # fmt: skip
    """A new API token of yours. `token` is shown this once; send it as `Authorization: Bearer`."""
    with writing(engine) as session:
        token, facts = tokens.create(session, settings, user, body.name, body.scope, body.days)
    response.headers["Cache-Control"] = "no-store"
    return facts.as_json() | {"token": token}


@api.delete("/tokens/{token_id}", status_code=204)
def revoke_token(engine: EngineDep, user: AnnotatorUser, token_id: Id) -> None:
    """End an API token, at once; an admin may end anybody's."""
    with writing(engine) as session:
        tokens.revoke(session, user, token_id)


# --- the same for programs -----------------------------------------------------------------------


class NewPerson(Body):
    name: str
    password: str = ""
    role: str = "annotator"


@api.get("/projects/{project_id}/people")
def show_agreement(_: ViewerUser, session: ReadSession, project: CurrentProject) -> dict[str, Any]:
    """Per person: images, bias, own noise; per pair: how far apart. In points of 0–10; where labels
    are classes, `error` is the share of images on which they differ, and the rest is null."""
    agreement = people.agreement(session, project)
    habits = [
        asdict(habit) | {"noise": noise_json(_noise(session, project, habit.person_id))}
        for habit in agreement.habits
    ]
    return asdict(agreement) | {"habits": habits, "aggregate": project.aggregate}


@api.get("/people")
def list_people(_: AdminUser, session: ReadSession) -> list[dict[str, Any]]:
    """Everybody who scores or may, without passwords."""
    return [about(person) for person in accounts.list_all(session)]


class Access(Body):
    disabled: bool


class NewRole(Body):
    role: Literal["admin", "annotator", "viewer"]


class NewPassword(Body):
    password: str


@api.post("/people/{person_id}/disable")
def disable_person(
    engine: EngineDep, user: AdminUser, person_id: Id, body: Access
) -> dict[str, Any]:
    """Shut somebody out, or let them in again."""
    with writing(engine) as session:
        return about(_disable(session, user, person_id, body.disabled))


@api.post("/people/{person_id}/role")
def change_role(engine: EngineDep, user: AdminUser, person_id: Id, body: NewRole) -> dict[str, Any]:
    """What somebody may do from now on: everything (admin), score (annotator) or look (viewer)."""
    with writing(engine) as session:
        return about(_set_role(session, user, person_id, body.role))


@api.post("/people/{person_id}/password")
def change_password(
    _: AdminUser, engine: EngineDep, person_id: Id, body: NewPassword
) -> dict[str, Any]:
    """Set a password; whoever was signed in under the old one is signed out."""
    with writing(engine) as session:
        person = _person(session, person_id)
        accounts.set_password(session, person, body.password)
        return about(person)


@api.post("/people", status_code=201)
def add_person(_: AdminUser, engine: EngineDep, body: NewPerson) -> dict[str, Any]:
    """Add somebody who may sign in; without a password they can only be chosen on this machine."""
    with writing(engine) as session:
        return about(accounts.add(session, body.name, body.password, body.role))


def about(person: Annotator) -> dict[str, Any]:
    """What may be shown of a person: never the password's hash."""
    return {
        "id": person.id, "name": person.name, "role": person.role,
        "signs_in": bool(person.password_hash), "disabled": person.disabled,
    }  # fmt: skip


def noise_json(noise: NoiseFloor | None) -> dict[str, Any]:
    """A person's σ with its interval and how many pairs it is from; all null but `pairs` where
    nothing was asked again."""
    sigma, mae = (noise.sigma, noise.mae) if noise else (NOTHING, NOTHING)
    return sigma.flat("sigma", n=False) | {"mae_floor": mae.value, "pairs": sigma.n}


# --- what the page shows -------------------------------------------------------------------------


def _page(
    request: Request,
    session: Session,
    project: Project,
    user: Identity,
    typed: dict[str, str] | None = None,
    error: TastemakerError | None = None,
    *,
    token: str = "",
    token_error: TastemakerError | None = None,
) -> Response:
    """With an `error`, the form comes back as it was filled in, but for the password. `token` is
    one that was made just now."""
    refused = error or token_error
    agreement = people.agreement(session, project)
    context = {
        "agreement": agreement,
        "noise": {h.person_id: _noise(session, project, h.person_id) for h in agreement.habits},
        "aggregate": scores.aggregates_of(project)[project.aggregate],
        "kinds": kinds_of(request, project),
        "people": [about(person) for person in accounts.list_all(session)],
        "me": user.person(session).id,
        "is_admin": user.is_admin,
        "signs_in": bool(request.app.state.settings.admin_password),
        "by_header": bool(request.app.state.settings.sign_in_header),
        "by_proxy": user.by_proxy,
        "shortest": accounts.SHORTEST_PASSWORD,
        "tokens": tokens.list_all(session, user),
        "scopes": SCOPES,
        "grants": [scope for scope in SCOPES if tokens.grants(user, scope)],
        "token": token,
        "token_days": TOKEN_DAYS,
        "token_error": token_error,
        "roles": ROLES,
        "typed": typed or {"name": "", "role": "annotator"},
        "error": error,
    }
    return render(
        request, "people.html", None, shell(session, project, "people") | context,
        status=refused.status if refused else 200,
    )  # fmt: skip


def _noise(session: Session, project: Project, person_id: int) -> NoiseFloor | None:
    return annotator_noise(session, project, session.get(Annotator, person_id))


def _disable(session: Session, user: Identity, person_id: int, disabled: bool) -> Annotator:
    person = _person(session, person_id)
    if disabled and person.id == user.person(session).id:
        raise Conflict("Nobody shuts out whom they are here as.", "Another admin can.")
    accounts.disable(session, person, disabled)
    return person


def _set_role(session: Session, user: Identity, person_id: int, role: str) -> Annotator:
    person = _person(session, person_id)
    if person.id == user.person(session).id:
        raise Conflict("Nobody changes what they may do themselves.", "Another admin can.")
    accounts.set_role(session, person, role)
    return person


def _person(session: Session, person_id: int) -> Annotator:
    person = session.get(Annotator, person_id)
    if person is None or person.proxy:
        raise NotFound("There is no such person.", "Look at the list again.")
    return person
