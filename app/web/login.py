"""Signing in and out, where an admin password is set."""

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response

from app.db import writing
from app.web import security
from app.web.deps import EngineDep, SettingsDep
from app.web.render import render, see_other

router = APIRouter(include_in_schema=False)


@router.get("/login")
def page(request: Request, settings: SettingsDep, next: str = "/") -> Response:
    if not settings.admin_password:
        return see_other("/")
    context = {"project": None, "here": "login", "next": security.local_path(next), "wrong": False}
    return render(request, "login.html", None, context)


@router.post("/login")
def sign_in(
    request: Request,
    settings: SettingsDep,
    engine: EngineDep,
    password: Annotated[str, Form()] = "",
    next: Annotated[str, Form()] = "/",
) -> Response:
    if not settings.admin_password:
        return see_other("/")
    next = security.local_path(next)
    who = security.address(request)
    if not security.right_password(settings, request.app.state.failed_tries, who, password):
        context = {"project": None, "here": "login", "next": next, "wrong": True}
        return render(request, "login.html", None, context, status=401)
    with writing(engine) as session:
        security.sign_out(session, request.cookies.get(security.COOKIE, ""))
        token = security.sign_in(session)
    response = see_other(next)
    response.set_cookie(
        security.COOKIE,
        token,
        max_age=int(security.SIGNED_IN_FOR.total_seconds()),
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
    )
    return response


@router.post("/logout")
def sign_out(request: Request, engine: EngineDep) -> Response:
    with writing(engine) as session:
        security.sign_out(session, request.cookies.get(security.COOKIE, ""))
    response = see_other("/login")
    response.delete_cookie(security.COOKIE, httponly=True, samesite="lax")
    return response
