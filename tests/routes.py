"""The routes of the application, as it lists them itself, and which of them are pages."""

from collections.abc import Iterable, Mapping

from fastapi import FastAPI
from starlette.routing import BaseRoute, Mount, Route

# GET routes that are no page of their own: parts of one, or ways to another. Signing in is a page
# only where there is a password, and has a test of its own.
PARTS = {
    "/encoders/heads", "/encoders/weights", "/jobs/list", "/jobs/{job_id}/progress", "/login",
    "/projects/{project_id}", "/projects/{project_id}/add/encoder",
    "/projects/{project_id}/audits/{audit_id}/progress",
    "/projects/{project_id}/added/{sha256}", "/projects/{project_id}/labels.{ending}",
    "/projects/{project_id}/library.csv", "/projects/{project_id}/library/tags",
    "/projects/{project_id}/publish/adopting",
    "/projects/{project_id}/review", "/projects/{project_id}/score/strip",
    "/projects/{project_id}/score/waiting", "/projects/{project_id}/series/found",
    "/projects/{project_id}/stars/found", "/projects/{project_id}/write-back/found",
    "/projects/{project_id}/test-runs/{run_id}/progress",
    "/projects/{project_id}/try/{token}/view", "/projects/{project_id}/versions/training",
    "/routers/{name}/download",
    "/versions/{version_id}/card.md", "/versions/{version_id}/checkpoint",
    "/versions/{version_id}/config", "/versions/{version_id}/download",
    "/versions/{version_id}/elsewhere/{form}", "/versions/{version_id}/laion",
    "/versions/{version_id}/predictions.{ending}",
    "/versions/{version_id}/sheets/{sheet}", "/versions/{version_id}/training-set.csv",
    "/versions/{version_id}/training-set.jsonl",
}  # fmt: skip
# Pages of projects with classes alone: tests/test_class_browser.py looks at them.
OF_CLASSES = {
    "/projects/{project_id}/classes", "/projects/{project_id}/confusion",
    "/projects/{project_id}/routers",
}  # fmt: skip
NOT_PAGES = ("/images/", "/api/", "/static", "/healthz", "/readyz", "/metrics", "/logout")


def every_route(routes: Iterable[BaseRoute]) -> list[Route | Mount]:
    """All routes, those of included routers among them: FastAPI keeps such a router whole."""
    found: list[Route | Mount] = []
    for route in routes:
        included = getattr(route, "original_router", None)
        if included is not None:
            found += every_route(included.routes)
        else:
            assert isinstance(route, Route | Mount), "an unknown kind of route"
            found.append(route)
    return found


def page_routes(app: FastAPI) -> list[str]:
    """The path of every GET route that is not known to be something else than a page of projects
    that score."""
    return [
        route.path for route in every_route(app.routes)
        if isinstance(route, Route) and "GET" in (route.methods or ())
        and not route.path.startswith(NOT_PAGES) and route.path not in PARTS | OF_CLASSES
    ]  # fmt: skip


def filled(path: str, values: Mapping[str, list[str]]) -> list[str]:
    """A route's path with every name in it replaced by each of its values, else by 1."""
    before, brace, rest = path.partition("{")
    if not brace:
        return [path]
    name, _, after = rest.partition("}")
    stands_for = values.get(name.split(":")[0], ["1"])
    return [before + value + tail for value in stands_for for tail in filled(after, values)]
