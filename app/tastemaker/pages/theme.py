"""Dark or light: a choice of this browser, kept in a cookie; without one, as the system is."""

from typing import Annotated, Literal

from fastapi import APIRouter, Form, Request, Response

from tastemaker.auth.origins import referring_path
from tastemaker.auth.permissions import GuardedRoute, ViewerUser
from tastemaker.pages.render import see_other

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)

COOKIE = "theme"
A_YEAR = 365 * 24 * 3600  # seconds


@router.post("/theme")
def choose(
    _: ViewerUser, request: Request, theme: Annotated[Literal["dark", "light", ""], Form()] = ""
) -> Response:
    """Back to the page it was chosen on."""
    response = see_other(referring_path(request) or "/")
    if theme:
        response.set_cookie(COOKIE, theme, max_age=A_YEAR, samesite="lax", httponly=True)
    else:
        response.delete_cookie(COOKIE, samesite="lax", httponly=True)
    return response
