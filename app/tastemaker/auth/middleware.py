"""Around every request: whether it may come in at all, who sends it, what the answer carries.

A page that the user visits elsewhere can make their browser call this server. So the Host name
must be one of ours (or a name that was pointed at 127.0.0.1 would do), a request that changes
something must come from our own pages, and nothing is shared across origins.
"""

import logging
from collections.abc import Callable
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy import Engine
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tastemaker.auth import identity, lanes, tokens
from tastemaker.auth.connections import patient
from tastemaker.auth.identity import NOBODY, Who
from tastemaker.auth.origins import (
    LIBRARY_HEADER,
    by_htmx,
    check_library,
    for_program,
    foreign_request,
    from_our_own_pages,
    host_name,
    known_hosts,
    referring_path,
)
from tastemaker.auth.proxies import name_by_proxy
from tastemaker.config import Settings
from tastemaker.errors import (
    AnotherLibrary,
    Forbidden,
    NotSignedIn,
    TastemakerError,
    TooManyAttempts,
    TooSlow,
    Unavailable,
    Unexpected,
)

log = logging.getLogger(__name__)

GONE = 499  # as nginx calls it in its log
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
OPEN_PATHS = ("/login", "/healthz", "/readyz")  # answered without a login, as is /static/

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "font-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class SecurityMiddleware:
    """ASGI middleware around the whole application, so that no route can be forgotten."""

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        engine: Engine,
        served_on: str,
        respond: Callable[[Request, TastemakerError], Response],
    ) -> None:
        """`respond` makes of an error what the asker can read: a page, a toast or JSON."""
        self.app, self.settings, self.engine, self.respond = app, settings, engine, respond
        self.basic_logins = identity.BasicLogins()
        self.tokens = tokens.Tokens()
        self.hosts = known_hosts(settings, served_on)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        started = False
        receive = patient(receive, self.settings.idle_seconds)

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                private = bool(self.settings.admin_password)
                if message["status"] == TooSlow.status:  # the rest of the body is not waited for
                    MutableHeaders(scope=message)["Connection"] = "close"
                _add_headers(scope, MutableHeaders(scope=message), private)
            await send(message)

        request = Request(scope, receive)
        request.state.user = NOBODY
        try:
            refusal = self._refuse_origin(request) or await self._identify(request)
            refusal = refusal or self._refuse_library(request)
            if refusal is not None:
                return await refusal(scope, receive, send_guarded)
            inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
            try:
                await self.app(inner, receive, send_guarded)
            finally:
                scope["route"] = inner.get("route")  # for whoever logs it
        except ClientDisconnect:  # amid its own request: only the log reads this answer
            await Response(status_code=GONE)(scope, receive, send_guarded)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if started:
                raise
            apology = Unexpected(
                "Something went wrong inside Tastemaker; this request changed nothing.",
                "Everything saved before is safe. Try again; the server's log says more.",
            )
            await self.respond(request, apology)(scope, receive, send_guarded)
        return None

    def _refuse_origin(self, request: Request) -> Response | None:
        """The answer to a request under a strange name or from a strange page; else None."""
        if (name := host_name(request.headers.get("host", ""))) not in self.hosts:
            return self.respond(
                request,
                Forbidden(
                    "This server does not answer under that name; nothing was changed.",
                    f"Use the address it printed at start, or add {name[:80] or 'the name'} to "
                    "TASTEMAKER_ALLOWED_HOSTS and start it again.",
                ),
            )
        # No page elsewhere can make a browser send a token; what a cookie alone lets in, it can.
        by_token_alone = tokens.bearer(request) is not None and "cookie" not in request.headers
        if by_token_alone or request.method in SAFE_METHODS:
            return None
        if not from_our_own_pages(request):
            return self.respond(request, foreign_request(request))
        return None

    def _refuse_library(self, request: Request) -> Response | None:
        """The answer to a request that is meant for another library; else None."""
        try:
            check_library(request, request.headers.get(LIBRARY_HEADER))
        except AnotherLibrary as error:
            return self.respond(request, error)
        return None

    async def _identify(self, request: Request) -> Response | None:
        """The answer to a request of nobody who is signed in; None where it may go on, with
        `state.user` set to who sends it."""
        path = request.url.path
        opened = path in OPEN_PATHS or path.startswith("/static/")
        if not opened and (token := tokens.bearer(request)) is not None:
            return await self._identify_by_token(request, token)
        if not self.settings.admin_password:
            request.state.user = identity.owner_identity(request)
            return None
        if opened:
            return None
        try:
            name = name_by_proxy(request, self.settings)
            if name is not None:
                request.state.user = await lanes.SESSIONS.run(
                    identity.proxy_identity, self.engine, name, request.app.state.annotator_id
                )
                return None
        except Forbidden as error:
            return self.respond(request, error)
        owner_id = request.app.state.annotator_id
        token = request.cookies.get(identity.SESSION_COOKIE, "")
        request.state.user = await lanes.SESSIONS.run(
            identity.session_identity, self.engine, self.settings, token, owner_id
        )
        if request.state.user.who != Who.NOBODY:
            return None
        challenge = {}
        authorization = request.headers.get("authorization", "")
        # Programs also follow what the API points to: thumbnails.
        if authorization and (for_program(request) or path.startswith("/images/")):
            try:
                request.state.user = await self.basic_logins.identity(request, authorization)
            except (TooManyAttempts, Unavailable) as error:
                return self.respond(request, error)
            if request.state.user.who != Who.NOBODY:
                return None
        if for_program(request):
            # To a page of ours a browser would not pass a challenge on: it asks for a name itself.
            if LIBRARY_HEADER not in request.headers:
                challenge = {"WWW-Authenticate": 'Basic realm="Tastemaker", charset="UTF-8"'}
        elif by_htmx(request):
            back = referring_path(request)
            login = _login_for(back) if back else "/login"
            return Response(status_code=401, headers={"HX-Redirect": login})
        elif request.method == "GET" and not path.startswith("/images/"):
            there = path + (f"?{request.url.query}" if request.url.query else "")
            return RedirectResponse(_login_for(there), status_code=303)
        response = self.respond(request, identity.not_signed_in())
        response.headers.update(challenge)
        return response

    async def _identify_by_token(self, request: Request, token: str) -> Response | None:
        """As `_identify`: a request that brings a token is the token's, whatever its cookies are,
        and on a server without a password too."""
        look_up = self.tokens.identity
        try:
            request.state.user = await lanes.SESSIONS.run(look_up, request, self.engine, token)
        except (TooManyAttempts, Unavailable) as error:
            return self.respond(request, error)
        if request.state.user.who != Who.NOBODY:
            return None
        refusal = NotSignedIn(
            "This token is not known here; it may have expired or been revoked. Nothing was"
            " changed.",
            "Make a new one under People, API tokens.",
        )
        response = self.respond(request, refusal)
        response.headers["WWW-Authenticate"] = 'Bearer realm="Tastemaker", error="invalid_token"'
        return response


def _login_for(there: str) -> str:
    """The page to sign in on, which then goes on to the page `there`."""
    return f"/login?next={quote(there, safe='/')}"


def _add_headers(scope: Scope, headers: MutableHeaders, private: bool) -> None:
    """`private`: behind a password, where no page may stay readable after signing out."""
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    headers.setdefault(LIBRARY_HEADER, scope["app"].state.library)
    if scope["path"].startswith("/static/"):
        lasting = b"v=" in scope["query_string"]
        cache = "public, max-age=31536000, immutable" if lasting else "no-cache"
        headers.setdefault("Cache-Control", cache)
    else:
        headers.setdefault("Cache-Control", "no-store" if private else "private, no-cache")
        headers.add_vary_header("HX-Request")
