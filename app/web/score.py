"""Scoring: one image, one key, the next image.

Every button here is a real form, so the page works without a script. `score.js` does the same
through the JSON API: it shows the next image at once and saves behind it.
"""

import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request, Response
from pydantic import BaseModel, Field
from sqlalchemy import Engine
from sqlmodel import Session, col, select

from app import keymap, projects
from app.asking import queues
from app.asking.cards import Card, card_for
from app.config import Settings
from app.db import reading, writing
from app.errors import Invalid, NotFound
from app.media.pictures import VIEW
from app.reviewing import reviews
from app.scoring import scores
from app.scoring.agreement import RE_ASK
from app.scoring.scores import Recorded
from app.tables import Annotator, Collection, Project, ProjectCollection, ScoreEvent, now
from app.web.deps import EngineDep, Id, Reader, SettingsDep, ThePerson, TheProject, WhoDep
from app.web.render import by_htmx, render, see_other, shell
from app.web.sitting import ENOUGH_TO_TRAIN, PAUSE, labelled, newest_job, strip, zoned
from app.web.who import Who

__all__ = ["ENOUGH_TO_TRAIN", "labelled", "newest_job"]

router = APIRouter(include_in_schema=False)
api = APIRouter(prefix="/api/v1")

CARDS_AHEAD = 8  # what the page holds; its first three pictures are decoded ahead
ORIGINS = ("control", "queue", "review", RE_ASK)  # what a page may say; imports have their own door


EMPTY = {
    "start": "It is for the very first scores; the other queues know more by now.",
    "false-positives": "No score, and no suspicion, lies on that wrong side of the threshold.",
    "false-negatives": "No score, and no suspicion, lies on that wrong side of the threshold.",
    "near-threshold": "The model is not in doubt about any image that has no score yet.",
    "doubtful": "No score of yours surprises the model.",
    "contradictions": "No two images that look alike have scores far apart.",
    "re-ask": "It asks again for scores given a while ago; there are none old enough yet.",
    "flagged": "Flag an image while scoring to find it here again.",
    "skipped": "You have skipped nothing, or looked at all of it again.",
}


@dataclass(frozen=True)
class Said:
    """What a person says about an image, as a form or the API brings it."""

    kind: str
    value: int | None
    key: str | None
    expected: int | None
    origin: str
    reason: str
    note: str = ""


@dataclass(frozen=True)
class Step:
    """Neighbouring scores that share a bracket of the scale: `first`–`last` of 0–10."""

    first: int
    last: int
    name: str


# --- pages ---------------------------------------------------------------------------------------


@router.get("/projects/{project_id}/score")
def page(
    request: Request,
    session: Reader,
    settings: SettingsDep,
    project: TheProject,
    person: ThePerson,
    queue: str = "mixed",
    collection: int = 0,
    image: int = 0,
) -> Response:
    """The next image; `image` names one to show first (after an undo)."""
    queue = known_queue(queue)
    cards = queues.next_cards(
        session, settings, project, person, queue, n=CARDS_AHEAD, exclude=[image],
        collection_id=collection or None,
    )  # fmt: skip
    if image > 0:
        cards = [card_for(session, settings, project, person, image), *cards]
    context = {
        "keys": keymap.of(person),
        "key_actions": keymap.DOES,
        "scale": steps(project.brackets),
        "choices": choices(session, project),
        "queue": queue,
        "collection": collection,
        "chosen": queues.QUEUES[queue],
        "empty": EMPTY,
        "card": cards[0] if cards else None,
        "cards": json.dumps([card_json(card) for card in cards]),
        "previous": previous_card(session, settings, project, person),
        "key": secrets.token_hex(16),
        **strip(session, settings, project, person),
    }
    return render(request, "score.html", None, shell(session, project, "score") | context)


@router.get("/projects/{project_id}/score/strip")
def session_strip(
    request: Request,
    session: Reader,
    settings: SettingsDep,
    project: TheProject,
    person: ThePerson,
) -> Response:
    """The figures below the image, asked for again after scores and while images come in."""
    context = {"project": project, **strip(session, settings, project, person)}
    return render(request, "score.html", "strip", context)


@router.get("/projects/{project_id}/score/waiting")
def waiting(
    request: Request,
    session: Reader,
    settings: SettingsDep,
    project: TheProject,
    person: ThePerson,
    queue: str = "mixed",
    collection: int = 0,
) -> Response:
    """Asked every second by a page without an image: reload once there is one."""
    queue = known_queue(queue)
    if queues.next_cards(
        session, settings, project, person, queue, n=1, collection_id=collection or None
    ):
        return Response(headers={"HX-Refresh": "true"})
    context = {
        "project": project, "queue": queue, "collection": collection,
        "chosen": queues.QUEUES[queue], "empty": EMPTY,
        **strip(session, settings, project, person),
    }  # fmt: skip
    return render(request, "score.html", "nothing", context)


# --- what people do ------------------------------------------------------------------------------


class Saying(BaseModel):
    """The fields of every form that says something about an image (`parts.about`)."""

    value: str = ""
    note: str = Field(default="", max_length=2000)
    key: str = ""
    expected: int | None = None
    queue: str = "mixed"
    page: str = ""
    origin: str = "queue"
    reason: str = ""

    def said(self, kind: str) -> Said:
        value = scores.parse_score(self.value) if kind == "set" else None
        note = self.note.strip() if kind == "flag" else ""
        return Said(kind, value, self.key or None, self.expected, self.origin, self.reason, note)


SayingForm = Annotated[Saying, Form()]


@router.post("/projects/{project_id}/images/{image_id}/score")
def score(
    request: Request, engine: EngineDep, settings: SettingsDep, who: WhoDep, project_id: Id,
    image_id: Id, form: SayingForm,
) -> Response:  # fmt: skip
    said = form.said("set")
    return told(request, engine, settings, who, project_id, image_id, said, form.queue, form.page)


@router.post("/projects/{project_id}/images/{image_id}/skip")
def skip(
    request: Request, engine: EngineDep, settings: SettingsDep, who: WhoDep, project_id: Id,
    image_id: Id, form: SayingForm,
) -> Response:  # fmt: skip
    said = form.said("skip")
    return told(request, engine, settings, who, project_id, image_id, said, form.queue, form.page)


@router.post("/projects/{project_id}/images/{image_id}/flag")
def flag(
    engine: EngineDep, who: WhoDep, project_id: Id, image_id: Id, form: SayingForm
) -> Response:
    """Mark an image for a later look. It stays on the screen: it can be scored as well."""
    queue = known_queue(form.queue)
    say(engine, who, project_id, image_id, form.said("flag"))
    return see_other(f"{score_page(project_id, queue, form.page)}&image={image_id}")


@router.post("/projects/{project_id}/undo")
def undo(
    request: Request,
    engine: EngineDep,
    settings: SettingsDep,
    who: WhoDep,
    project_id: Id,
    event_id: Annotated[int | None, Form()] = None,
    key: Annotated[str, Form()] = "",
    queue: Annotated[str, Form()] = "mixed",
    page: Annotated[str, Form()] = "",
) -> Response:
    event = take_back(engine, who, project_id, event_id, key or None)
    if queue in reviews.REVIEWS and not page.startswith("score"):
        if by_htmx(request):
            return review_card(
                request, engine, settings, who, project_id, event.image_id, queue, None
            )
        return see_other(review_page(project_id, queue, page, "undone=1"))
    return see_other(f"{score_page(project_id, known_queue(queue), page)}&image={event.image_id}")


def say(engine: Engine, who: Who, project_id: int, image_id: int, said: Said) -> Recorded:
    """Record what was said, in one transaction, committed when this returns."""
    if said.origin not in ORIGINS:
        raise Invalid(f"“{said.origin[:20]}” is not where an image can come from.")
    with writing(engine) as session:
        try:
            return scores.record_for(
                session, project_id, image_id, who.scores_as(session), said.kind, said.value,
                origin=said.origin, reason=said.reason, note=said.note, key=said.key,
                expected=said.expected,
            )  # fmt: skip
        except NotFound:
            projects.get(session, project_id)  # it may be the project that is not there
            raise


def take_back(
    engine: Engine, who: Who, project_id: int, event_id: int | None, key: str | None
) -> ScoreEvent:
    """Undo the newest thing said (`event_id`: only if it is that one). Returns the inverse."""
    with writing(engine) as session:
        project = projects.get(session, project_id)
        return scores.undo(session, project, who.person(session), event_id, key).event


def told(
    request: Request, engine: Engine, settings: Settings, who: Who, project_id: int,
    image_id: int, said: Said, queue: str, page: str,
) -> Response:  # fmt: skip
    """Record, then go back to the page it was said on: `page` is “score”, or the
    place in a review list."""
    reviewing = queue in reviews.REVIEWS and not page.startswith("score")
    if not reviewing:
        queue = known_queue(queue)
    event = say(engine, who, project_id, image_id, said)
    if not reviewing:
        return see_other(score_page(project_id, queue, page))
    if by_htmx(request):
        return review_card(request, engine, settings, who, project_id, image_id, queue, event)
    return see_other(review_page(project_id, queue, page, f"saved={event.id}"))


def review_card(
    request: Request, engine: Engine, settings: Settings, who: Who, project_id: int,
    image_id: int, queue: str, saved: Recorded | None,
) -> Response:  # fmt: skip
    """What changes on a review page: the verdict and the form of one card, and the counts, with a
    toast that can take the change back. The card keeps the prediction it was shown with."""
    with reading(engine) as session:
        project = projects.get(session, project_id)
        person = who.person(session)
        card = card_for(session, settings, project, person, image_id)
        if saved is None:
            toast: dict[str, Any] = {"text": "Taken back."}
        else:
            toast = {
                "text": f"Saved {saved.value} for", "name": card.name, "undo": saved.id,
                "project_id": project.id, "queue": queue,
            }  # fmt: skip
        context = {
            "project": project, "kind": queue, "toast": toast, "changed": saved is not None,
            "card": card, "review": reviews.review(session, settings, project, person, queue, n=0),
        }  # fmt: skip
        blocks = ("verdict", "correction", "counts", "toast")
        return render(request, "review.html", blocks, context)


def review_page(project_id: int, kind: str, page: str, done: str) -> str:
    """The address of a review list at the place that its form named, telling what was done."""
    place = str(reviews.place(page.removeprefix("after:"))) if page.startswith("after:") else ""
    return f"/projects/{project_id}/review/{kind}?{done}" + (f"&after={place}" if place else "")


def score_page(project_id: int, queue: str, page: str) -> str:
    """The address to go on scoring at; a form of the page for one collection says `score:ID`."""
    collection = page.removeprefix("score:")
    kept = f"&collection={collection}" if queue == "collection" and collection.isdecimal() else ""
    return f"/projects/{project_id}/score?queue={queue}{kept}"


# --- what the page shows -------------------------------------------------------------------------


def known_queue(queue: str) -> str:
    if queue not in queues.QUEUES:
        raise Invalid(f"There is no queue “{queue[:40]}”.", f"Use {' or '.join(queues.QUEUES)}.")
    return queue


def choices(session: Session, project: Project) -> list[tuple[str, str, int]]:
    """The queues to choose from as (queue, name, collection): the last one once for each of the
    project's collections, where there is more than one."""
    found = [(queue, name, 0) for queue, name in queues.QUEUES.items() if queue != "collection"]
    pools = session.execute(
        select(Collection.id, Collection.name)
        .join(ProjectCollection, col(ProjectCollection.collection_id) == Collection.id)
        .where(ProjectCollection.project_id == project.id, ProjectCollection.role == "pool")
        .order_by(col(Collection.name))
    ).all()
    if len(pools) > 1:
        found += [("collection", name, collection_id) for collection_id, name in pools]
    return found


def card_json(card: Card) -> dict[str, Any]:
    """A card for programs and for the scripts of the pages, with the addresses of its pictures.
    `full` is there only where `view` shows less than the file holds."""
    at = f"/images/{card.image_id}"
    larger = max(card.width, card.height) > VIEW
    pictures = {
        "view": f"{at}/view" if card.has_pixels else None,
        "thumb": f"{at}/thumb" if card.has_pixels else None,
        "full": f"{at}/full" if card.has_pixels and larger else None,
    }
    return asdict(card) | pictures


def steps(brackets: Sequence[Sequence[Any]]) -> list[Step]:
    """The scores 0–10 under the brackets ([from 0–1, name], ascending) that they fall into. A
    bracket too narrow to hold a whole score has none."""
    found = []
    for number, (start, name) in enumerate(brackets):
        end = brackets[number + 1][0] if number + 1 < len(brackets) else 1.01
        inside = [v for v in range(11) if start - 1e-9 <= v / 10 < end - 1e-9]
        if inside:
            found.append(Step(inside[0], inside[-1], str(name)))
    return found


def previous_card(
    session: Session, settings: Settings, project: Project, person: Annotator
) -> dict[str, Any] | None:
    """The image this person spoke about last in this sitting: what they said, what the model
    thinks, and why it was shown."""
    event = session.exec(
        scores.standing_events()
        .where(ScoreEvent.project_id == project.id, ScoreEvent.annotator_id == person.id)
        .order_by(col(ScoreEvent.id).desc())
        .limit(1)
    ).first()
    if event is None or now() - zoned(event.at) > PAUSE:
        return None
    card = card_for(session, settings, project, person, event.image_id)
    return {"card": card, "value": event.value, "reason": event.reason or card.reason}


# --- for programs --------------------------------------------------------------------------------


@api.get("/projects/{project_id}/history")
def history(
    session: Reader,
    settings: SettingsDep,
    project: TheProject,
    person: ThePerson,
    before: Annotated[int, Query(ge=0, lt=2**63)] = 0,
    n: Annotated[int, Query(ge=1, le=50)] = 12,
) -> list[dict[str, Any]]:
    """The images you scored or skipped, newest first, as cards with what you said; `before` is the
    event of the oldest one at hand. An image that was scored again is listed once."""
    query = (
        scores.standing_events()
        .where(
            ScoreEvent.project_id == project.id,
            ScoreEvent.annotator_id == person.id,
            col(ScoreEvent.kind).in_(("set", "skip")),
        )
        .order_by(col(ScoreEvent.id).desc())
        .limit(n)
    )
    found: dict[int, dict[str, Any]] = {}
    for event in session.exec(query.where(ScoreEvent.id < before) if before else query):
        if event.image_id not in found:
            card = card_for(session, settings, project, person, event.image_id)
            told = {"reason": event.reason or card.reason}
            found[event.image_id] = {
                "event_id": event.id, "kind": event.kind, "value": event.value,
                "card": card_json(card) | told,
            }  # fmt: skip
    return list(found.values())
