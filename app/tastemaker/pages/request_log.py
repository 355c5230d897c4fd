"""Around everything else: each request gets an id, a line in the log, and is counted.

The id is the one that a proxy gave (`X-Request-ID`), or a new one; the answer carries it, and an
error shows it as its reference, so that a person can name the line of the log that tells of it.
"""

import logging
import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tastemaker.auth.identity import NOBODY, Identity, Who
from tastemaker.auth.middleware import SAFE_METHODS
from tastemaker.pages.metrics import Metrics
from tastemaker.processes import logs

log = logging.getLogger(__name__)

REQUEST_ID = "X-Request-ID"
SANE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{7,63}")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
PROBES = ("/healthz", "/readyz", "/metrics")  # asked every few seconds
QUIET = (*PROBES, "/static", "/images/")
# A page asks for them by itself.
POLLED = ("/progress", "/jobs/list", "/training", "/waiting", "/add/encoder")


class RequestLog:
    """The outermost ASGI middleware: what is refused further in is told as well."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        given = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = given if SANE.fullmatch(given) else secrets.token_hex(8)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        began = time.perf_counter()
        with logs.about(request=request_id):
            try:
                await self.app(scope, receive, send_with_id)
            finally:
                self._note(scope, status, time.perf_counter() - began)
        return None

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        route, state = route_of(scope), scope["state"]
        refused = status >= 400 and method not in SAFE_METHODS
        kind = str(state.get("refusal") or status) if refused else ""
        self.metrics.answered(method, route, status, seconds, kind)
        level = logging.DEBUG if route.startswith(QUIET) or route.endswith(POLLED) else logging.INFO
        level = logging.WARNING if status >= 500 else level
        logs.write(
            log, level, "request",
            method=method, route=route, status=status, ms=round(1000 * seconds, 1),
            person=person_of(state.get("user", NOBODY)),
        )  # fmt: skip


def route_of(scope: Scope) -> str:
    """The template of the route that answered, never an address as it was typed: `/jobs/{job_id}`;
    “none” where a request was refused before, or there is no such page."""
    template = getattr(scope.get("route"), "path", None)
    if template is None and scope["path"].startswith("/static/"):
        return "/static"
    return template or "none"


def person_of(user: Identity) -> str:
    """Who asked, without their name: the owner of the server, or the number of a person."""
    return str(user.annotator_id) if user.who == Who.PERSON else user.who.value
