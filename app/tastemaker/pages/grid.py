"""Many images at once: select some, one key scores them all. For the easy four fifths.

The tiles are check boxes in one form, so it works without a script; `grid.js` adds selecting by
drag, Shift and arrows, and saves without leaving the page. A tile that was scored stays where it
is, with its score, until the next page is asked for.
"""

import math
import secrets
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictInt
from sqlalchemy import Engine

from tastemaker import projects, queues, scores
from tastemaker.auth.identity import Identity
from tastemaker.auth.lanes import SCORES
from tastemaker.auth.permissions import AnnotatorUser, GuardedRoute, ViewerUser
from tastemaker.database.sessions import writing
from tastemaker.database.tables import Project
from tastemaker.errors import Invalid
from tastemaker.pages import keymap
from tastemaker.pages.deps import (
    CurrentAnnotator,
    CurrentProject,
    EngineDep,
    Id,
    ReadSession,
    SettingsDep,
)
from tastemaker.pages.places import known_queue
from tastemaker.pages.render import kinds_of, render, see_other, shell
from tastemaker.pages.score import steps
from tastemaker.pages.scores import CLAIMS, NEVER_STALE, THE_TAGS, Tags, ticked
from tastemaker.scores import Origin, batches
from tastemaker.scores.answers import SWEEPS
from tastemaker.scores.batches import Batch, BatchItem

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")

PER_PAGE = 60


@router.get("/projects/{project_id}/score/grid")
def page(
    user: ViewerUser,
    request: Request,
    session: ReadSession,
    settings: SettingsDep,
    project: CurrentProject,
    person: CurrentAnnotator,
    queue: str = "mixed",
    collection: Annotated[int | None, Query(ge=1, lt=2**63)] = None,
    saved: Annotated[int, Query(ge=0, lt=10**6)] = 0,
    refused: Annotated[int, Query(ge=0, lt=10**6)] = 0,
    undone: bool = False,
) -> Response:
    """`saved` and `refused` tell what a form without a script has just done."""
    if not user.may_score:
        return see_other(f"/projects/{project.id}/library")
    queue = known_queue(queue)
    cards = queues.next_cards(
        session, settings, project, person, queue, n=PER_PAGE, collection_id=collection,
        swept_too=False,
    )  # fmt: skip
    context = {
        **keymap.context(person, kinds_of(request, project)),
        "scale": steps(project.brackets),
        "bound": sweep_bound(project),
        "queues": queues.titles(project),
        "queue": queue,
        "collection": collection,
        "cards": cards,
        "key": secrets.token_hex(16),
        "toast": _toast(saved, refused, undone),
    }
    newest = scores.newest_undoable(session, project, person)
    context["undoable"] = newest.id if newest is not None else None
    frame = shell(session, project, "score") | context
    return render(request, "grid.html", None, frame, headers=NEVER_STALE)


@router.post("/projects/{project_id}/score/grid")
@SCORES
def score(
    engine: EngineDep,
    user: AnnotatorUser,
    project_id: Id,
    image: Annotated[list[str] | None, Form(max_length=batches.MOST)] = None,
    value: Annotated[str, Form()] = "",
    key: Annotated[str, Form(max_length=60)] = "",
    queue: Annotated[str, Form()] = "mixed",
    tag: Annotated[Tags, Form()] = [],  # noqa: B006  # the framework copies it
) -> Response:
    """The form without a script: the chosen images, and a score, a class, “tags” with the ticked
    ones, “skip”, or “at_least 5” or “below 5” of a sweep."""
    queue = known_queue(queue)
    value = ticked(tag) if value == THE_TAGS else value
    chosen = [_chosen(text) for text in image or ()]
    batch = _record(engine, user, project_id, chosen, value, key or secrets.token_hex(16))
    done = f"saved={len(batch.events)}&refused={len(batch.refused)}"
    return see_other(f"/projects/{project_id}/score/grid?queue={queue}&{done}")


@router.post("/projects/{project_id}/score/grid/undo")
@SCORES
def undo(
    engine: EngineDep,
    user: AnnotatorUser,
    project_id: Id,
    queue: Annotated[str, Form()] = "mixed",
    event_id: Annotated[int | None, Form(ge=1, lt=2**63)] = None,
) -> Response:
    """Take back the newest thing said; with `event_id`, only if it is what the page meant."""
    queue = known_queue(queue)
    _undo(engine, user, project_id, None, event_id)
    return see_other(f"/projects/{project_id}/score/grid?queue={queue}&undone=1")


# --- for grid.js and other programs --------------------------------------------------------------


class OneOfBatch(BaseModel):
    model_config = ConfigDict(extra="forbid")

    image_id: int = Field(ge=1, lt=2**63)
    expected: int | None = None
    offer: str = Field(default="", max_length=4000)
    origin: str = ""
    reason: str = Field(default="", max_length=300)
    sha256: str | None = Field(default=None, max_length=64)


class NewBatch(BaseModel):
    """One score, or one class by its number (of tags the set of them), for many images, undone as
    one; without a value, a skip. With a `sweep` all of them are at least the value, or below it,
    whatever each of them is: of scores alone."""

    model_config = ConfigDict(extra="forbid")

    images: list[OneOfBatch] = Field(min_length=1, max_length=batches.MOST)
    value: StrictInt | None = Field(default=None, ge=0, lt=2**53)
    sweep: Literal["at_least", "below"] | None = None
    key: str = Field(min_length=8, max_length=60)


@api.post("/projects/{project_id}/batches")
@SCORES
def record_batch(
    request: Request, engine: EngineDep, user: AnnotatorUser, project_id: Id, body: NewBatch
) -> dict[str, Any]:
    """Score many images at once. `events` tells the new event of each image that was saved,
    `refused` why others were left as they are; `stale` are those of them that were scored
    elsewhere meanwhile."""
    if any(one.origin and one.origin not in CLAIMS for one in body.images):
        raise Invalid("An image of this batch comes from nowhere that is known.")
    chosen = [
        BatchItem(
            one.image_id,
            one.expected,
            Origin.claimed(one.origin),
            one.reason,
            one.offer,
            one.sha256,
        )
        for one in body.images
    ]
    value = "skip" if body.value is None else str(body.value)
    value = f"{body.sweep} {value}" if body.sweep else value
    batch = _record(engine, user, project_id, chosen, value, body.key)
    return {
        "saved": True,
        "library": request.app.state.library,
        "key": body.key,
        "events": {event.image_id: event.id for event in batch.events},
        "refused": batch.refused,
        "stale": batch.stale,
    }


class UndoneBatch(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: str | None = Field(default=None, min_length=8, max_length=80)


@api.post("/projects/{project_id}/batches/undo")
@SCORES
def undo_batch(
    request: Request, engine: EngineDep, user: AnnotatorUser, project_id: Id, body: UndoneBatch
) -> dict[str, Any]:
    """Take back the newest thing said, a batch as a whole. `events` names, for each image it was
    about, the event that stands now (0: none), `scores` the score, and `sweeps` the sweep where the
    image is at least a value, or below it."""
    undone = _undo(engine, user, project_id, body.key)
    return {"saved": True, "library": request.app.state.library, "key": body.key} | undone


# --- inside --------------------------------------------------------------------------------------


def _record(
    engine: Engine, user: Identity, project_id: int, chosen: list[BatchItem], value: str, key: str
) -> Batch:
    kind, number = _said(value)
    with writing(engine) as session:
        project = projects.get(session, project_id)
        person = user.person(session)
        return batches.record_batch(session, project, person, chosen, kind, number, key)


def _undo(
    engine: Engine, user: Identity, project_id: int, key: str | None, event_id: int | None = None
) -> dict[str, Any]:
    with writing(engine) as session:
        project, person = projects.get(session, project_id), user.person(session)
        inverse = scores.undo(session, project, person, event_id, key).event
        images = [event.image_id for event in batches.undone_together(session, inverse)]
        standing = {i: scores.newest_event(session, project, i, person) for i in images}
        return {
            "events": {i: event.id if event else 0 for i, event in standing.items()},
            "scores": {
                i: event.value if event and event.kind == "set" else None
                for i, event in standing.items()
            },
            "sweeps": {
                i: {"kind": event.kind, "value": event.value}
                for i, event in standing.items()
                if event and event.kind in SWEEPS
            },
        }


def _said(value: str) -> tuple[str, str | None]:
    """The kind and the value of an event, as a button of the form names it."""
    sweep, _, bound = value.rpartition(" ")
    if sweep in SWEEPS:
        return sweep, bound
    return ("skip", None) if value == "skip" else ("set", value)


def sweep_bound(project: Project) -> int:
    """What a sweep compares with: the lowest score that passes, 1 to 10."""
    return min(10, max(1, math.ceil(10 * project.threshold - 1e-9)))


def _chosen(text: str) -> BatchItem:
    """An image as its check box names it: id, known event and offer, by colons."""
    image_id, expected, offer = [*text.split(":", 2), "", ""][:3]
    if not (image_id.isdecimal() and expected.isdecimal() and len(image_id + expected) < 38):
        raise Invalid("An image of this form cannot be read.", "Reload the page.")
    return BatchItem(int(image_id), int(expected), offer=offer)


def _toast(saved: int, refused: int, undone: bool) -> dict[str, Any] | None:
    if undone:
        return {"text": "Taken back."}
    if not saved and not refused:
        return None
    left = f" {refused} were scored elsewhere meanwhile and stay as they are." if refused else ""
    return {"text": f"Saved {saved}.", "hint": left.strip(), "wrong": bool(refused)}
