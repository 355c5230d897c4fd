"""Comparing two versions: numbers, what moved, what was learned, and the flips as a queue that is
corrected where it is seen."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request, Response
from sqlmodel import Session

from tastemaker import projects, scores, versions
from tastemaker.auth.origins import by_htmx
from tastemaker.auth.permissions import AnnotatorUser, GuardedRoute, ViewerUser
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import Annotator, Image, Project, ScoreEvent
from tastemaker.errors import Invalid, NotFound
from tastemaker.evaluation import comparison, flips
from tastemaker.evaluation.flips import DIRECTIONS, Flip, Pair
from tastemaker.images import get as get_image
from tastemaker.pages import keymap
from tastemaker.pages.deps import (
    CurrentAnnotator,
    CurrentProject,
    CurrentUser,
    EngineDep,
    Id,
    ReadSession,
)
from tastemaker.pages.render import render, see_other, shell
from tastemaker.pages.scores import NEVER_STALE
from tastemaker.versions import version_report

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")

VIEWS = {"numbers": "Numbers", "up": "Fail to pass", "down": "Pass to fail", "labels": "Labels"}
PER_PAGE = 48
LABELS_SHOWN = 200


@dataclass(frozen=True)
class FlipCard:
    """A flip as the page shows it, with what a correction needs to know."""

    flip: Flip
    event_id: int
    has_pixels: bool
    reason: str


# --- pages ---------------------------------------------------------------------------------------


@router.get("/projects/{project_id}/compare")
def page(
    _: ViewerUser,
    request: Request,
    session: ReadSession,
    project: CurrentProject,
    person: CurrentAnnotator,
    a: str = "",
    b: str = "",
    view: str = "numbers",
    after: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    saved: int = 0,
    undone: bool = False,
) -> Response:
    """`saved` and `undone` tell what a form without a script has just done."""
    if view not in VIEWS:
        raise NotFound(f"There is no view “{view[:40]}” of a comparison.", "Choose a tab.")
    there = versions.list_ready(session, project)
    context: dict[str, Any] = {
        "versions": there,
        "views": VIEWS,
        "view": view,
        "both": None,
        "one": None,
    }
    twice = len(there) >= 2 and bool(a) and a == b
    if twice:
        context["one"] = versions.by_number(session, project, a)
    elif len(there) >= 2:
        both = flips.pair(session, project, a, b)
        counts = flips.counts(session, both)
        labels, changes = comparison.label_changes(session, both, LABELS_SHOWN)
        context |= {
            "both": both, "flips": counts, "labels": labels, "after": after,
            "tabs": {
                "numbers": None, "up": counts["up"]["images"], "down": counts["down"]["images"],
                "labels": sum(labels.values()),
            },
            "toast": toast(session, project, both, view, saved, undone),
        }  # fmt: skip
        if view == "numbers":
            context |= numbers(session, both)
        elif view == "labels":
            context["changes"] = changes
        else:
            shown = flips.listing(session, both, view, after=after, n=PER_PAGE)
            context["cards"] = [card(session, both, person, view, flip) for flip in shown]
            context["per_page"] = PER_PAGE
    page = shell(session, project, "versions") | context | {"keys": keymap.of(person)}
    status = Invalid.status if twice else 200
    return render(request, "compare.html", None, page, status=status, headers=NEVER_STALE)


def numbers(session: Session, both: Pair) -> dict[str, Any]:
    units = {name: (label, unit, of) for name, label, unit, of in version_report.METRICS}
    return {
        "encoders": comparison.encoders_differ(session, both),
        "paired": comparison.paired_metrics(session, both),
        "units": units,
        "moved": comparison.moved(session, both),
        "slices": comparison.slices_moved(session, both),
        "told_of": comparison.slice_comparison,
    }


def card(session: Session, both: Pair, person: Annotator, direction: str, flip: Flip) -> FlipCard:
    event = scores.newest_event(session, both.project, flip.image_id, person)
    image = session.get(Image, flip.image_id)
    return FlipCard(
        flip,
        event.id if event else 0,
        image is not None and image.kind != "vector",
        f"{DIRECTIONS[direction]} from {both.a.number} to {both.b.number}: "
        f"{round(100 * flip.before)} % → {round(100 * flip.after)} %",
    )


# --- correcting ----------------------------------------------------------------------------------


@router.post("/projects/{project_id}/compare/images/{image_id}/score")
def correct(
    request: Request,
    engine: EngineDep,
    user: AnnotatorUser,
    project_id: Id,
    image_id: Id,
    value: Annotated[str, Form()] = "",
    expected: Annotated[int | None, Form()] = None,
    reason: Annotated[str, Form()] = "",
    a: Annotated[str, Form()] = "",
    b: Annotated[str, Form()] = "",
    view: Annotated[str, Form()] = "up",
    after: Annotated[int, Form(ge=0, lt=2**31)] = 0,
) -> Response:
    """Score an image that flipped, there where it is shown."""
    given = scores.parse_score(value)
    with writing(engine) as session:
        project = projects.get(session, project_id)
        both = flips.pair(session, project, a, b)
        get_image(session, image_id)
        event = scores.record(
            session, project, image_id, user.person(session), "set", given, origin="review",
            reason=reason, expected=expected,
        ).event  # fmt: skip
    return corrected(request, engine, user, both, view, after, event)


@router.post("/projects/{project_id}/compare/undo")
def undo(
    request: Request,
    engine: EngineDep,
    user: AnnotatorUser,
    project_id: Id,
    event_id: Annotated[int | None, Form()] = None,
    queue: Annotated[str, Form()] = "",
) -> Response:
    """Take the newest correction back. `queue` says which comparison it was made in."""
    a, _, rest = queue.partition(" ")
    b, _, view = rest.partition(" ")
    with writing(engine) as session:
        project = projects.get(session, project_id)
        both = flips.pair(session, project, a, b)
        event = scores.undo(session, project, user.person(session), event_id).event
    return corrected(request, engine, user, both, view, 0, event)


def corrected(
    request: Request, engine: EngineDep, user: CurrentUser, both: Pair, view: str, after: int,
    event: ScoreEvent,
) -> Response:  # fmt: skip
    """What a correction changes on the page: the verdict and the form of one card, the counts;
    with a toast that can take it back. Without a script, the page it was made on."""
    if view not in DIRECTIONS:
        raise Invalid(f"“{view[:20]}” is no direction.", "Use up or down.")
    saved = 0 if event.kind == "undo" else event.id
    if not by_htmx(request):
        at = f"a={both.a.number}&b={both.b.number}&view={view}&after={after}"
        done = f"saved={saved}" if saved else "undone=1"
        return see_other(f"/projects/{both.project.id}/compare?{at}&{done}")
    with reading(engine) as session:
        project = projects.get(session, both.project.id)
        person = user.person(session)
        flip = flips.one(session, both, event.image_id)
        context = {
            "project": project, "both": both, "view": view, "after": after,
            "flips": flips.counts(session, both), "changed": bool(saved),
            "card": card(session, both, person, view, flip),
            "toast": toast(session, project, both, view, saved, not saved),
        }  # fmt: skip
        blocks = ("verdict", "correction", "counts", "toast")
        return render(request, "compare.html", blocks, context)


def toast(
    session: Session, project: Project, both: Pair, view: str, saved: int, undone: bool
) -> dict[str, Any] | None:
    if undone:
        return {"text": "Taken back."}
    event = session.get(ScoreEvent, saved) if saved else None
    if event is None or event.project_id != project.id:
        return None
    image = session.get(Image, event.image_id)
    return {
        "text": f"Saved {event.value} for", "name": image.name if image else "", "undo": event.id,
        "undo_at": f"/projects/{project.id}/compare/undo", "project_id": project.id,
        "queue": f"{both.a.number} {both.b.number} {view}",
    }  # fmt: skip


# --- for programs --------------------------------------------------------------------------------


@api.get("/projects/{project_id}/compare")
def show_comparison(
    _: ViewerUser, session: ReadSession, project: CurrentProject, a: str = "", b: str = ""
) -> dict[str, Any]:
    """Two versions side by side; without numbers, the active one against its parent."""
    both = flips.pair(session, project, a, b)
    points = comparison.moved(session, both)["points"]
    return comparison.diff(session, both) | {"points": points}


@api.get("/projects/{project_id}/compare/flips")
def show_flips(
    _: ViewerUser,
    session: ReadSession,
    project: CurrentProject,
    a: str = "",
    b: str = "",
    direction: str = "up",
    after: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    n: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """A page of the images that went `up` to a pass or `down` to a fail. Correct them through
    `POST …/scores` with the origin `review`."""
    both = flips.pair(session, project, a, b)
    rows = flips.listing(session, both, direction, after=after, n=n)
    return {
        "a": both.a.number, "b": both.b.number,
        "images": flips.counts(session, both)[direction]["images"],
        "flips": [row.as_dict() for row in rows],
    }  # fmt: skip
