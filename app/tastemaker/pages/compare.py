"""Comparing two versions: numbers, what moved, what was learned, and the flips as a queue that is
corrected where it is seen."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request, Response
from pydantic import BaseModel, Field
from sqlmodel import Session

from tastemaker import versions
from tastemaker.auth.lanes import SCORES
from tastemaker.auth.permissions import AnnotatorUser, GuardedRoute, ViewerUser
from tastemaker.config import Settings
from tastemaker.database.tables import Annotator, Project, Version
from tastemaker.errors import Invalid, NotFound
from tastemaker.evaluation import class_comparison, comparison, flips
from tastemaker.evaluation.flips import Pair
from tastemaker.pages import keymap
from tastemaker.pages.deps import (
    CurrentAnnotator,
    CurrentProject,
    EngineDep,
    Id,
    ReadSession,
    SettingsDep,
)
from tastemaker.pages.places import ChangePlace, ComparePlace
from tastemaker.pages.render import kinds_of, render, shell
from tastemaker.pages.scores import (
    NEVER_STALE,
    ScoreForm,
    UndoForm,
    respond,
    saved_toast,
    take_back,
)
from tastemaker.scores import Origin, classes
from tastemaker.versions import version_report

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")

VIEWS = {"numbers": "Numbers", "up": "Fail to pass", "down": "Pass to fail", "labels": "Labels"}
PER_PAGE = 48
LABELS_SHOWN = 200


# --- pages ---------------------------------------------------------------------------------------


@router.get("/projects/{project_id}/compare")
def page(
    _: ViewerUser,
    request: Request,
    session: ReadSession,
    settings: SettingsDep,
    project: CurrentProject,
    person: CurrentAnnotator,
    a: str = "",
    b: str = "",
    view: str = "",
    after: Annotated[int, Query(ge=0, lt=2**53)] = 0,
    before: Annotated[int, Query(ge=-1, lt=2**53)] = -1,
    skip: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    saved: int = 0,
    undone: bool = False,
) -> Response:
    """Without a `view` it opens on what flipped, if anything did; of classes, `before` and `after`
    choose the images that are taken for something else. `saved` and `undone` tell what a
    form without a script has just done."""
    if view and view not in VIEWS:
        raise NotFound(f"There is no view “{view[:40]}” of a comparison.", "Choose a tab.")
    ready = versions.list_ready(session, project)
    if project.labelling != "scores":
        of = (before, after, skip) if before >= 0 else None
        told = saved, undone
        return _of_classes(request, session, settings, project, person, ready, a, b, of, told)
    context: dict[str, Any] = {
        "versions": ready,
        "views": VIEWS,
        "view": view,
        "both": None,
        "one": None,
    }
    twice = len(ready) >= 2 and bool(a) and a == b
    if twice:
        context["one"] = versions.by_number(session, project, a)
    elif len(ready) >= 2:
        both = flips.pair(session, project, a, b)
        counts = flips.counts(session, both)
        view = view or next((way for way in ("up", "down") if counts[way].images), "numbers")
        labels, changes = comparison.label_changes(session, both, LABELS_SHOWN)
        context |= {
            "both": both, "view": view, "paired": comparison.paired_metrics(session, both),
            "flips": counts, "labels": labels, "after": after,
            "tabs": {
                "numbers": None, "up": counts["up"].images, "down": counts["down"].images,
                "labels": sum(labels.values()),
            },
        }  # fmt: skip
        if view == "numbers":
            context |= numbers(session, both)
        elif view == "labels":
            context["changes"] = changes
        else:
            place = ComparePlace(a=both.a.number, b=both.b.number, view=view, after=after)
            listed = flips.listing(session, both, view, after=after, n=PER_PAGE)
            context |= {
                "place": place, "per_page": PER_PAGE,
                "cards": flips.flip_cards(session, settings, both, person, listed),
                "by_image": {flip.image_id: flip for flip in listed},
                "toast": saved_toast(session, project, person, place, saved, undone),
            }  # fmt: skip
    page = shell(session, project, "versions") | context | {"keys": keymap.of(person)}
    status = Invalid.status if twice else 200
    return render(request, "compare.html", None, page, status=status, headers=NEVER_STALE)


def _of_classes(
    request: Request, session: Session, settings: Settings, project: Project, person: Annotator,
    ready: Sequence[Version], a: str, b: str, of: tuple[int, int, int] | None,
    done: tuple[int, bool],
) -> Response:  # fmt: skip
    """The page of a project with classes: class by class, and what is taken for something else;
    `of` says which change is looked at (before, after), from which image on."""
    two = len(ready) >= 2
    twice = two and bool(a) and a == b
    both = flips.pair(session, project, a, b) if two and not twice else None
    told = class_comparison.compare(session, both) if both else None
    context: dict[str, Any] = {
        "versions": ready, "both": both,
        "one": versions.by_number(session, project, a) if twice else None,
        "told": told,
        "kinds": kinds_of(request, project), "most": class_comparison.MOST_CHANGES,
        "moved": None, "cards": [], "keys": keymap.of(person),
    }  # fmt: skip
    if both and told and of:
        before, after, skip = of
        place = ChangePlace(a=both.a.number, b=both.b.number, before=before, after=after, skip=skip)
        found = class_comparison.changed_images(session, both, before, after, skip=skip, n=PER_PAGE)
        context |= {
            "moved": class_comparison.change(told.changes, before, after),
            "place": place, "per_page": PER_PAGE,
            "by_image": {one.image_id: one for one in found},
            "cards": class_comparison.change_cards(session, settings, both, person, found),
            "toast": saved_toast(session, project, person, place, *done),
        }  # fmt: skip
    frame = shell(session, project, "versions") | context
    status = Invalid.status if twice else 200
    return render(request, "class_compare.html", None, frame, status=status, headers=NEVER_STALE)


def numbers(session: Session, both: Pair) -> dict[str, Any]:
    units = {name: (label, unit, of) for name, label, unit, of in version_report.METRICS}
    return {
        "encoders": comparison.encoders_differ(session, both),
        "units": units,
        "moved": comparison.moved(session, both),
        "slices": comparison.slices_moved(session, both),
    }


# --- older addresses of a correction -------------------------------------------------------------


class At(BaseModel):
    """The fields that name the place of a flip."""

    a: str = ""
    b: str = ""
    view: str = "up"
    after: int = Field(default=0, ge=0, lt=2**31)

    def return_place(self) -> ComparePlace:
        return ComparePlace(a=self.a, b=self.b, view=self.view, after=self.after)


class FlipForm(At, ScoreForm):
    pass


class FlipUndo(At, UndoForm):
    pass


@router.post("/projects/{project_id}/compare/images/{image_id}/score")
@SCORES
def correct(
    request: Request, engine: EngineDep, settings: SettingsDep, user: AnnotatorUser, project_id: Id,
    image_id: Id, form: Annotated[FlipForm, Form()],
) -> Response:  # fmt: skip
    entry = replace(form.input("set"), origin=Origin.REVIEW)
    place = form.return_place()
    return respond(request, engine, settings, user, project_id, image_id, entry, place)


@router.post("/projects/{project_id}/compare/undo")
@SCORES
def undo(
    request: Request, engine: EngineDep, settings: SettingsDep, user: AnnotatorUser, project_id: Id,
    form: Annotated[FlipUndo, Form()],
) -> Response:  # fmt: skip
    place = form.return_place()
    return take_back(request, engine, settings, user, project_id, form.event_id, place)


# --- for programs --------------------------------------------------------------------------------


@api.get("/projects/{project_id}/compare")
def show_comparison(
    _: ViewerUser, session: ReadSession, project: CurrentProject, a: str = "", b: str = ""
) -> dict[str, Any]:
    """Two versions side by side; without numbers, the active one against its parent. Of a project
    with classes: the share that is `wrong` and the figures of each class, paired, and what is taken
    for something else."""
    both = flips.pair(session, project, a, b)
    if project.labelling != "scores":
        told_apart = class_comparison.compare(session, both)
        return told_apart.as_json(classes.of(session, project.id))
    told = comparison.diff(session, both)
    return told.as_json() | {"points": told.moved.points}


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
    was: str = "",
    now: str = "",
) -> dict[str, Any]:
    """A page of the images that went `up` to a pass or `down` to a fail. Correct them through
    `POST …/scores` with the origin `review`. Of classes, those that were taken for one (`was`) and
    are for another `now`, by name or number. Of all `images`, the `held` ones only measure versions
    and are not listed."""
    both = flips.pair(session, project, a, b)
    if project.labelling != "scores":
        known = classes.of(session, project.id)
        one, other = known.parse(was), known.parse(now)
        found = class_comparison.changed_images(session, both, one, other, skip=after, n=n)
        changes = class_comparison.changes(session, both)[1]
        change = class_comparison.change(changes, one, other)
        return {
            "a": both.a.number, "b": both.b.number, "images": change.images if change else 0,
            "held": change.held if change else 0, "flips": [asdict(row) for row in found],
        }  # fmt: skip
    rows = flips.listing(session, both, direction, after=after, n=n)
    count = flips.counts(session, both)[direction]
    return {
        "a": both.a.number, "b": both.b.number, "images": count.images, "held": count.held,
        "flips": [row.as_dict() for row in rows],
    }  # fmt: skip
