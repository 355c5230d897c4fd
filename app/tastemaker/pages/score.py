"""Scoring: one image, one key, the next image.

Every button here is a real form, so the page works without a script. `score.js` does the same
through the JSON API: it shows the next image at once and saves behind it.
"""

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from sqlmodel import Session, col, select

from tastemaker import queues, scores
from tastemaker.auth.permissions import GuardedRoute, ViewerUser
from tastemaker.database.tables import Collection, Project, ProjectCollection
from tastemaker.database.tables.projects import DEFAULT_BRACKETS
from tastemaker.errors import Invalid
from tastemaker.files.json_text import json_text
from tastemaker.pages import keymap
from tastemaker.pages.deps import CurrentAnnotator, CurrentProject, Id, ReadSession, SettingsDep
from tastemaker.pages.places import ScorePlace, known_queue
from tastemaker.pages.render import kinds_of, load_anew, render, see_other, shell
from tastemaker.pages.scores import NEVER_STALE
from tastemaker.pages.scoring_session import session_summary
from tastemaker.queues import history
from tastemaker.queues.cards import card_for, card_json

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")

MAX_CARDS = 50
CARDS_AHEAD = 8  # what the page holds; its first three pictures are decoded ahead


EMPTY = {
    "start": "It is for the very first scores; the other queues know more by now.",
    "false-positives": "No score, and no suspicion, lies on that wrong side of the threshold.",
    "false-negatives": "No score, and no suspicion, lies on that wrong side of the threshold.",
    "near-threshold": "The model is not in doubt about any image that has no score yet.",
    "doubtful": "No label of yours surprises the model.",
    "contradictions": "No two images that look alike are labelled far apart.",
    "re-ask": "It asks again for scores given a while ago; there are none old enough yet.",
    "boundary": "The model is sure of every image without a label, or the labels are too few yet.",
    "diverse": "Every part of the library has its label, or was looked at by you.",
    "confused": "The version and the labels agree, as far as they were not looked at since.",
    "no-class": "Every image without a label resembles one of the classes.",
    "flagged": "Flag an image while scoring to find it here again.",
    "skipped": "You have skipped nothing, or looked at all of it again.",
    "audit": "Every image that was drawn for this audit is answered, or it is another person’s.",
}


@dataclass(frozen=True)
class Step:
    """Neighbouring scores that share a bracket of the scale: `first`–`last` of 0–10."""

    first: int
    last: int
    name: str


# What the scale means in words, until a project names its own brackets.
WORDS = (
    Step(0, 0, "reject"), Step(3, 3, "poor"), Step(5, 5, "acceptable"), Step(7, 7, "good"),
    Step(10, 10, "best"),
)  # fmt: skip


# --- pages ---------------------------------------------------------------------------------------


@router.get("/projects/{project_id}/score")
def page(
    user: ViewerUser,
    request: Request,
    session: ReadSession,
    settings: SettingsDep,
    project: CurrentProject,
    person: CurrentAnnotator,
    queue: str = "mixed",
    collection: Annotated[int, Query(ge=0, lt=2**63)] = 0,
    image: int = 0,
    flagged: bool = False,
) -> Response:
    """The next image; `image` names one to show first (after an undo). `flagged` tells what a form
    without a script has just done."""
    if not user.may_score:
        return see_other(f"/projects/{project.id}/library")
    kinds = kinds_of(request, project)
    place = ScorePlace(queue=known_queue(queue), collection=collection)
    dealt = queues.score_page(
        session, settings, project, person, queue, CARDS_AHEAD, first_id=image,
        collection_id=collection or None,
    )  # fmt: skip
    context = {
        **keymap.context(person, kinds),
        "scale": scale(project),
        "passes_from": math.ceil(10 * project.threshold - 1e-9),
        "choices": choices(session, project),
        "place": place,
        "queue": queue,
        "collection": collection,
        "chosen": queues.titles(project).get(queue, queue),
        "empty": EMPTY,
        "card": dealt.cards[0] if dealt.cards else None,
        "cards": json_text([card_json(card) for card in dealt.cards], ascii_only=True),
        "previous": dealt.previous,
        "undoable": scores.newest_undoable(session, project, person) is not None,
        "toast": {"text": "Flagged.", "hint": "You can still score it."} if flagged else None,
        "key": secrets.token_hex(16),
        **session_summary(session, settings, project, person),
    }
    frame = shell(session, project, "score")
    return render(request, "score.html", None, frame | context, headers=NEVER_STALE)


@router.get("/projects/{project_id}/score/strip")
def session_strip(
    _: ViewerUser,
    request: Request,
    session: ReadSession,
    settings: SettingsDep,
    project: CurrentProject,
    person: CurrentAnnotator,
) -> Response:
    """The figures below the image, asked for again after scores and while images come in."""
    context = {"project": project, **session_summary(session, settings, project, person)}
    return render(request, "score.html", "strip", context)


@router.get("/projects/{project_id}/score/waiting")
def waiting(
    _: ViewerUser,
    request: Request,
    session: ReadSession,
    settings: SettingsDep,
    project: CurrentProject,
    person: CurrentAnnotator,
    queue: str = "mixed",
    collection: Annotated[int, Query(ge=0, lt=2**63)] = 0,
) -> Response:
    """Asked again and again by a page without an image: reload once there is one."""
    queue = known_queue(queue)
    if queues.next_cards(
        session, settings, project, person, queue, n=1, collection_id=collection or None
    ):
        return load_anew()
    context = {
        "project": project, "queue": queue, "collection": collection,
        "place": ScorePlace(queue=queue, collection=collection),
        "chosen": queues.titles(project).get(queue, queue), "empty": EMPTY,
        **keymap.context(person, kinds_of(request, project)),
        "undoable": scores.newest_undoable(session, project, person) is not None,
        **session_summary(session, settings, project, person),
    }  # fmt: skip
    return render(request, "score.html", "nothing", context)


# --- what the page shows -------------------------------------------------------------------------


def choices(session: Session, project: Project) -> list[tuple[str, str, int]]:
    """The queues to choose from as (queue, name, collection): the last one once for each of the
    project's collections, where there is more than one."""
    offered = queues.titles(project).items()
    listed = [(queue, name, 0) for queue, name in offered if queue not in queues.OF_ONE]
    pools = session.execute(
        select(Collection.id, Collection.name)
        .join(ProjectCollection, col(ProjectCollection.collection_id) == Collection.id)
        .where(ProjectCollection.project_id == project.id, ProjectCollection.role == "pool")
        .order_by(col(Collection.name))
    ).all()
    if len(pools) > 1:
        listed += [("collection", name, collection_id) for collection_id, name in pools]
    return listed


def scale(project: Project) -> Sequence[Step]:
    """What the scores mean, beside the image."""
    own = [tuple(bracket) for bracket in project.brackets]
    return WORDS if own == list(DEFAULT_BRACKETS) else steps(project.brackets)


def steps(brackets: Sequence[Sequence[Any]]) -> list[Step]:
    """The scores 0–10 under the brackets ([from 0–1, name], ascending) that they fall into. A
    bracket too narrow to hold a whole score has none."""
    listed = []
    for number, (start, name) in enumerate(brackets):
        end = brackets[number + 1][0] if number + 1 < len(brackets) else 1.01
        inside = [v for v in range(11) if start - 1e-9 <= v / 10 < end - 1e-9]
        if inside:
            listed.append(Step(inside[0], inside[-1], str(name)))
    return listed


# --- for programs --------------------------------------------------------------------------------


@api.get("/projects/{project_id}/history")
def show_history(
    _: ViewerUser,
    session: ReadSession,
    settings: SettingsDep,
    project: CurrentProject,
    person: CurrentAnnotator,
    before: Annotated[int, Query(ge=0, lt=2**63)] = 0,
    n: Annotated[int, Query(ge=1, le=50)] = 12,
) -> list[dict[str, Any]]:
    """The images you scored or skipped, newest first, as cards with what you said; `before` is the
    event of the oldest one at hand. An image that was scored again is listed once."""
    return [
        {
            "event_id": one.event_id,
            "kind": one.kind,
            "value": one.value,
            "card": card_json(one.card),
        }
        for one in history.history(session, settings, project, person, before, n)
    ]


@api.get("/projects/{project_id}/queue")
def next_images(
    _: ViewerUser,
    session: ReadSession,
    settings: SettingsDep,
    project: CurrentProject,
    person: CurrentAnnotator,
    queue: str = "mixed",
    collection: Annotated[int, Query(ge=0, lt=2**63)] = 0,
    n: Annotated[int, Query(ge=1, le=MAX_CARDS)] = 4,
    exclude: str = "",
) -> list[dict[str, Any]]:
    """The next images to score, each with the reason why. `exclude`: ids held already, by comma;
    `collection`: which one, for the queue of that name."""
    cards = queues.next_cards(
        session, settings, project, person, known_queue(queue), n=n, exclude=_ids(exclude),
        collection_id=collection or None,
    )  # fmt: skip
    return [card_json(card) for card in cards]


@api.get("/projects/{project_id}/scores")
def list_scores(
    _: ViewerUser,
    session: ReadSession,
    project: CurrentProject,
    person: CurrentAnnotator,
    limit: Annotated[int, Query(ge=1, le=100_000)] = 100,
) -> list[dict[str, Any]]:
    """Your scores, skips and flags that stand, newest first."""
    return [
        {
            "event_id": event.id,
            "image_id": image.id,
            "sha256": image.sha256,
            "kind": event.kind,
            "value": event.value,
            "origin": event.origin,
            "reason": event.reason,
            "at": event.at.isoformat(),
        }
        for event, image in scores.recent(session, project, person, limit)
    ]


@api.get("/projects/{project_id}/images/{image_id}")
def show_image(
    _: ViewerUser,
    session: ReadSession,
    settings: SettingsDep,
    project: CurrentProject,
    person: CurrentAnnotator,
    image_id: Id,
) -> dict[str, Any]:
    """One image as a card: its label, what the model thinks, why it would be shown."""
    return card_json(card_for(session, settings, project, person, image_id))


def _ids(text: str) -> Sequence[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and len(part) < 19 for part in parts):
        raise Invalid("“exclude” is a list of image ids with commas between them.")
    return [int(part) for part in parts]
