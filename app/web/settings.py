"""A project's settings."""

import math
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response

from app import projects
from app.db import reading, writing
from app.errors import Invalid, TastemakerError
from app.web.deps import EngineDep, Id, Reader, TheProject
from app.web.render import render, see_other, shell

router = APIRouter(include_in_schema=False)

RECIPES = {
    "auto": "Automatic: ridge, unless the full network proves better",
    "ridge": "Ridge: a linear head, best with few labels",
    "city96": "City96: the full network of the original predictor",
}


@router.get("/projects/{project_id}/settings")
def page(request: Request, session: Reader, project: TheProject, saved: bool = False) -> Response:
    given = {
        "name": project.name, "threshold": f"{100 * project.threshold:g}",
        "recipe": project.recipe, "show_prediction_first": project.show_prediction_first,
    }  # fmt: skip
    context = {"recipes": RECIPES, "given": given, "error": None, "saved": saved}
    return render(request, "settings.html", None, shell(session, project, "settings") | context)


@router.post("/projects/{project_id}/settings")
def change(
    request: Request,
    engine: EngineDep,
    project_id: Id,
    name: Annotated[str, Form()] = "",
    threshold: Annotated[str, Form()] = "",
    recipe: Annotated[str, Form()] = "auto",
    show_prediction_first: Annotated[bool, Form()] = False,
) -> Response:
    given: dict[str, Any] = {
        "name": name, "threshold": threshold, "recipe": recipe,
        "show_prediction_first": show_prediction_first,
    }  # fmt: skip
    try:
        with writing(engine) as session:
            project = projects.get(session, project_id)
            projects.change(session, project, **given | {"threshold": share(threshold)})
    except TastemakerError as error:
        with reading(engine) as session:
            project = projects.get(session, project_id)
            context = {"recipes": RECIPES, "given": given, "error": error, "saved": False}
            return render(
                request, "settings.html", None, shell(session, project, "settings") | context,
                status=error.status,
            )  # fmt: skip
    return see_other(f"/projects/{project_id}/settings?saved=1")


def share(percent: str) -> float:
    """A threshold as typed, in percent, as a share."""
    try:
        typed = float(percent.strip().rstrip("%").replace(",", "."))
    except ValueError:
        typed = math.nan
    if not 1 <= typed <= 99:
        raise Invalid("The threshold lies between 1 and 99 percent.", "Type a number such as 50.")
    return typed / 100
