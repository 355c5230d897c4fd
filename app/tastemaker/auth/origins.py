"""Where a request comes from, who can read its answer, and where it may be sent on to."""

import ipaddress
from urllib.parse import urlsplit

from fastapi import Request

from tastemaker.config import Settings
from tastemaker.errors import AnotherLibrary, Forbidden

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def by_htmx(request: Request) -> bool:
    return request.headers.get("hx-request") == "true"


def for_program(request: Request) -> bool:
    return request.url.path.startswith("/api/") or request.url.path == "/metrics"


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
    either header comes from a program, which must speak JSON, or say with what it asks in
    X-Requested-With: neither can a web page send elsewhere without asking first."""
    headers = request.headers
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is None and origin is None:
        kind = headers.get("content-type", "").split(";")[0].strip().lower()
        declared = kind == "application/json" or "x-requested-with" in headers
        return for_program(request) and declared
    if site is not None and site not in ("same-origin", "none"):
        return False
    if origin is None:
        return site == "same-origin"
    parts = urlsplit(origin)
    same = parts.netloc.lower() == headers.get("host", "").lower()
    return parts.scheme in ("http", "https") and same


BY_PROXIES = ("x-forwarded-host", "x-forwarded-for", "x-forwarded-proto", "forwarded", "via")


def foreign_request(request: Request) -> Forbidden:
    """Why `from_our_own_pages` is false, and what to do: a browser whose page has another name than
    the host that is asked is either elsewhere, or behind a proxy that changes the name."""
    headers = request.headers
    origin, host = headers.get("origin", ""), headers.get("host", "")[:80]
    page, name = urlsplit(origin).netloc[:80], host_name(urlsplit(origin).netloc)[:80]
    remedy = (
        "Let the proxy pass the Host header on (nginx: proxy_set_header Host $http_host; Apache: "
        "ProxyPreserveHost On)"
    )
    if name not in LOOPBACK:
        remedy += f", and add {name} to TASTEMAKER_ALLOWED_HOSTS"
    if page and page.lower() != host.lower():
        same_page = headers.get("sec-fetch-site") == "same-origin"
        if same_page or any(header in headers for header in BY_PROXIES):
            return Forbidden(
                f"A proxy between the browser and Tastemaker changes the Host header: {page} became"
                f" {host}. Nothing was changed.",
                f"{remedy}.",
            )
        return Forbidden(
            f"This request came from {page}, and Tastemaker is asked as {host}; nothing was "
            "changed.",
            f"If that is a proxy of yours, it changes the Host header. {remedy}.",
        )
    return Forbidden(
        "This request did not come from Tastemaker's own pages; nothing was changed.",
        "Programs use /api/v1 with Content-Type: application/json, or with an X-Requested-With "
        "header where they send files.",
    )


# Of a request, the library that it is meant for; of an answer, the one that gives it.
LIBRARY_HEADER = "tastemaker-library"


def check_library(request: Request, meant: object) -> None:
    """Raises `AnotherLibrary` where a request names another library than the one served here: of a
    page that was open, or of a score that waited, while this one came under the same address."""
    if meant not in (None, "", request.app.state.library):
        raise AnotherLibrary(
            "Another library is served at this address by now; nothing was changed.",
            "What you scored waits in this browser until its own library is served here again. "
            "Reload the page to work in this one.",
        )


def referring_path(request: Request) -> str:
    """The page of ours that led to this request, as a path; empty if there is none to go back
    to."""
    there = urlsplit(request.headers.get("referer", ""))
    path = there.path + (f"?{there.query}" if there.query else "")
    ours = there.netloc == request.headers.get("host") and path.startswith("/")
    loops = request.method == "GET" and there.path == request.url.path
    return path if ours and not loops and not path.startswith("//") else ""


def safe_redirect_path(path: str) -> str:
    """A page of this site to go on to after signing in, and nothing else."""
    parts = urlsplit(path)
    plain = not parts.scheme and not parts.netloc and "\\" not in path and path.isprintable()
    return path if plain and path.startswith("/") and not path.startswith("//") else "/"
