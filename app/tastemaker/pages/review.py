"""Review: what the model gets wrong, or a label does; corrected where it is seen."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from tastemaker.auth.permissions import GuardedRoute, ViewerUser
from tastemaker.config import Settings
from tastemaker.database.tables import Project
from tastemaker.live import live_model
from tastemaker.pages import keymap
from tastemaker.pages.deps import CurrentAnnotator, CurrentProject, ReadSession, SettingsDep
from tastemaker.pages.places import ReviewPlace
from tastemaker.pages.render import kinds_of, render, see_other, shell
from tastemaker.pages.scores import NEVER_STALE, saved_toast
from tastemaker.queues import confusion as confusions
from tastemaker.queues import reviews
from tastemaker.queues.cards import card_json
from tastemaker.queues.confusion import Cell, Confusion
from tastemaker.scores import classes

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")

PER_PAGE = 48
PAIRS_SHOWN = 8  # of the classes that are most often confused
Number = Annotated[int, Query(ge=-1, lt=2**31)]


@router.get("/projects/{project_id}/review")
def first(_: ViewerUser, project: CurrentProject) -> Response:
    """The first list; of classes, the matrix."""
    page = "confusion" if project.labelling != "scores" else f"review/{next(iter(reviews.REVIEWS))}"
    return see_other(f"/projects/{project.id}/{page}")


@router.get("/projects/{project_id}/review/{kind}")
def page(
    _: ViewerUser,
    request: Request,
    session: ReadSession,
    settings: SettingsDep,
    project: CurrentProject,
    person: CurrentAnnotator,
    kind: str,
    after: Annotated[str, Query(max_length=80)] = "",
    order: Annotated[str, Query(max_length=40)] = "evidence",
    labelled: Number = -1,
    predicted: Number = -1,
    saved: int = 0,
    undone: bool = False,
) -> Response:
    """`after` is the place in the list behind which this page begins; `labelled` and `predicted`
    are a cell of the matrix of classes (of tags, `predicted` is 0 where `labelled` was missed, 1
    where it is too many); `saved` and `undone` tell what a form without a script has just done."""
    offered, kinds = reviews.reviews_of(project), kinds_of(request, project)
    place = ReviewPlace(
        review=reviews.known_review(kind, offered), after=after, order=reviews.known_order(order),
        labelled=labelled, predicted=predicted,
    )  # fmt: skip
    n = PER_PAGE // 2 if kind == "contradictions" else PER_PAGE  # a pair shows two pictures
    cell = place.cell(session, project)
    found = confusions.confusion(session, project) if kind == "confused" else None
    shown = reviews.review(
        session, settings, project, person, kind, after=after, n=n, order=order, cell=cell
    )
    judged = found is not None if kind == "confused" else bool(shown.version)
    context = {
        "reviews": offered, "kind": kind, "after": after, "place": place,
        "order": order, "orders": reviews.ORDERS, "review": shown,
        "cell": confusions.cell_in_words(kinds, cell) if kinds and cell else "",
        "nameless_cell": kinds is not None and cell is None and max(labelled, predicted) >= 0,
        "pairs": _pairs(found, cell) if found else [],
        "needs": _needs(settings, project, kind, judged),
        "toast": saved_toast(session, project, person, place, saved, undone),
        **keymap.context(person, kinds),
    }  # fmt: skip
    frame = shell(session, project, "review")
    return render(request, "review.html", None, frame | context, headers=NEVER_STALE)


def _needs(settings: Settings, project: Project, kind: str, judged: bool) -> str:
    """What an empty list waits for: a fit of the `live` model, a `version`, or nothing."""
    if kind not in reviews.OF_LIVE:
        return "" if judged else "version"
    live = live_model.read_live(settings, project.id)
    if live is None or (project.labelling != "scores" and not live.fit.classes):
        return "live"
    return ""


def _pairs(found: Confusion, chosen: Cell | None) -> list[dict[str, Any]]:
    """The classes that are most often confused, to choose from."""
    return [
        {"name": confusions.cell_in_words(found.classes, cell), "count": count,
         "chosen": cell == chosen, "labelled": cell.labelled, "predicted": cell.predicted}
        for cell, count in confusions.pairs(found)[:PAIRS_SHOWN]
    ]  # fmt: skip


@api.get("/projects/{project_id}/review/{kind}")
def show_review(
    _: ViewerUser,
    session: ReadSession,
    settings: SettingsDep,
    project: CurrentProject,
    person: CurrentAnnotator,
    kind: str,
    after: Annotated[str, Query(max_length=80)] = "",
    n: Annotated[int, Query(ge=1, le=50)] = PER_PAGE,
    order: Annotated[str, Query(max_length=40)] = "evidence",
    labelled: Number = -1,
    predicted: Number = -1,
) -> dict[str, Any]:
    """A page of a review list, each card with the reason why. `next` is what to give as `after`
    for the next page; contradictions come as pairs of cards. `order` is evidence or confidence.
    With classes the lists are confused, no-class, doubtful and contradictions; `labelled` and
    `predicted`, numbers of classes, are a cell of the matrix (of tags, `predicted` is 0 where the
    tag `labelled` was missed, 1 where it is too many)."""
    known = classes.of_project(session, project)
    cell = confusions.known_cell(known, labelled, predicted) if known else None
    review = reviews.review(
        session, settings, project, person, kind, after=after, n=n, order=order, cell=cell
    )
    return asdict(review) | {"cards": [card_json(card) for card in review.cards]}
