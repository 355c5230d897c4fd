"""Review: what the model gets wrong, or a label does; corrected where it is seen."""

from typing import Any

from fastapi import APIRouter, Request, Response

from app import queues
from app.errors import NotFound
from app.tables import ScoreEvent
from app.web.deps import Id, Reader, SettingsDep, ThePerson, TheProject
from app.web.render import render, see_other, shell

router = APIRouter(include_in_schema=False)

PER_PAGE = 48


@router.get("/projects/{project_id}/review")
def first(project_id: Id) -> Response:
    return see_other(f"/projects/{project_id}/review/{next(iter(queues.REVIEWS))}")


@router.get("/projects/{project_id}/review/{kind}")
def page(
    request: Request,
    session: Reader,
    settings: SettingsDep,
    project: TheProject,
    person: ThePerson,
    kind: str,
    after: int = 0,
    saved: int = 0,
    undone: bool = False,
) -> Response:
    """`after` is how many cards were shown before this page; `saved` and `undone` tell what a form
    without a script has just done."""
    if kind not in queues.REVIEWS:
        raise NotFound(f"There is no review “{kind[:40]}”.", "Choose one from the menu.")
    after = max(0, after)
    review = queues.review(session, settings, project, person, kind, after=after, n=PER_PAGE)
    toast: dict[str, Any] | None = None
    if undone:
        toast = {"text": "Taken back."}
    elif (event := session.get(ScoreEvent, saved)) and event.project_id == project.id:
        toast = {
            "text": f"Saved {event.value}.", "undo": event.id, "project_id": project.id,
            "queue": kind,
        }  # fmt: skip
    context = {
        "reviews": queues.REVIEWS, "kind": kind, "review": review, "after": after,
        "more": after + PER_PAGE < review.labelled + review.suspected, "per_page": PER_PAGE,
        "toast": toast,
    }  # fmt: skip
    return render(request, "review.html", None, shell(session, project, "review") | context)
