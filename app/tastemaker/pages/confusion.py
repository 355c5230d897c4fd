"""Confusion: what the active version takes for what, as a way to the images in Review."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from tastemaker.auth.permissions import GuardedRoute, ViewerUser
from tastemaker.pages.deps import CurrentProject, ReadSession
from tastemaker.pages.render import kinds_of, render, see_other, shell
from tastemaker.queues import confusion as confusions
from tastemaker.queues import reviews
from tastemaker.versions import class_report

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")

Number = Annotated[int, Query(ge=-1, lt=2**31)]


@router.get("/projects/{project_id}/confusion")
def page(
    _: ViewerUser,
    request: Request,
    session: ReadSession,
    project: CurrentProject,
    labelled: Number = -1,
    predicted: Number = -1,
) -> Response:
    """The matrix; each of its cells leads to Review, and so does an address that names one."""
    if min(labelled, predicted) >= 0:
        cell = f"labelled={labelled}&predicted={predicted}"
        return see_other(f"/projects/{project.id}/review/confused?{cell}")
    found = confusions.confusion(session, project)
    several = project.labelling == "tags"
    context = {
        "confusion": found,
        "in_short": class_report.in_short(found.counts) if found and not several else None,
        "reviews": reviews.reviews_of(project), "kind": "confusion",
        "kinds": kinds_of(request, project),
    }  # fmt: skip
    return render(request, "confusion.html", None, shell(session, project, "review") | context)


@api.get("/projects/{project_id}/confusion")
def show_confusion(_: ViewerUser, session: ReadSession, project: CurrentProject) -> dict[str, Any]:
    """What the active version takes for what, of the labels outside the hold-out, each by a head
    that never saw it. `counts[i][j]`: labelled as the i-th of `classes`, predicted as the j-th; of
    tags, for each the images that have it and are said to, have it alone, are said to alone.
    Nothing but `version` null before there is a version. The review `confused` has the images."""
    found = confusions.confusion(session, project)
    if found is None:
        return {"version": None}
    return {
        "version": found.version.number,
        "classes": [{"number": row.number, "name": row.name} for row in found.classes.alive],
        "labelled": found.labelled,
        "right": found.right,
        "counts": [list(row) for row in found.counts],
    }
