"""The program under a path of another host name, as https://example.org/taste/.

No route, template or script knows of it but here: a request is made into the one it would be
without the path, and what the answer points to is put under it. A proxy may pass the path on or
take it off; both come to the same. Cookies are of that path only.
"""

import re
from collections.abc import Iterable
from urllib.parse import urlsplit, urlunsplit

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tastemaker.errors import Invalid

# Of a request, whole addresses of our own pages; of an answer, paths that a browser goes to.
POINTING_BACK = (b"referer", b"hx-current-url")
POINTING_ON = ("location", "hx-redirect", "hx-location", "hx-push-url", "hx-replace-url")
# Every attribute of our templates by which a browser or htmx asks for something. What people wrote
# has its quotes escaped, so none of theirs looks like one.
ADDRESSES = re.compile(
    r'(\s(?:href|src|action|formaction|data-warm|hx-(?:get|post|put|patch|delete))=")/(?!/)'
)


def under(root: str, html: str) -> str:
    """A page whose addresses begin with `root`, which is “/taste” or empty."""
    return ADDRESSES.sub(rf"\1{root}/", html) if root else html


def check_root(root: str, paths: Iterable[str]) -> None:
    """Raise `Invalid` where the program would lie under a name of its own: of “/images/7” nobody
    could tell whether the proxy took “/images” off."""
    first = root.lstrip("/").partition("/")[0]
    if first and first in {path.lstrip("/").partition("/")[0] for path in paths}:
        raise Invalid(
            f"TASTEMAKER_ROOT_PATH={root}: “/{first}” is a path of the program's own.",
            "Choose another one, such as /taste, here and in the proxy.",
        )


class SubPath:
    """ASGI middleware, the outermost one."""

    def __init__(self, app: ASGIApp, root: str) -> None:
        self.app, self.root = app, root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self.root:
            return await self.app(scope, receive, send)

        async def send_under(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._point_on(MutableHeaders(scope=message))
            await send(message)

        headers = [
            (name, self._inside(value) if name in POINTING_BACK else value)
            for name, value in scope["headers"]
        ]
        path = self._without(scope["path"])
        raw = self._without(scope.get("raw_path", scope["path"].encode()).decode("latin-1"))
        inner = {**scope, "path": path, "raw_path": raw.encode("latin-1"), "headers": headers}
        return await self.app(inner, receive, send_under)

    def _without(self, path: str) -> str:
        """“/taste/jobs” and “/jobs” → “/jobs”; “/taste” → “/”."""
        if path == self.root or path.startswith(f"{self.root}/"):
            return path[len(self.root) :] or "/"
        return path

    def _inside(self, address: bytes) -> bytes:
        try:
            parts = urlsplit(address.decode("latin-1"))
            whole = urlunsplit(parts._replace(path=self._without(parts.path)))
        except ValueError:
            return address
        return whole.encode("latin-1")

    def _point_on(self, headers: MutableHeaders) -> None:
        for name in POINTING_ON:
            there = headers.get(name, "")
            if there.startswith("/") and not there.startswith("//"):
                headers[name] = f"{self.root}{there}"
        cookies = headers.getlist("set-cookie")
        if cookies:
            del headers["set-cookie"]
            for cookie in cookies:
                headers.append("set-cookie", re.sub(r"(?i)(;\s*path=)/(?=;|$)", self._path, cookie))

    def _path(self, found: re.Match[str]) -> str:
        return f"{found[1]}{self.root}"
