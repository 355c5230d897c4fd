"""The doors: which requests come in, and what every answer carries.

A page that the user visits elsewhere can make their browser call this server. So the Host name
must be one of ours (or a name that was pointed at 127.0.0.1 would do), a request that changes
something must come from our own pages, and nothing is shared across origins.
"""

import base64
import binascii
import hashlib
import hmac
import ipaddress
import logging
import secrets
import threading
import time
from collections import deque
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlsplit

from anyio.to_thread import run_sync
from fastapi import Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy import Engine
from sqlmodel import Session, col, delete, select
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.config import Settings
from app.db import reading
from app.errors import TastemakerError
from app.tables import LoginSession, now
from app.web.render import answer, by_htmx, for_program

log = logging.getLogger(__name__)

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
OPEN_PATHS = ("/login", "/healthz")  # answered without a login, as is /static/
COOKIE = "tastemaker_session"
SIGNED_IN_FOR = timedelta(days=30)
MAX_BODY = 2**20  # of anything but an upload, which counts for itself

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Refused(TastemakerError):
    status = 403


class NotSignedIn(TastemakerError):
    status = 401


class TooLarge(TastemakerError):
    status = 413


class TooManyTries(TastemakerError):
    status = 429


class Unexpected(TastemakerError):
    status = 500


class Doors:
    """ASGI middleware around the whole application, so that no route can be forgotten."""

    def __init__(
        self, app: ASGIApp, settings: Settings, engine: Engine, tries: "FailedTries", served_on: str
    ) -> None:
        self.app, self.settings, self.engine, self.tries = app, settings, engine, tries
        self.hosts = known_hosts(settings, served_on)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        started = False

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                private = bool(self.settings.admin_password)
                _add_headers(scope, MutableHeaders(scope=message), private)
            await send(message)

        request = Request(scope, _limited(scope, receive))
        try:
            refusal = self._refusal(request) or await self._without_login(request)
            if refusal is not None:
                return await refusal(scope, receive, send_guarded)
            inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
            await self.app(inner, request.receive, send_guarded)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if started:
                raise
            apology = Unexpected(
                "Something went wrong inside Tastemaker; this request changed nothing.",
                "Everything saved before is safe. Try again; the server's log says more.",
            )
            await answer(request, apology)(scope, receive, send_guarded)
        return None

    def _refusal(self, request: Request) -> Response | None:
        if host_name(request.headers.get("host", "")) not in self.hosts:
            return answer(
                request,
                Refused(
                    "This server does not answer under that name.",
                    "Use the address it printed at start, or add the name to "
                    "TASTEMAKER_ALLOWED_HOSTS.",
                ),
            )
        if request.method not in SAFE_METHODS and not from_our_own_pages(request):
            return answer(
                request,
                Refused(
                    "This request did not come from Tastemaker's own pages; nothing was changed.",
                    "Programs use /api/v1 with Content-Type: application/json.",
                ),
            )
        if is_limited(request.scope) and _announced(request) > MAX_BODY:
            return answer(request, too_large())
        return None

    async def _without_login(self, request: Request) -> Response | None:
        path = request.url.path
        if not self.settings.admin_password or path in OPEN_PATHS or path.startswith("/static/"):
            return None
        if await run_sync(signed_in, self.engine, request.cookies.get(COOKIE, "")):
            return None
        challenge = {}
        if for_program(request):
            authorization = request.headers.get("authorization", "")
            if authorization:
                try:
                    if basic_login(self.settings, self.tries, address(request), authorization):
                        return None
                except TooManyTries as error:
                    return answer(request, error)
            challenge = {"WWW-Authenticate": 'Basic realm="Tastemaker", charset="UTF-8"'}
        elif by_htmx(request):
            return Response(status_code=401, headers={"HX-Redirect": "/login"})
        elif request.method == "GET" and not path.startswith("/images/"):
            there = path + (f"?{request.url.query}" if request.url.query else "")
            return RedirectResponse(f"/login?next={quote(there, safe='/')}", status_code=303)
        response = answer(
            request, NotSignedIn("You are not signed in.", "Sign in; nothing was changed.")
        )
        response.headers.update(challenge)
        return response


# --- where a request comes from ------------------------------------------------------------------


def known_hosts(settings: Settings, served_on: str = "") -> frozenset[str]:
    """Host names, without port and in lower case, that are answered. A wildcard address such as
    0.0.0.0 is no name; there the allowed hosts must be set."""
    extra = [*settings.allowed_hosts.split(","), served_on]
    names = {host_name(name.strip()) for name in extra if name.strip()}
    return frozenset(name for name in names | set(LOOPBACK) if name and not _is_wildcard(name))


def host_name(host: str) -> str:
    """The name in a Host header: `[::1]:8000` → `::1`. Empty for anything malformed."""
    if host.count(":") > 1 and not host.startswith("["):
        host = f"[{host}]"  # a bare IPv6 address, as in a setting
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
    except ValueError:
        return ""
    if parts.username or parts.path or parts.query or parts.fragment:
        return ""
    return (parts.hostname or "").rstrip(".")


def _is_wildcard(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_unspecified
    except ValueError:
        return False


def from_our_own_pages(request: Request) -> bool:
    """Whether an unsafe request may go on. A browser says where it comes from; a request without
    either header comes from a program, which must speak JSON: that no web page can send without
    asking first."""
    headers = request.headers
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is None and origin is None:
        kind = headers.get("content-type", "").split(";")[0].strip().lower()
        return for_program(request) and kind == "application/json"
    if site is not None and site not in ("same-origin", "none"):
        return False
    if origin is None:
        return site == "same-origin"
    parts = urlsplit(origin)
    same = parts.netloc.lower() == headers.get("host", "").lower()
    return parts.scheme in ("http", "https") and same


def address(request: Request) -> str:
    return request.client.host if request.client else ""


def is_limited(scope: Scope) -> bool:
    """Uploads have their own, larger limit."""
    return not scope["path"].endswith("/add/files")


def too_large() -> TooLarge:
    return TooLarge("This request is larger than any form here.", "Send less at once.")


def _announced(request: Request) -> int:
    length = request.headers.get("content-length", "")
    return int(length) if length.isdecimal() else 0


def _limited(scope: Scope, receive: Receive) -> Receive:
    """Count the body, whatever was announced, and stop beyond the limit."""
    if not is_limited(scope):
        return receive
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MAX_BODY:
            raise too_large()
        return message

    return counted


def _add_headers(scope: Scope, headers: MutableHeaders, private: bool) -> None:
    """`private`: behind a password, where no page may stay readable after signing out."""
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    if scope["path"].startswith("/static/"):
        lasting = b"v=" in scope["query_string"]
        cache = "public, max-age=31536000, immutable" if lasting else "no-cache"
        headers.setdefault("Cache-Control", cache)
    else:
        headers.setdefault("Cache-Control", "no-store" if private else "private, no-cache")
        headers.add_vary_header("HX-Request")


# --- signing in ----------------------------------------------------------------------------------


class FailedTries:
    """Wrong passwords by address. After `limit` of them within `window` seconds, no further try
    from there is looked at."""

    def __init__(self, limit: int = 10, window: float = 600.0, clock: Any = time.monotonic) -> None:
        self.limit, self.window, self.clock = limit, window, clock
        self._lock = threading.Lock()
        self._failed: dict[str, deque[float]] = {}

    def check(self, who: str) -> None:
        """Raises `TooManyTries`."""
        with self._lock:
            self._forget()
            if len(self._failed.get(who, ())) >= self.limit:
                raise TooManyTries(
                    "Too many wrong passwords from this address.",
                    "Wait ten minutes, then try again.",
                )

    def add(self, who: str) -> None:
        with self._lock:
            self._failed.setdefault(who, deque(maxlen=self.limit)).append(self.clock())

    def _forget(self) -> None:
        oldest = self.clock() - self.window
        for who, times in list(self._failed.items()):
            while times and times[0] < oldest:
                times.popleft()
            if not times:
                del self._failed[who]


def right_password(settings: Settings, tries: FailedTries, who: str, password: str) -> bool:
    """Compare in constant time. Raises `TooManyTries`."""
    tries.check(who)
    given, kept = (_digest(p) for p in (password, settings.admin_password))
    if settings.admin_password and hmac.compare_digest(given, kept):
        return True
    tries.add(who)
    return False


def basic_login(settings: Settings, tries: FailedTries, who: str, authorization: str) -> bool:
    """HTTP Basic as user `admin`, for programs. Raises `TooManyTries`."""
    kind, _, encoded = authorization.partition(" ")
    if kind.lower() != "basic":
        return False
    try:
        user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return False
    return right_password(settings, tries, who, password) and user == "admin"


def signed_in(engine: Engine, token: str) -> bool:
    """Whether the cookie's value names a session that has not ended."""
    if not token:
        return False
    with reading(engine) as session:
        row = session.exec(
            select(LoginSession).where(
                LoginSession.token_sha256 == _digest(token).hex(),
                col(LoginSession.expires_at) > now(),
            )
        ).first()
    return row is not None


def sign_in(session: Session) -> str:
    """A new signed-in session. Returns the cookie's value, which is stored only as a hash."""
    token = secrets.token_urlsafe(32)
    session.execute(delete(LoginSession).where(col(LoginSession.expires_at) <= now()))
    session.add(LoginSession(token_sha256=_digest(token).hex(), expires_at=now() + SIGNED_IN_FOR))
    return token


def sign_out(session: Session, token: str) -> None:
    gone = col(LoginSession.token_sha256) == _digest(token).hex()
    session.execute(delete(LoginSession).where(gone))


def local_path(path: str) -> str:
    """A page of this site to go on to after signing in, and nothing else."""
    parts = urlsplit(path)
    plain = not parts.scheme and not parts.netloc and "\\" not in path and path.isprintable()
    return path if plain and path.startswith("/") and not path.startswith("//") else "/"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
