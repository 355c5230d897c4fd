"""Scores, skips, flags, and taking them back.

Every form and every program goes through `record` or `undo_newest`, which return once it is on the
disk; and every correction of a card, on whatever page, through `respond`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Request, Response
from pydantic import BaseModel, Field, StrictInt, StrictStr
from sqlalchemy import Engine
from sqlmodel import Session

from tastemaker import images, projects, queues, scores
from tastemaker.auth.identity import Identity
from tastemaker.auth.lanes import SCORES
from tastemaker.auth.origins import by_htmx
from tastemaker.auth.permissions import AnnotatorUser, GuardedRoute
from tastemaker.config import Settings
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import Annotator, Project, ScoreEvent
from tastemaker.errors import Invalid, NotFound
from tastemaker.pages import places
from tastemaker.pages.deps import Body, EngineDep, Id, SettingsDep
from tastemaker.pages.json_response import ValidJSON
from tastemaker.pages.places import Place, ReturnPlace, ScorePlace
from tastemaker.pages.render import redirect, render_blocks, see_other
from tastemaker.queues.cards import card_json
from tastemaker.scores import Origin, Recorded, classes
from tastemaker.scores.answers import SWEEPS

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")

# The back button shows a page as it was, images that were scored meanwhile among them; so pages to
# score on are asked for anew.
NEVER_STALE = {"Cache-Control": "no-store"}
KINDS = {"score": "set", "skip": "skip", "flag": "flag"}  # by the last word of an address
THE_TAGS = "tags"  # what the button of a form with tags says
TAG_NUMBERS = classes.MOST_TAG_NUMBERS
Tags = Annotated[list[Annotated[int, Field(ge=0, lt=TAG_NUMBERS)]], Field(max_length=100)]
CLAIMS = (Origin.CONTROL, Origin.QUEUE, Origin.REVIEW, Origin.RE_ASK, Origin.API)


@dataclass(frozen=True)
class ScoreInput:
    """A score, a skip or a flag, as a form or the API brings it. `origin` is what the client
    claims, which counts for little; `offer` is what the server signed."""

    kind: str
    value: int | str | None
    key: str | None = None
    expected: int | None = None
    offer: str = ""
    origin: str = ""
    reason: str = ""
    note: str = ""
    sha256: str | None = None


# --- the forms -----------------------------------------------------------------------------------


def ticked(numbers: Sequence[int]) -> str:
    """The set of the tags whose boxes are ticked, as an event holds it."""
    return str(sum(1 << number for number in set(numbers)))


class ScoreForm(BaseModel):
    """The fields of every form that scores one image (`parts.about`)."""

    value: str = ""
    tag: Tags = []
    note: str = Field(default="", max_length=2000)
    key: str = ""
    expected: int | None = None
    offer: str = ""
    origin: str = ""
    reason: str = ""
    place: str = ""
    queue: str = "mixed"

    def input(self, kind: str) -> ScoreInput:
        return ScoreInput(
            kind,
            self.given() if kind == "set" else None,
            self.key or None,
            self.expected,
            self.offer,
            self.origin,
            self.reason,
            self.note.strip() if kind == "flag" else "",
        )

    def given(self) -> str:
        """The score or the class; of a form with a box for each tag, the set of those ticked."""
        if self.value == THE_TAGS:
            return ticked(self.tag)
        return self.value

    def return_place(self) -> ReturnPlace:
        return places.parse(self.place) if self.place else ScorePlace(queue=self.queue)


class UndoForm(BaseModel):
    event_id: int | None = None
    key: str = ""
    place: str = ""
    queue: str = "mixed"

    def return_place(self) -> ReturnPlace:
        return places.parse(self.place) if self.place else ScorePlace(queue=self.queue)


@router.post("/projects/{project_id}/images/{image_id}/score")
@router.post("/projects/{project_id}/images/{image_id}/skip")
@router.post("/projects/{project_id}/images/{image_id}/flag")
@SCORES
def correct(
    request: Request, engine: EngineDep, settings: SettingsDep, user: AnnotatorUser, project_id: Id,
    image_id: Id, form: Annotated[ScoreForm, Form()],
) -> Response:  # fmt: skip
    """Record a score, a skip or a flag, as the last word of the address says. A flagged image stays
    on the screen: it can be scored as well."""
    kind = KINDS[request.url.path.rpartition("/")[2]]
    return respond(
        request, engine, settings, user, project_id, image_id, form.input(kind),
        form.return_place(),
    )  # fmt: skip


@router.post("/projects/{project_id}/undo")
@SCORES
def undo(
    request: Request, engine: EngineDep, settings: SettingsDep, user: AnnotatorUser, project_id: Id,
    form: Annotated[UndoForm, Form()],
) -> Response:  # fmt: skip
    return take_back(
        request, engine, settings, user, project_id, form.event_id, form.return_place(), form.key
    )


def respond(
    request: Request, engine: Engine, settings: Settings, user: Identity, project_id: int,
    image_id: int, entry: ScoreInput, place: ReturnPlace,
) -> Response:  # fmt: skip
    """Record, and go back to the place it was given at."""
    check(engine, project_id, place)
    recorded = record(engine, user, project_id, image_id, entry)
    return corrected(request, engine, settings, user, project_id, recorded, place, entry.offer)


def take_back(
    request: Request, engine: Engine, settings: Settings, user: Identity, project_id: int,
    event_id: int | None, place: ReturnPlace, key: str = "",
) -> Response:  # fmt: skip
    """Undo, and go back to the place it was asked for at."""
    check(engine, project_id, place)
    inverse = undo_newest(engine, user, project_id, event_id, key or None)
    return corrected(request, engine, settings, user, project_id, inverse, place)


def check(engine: Engine, project_id: int, place: Place) -> None:
    """Raises before anything is recorded if there is no such place."""
    if type(place).check is not Place.check:
        with reading(engine) as session:
            place.check(session, projects.get(session, project_id))


def record(
    engine: Engine, user: Identity, project_id: int, image_id: int, entry: ScoreInput
) -> Recorded:
    """Record, in one transaction, committed when this returns."""
    if entry.origin and entry.origin not in CLAIMS:
        raise Invalid(f"“{entry.origin[:20]}” is not where an image can come from.")
    with writing(engine) as session:
        if user.page_user_id is not None:
            user.person(session)  # still the one whose page this is
        try:
            return scores.record_for(
                session, project_id, image_id, user.annotator_id, entry.kind, entry.value,
                origin=Origin.claimed(entry.origin), reason=entry.reason, offer=entry.offer,
                note=entry.note, key=entry.key, expected=entry.expected, sha256=entry.sha256,
                otherwise=user.fallback_id,
            )  # fmt: skip
        except NotFound:
            projects.get(session, project_id)  # it may be the project that is not there
            raise


def undo_newest(
    engine: Engine, user: Identity, project_id: int, event_id: int | None, key: str | None
) -> Recorded:
    """Undo the newest event (`event_id`: only if it is that one). Returns the inverse."""
    with writing(engine) as session:
        project = projects.get(session, project_id)
        return scores.undo(session, project, user.person(session), event_id, key)


# --- what a correction changes on a page ---------------------------------------------------------


def corrected(
    request: Request, engine: Engine, settings: Settings, user: Identity, project_id: int,
    event: Recorded, place: ReturnPlace, offer: str = "",
) -> Response:  # fmt: skip
    """With a script, on a page of cards: the verdict and the form of one card, the counts, and a
    toast that can take the change back; the card keeps the prediction and the offer it was shown
    with. Else the address of the place, which tells what was done."""
    if not by_htmx(request):
        return see_other(place.address(project_id, event))
    with reading(engine) as session:
        project = projects.get(session, project_id)
        person = user.person(session)
        counts = place.counts(session, settings, project, person)
        if counts is None:
            return redirect(request, place.address(project_id, event))
        template, block, counted = counts
        card = queues.card_for(session, settings, project, person, event.image_id)
        context = counted | {
            "project": project, "place": place, "changed": event.kind != "undo",
            "card": replace(card, offer=offer or card.offer),
            "toast": saved_toast(session, project, person, place, event.id),
        }  # fmt: skip
        fragments = [
            ("_partials/cards.html", "corrected"), (template, block),
            ("_partials/toast.html", "toast"),
        ]  # fmt: skip
        return render_blocks(request, fragments, context)


def saved_toast(
    session: Session, project: Project, person: Annotator, place: Place, event_id: int,
    undone: bool = False,
) -> dict[str, Any] | None:  # fmt: skip
    """What a page of cards says of the event that was just written, with a way to take it back;
    after that, with a way to take back what this person did before it."""
    event = session.get(ScoreEvent, event_id) if event_id else None
    if undone or (event is not None and event.kind == "undo"):
        before = scores.newest_undoable(session, project, person)
        if before is None:
            return {"text": "Taken back."}
        kind = "sweep" if before.kind in SWEEPS else before.kind
        said = classes.in_words(session, project, before.value) if kind == "set" else kind
        what = f"Taken back. Before that: {said} for"
        return _with_undo(session, project, place, before, what)
    if event is None or event.project_id != project.id:
        return None
    said = classes.in_words(session, project, event.value)
    return _with_undo(session, project, place, event, f"Saved {said} for")


def _with_undo(
    session: Session, project: Project, place: Place, event: ScoreEvent, text: str
) -> dict[str, Any]:
    return {
        "text": text, "name": images.get(session, event.image_id).name, "undo": event.id,
        "project_id": project.id, "place": place.text(),
    }  # fmt: skip


# --- for programs --------------------------------------------------------------------------------


class NewScore(Body):
    """`value` 0–10 for a score; in a project with classes the number of one, or else `class`, its
    name (of tags their names, with commas); `kind` skip or flag without either. `key` makes a
    repeat harmless; `expected` is the event the asker knew of (0: none). `offer` is the card's, and
    says where the score comes from; without it, `origin` counts only where it is review, and the
    score else as one from a program. `sha256`, where it is given, must be the image's."""

    image_id: int = Field(ge=1, lt=2**63)
    sha256: str | None = Field(default=None, max_length=64)
    value: StrictInt | None = None
    named: StrictStr | None = Field(default=None, alias="class", max_length=4000)
    kind: Literal["set", "skip", "flag"] = "set"
    key: str | None = Field(default=None, min_length=8, max_length=80)
    expected: int | None = None
    queue: str = Field(default="mixed", max_length=40)
    offer: str = Field(default="", max_length=4000)
    origin: Literal["control", "queue", "review", "re-ask", "api"] = "api"
    reason: str = Field(default="", max_length=300)
    note: str = Field(default="", max_length=2000)


class NewUndo(Body):
    """Undo the newest event; with `event_id`, only if it is that one."""

    event_id: int | None = Field(default=None, ge=1, lt=2**63)
    key: str | None = Field(default=None, min_length=8, max_length=80)


@api.post("/projects/{project_id}/scores")
@SCORES
def record_score(
    request: Request, engine: EngineDep, user: AnnotatorUser, project_id: Id, body: NewScore
) -> ValidJSON:
    """Record a score, a skip or a flag. It is on disk when this answers; the answer names the
    library, the image and the key, so that nothing else can be taken for it. Like every request,
    it is refused where its header `Tastemaker-Library` names another library."""
    entry = ScoreInput(
        body.kind, body.value if body.named is None else body.named, body.key, body.expected,
        body.offer, body.origin, body.reason, body.note, body.sha256,
    )  # fmt: skip
    return recorded_json(request, record(engine, user, project_id, body.image_id, entry))


def recorded_json(request: Request, event: Recorded) -> ValidJSON:
    # A ready response: a dict would be validated in a thread first, on the way of every score.
    return ValidJSON(
        {
            "event_id": event.id, "saved": True, "library": request.app.state.library,
            "image_id": event.image_id, "key": event.columns["key"],
        }
    )  # fmt: skip


@api.post("/projects/{project_id}/undo")
@SCORES
def undo_score(
    request: Request,
    engine: EngineDep,
    settings: SettingsDep,
    user: AnnotatorUser,
    project_id: Id,
    body: NewUndo,
) -> dict[str, Any]:
    """Take back the newest event. Answers with the image it was about, as a card."""
    inverse = undo_newest(engine, user, project_id, body.event_id, body.key)
    with reading(engine) as session:
        project = projects.get(session, project_id)
        person = user.person(session)
        card = queues.card_for(session, settings, project, person, inverse.image_id)
        return {
            "event_id": inverse.id,
            "undoes": inverse.columns["undoes"],
            "saved": True,
            "library": request.app.state.library,
            "key": body.key,
            "image_id": inverse.image_id,
            "card": card_json(card),
        }
