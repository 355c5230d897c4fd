"""What people say about an image: a score, a skip, a flag, and taking it back.

Every way to say it ends in `say` or `take_back`, which return once it is on the disk. The forms
here are those of the Score and the Review page; the page goes on as if no script were there.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, StrictInt
from sqlalchemy import Engine

from tastemaker import projects, queues, scores
from tastemaker.auth.identity import Identity
from tastemaker.auth.origins import by_htmx
from tastemaker.auth.permissions import AnnotatorUser, GuardedRoute
from tastemaker.config import Settings
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import ScoreEvent
from tastemaker.errors import Invalid, NotFound
from tastemaker.pages.deps import Body, EngineDep, Id, SettingsDep
from tastemaker.pages.render import render, see_other
from tastemaker.queues import reviews
from tastemaker.queues.cards import card_for, card_json
from tastemaker.scores import Recorded
from tastemaker.scores.agreement import RE_ASK

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")

# The back button shows a page as it was, images that were scored meanwhile among them; so pages to
# score on are asked for anew.
NEVER_STALE = {"Cache-Control": "no-store"}
ORIGINS = ("control", "queue", "review", RE_ASK)  # what a page may say; imports have their own door


@dataclass(frozen=True)
class ScoreInput:
    """What a person says about an image, as a form or the API brings it."""

    kind: str
    value: int | None
    key: str | None
    expected: int | None
    origin: str
    reason: str
    note: str = ""


# --- the forms -----------------------------------------------------------------------------------


class ScoreForm(BaseModel):
    """The fields of every form that says something about an image (`parts.about`)."""

    value: str = ""
    note: str = Field(default="", max_length=2000)
    key: str = ""
    expected: int | None = None
    queue: str = "mixed"
    page: str = ""
    origin: str = "queue"
    reason: str = ""

    def said(self, kind: str) -> ScoreInput:
        value = scores.parse_score(self.value) if kind == "set" else None
        note = self.note.strip() if kind == "flag" else ""
        return ScoreInput(
            kind, value, self.key or None, self.expected, self.origin, self.reason, note
        )


SayingForm = Annotated[ScoreForm, Form()]


@router.post("/projects/{project_id}/images/{image_id}/score")
def score(
    request: Request, engine: EngineDep, settings: SettingsDep, user: AnnotatorUser, project_id: Id,
    image_id: Id, form: SayingForm,
) -> Response:  # fmt: skip
    said = form.said("set")
    return respond(
        request, engine, settings, user, project_id, image_id, said, form.queue, form.page
    )


@router.post("/projects/{project_id}/images/{image_id}/skip")
def skip(
    request: Request, engine: EngineDep, settings: SettingsDep, user: AnnotatorUser, project_id: Id,
    image_id: Id, form: SayingForm,
) -> Response:  # fmt: skip
    said = form.said("skip")
    return respond(
        request, engine, settings, user, project_id, image_id, said, form.queue, form.page
    )


@router.post("/projects/{project_id}/images/{image_id}/flag")
def flag(
    engine: EngineDep, user: AnnotatorUser, project_id: Id, image_id: Id, form: SayingForm
) -> Response:
    """Mark an image for a later look. It stays on the screen: it can be scored as well."""
    queue = known_queue(form.queue)
    record(engine, user, project_id, image_id, form.said("flag"))
    return see_other(f"{score_page(project_id, queue, form.page)}&image={image_id}&flagged=1")


@router.post("/projects/{project_id}/undo")
def undo(
    request: Request,
    engine: EngineDep,
    settings: SettingsDep,
    user: AnnotatorUser,
    project_id: Id,
    event_id: Annotated[int | None, Form()] = None,
    key: Annotated[str, Form()] = "",
    queue: Annotated[str, Form()] = "mixed",
    page: Annotated[str, Form()] = "",
) -> Response:
    event = undo_score(engine, user, project_id, event_id, key or None)
    if queue in reviews.REVIEWS and not page.startswith("score"):
        if by_htmx(request):
            return review_card(
                request, engine, settings, user, project_id, event.image_id, queue, None
            )
        return see_other(review_page(project_id, queue, page, "undone=1"))
    return see_other(f"{score_page(project_id, known_queue(queue), page)}&image={event.image_id}")


def record(
    engine: Engine, user: Identity, project_id: int, image_id: int, said: ScoreInput
) -> Recorded:
    """Record what was said, in one transaction, committed when this returns."""
    if said.origin not in ORIGINS:
        raise Invalid(f"“{said.origin[:20]}” is not where an image can come from.")
    with writing(engine) as session:
        if user.page_user_id is not None:
            user.person(session)  # still the one whose page this is
        try:
            return scores.record_for(
                session, project_id, image_id, user.annotator_id, said.kind, said.value,
                origin=said.origin, reason=said.reason, note=said.note, key=said.key,
                expected=said.expected, otherwise=user.owner_id,
            )  # fmt: skip
        except NotFound:
            projects.get(session, project_id)  # it may be the project that is not there
            raise


def undo_score(
    engine: Engine, user: Identity, project_id: int, event_id: int | None, key: str | None
) -> ScoreEvent:
    """Undo the newest thing said (`event_id`: only if it is that one). Returns the inverse."""
    with writing(engine) as session:
        project = projects.get(session, project_id)
        return scores.undo(session, project, user.person(session), event_id, key).event


def respond(
    request: Request, engine: Engine, settings: Settings, user: Identity, project_id: int,
    image_id: int, said: ScoreInput, queue: str, page: str,
) -> Response:  # fmt: skip
    """Record, then go back to the page it was said on: `page` is “score”, or the
    place in a review list."""
    reviewing = queue in reviews.REVIEWS and not page.startswith("score")
    if not reviewing:
        queue = known_queue(queue)
    event = record(engine, user, project_id, image_id, said)
    if not reviewing:
        return see_other(score_page(project_id, queue, page))
    if by_htmx(request):
        return review_card(request, engine, settings, user, project_id, image_id, queue, event)
    return see_other(review_page(project_id, queue, page, f"saved={event.id}"))


def review_card(
    request: Request, engine: Engine, settings: Settings, user: Identity, project_id: int,
    image_id: int, queue: str, saved: Recorded | None,
) -> Response:  # fmt: skip
    """What changes on a review page: the verdict and the form of one card, and the counts, with a
    toast that can take the change back. The card keeps the prediction it was shown with."""
    with reading(engine) as session:
        project = projects.get(session, project_id)
        person = user.person(session)
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


def known_queue(queue: str) -> str:
    if queue not in queues.QUEUES:
        raise Invalid(f"There is no queue “{queue[:40]}”.", f"Use {' or '.join(queues.QUEUES)}.")
    return queue


# --- for programs --------------------------------------------------------------------------------


class NewScore(Body):
    """`value` 0–10 for a score; `kind` skip or flag without one. `key` makes a repeat harmless;
    `expected` is the event the asker knew of (0: none)."""

    image_id: int = Field(ge=1, lt=2**63)
    value: StrictInt | None = Field(default=None, ge=0, le=10)
    kind: Literal["set", "skip", "flag"] = "set"
    key: str | None = Field(default=None, min_length=8, max_length=80)
    expected: int | None = None
    queue: str = Field(default="mixed", max_length=40)
    origin: Literal["control", "queue", "review", "re-ask"] = "queue"
    reason: str = Field(default="", max_length=300)
    note: str = Field(default="", max_length=2000)


class NewUndo(Body):
    """Undo the newest event; with `event_id`, only if it is that one."""

    event_id: int | None = Field(default=None, ge=1, lt=2**63)
    key: str | None = Field(default=None, min_length=8, max_length=80)


@api.post("/projects/{project_id}/scores")
def record_score(
    engine: EngineDep, user: AnnotatorUser, project_id: Id, body: NewScore
) -> JSONResponse:
    """Record a score, a skip or a flag. It is on disk when this answers."""
    said = ScoreInput(
        body.kind, body.value, body.key, body.expected, body.origin, body.reason, body.note
    )
    event = record(engine, user, project_id, body.image_id, said)
    # A ready response: a dict would be validated in a thread first, on the way of every score.
    return JSONResponse({"event_id": event.id, "saved": True, "image_id": event.image_id})


@api.post("/projects/{project_id}/undo")
def undo_newest(
    engine: EngineDep, settings: SettingsDep, user: AnnotatorUser, project_id: Id, body: NewUndo
) -> dict[str, Any]:
    """Take back the newest event. Answers with the image it was about, as a card."""
    event = undo_score(engine, user, project_id, body.event_id, body.key)
    with reading(engine) as session:
        project = projects.get(session, project_id)
        person = user.person(session)
        return {
            "event_id": event.id,
            "undoes": event.undoes,
            "saved": True,
            "image_id": event.image_id,
            "card": card_json(queues.card_for(session, settings, project, person, event.image_id)),
        }
