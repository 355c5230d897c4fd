"""What a proxy that is named in the settings says of a request: whose it is, and from where.

Only the address of the one who really connected counts. The headers X-Forwarded-For and
X-Forwarded-Proto of any other are passed over, and one that says who signed in is refused: nobody
sends it by mistake.
"""

import ipaddress
from typing import Any, cast

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from tastemaker.config import Settings
from tastemaker.errors import Forbidden, Invalid

PEER = "peer"  # in the request's state: whether a named proxy connected


class TrustedProxies:
    """ASGI middleware: notes whether the one who connected is a named proxy, then believes it."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        named = [name.strip() for name in settings.trusted_proxies.split(",") if name.strip()]
        self.app: Any = app
        self._trusted: Any = ()
        if named:
            believing = ProxyHeadersMiddleware(cast(Any, app), named)
            self.app, self._trusted = believing, believing.trusted_hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            address = scope["client"][0] if scope.get("client") else ""
            scope.setdefault("state", {})[PEER] = address in self._trusted
        await self.app(scope, receive, send)


def name_by_proxy(request: Request, settings: Settings) -> str | None:
    """Who a named proxy says has signed in; None where it says nothing, or no header is set for it.
    Raises `Forbidden` where somebody else says so, and where it is said twice."""
    header = settings.sign_in_header
    if not header or not (said := request.headers.getlist(header)):
        return None
    if not getattr(request.state, PEER, False):
        raise Forbidden(
            f"This request says in its header {header} who has signed in, and does not come from a "
            "proxy that may say so; nothing was changed.",
            "Leave the header out, or name the proxy's address in TASTEMAKER_TRUSTED_PROXIES.",
        )
    if len(said) > 1:
        raise Forbidden(
            f"This request has the header {header} twice, so the proxy passes on what others send; "
            "nothing was changed.",
            f"Let the proxy set {header} and take off what came in (nginx: proxy_set_header).",
        )
    try:
        return said[0].encode("latin-1").decode("utf-8").strip() or None
    except UnicodeError:
        return said[0].strip() or None


def check_sign_in_header(settings: Settings) -> None:
    """Raises `Invalid` where the settings would let anybody say who they are."""
    if not settings.sign_in_header:
        return
    name = f"TASTEMAKER_SIGN_IN_HEADER={settings.sign_in_header}"
    named = {one.strip() for one in settings.trusted_proxies.split(",")} - {""}
    if not named or any(_is_everybody(one) for one in named):
        raise Invalid(
            f"{name}: anybody could send that header and be whoever they like.",
            "Name the address of the proxy that sets it in TASTEMAKER_TRUSTED_PROXIES.",
        )
    if not settings.admin_password:
        raise Invalid(
            f"{name}, and no password is set: without one whoever comes is the owner.",
            "Set TASTEMAKER_ADMIN_PASSWORD as well: it is the owner's way in.",
        )


def _is_everybody(named: str) -> bool:
    try:
        return ipaddress.ip_network(named, strict=False).prefixlen == 0
    except ValueError:  # a name, or the path of a socket
        return named == "*"
