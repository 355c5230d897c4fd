"""Two images, which is better: orders a band of images that share a score."""

import secrets
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Engine
from sqlmodel import Session, col, select

from tastemaker import projects
from tastemaker.auth.identity import Identity
from tastemaker.auth.lanes import SCORES
from tastemaker.auth.origins import by_htmx
from tastemaker.auth.permissions import AnnotatorUser, GuardedRoute, ViewerUser
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import Annotator, Image, Project
from tastemaker.errors import NotFound
from tastemaker.pages import keymap
from tastemaker.pages.deps import (
    CurrentAnnotator,
    CurrentProject,
    EngineDep,
    Id,
    ReadSession,
)
from tastemaker.pages.render import render, see_other, shell
from tastemaker.pages.scores import NEVER_STALE
from tastemaker.scores import comparisons
from tastemaker.scores.comparisons import Ranked

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")

SHOWN = 24  # of the order so far
Low = Annotated[int | None, Query(ge=0, le=10)]


@router.get("/projects/{project_id}/score/pairs")
def page(
    user: ViewerUser,
    request: Request,
    session: ReadSession,
    project: CurrentProject,
    person: CurrentAnnotator,
    low: Low = None,
) -> Response:
    if not user.may_score:
        return see_other(f"/projects/{project.id}/library")
    context = {"keys": keymap.of(person), "toast": None, **_facts(session, project, person, low)}
    frame = shell(session, project, "score") | context
    return render(request, "pairs.html", None, frame, headers=NEVER_STALE)


@router.post("/projects/{project_id}/score/pairs")
@SCORES
def answer(
    request: Request,
    engine: EngineDep,
    user: AnnotatorUser,
    project_id: Id,
    first_id: Annotated[int, Form(ge=1, lt=2**63)],
    second_id: Annotated[int, Form(ge=1, lt=2**63)],
    verdict: Annotated[str, Form()] = "",
    key: Annotated[str | None, Form(max_length=80)] = None,
    low: Annotated[int | None, Form(ge=0, le=10)] = None,
) -> Response:
    with writing(engine) as session:
        project = projects.get(session, project_id)
        person = user.person(session)
        comparisons.record(session, project, person, first_id, second_id, verdict, key or None)
    return _next(request, engine, user, project_id, low)


@router.post("/projects/{project_id}/score/pairs/undo")
@SCORES
def undo(
    request: Request,
    engine: EngineDep,
    user: AnnotatorUser,
    project_id: Id,
    low: Annotated[int | None, Form(ge=0, le=10)] = None,
    comparison_id: Annotated[int | None, Form(ge=1, lt=2**63)] = None,
) -> Response:
    """The pair that was taken back is shown again; `comparison_id` names the one
    that the page meant."""
    with writing(engine) as session:
        project = projects.get(session, project_id)
        person = user.person(session)
        inverse = comparisons.undo(session, project, person, comparison_id=comparison_id)
    return _next(request, engine, user, project_id, low, (inverse.first_id, inverse.second_id))


def _next(
    request: Request, engine: Engine, user: Identity, project_id: int, low: int | None,
    pair: tuple[int, int] | None = None,
) -> Response:  # fmt: skip
    if not by_htmx(request):
        chosen = f"?low={low}" if low is not None else ""
        return see_other(f"/projects/{project_id}/score/pairs{chosen}")
    with reading(engine) as session:
        project = projects.get(session, project_id)
        person = user.person(session)
        facts = _facts(session, project, person, low, pair)
        context = {"project": project, "keys": keymap.of(person), **facts}
        return render(request, "pairs.html", "pair", context)


# --- the same for programs -----------------------------------------------------------------------


class NewComparison(BaseModel):
    model_config = ConfigDict(extra="forbid")

    first_id: int = Field(ge=1, lt=2**63)
    second_id: int = Field(ge=1, lt=2**63)
    verdict: Literal["first", "second", "equal"]
    key: str | None = Field(default=None, min_length=8, max_length=80)


@api.get("/projects/{project_id}/comparisons")
def show_order(
    _: ViewerUser, session: ReadSession, project: CurrentProject, low: Low = None
) -> dict[str, Any]:
    """The band's images by strength, strongest first, and the pair to ask about next."""
    low = comparisons.default_low(session, project) if low is None else low
    pairs = comparisons.standing_results(session, project)
    ranked = comparisons.order(comparisons.labels_between(session, project, low), pairs)
    return {
        "low": low,
        "comparisons": len(pairs),
        "order": [vars(image) for image in ranked],
        "next": comparisons.next_pair(ranked, pairs, project.seed),
    }


@api.post("/projects/{project_id}/comparisons")
@SCORES
def compare(
    engine: EngineDep, user: AnnotatorUser, project_id: Id, body: NewComparison
) -> dict[str, Any]:
    """Record which of two images is better, or that neither is."""
    with writing(engine) as session:
        project, person = projects.get(session, project_id), user.person(session)
        row = comparisons.record(
            session, project, person, body.first_id, body.second_id, body.verdict, body.key
        )
        return {"comparison_id": row.id, "saved": True}


@api.post("/projects/{project_id}/comparisons/undo")
@SCORES
def undo_comparison(
    engine: EngineDep,
    user: AnnotatorUser,
    project_id: Id,
    comparison_id: Annotated[int | None, Query(ge=1, lt=2**63)] = None,
) -> dict[str, Any]:
    """Take back your newest comparison; with `comparison_id`, only if it is that one, so that a
    request that is sent again takes back no other."""
    with writing(engine) as session:
        project, person = projects.get(session, project_id), user.person(session)
        row = comparisons.undo(session, project, person, comparison_id=comparison_id)
        return {"undoes": row.undoes, "first_id": row.first_id, "second_id": row.second_id}


# --- what the page shows -------------------------------------------------------------------------


def _facts(
    session: Session, project: Project, person: Annotator, low: int | None,
    pair: tuple[int, int] | None = None,
) -> dict[str, Any]:  # fmt: skip
    low = comparisons.default_low(session, project) if low is None else low
    ids = comparisons.labels_between(session, project, low)
    newest = comparisons.newest_comparison(session, project, person)
    pairs = comparisons.standing_results(session, project)
    ranked = comparisons.order(ids, pairs)
    pair = pair or comparisons.next_pair(ranked, pairs, project.seed)
    compared: list[Ranked] = [image for image in ranked if image.met]
    wanted = [*(pair or ()), *(image.image_id for image in compared[:SHOWN])]
    images = {i.id: i for i in session.exec(select(Image).where(col(Image.id).in_(wanted)))}
    if pair and not set(pair) <= set(images):
        raise NotFound("One of these images is gone.", "Reload the page.")
    return {
        "low": low,
        "band": len(ids),
        "pair": [images[i] for i in pair] if pair else None,
        "compared": [
            (rank, images[image.image_id]) for rank, image in enumerate(compared[:SHOWN], 1)
        ],
        "met": len(compared),
        "count": len(pairs),
        "undoable": newest.id if newest is not None else None,
        "key": secrets.token_hex(16),
    }
