"""What `openapi.json` tells of refusals: which can happen follows from the route itself, in one
place, so that no route can forget to name them."""

from collections.abc import Callable, Iterable
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute

from tastemaker.auth.middleware import SAFE_METHODS
from tastemaker.auth.permissions import Public, permissions_of

SCHEMA = {
    "title": "Error",
    "type": "object",
    "required": ["error", "hint"],
    "properties": {
        "error": {"type": "string", "description": "What happened, and what is safe."},
        "hint": {"type": "string", "description": "What to do next; may be empty."},
        "code": {"type": "string", "description": "The kind of refusal, where there are several."},
    },
}
REFUSALS = {
    401: "Not signed in, on a server with a password.",
    403: "Not allowed: by role, by the name of the host, or from where it is asked.",
    404: "There is nothing of that number or name.",
    408: "The body did not go on; nothing of it was kept.",
    409: "It contradicts what is stored, or is meant for another library.",
    413: "The body is too large.",
    422: "A value is missing, unknown, of the wrong kind or out of range.",
    429: "Too many wrong passwords or tokens.",
    503: "Busy, or not there yet: try again later.",
    507: "The disk is full or cannot be written.",
}


def refusals_of(route: APIRoute) -> list[int]:
    """The statuses of every refusal that a route can give."""
    (permission,) = permissions_of(route.endpoint)
    changes = not set(SAFE_METHODS) & (route.methods or set())
    named = "{" in route.path or changes  # an image, say, is named in the body as well
    signs_in = not isinstance(permission, Public)
    can = {
        401: signs_in, 403: True, 404: named, 408: changes, 409: True, 413: changes, 422: True,
        429: signs_in, 503: True, 507: changes,
    }  # fmt: skip
    return [status for status, happens in can.items() if happens]


def tell_refusals(app: FastAPI, routers: Iterable[APIRouter]) -> Callable[[], dict[str, Any]]:
    """The application's own `openapi`, with every refusal of every operation."""
    plain = app.openapi
    routes = [one for router in routers for one in router.routes if isinstance(one, APIRoute)]

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is not None:
            return app.openapi_schema
        schema = plain()
        parts = schema.setdefault("components", {}).setdefault("schemas", {})
        parts["Error"] = SCHEMA
        for fastapis_own in ("HTTPValidationError", "ValidationError"):
            parts.pop(fastapis_own, None)
        content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
        for route in routes:
            if not route.include_in_schema or route.path not in schema["paths"]:
                continue
            for method in route.methods or ():
                told = schema["paths"][route.path][method.lower()]["responses"]
                told |= {
                    str(status): {"description": REFUSALS[status], "content": content}
                    for status in refusals_of(route)
                }
        return schema

    return openapi
