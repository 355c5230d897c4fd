"""Signing in and out, where this server has a password; choosing who scores, where it has none."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response

from tastemaker.auth import accounts, identity
from tastemaker.auth.identity import Who
from tastemaker.auth.lanes import PASSWORDS
from tastemaker.auth.origins import referring_path, safe_redirect_path
from tastemaker.auth.permissions import AnyVisitor, GuardedRoute
from tastemaker.database.sessions import reading, writing
from tastemaker.errors import Invalid
from tastemaker.pages.deps import EngineDep, SettingsDep
from tastemaker.pages.render import render, see_other

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)


@router.get("/login")
def page(_: AnyVisitor, request: Request, settings: SettingsDep, next: str = "/") -> Response:
    if not settings.admin_password:
        return see_other("/")
    return _page(request, safe_redirect_path(next))


@router.post("/login")
@PASSWORDS
def sign_in(
    _: AnyVisitor,
    request: Request,
    settings: SettingsDep,
    engine: EngineDep,
    name: Annotated[str, Form()] = "",
    password: Annotated[str, Form()] = "",
    next: Annotated[str, Form()] = "/",
) -> Response:
    if not settings.admin_password:
        return see_other("/")
    next = safe_redirect_path(next)
    user = identity.password_identity(request, name, password)
    if user.who == Who.NOBODY:
        return _page(request, next, name=name, wrong=True)
    with writing(engine) as session:
        identity.sign_out(session, request.cookies.get(identity.SESSION_COOKIE, ""))
        token = identity.sign_in(session, settings, user)
        device = identity.device_cookie(session, name)
    response = see_other(next)
    _set_cookie(request, response, identity.SESSION_COOKIE, token)
    _set_cookie(request, response, identity.DEVICE_COOKIE, device, identity.DEVICE_LIFETIME)
    return response


@router.post("/logout")
def sign_out(_: AnyVisitor, request: Request, engine: EngineDep) -> Response:
    with writing(engine) as session:
        identity.sign_out(session, request.cookies.get(identity.SESSION_COOKIE, ""))
    response = see_other("/login")
    response.delete_cookie(identity.SESSION_COOKIE, httponly=True, samesite="lax")
    return response


@router.post("/person")
def choose(
    _: AnyVisitor,
    request: Request,
    settings: SettingsDep,
    engine: EngineDep,
    name: Annotated[str, Form()] = "",
) -> Response:
    """From now on this browser scores as that person. Only where nobody signs in."""
    if settings.admin_password:
        raise Invalid("People sign in here.", "Sign out, then in again under the other name.")
    with reading(engine) as session:
        person = accounts.by_name(session, name)
        if person.disabled:
            raise Invalid(f"“{person.name}” does not score here any more.", "Choose another name.")
    response = see_other(referring_path(request) or "/")
    _set_cookie(request, response, identity.PERSON_COOKIE, str(person.id))
    return response


def _page(request: Request, next: str, name: str = "", wrong: bool = False) -> Response:
    context = {"project": None, "here": "login", "next": next, "name": name, "wrong": wrong}
    return render(request, "login.html", None, context, status=401 if wrong else 200)


def _set_cookie(
    request: Request, response: Response, name: str, value: str,
    lifetime: timedelta = identity.SESSION_LIFETIME,
) -> None:  # fmt: skip
    response.set_cookie(
        name,
        value,
        max_age=int(lifetime.total_seconds()),
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
    )
