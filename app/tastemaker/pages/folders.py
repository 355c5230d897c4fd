"""Choosing a folder of this machine, for an import or a test run."""

from typing import Any, Literal

from fastapi import APIRouter, Request, Response

from tastemaker.auth.permissions import AdminUser, GuardedRoute
from tastemaker.errors import TastemakerError
from tastemaker.files.roots import within
from tastemaker.importing import folders
from tastemaker.pages.deps import CurrentProject, ReadSession, SettingsDep
from tastemaker.pages.render import render, shell

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")


@router.get("/projects/{project_id}/folders")
def page(
    _: AdminUser,
    request: Request,
    session: ReadSession,
    settings: SettingsDep,
    project: CurrentProject,
    at: str = "",
    to: Literal["add", "test-runs"] = "add",
) -> Response:
    """The folders in one, and a button that takes it: to `add` its images, or to a test run."""
    context: dict[str, Any] = {
        "to": to, "at": at, "folder": None, "error": None, "may_be_taken": True,
    }  # fmt: skip
    try:
        context["folder"] = folder = folders.look_into(settings, at)
        context["may_be_taken"] = within(folder.path, settings.roots)
    except TastemakerError as error:
        context["error"] = error
    status = context["error"].status if context["error"] else 200
    return render(
        request, "folders.html", None, shell(session, project, to) | context, status=status
    )


@api.get("/folders")
def list_folders(_: AdminUser, settings: SettingsDep, at: str = "") -> dict[str, Any]:
    """The folders of this machine that lie in one, and how many pictures do; without `at`, in the
    home folder of who runs the program."""
    folder = folders.look_into(settings, at)
    return {
        "path": str(folder.path),
        "parent": str(folder.parent) if folder.parent else None,
        "folders": [str(path) for path in folder.folders],
        "more": folder.more,
        "pictures": folder.pictures,
    }
