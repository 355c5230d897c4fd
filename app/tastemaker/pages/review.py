"""Review: what the model gets wrong, or a label does; corrected where it is seen."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from tastemaker.auth.permissions import GuardedRoute, ViewerUser
from tastemaker.live import live_model
from tastemaker.pages import keymap
from tastemaker.pages.deps import CurrentAnnotator, CurrentProject, Id, ReadSession, SettingsDep
from tastemaker.pages.places import ReviewPlace
from tastemaker.pages.render import render, see_other, shell
from tastemaker.pages.scores import NEVER_STALE, saved_toast
from tastemaker.queues import reviews
from tastemaker.queues.cards import card_json

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")

PER_PAGE = 48


@router.get("/projects/{project_id}/review")
def first(_: ViewerUser, project_id: Id) -> Response:
    return see_other(f"/projects/{project_id}/review/{next(iter(reviews.REVIEWS))}")


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
    saved: int = 0,
    undone: bool = False,
) -> Response:
    """`after` is the place in the list behind which this page begins; `saved` and `undone` tell
    what a form without a script has just done."""
    place = ReviewPlace(
        review=reviews.known_review(kind), after=after, order=reviews.known_order(order)
    )
    n = PER_PAGE // 2 if kind == "contradictions" else PER_PAGE  # a pair shows two pictures
    context = {
        "reviews": reviews.REVIEWS, "kind": kind, "after": after, "place": place,
        "order": order, "orders": reviews.ORDERS,
        "review": reviews.review(
            session, settings, project, person, kind, after=after, n=n, order=order
        ),
        "live": live_model.read_live(settings, project.id) is not None,
        "toast": saved_toast(session, project, person, place, saved, undone),
        "keys": keymap.of(person),
    }  # fmt: skip
    frame = shell(session, project, "review")
    return render(request, "review.html", None, frame | context, headers=NEVER_STALE)


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
) -> dict[str, Any]:
    """A page of a review list, each card with the reason why. `next` is what to give as `after`
    for the next page; contradictions come as pairs of cards. `order` is evidence or confidence."""
    review = reviews.review(session, settings, project, person, kind, after=after, n=n, order=order)
    return asdict(review) | {"cards": [card_json(card) for card in review.cards]}
