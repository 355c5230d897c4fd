"""A project's settings."""

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response

from app import projects
from app.db import writing
from app.errors import Invalid
from app.web.deps import EngineDep, Id, Reader, TheProject
from app.web.render import render, see_other, shell

router = APIRouter(include_in_schema=False)

RECIPES = {
    "auto": "Automatic: whichever measures better",
    "ridge": "Ridge: a linear head, best with few labels",
    "city96": "City96: the full network of the original predictor",
}


@router.get("/projects/{project_id}/settings")
def page(request: Request, session: Reader, project: TheProject, saved: bool = False) -> Response:
    context = {"recipes": RECIPES, "saved": saved}
    return render(request, "settings.html", None, shell(session, project, "settings") | context)


@router.post("/projects/{project_id}/settings")
def change(
    engine: EngineDep,
    project_id: Id,
    name: Annotated[str, Form()] = "",
    threshold: Annotated[str, Form()] = "",
    recipe: Annotated[str, Form()] = "auto",
    show_prediction_first: Annotated[bool, Form()] = False,
) -> Response:
    with writing(engine) as session:
        projects.change(
            session,
            projects.get(session, project_id),
            name=name,
            threshold=share(threshold),
            recipe=recipe,
            show_prediction_first=show_prediction_first,
        )
    return see_other(f"/projects/{project_id}/settings?saved=1")


def share(percent: str) -> float:
    """A threshold as typed, in percent, as a share."""
    try:
        return float(percent.strip().rstrip("%").replace(",", ".")) / 100
    except ValueError:
        raise Invalid(
            f"“{percent[:20]}” is not a percentage.", "Type a number such as 50."
        ) from None
