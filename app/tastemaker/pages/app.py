"""The web application: `create_app(settings)`."""

import functools
import logging
from types import ModuleType
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InternalError, OperationalError
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match

from tastemaker import __version__, projects
from tastemaker.auth.failed_logins import FailedLogins
from tastemaker.auth.middleware import SecurityMiddleware
from tastemaker.auth.permissions import GuardedRoute
from tastemaker.auth.proxies import TrustedProxies, check_sign_in_header
from tastemaker.auth.sub_path import SubPath, check_root
from tastemaker.config import Settings, shipped
from tastemaker.database import installation
from tastemaker.database.migration import migrate
from tastemaker.database.sessions import in_words, writing
from tastemaker.errors import Conflict, Invalid, NotFound, TastemakerError, of_the_disk
from tastemaker.pages import (
    add,
    audits,
    classes,
    compare,
    confusion,
    encoders,
    folders,
    grid,
    images,
    jobs,
    kinds,
    library,
    library_changes,
    library_exports,
    login,
    metrics,
    pairs,
    people,
    predictions,
    priors,
    publish,
    readiness,
    results,
    review,
    routers,
    score,
    score_tables,
    scores,
    series,
    settings,
    slices,
    stars,
    test_runs,
    theme,
    try_it,
    versions,
    write_back,
)
from tastemaker.pages import projects as first_page
from tastemaker.pages.openapi import tell_refusals
from tastemaker.pages.render import error_response
from tastemaker.pages.request_log import RequestLog
from tastemaker.pictures.full_size import FullSize

log = logging.getLogger(__name__)

# A request is held against the routes in this order, so what every key press asks for comes first.
PAGES = (
    images, score, scores, first_page, login, theme, grid, pairs, review, confusion, classes,
    library, library_changes, library_exports, versions, results, compare, slices, publish,
    routers, test_runs, audits, try_it, predictions, add, score_tables, stars, series, write_back,
    folders, people, settings, priors, encoders, jobs, metrics, readiness,
)  # fmt: skip
MEANT = {"/projects": "/"}  # what a form is sent to, and the page that shows it


def create_app(config: Settings | None = None, served_on: str = "") -> FastAPI:
    """The application on the configured database, which is created or upgraded first.

    `served_on` is the address the server binds to: its name is answered too. Raises
    `TastemakerError` when the database is of a newer version.
    """
    config = config or Settings()
    check_sign_in_header(config)
    own = [getattr(route, "path", "") for routes in all_routers() for route in routes.routes]
    check_root(config.root_path, [*own, "/static"])
    engine = migrate(config)
    with writing(engine) as session:
        annotator_id = projects.annotator(session, config.annotator).id
        library = installation.identity(session).library
    app = FastAPI(
        title="Tastemaker",
        version=__version__,
        servers=[{"url": config.root_path}] if config.root_path else None,
        openapi_url="/api/v1/openapi.json",
        docs_url=None,  # Swagger's page needs a CDN and inline scripts
        redoc_url=None,
        redirect_slashes=False,  # to a whole address, which leads out of a sub-path
    )
    app.state.settings, app.state.engine = config, engine
    app.state.full_size = FullSize(config)
    app.state.library = library
    app.state.annotator_id, app.state.failed_logins = annotator_id, FailedLogins()
    app.add_middleware(
        SecurityMiddleware,
        settings=config,
        engine=engine,
        served_on=served_on,
        respond=error_response,
    )
    app.state.metrics = metrics.Metrics(config, engine)
    app.add_middleware(RequestLog, metrics=app.state.metrics)
    app.add_middleware(TrustedProxies, settings=config)
    app.add_middleware(SubPath, root=config.root_path)  # the last one added lies outermost
    app.router.routes += all_routes()
    app.openapi = tell_refusals(app, all_routers())  # type: ignore[method-assign]  # as FastAPI's manual changes its schema
    app.mount("/static", StaticFiles(directory=shipped("static")), name="static")
    app.add_exception_handler(TastemakerError, on_error)
    for broken in (OperationalError, InternalError):
        app.add_exception_handler(broken, on_database_error)
    app.add_exception_handler(OSError, on_disk_error)
    app.add_exception_handler(IntegrityError, on_race)
    for kind in (OverflowError, UnicodeError, DataError):
        app.add_exception_handler(kind, on_unstorable)
    app.add_exception_handler(RequestValidationError, on_bad_request)
    app.add_exception_handler(HTTPException, on_http_error)
    return app


def all_routers() -> list[APIRouter]:
    """Every page's routes and API, in the order in which a request is held against them."""
    return [routes for page in PAGES for routes in routers_of(page)]


@functools.cache
def all_routes() -> list[BaseRoute]:
    """Their routes, made once in a process: the routers' own. FastAPI would make those of an
    included router a second time, and then look a request up twice."""
    together: list[BaseRoute] = []
    for page in PAGES:
        for routes in routers_of(page):
            for route in routes.routes:
                if isinstance(route, GuardedRoute) and (asked := kinds_of_page(page)):
                    route.ask_first(*asked)
                together.append(route)
    return together


def routers_of(page: ModuleType) -> list[APIRouter]:
    """The routers of one page, that of its API the last."""
    found = [getattr(page, name, None) for name in ("router", "api")]
    return [routes for routes in found if routes is not None]


def kinds_of_page(page: ModuleType) -> list[Any]:
    """What keeps a page to the kinds of project that it serves."""
    name = page.__name__.rpartition(".")[2]
    if name in kinds.SCORES_ONLY:
        return [Depends(kinds.only_scores)]
    return [Depends(kinds.only_classes)] if name in kinds.CLASSES_ONLY else []


# --- errors, as FastAPI hands them over ----------------------------------------------------------


def on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, TastemakerError)
    return error_response(request, error)


def on_database_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, DBAPIError)
    known = in_words(error)
    if known is None:
        raise error
    return error_response(request, known)


def on_disk_error(request: Request, error: Exception) -> Response:
    """A full disk, or one that cannot be written, wherever it shows."""
    known = of_the_disk(error)
    if known is None:
        raise error
    return error_response(request, known)


def on_race(request: Request, error: Exception) -> Response:
    """Two did the same at the same moment, and the database let one of them: only where it takes
    several writers at once."""
    reason = str(getattr(error, "orig", error)).splitlines()[0]  # the next names what was typed
    log.warning("two did the same: %s", reason)
    return error_response(
        request,
        Conflict(
            "Somebody else did the same at this moment; nothing was saved here.",
            "Look at what is there now, and try again if it is still needed.",
        ),
    )


def on_unstorable(request: Request, _: Exception) -> Response:
    """A number beyond what a database holds, or text that is none (half a surrogate pair, a zero
    byte): no field of a request is safe from them, so whatever takes one raises it here."""
    return error_response(
        request,
        Invalid(
            "A number in this request is too large, or a text holds what is no character; nothing "
            "was saved.",
            "Look at what was typed or pasted.",
        ),
    )


def on_bad_request(request: Request, error: Exception) -> Response:
    """A value of the wrong kind: in the address, then there is no such page; else in the form."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place, *rest = (str(part) for part in first["loc"])
    if place == "path":
        return error_response(request, no_such_page())
    if first["type"] == "json_invalid":
        return error_response(request, Invalid("The body is not valid JSON."))
    name = ".".join(rest) or "the body"
    return error_response(request, Invalid(f"“{name}” cannot be used: {first['msg']}."))


def on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if request.method == "GET" and (there := page_meant(request)):
        return RedirectResponse(there, status_code=308)
    if error.status_code == 404:
        return error_response(request, no_such_page())
    refusal = TastemakerError(f"This cannot be done here ({error.detail}).")
    refusal.status = error.status_code
    response = error_response(request, refusal)
    response.headers.update(error.headers or {})
    return response


def page_meant(request: Request) -> str:
    """The address of the page that a browser asks for with a slash behind it, or where only a form
    goes; empty where no page is meant."""
    path = str(request.scope["path"]).rstrip("/")
    path = MEANT.get(path, path)
    scope = {**request.scope, "path": path}
    ours = (route for route in all_routes() if isinstance(route, GuardedRoute))
    pages = (route for route in ours if not route.include_in_schema)
    if path == request.scope["path"] or not any(r.matches(scope)[0] == Match.FULL for r in pages):
        return ""
    return quote(path) + (f"?{request.url.query}" if request.url.query else "")


def no_such_page() -> NotFound:
    return NotFound("There is no such page.", "Start from the first page.")
