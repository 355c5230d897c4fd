"""Who may call a route: every route names exactly one permission in its signature.

    @router.post("/jobs/{job_id}/cancel")
    def cancel(user: AdminUser, …)

`GuardedRoute` reads it there and checks it before a byte of the body is read. A route that names
none, or two, cannot be made. It also stops reading a body that is larger than any form; only a
dependency that limits the body itself (an upload's) lets a route take more. A route for programs
refuses a parameter in the address that it does not know, as its body refuses a field: a misspelt
one would be passed over, and the answer be another than was asked for.
"""

import re
import threading
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Header, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.params import Depends as Dependency
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import compile_path
from starlette.types import Message, Receive, Scope, Send

from tastemaker.auth.identity import NOBODY, Identity, Who, is_id, not_signed_in
from tastemaker.auth.origins import check_library
from tastemaker.errors import Forbidden, Invalid, TastemakerError, TooLarge
from tastemaker.files import is_text

FORM = "application/x-www-form-urlencoded"
ESCAPED = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")  # in JSON: what may be no character
MAX_BODY = 2**20  # bytes of a form or of JSON
FOR_PROGRAMS = "/api/"
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


async def current_user(
    request: Request, tastemaker_opened_for: Annotated[int | None, Header()] = None
) -> Identity:
    """Who calls, and whose page they call from, where it says so: a script by a header, a form by
    a field. Another tab may have changed who scores since the page was opened. Raises
    `AnotherLibrary` for a form of a page of another one."""
    user: Identity = request.state.user
    page_user_id = tastemaker_opened_for
    if page_user_id is None and request.headers.get("content-type", "").startswith(FORM):
        form = await request.form()  # read once, for the endpoint as well
        check_library(request, form.get("opened_in"))
        field = form.get("opened_for")
        page_user_id = int(field) if isinstance(field, str) and is_id(field) else None
    return user if page_user_id is None else replace(user, page_user_id=page_user_id)


CurrentUser = Annotated[Identity, Depends(current_user)]


class Permission:
    """A dependency that gives the user, and what `GuardedRoute` checks before it is resolved."""

    def __init__(self, *roles: str) -> None:
        self.roles = frozenset(roles)

    def check(self, request: Request) -> None:
        """Raises `NotSignedIn` or `Forbidden`."""
        user: Identity = getattr(request.state, "user", NOBODY)
        if user.who == Who.NOBODY:
            raise not_signed_in()
        if user.role not in self.roles:
            raise _beyond(user, looks=request.method in ("GET", "HEAD"))

    async def __call__(self, user: CurrentUser) -> Identity:
        return user


class Public(Permission):
    """Open to whoever can reach the server."""

    def check(self, request: Request) -> None: ...

    async def __call__(self) -> None: ...  # type: ignore[override]  # nobody is asked for


AdminUser = Annotated[Identity, Depends(Permission("admin"))]
AnnotatorUser = Annotated[Identity, Depends(Permission("admin", "annotator"))]  # may score
ViewerUser = Annotated[Identity, Depends(Permission("admin", "annotator", "viewer"))]  # may look
AnyVisitor = Annotated[None, Depends(Public())]


def require_admin(user: Identity) -> None:
    """For what one route lets only an admin do. Raises `Forbidden`."""
    if not user.is_admin:
        raise _beyond(user)


def _beyond(user: Identity, *, looks: bool = False) -> Forbidden:
    """What says that this is beyond somebody's rights; `looks`: who only followed a link, and
    wanted to change nothing."""
    if user.by_token:
        message = "This token may not see this." if looks else "This token may not do this"
        hint = "Use one of a wider scope, made by somebody who may do it (People, API tokens)."
    elif not user.may_score:
        message = "This is shown only to those who may change it; you may look at the rest."
        message = message if looks else "You may look here, and change nothing"
        hint = "An admin can let you score (People)."
    else:
        message = "Only an admin sees this." if looks else "Only the admin can do this here"
        hint = "You can score, review and look at everything else."
    return Forbidden(message if looks else f"{message}; nothing was changed.", hint)


# --- the routes ----------------------------------------------------------------------------------


class LimitsItsBody:
    """A dependency that reads the request's body as it comes, and limits it."""


def permissions_of(endpoint: Callable[..., Any]) -> list[Permission]:
    """The permissions that an endpoint's signature names, by the types of this module."""
    named = [
        part.dependency
        for annotation in endpoint.__annotations__.values()
        for part in getattr(annotation, "__metadata__", ())
        if isinstance(part, Dependency)
    ]
    return [one for one in named if isinstance(one, Permission)]


def _require_one(permissions: list[Permission], path: str) -> Permission:
    if len(permissions) != 1:
        raise TypeError(f"{path} names {len(permissions)} permissions in its signature, not 1")
    return permissions[0]


def limits_its_body(route: APIRoute) -> bool:
    return any(isinstance(part.call, LimitsItsBody) for part in route.dependant.dependencies)


def takes(*names: str) -> Callable[[Endpoint], Endpoint]:
    """Marks an endpoint that reads the address itself: the parameters it takes besides those of its
    signature."""

    def mark(endpoint: Endpoint) -> Endpoint:
        endpoint.takes = names  # type: ignore[attr-defined]  # a function may carry more
        return endpoint

    return mark


def parameters_of(dependant: Dependant) -> set[str]:
    """The parameters in the address that an endpoint or its dependencies name."""
    own = {parameter.alias for parameter in dependant.query_params}
    return own.union(*map(parameters_of, dependant.dependencies))


class GuardedRoute(APIRoute):
    """A route that checks its permission before it reads the request's body, and the body's size
    while it does.

    FastAPI works out what an endpoint takes when the first request for it comes, or when something
    else asks (`dependant`, say): for all routes it takes longer than the rest of a start.
    """

    _working_out = threading.RLock()

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        _require_one(permissions_of(endpoint), path)
        self.path, self.endpoint = path, endpoint
        self.path_regex, self.path_format, self.param_convertors = compile_path(path)
        self.name = options["name"] or endpoint.__name__
        self.methods = set(options["methods"])
        self.include_in_schema = options["include_in_schema"]
        self.app = self._first_call
        self._options = options

    def ask_first(self, *dependencies: Dependency) -> None:
        """Resolve these before what the endpoint takes. Only before the first request."""
        self._options["dependencies"] = [*dependencies, *(self._options["dependencies"] or ())]

    def __getattr__(self, name: str) -> Any:
        """What FastAPI sets, at the first look at any of it."""
        if name.startswith("__"):
            raise AttributeError(name)
        self._work_out()
        return object.__getattribute__(self, name)

    def _work_out(self) -> None:
        with self._working_out:
            if options := self.__dict__.pop("_options", None):
                try:
                    super().__init__(self.path, self.endpoint, **options)
                except Exception:
                    self._options = options  # the next look fails in the same words
                    raise

    async def _first_call(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._work_out()
        await self.app(scope, receive, send)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        asked = [one.call for one in self.dependant.dependencies]  # however it was named
        permission = _require_one([one for one in asked if isinstance(one, Permission)], self.path)
        takes_more = limits_its_body(self)
        handle = super().get_route_handler()
        known: set[str] | None = None
        if self.path.startswith(FOR_PROGRAMS):
            known = parameters_of(self.dependant) | set(getattr(self.endpoint, "takes", ()))

        async def guarded(request: Request) -> Response:
            permission.check(request)
            if known is not None and (strange := sorted(request.query_params.keys() - known)):
                raise _strange_parameter(strange[0], known)
            # A form without files is read whole, whatever the route takes besides.
            if not takes_more or request.headers.get("content-type", "").startswith(FORM):
                if announced_length(request) > MAX_BODY:
                    raise _larger_than_a_form()
                request = _TextOnly(request.scope, _limited(request.receive))
            try:
                return await handle(request)
            except HTTPException as error:  # FastAPI's for whatever stops it from reading a body
                if isinstance(error.__cause__, TastemakerError):
                    raise error.__cause__ from None
                raise

        return guarded


class _TextOnly(Request):
    """A request whose JSON holds nothing that is no character: half a surrogate pair could be
    stored in places, and no page could be sent that shows it; a zero byte PostgreSQL refuses."""

    async def json(self) -> Any:
        content = await super().json()
        if ESCAPED.search(await self.body()) and not _is_all_text(content):
            raise Invalid(
                "A text in this request holds what is no character; nothing was saved.",
                "Look at what was pasted.",
            )
        return content


def _is_all_text(content: Any) -> bool:
    if isinstance(content, str):
        return "\0" not in content and is_text(content)
    if isinstance(content, dict):
        return all(_is_all_text(key) and _is_all_text(value) for key, value in content.items())
    return not isinstance(content, list) or all(map(_is_all_text, content))


def _strange_parameter(name: str, known: set[str]) -> Invalid:
    taken = f"It takes {', '.join(sorted(known))}." if known else "It takes none in its address."
    return Invalid(f"“{name[:40]}” is no parameter of this request.", taken)


def announced_length(request: Request) -> int:
    """The bytes of the body that its header announces; 0 where it says nothing."""
    length = request.headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdecimal() else 0


def _limited(receive: Receive) -> Receive:
    """Count the body, whatever was announced, and stop beyond the limit."""
    received = 0

    async def counted() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > MAX_BODY:
            raise _larger_than_a_form()
        return message

    return counted


def _larger_than_a_form() -> TooLarge:
    return TooLarge("This request is larger than any form here.", "Send less at once.")
