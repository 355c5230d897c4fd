"""Scoring: one image, one key, the next image.

Every button here is a real form, so the page works without a script. `keys.js` does the same
through the JSON API: it shows the next image at once and saves behind it.
"""

import json
import secrets
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from sqlalchemy import Engine
from sqlmodel import Session, col, func, select

from app import jobs, projects, queues, scores
from app.config import Settings
from app.db import reading, writing
from app.errors import Invalid
from app.queues import Card
from app.tables import Annotator, Job, Label, Project, ScoreEvent, now
from app.web.deps import EngineDep, Id, Reader, SettingsDep, ThePerson, TheProject
from app.web.render import by_htmx, render, see_other, shell

router = APIRouter(include_in_schema=False)

CARDS_AHEAD = 8  # what the page holds; its first three pictures are decoded ahead
ENOUGH_TO_TRAIN = 20
PAUSE = timedelta(minutes=30)  # a longer one begins a new sitting
ORIGINS = ("control", "queue", "review")  # what a page may say; imports have their own door


@dataclass(frozen=True)
class Said:
    """What a person says about an image, as a form or the API brings it."""

    kind: str
    value: int | None
    key: str | None
    expected: int | None
    origin: str
    reason: str


@dataclass(frozen=True)
class Sitting:
    """A stretch of scoring without a long pause. `per_hour` is None while it is too short."""

    images: int
    per_hour: float | None


# --- pages ---------------------------------------------------------------------------------------


@router.get("/projects/{project_id}/score")
def page(
    request: Request,
    session: Reader,
    settings: SettingsDep,
    project: TheProject,
    person: ThePerson,
    queue: str = "mixed",
    image: int = 0,
) -> Response:
    """The next image; `image` names one to show first (after an undo)."""
    queue = known_queue(queue)
    cards = queues.next_cards(
        session, settings, project, person, queue, n=CARDS_AHEAD, exclude=[image]
    )
    if image > 0:
        cards = [queues.card_for(session, settings, project, person, image), *cards]
    context = {
        "queues": queues.QUEUES,
        "queue": queue,
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
) -> Response:
    """Asked every second by a page without an image: reload once there is one."""
    queue = known_queue(queue)
    if queues.next_cards(session, settings, project, person, queue, n=1):
        return Response(headers={"HX-Refresh": "true"})
    context = {"project": project, "queue": queue, **strip(session, settings, project, person)}
    return render(request, "score.html", "nothing", context)


# --- what people do ------------------------------------------------------------------------------


@router.post("/projects/{project_id}/images/{image_id}/score")
def score(
    request: Request,
    engine: EngineDep,
    settings: SettingsDep,
    project_id: Id,
    image_id: Id,
    value: Annotated[str, Form()] = "",
    key: Annotated[str, Form()] = "",
    expected: Annotated[int | None, Form()] = None,
    queue: Annotated[str, Form()] = "mixed",
    origin: Annotated[str, Form()] = "queue",
    reason: Annotated[str, Form()] = "",
) -> Response:
    said = Said("set", scores.parse_score(value), key or None, expected, origin, reason)
    return told(request, engine, settings, project_id, image_id, said, queue)


@router.post("/projects/{project_id}/images/{image_id}/skip")
def skip(
    request: Request,
    engine: EngineDep,
    settings: SettingsDep,
    project_id: Id,
    image_id: Id,
    key: Annotated[str, Form()] = "",
    expected: Annotated[int | None, Form()] = None,
    queue: Annotated[str, Form()] = "mixed",
    origin: Annotated[str, Form()] = "queue",
    reason: Annotated[str, Form()] = "",
) -> Response:
    said = Said("skip", None, key or None, expected, origin, reason)
    return told(request, engine, settings, project_id, image_id, said, queue)


@router.post("/projects/{project_id}/undo")
def undo(
    request: Request,
    engine: EngineDep,
    settings: SettingsDep,
    project_id: Id,
    event_id: Annotated[int | None, Form()] = None,
    key: Annotated[str, Form()] = "",
    queue: Annotated[str, Form()] = "mixed",
) -> Response:
    event = take_back(engine, settings, project_id, event_id, key or None)
    if queue in queues.REVIEWS:
        if by_htmx(request):
            return review_card(request, engine, settings, project_id, event.image_id, queue, None)
        return see_other(f"/projects/{project_id}/review/{queue}?undone=1")
    return see_other(f"/projects/{project_id}/score?queue={queue}&image={event.image_id}")


def say(
    engine: Engine, settings: Settings, project_id: int, image_id: int, said: Said
) -> ScoreEvent:
    """Record what was said, in one transaction, committed when this returns."""
    if said.origin not in ORIGINS:
        raise Invalid(f"“{said.origin[:20]}” is not where an image can come from.")
    with writing(engine) as session:
        project = projects.get(session, project_id)
        person = projects.annotator(session, settings.annotator)
        return scores.record(
            session, project, image_id, person, said.kind, said.value, origin=said.origin,
            reason=said.reason, key=said.key, expected=said.expected,
        ).event  # fmt: skip


def take_back(
    engine: Engine, settings: Settings, project_id: int, event_id: int | None, key: str | None
) -> ScoreEvent:
    """Undo the newest thing said (`event_id`: only if it is that one). Returns the inverse."""
    with writing(engine) as session:
        project = projects.get(session, project_id)
        person = projects.annotator(session, settings.annotator)
        return scores.undo(session, project, person, event_id, key).event


def told(
    request: Request, engine: Engine, settings: Settings, project_id: int, image_id: int,
    said: Said, queue: str,
) -> Response:  # fmt: skip
    """Record, then go back to the page it was said on."""
    if queue not in queues.REVIEWS:
        queue = known_queue(queue)
    event = say(engine, settings, project_id, image_id, said)
    if queue in queues.QUEUES:
        return see_other(f"/projects/{project_id}/score?queue={queue}")
    if by_htmx(request):
        return review_card(request, engine, settings, project_id, image_id, queue, event)
    return see_other(f"/projects/{project_id}/review/{queue}?saved={event.id}")


def review_card(
    request: Request, engine: Engine, settings: Settings, project_id: int, image_id: int,
    queue: str, saved: ScoreEvent | None,
) -> Response:  # fmt: skip
    """What changes on a review page: the verdict and the form of one card, and the counts, with a
    toast that can take the change back. The card keeps the prediction it was shown with."""
    with reading(engine) as session:
        project = projects.get(session, project_id)
        person = projects.annotator(session, settings.annotator)
        card = queues.card_for(session, settings, project, person, image_id)
        if saved is None:
            toast: dict[str, Any] = {"text": "Taken back."}
        else:
            toast = {
                "text": f"Saved {saved.value} for", "name": card.name, "undo": saved.id,
                "project_id": project.id, "queue": queue,
            }  # fmt: skip
        context = {
            "project": project, "kind": queue, "toast": toast, "changed": saved is not None,
            "card": card, "review": queues.review(session, settings, project, person, queue, n=0),
        }  # fmt: skip
        blocks = ("verdict", "correction", "counts", "toast")
        return render(request, "review.html", blocks, context)


# --- what the page shows -------------------------------------------------------------------------


def known_queue(queue: str) -> str:
    if queue not in queues.QUEUES:
        raise Invalid(f"There is no queue “{queue[:40]}”.", f"Use {' or '.join(queues.QUEUES)}.")
    return queue


def card_json(card: Card) -> dict[str, Any]:
    """A card for programs and for keys.js, with the addresses of its pictures."""
    pictures = {
        "view": f"/images/{card.image_id}/view" if card.has_pixels else None,
        "thumb": f"/images/{card.image_id}/thumb" if card.has_pixels else None,
    }
    return asdict(card) | pictures


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
    card = queues.card_for(session, settings, project, person, event.image_id)
    return {"card": card, "value": event.value, "reason": event.reason or card.reason}


def strip(
    session: Session, settings: Settings, project: Project, person: Annotator
) -> dict[str, Any]:
    """The session strip: pace, histogram, progress of the import and the embedding."""
    progress = queues.progress(session, settings, project)
    embedding = newest_job(session, project, "embed")
    stopped = embedding is not None and embedding.state in ("failed", "cancelled")
    return {
        "sitting": sitting(session, project, person),
        "histogram": scores.histogram(session, project),
        "progress": progress,
        "imported": imported(session, project),
        "unembedded": embedding if stopped and progress["embedded"] < progress["images"] else None,
        "importing": importing(session, project),
        "enough": ENOUGH_TO_TRAIN,
    }


def importing(session: Session, project: Project) -> Job | None:
    """The job that brings images in at the moment, if any."""
    kinds = ("import", "demo")
    running = [job for job in jobs.unfinished(session, project_id=project.id) if job.kind in kinds]
    return running[0] if running else None


def imported(session: Session, project: Project) -> Job | None:
    """The newest import, for a while after it left files aside."""
    job = newest_job(session, project, "import")
    if job is None or job.finished_at is None or now() - zoned(job.finished_at) > PAUSE:
        return None
    return job if job.state == "done" and job.result.get("set_aside") else None


def newest_job(session: Session, project: Project, kind: str) -> Job | None:
    return session.exec(
        select(Job)
        .where(Job.project_id == project.id, Job.kind == kind)
        .order_by(col(Job.id).desc())
        .limit(1)
    ).first()


def sitting(session: Session, project: Project, person: Annotator) -> Sitting:
    """How many images were scored since the last long pause, and how fast."""
    times = session.exec(
        scores.standing_events()
        .with_only_columns(ScoreEvent.at)
        .where(
            ScoreEvent.project_id == project.id,
            ScoreEvent.annotator_id == person.id,
            ScoreEvent.kind == "set",
            ScoreEvent.origin != "import",
        )
        .order_by(col(ScoreEvent.id).desc())
        .limit(5000)
    ).all()
    later = now()
    count = 0
    begun = later
    for at in times:
        if later - zoned(at) > PAUSE:
            break
        later = begun = zoned(at)
        count += 1
    hours = (now() - begun) / timedelta(hours=1)
    return Sitting(count, count / hours if count >= 5 and hours > 0 else None)


def labelled(session: Session, project_id: int) -> int:
    count = select(func.count()).select_from(Label).where(Label.project_id == project_id)
    return int(session.exec(count).one())


def zoned(at: datetime) -> datetime:
    """Databases hand times back without their zone; they are UTC."""
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at
