"""Confusion: what the active version takes for what, as a way to the images; corrected where it is
seen."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from tastemaker.auth.permissions import GuardedRoute, ViewerUser
from tastemaker.pages import keymap
from tastemaker.pages.deps import CurrentAnnotator, CurrentProject, ReadSession, SettingsDep
from tastemaker.pages.places import ConfusionPlace
from tastemaker.pages.render import kinds_of, render, shell
from tastemaker.pages.scores import NEVER_STALE, saved_toast
from tastemaker.queues import confusion as confusions
from tastemaker.queues.cards import card_json
from tastemaker.queues.confusion import Cell

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")

PER_PAGE = 48
Number = Annotated[int, Query(ge=-1, lt=2**31)]


@router.get("/projects/{project_id}/confusion")
def page(
    _: ViewerUser,
    request: Request,
    session: ReadSession,
    settings: SettingsDep,
    project: CurrentProject,
    person: CurrentAnnotator,
    labelled: Number = -1,
    predicted: Number = -1,
    saved: int = 0,
    undone: bool = False,
) -> Response:
    """The matrix; with `labelled` and `predicted` the images of that cell. Of tags, `labelled` is
    the tag and `predicted` 0 for those it was missed on, 1 for those it is too many on. `saved` and
    `undone` tell what a form without a script has just done."""
    place = ConfusionPlace(labelled=labelled, predicted=predicted)
    chosen = Cell(labelled, predicted) if min(labelled, predicted) >= 0 else None
    context = {
        "confusion": confusions.confusion(session, project),
        "chosen": chosen,
        "cell": confusions.cell_page(session, settings, project, person, chosen, PER_PAGE)
        if chosen
        else None,
        "place": place,
        "toast": saved_toast(session, project, person, place, saved, undone),
        **keymap.context(person, kinds_of(request, project)),
    }
    frame = shell(session, project, "confusion")
    return render(request, "confusion.html", None, frame | context, headers=NEVER_STALE)


@api.get("/projects/{project_id}/confusion")
def show_confusion(_: ViewerUser, session: ReadSession, project: CurrentProject) -> dict[str, Any]:
    """What the active version takes for what, of the labels outside the hold-out, each by a head
    that never saw it. `counts[i][j]`: labelled as the i-th of `classes`, predicted as the j-th; of
    tags, for each the images that have it and are said to, have it alone, are said to alone.
    Nothing but `version` null before there is a version."""
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


@api.get("/projects/{project_id}/confusion/images")
def show_cell(
    _: ViewerUser,
    session: ReadSession,
    settings: SettingsDep,
    project: CurrentProject,
    person: CurrentAnnotator,
    labelled: Annotated[int, Query(ge=0, lt=2**31)],
    predicted: Annotated[int, Query(ge=0, lt=2**31)],
    n: Annotated[int, Query(ge=1, le=50)] = PER_PAGE,
) -> dict[str, Any]:
    """The images of one cell that nobody looked at since the version was trained, as cards, the
    surest predictions first."""
    found = confusions.cell_page(session, settings, project, person, Cell(labelled, predicted), n)
    return asdict(found) | {"cards": [card_json(card) for card in found.cards]}
