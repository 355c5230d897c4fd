"""The JSON API under /api/v1: everything the pages do, for programs and for keys.js.

`GET /api/v1/openapi.json` describes it. An error is `{"error": …, "hint": …}` with its status.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StrictInt

from tastemaker import jobs, projects, queues, scores, versions
from tastemaker.auth.permissions import AdminUser, AnnotatorUser, GuardedRoute, ViewerUser
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import Job
from tastemaker.errors import Invalid
from tastemaker.learning import recipes
from tastemaker.pages.deps import (
    CurrentAnnotator,
    CurrentProject,
    EngineDep,
    Id,
    ReadSession,
    SettingsDep,
)
from tastemaker.pages.score import card_json
from tastemaker.pages.scores import ScoreInput, known_queue, record
from tastemaker.pages.scores import undo_score as take_back
from tastemaker.training import retrain
from tastemaker.versions import predictions

router = APIRouter(route_class=GuardedRoute, prefix="/api/v1")

MAX_CARDS = 50


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewProject(Body):
    name: str
    encoder: str = projects.DEFAULT_ENCODER
    threshold: float = 0.5


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


class NewTraining(Body):
    note: str = Field(default="", max_length=500)
    recipe: recipes.Name | None = None
    major: bool = False


# --- projects ------------------------------------------------------------------------------------


@router.get("/projects")
def list_projects(_: ViewerUser, session: ReadSession) -> list[dict[str, Any]]:
    return [projects.summary(session, project) for project in projects.list_all(session)]


@router.post("/projects", status_code=201)
def create_project(_: AdminUser, engine: EngineDep, body: NewProject) -> dict[str, Any]:
    with writing(engine) as session:
        project = projects.create(
            session, body.name, encoder=body.encoder, threshold=body.threshold
        )
        return projects.summary(session, project)


@router.get("/projects/{project_id}")
def show_project(_: ViewerUser, session: ReadSession, project: CurrentProject) -> dict[str, Any]:
    return projects.summary(session, project)


# --- scoring -------------------------------------------------------------------------------------


@router.get("/projects/{project_id}/queue")
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
        session, settings, project, person, known_queue(queue), n=n, exclude=ids(exclude),
        collection_id=collection or None,
    )  # fmt: skip
    return [card_json(card) for card in cards]


@router.get("/projects/{project_id}/scores")
def list_scores(
    _: ViewerUser,
    session: ReadSession,
    project: CurrentProject,
    person: CurrentAnnotator,
    limit: Annotated[int, Query(ge=1, le=100_000)] = 100,
) -> list[dict[str, Any]]:
    """What you said that still stands, newest first."""
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


@router.post("/projects/{project_id}/scores")
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


@router.post("/projects/{project_id}/undo")
def undo_score(
    engine: EngineDep, settings: SettingsDep, user: AnnotatorUser, project_id: Id, body: NewUndo
) -> dict[str, Any]:
    """Take back the newest event. Answers with the image it was about, as a card."""
    event = take_back(engine, user, project_id, body.event_id, body.key)
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


@router.get("/projects/{project_id}/images/{image_id}")
def show_image(
    _: ViewerUser,
    session: ReadSession,
    settings: SettingsDep,
    project: CurrentProject,
    person: CurrentAnnotator,
    image_id: Id,
) -> dict[str, Any]:
    """One image as a card: its label, what the model thinks, why it would be shown."""
    return card_json(queues.card_for(session, settings, project, person, image_id))


# --- versions ------------------------------------------------------------------------------------


@router.get("/projects/{project_id}/versions")
def list_versions(
    _: ViewerUser, session: ReadSession, settings: SettingsDep, project: CurrentProject
) -> list[dict[str, Any]]:
    return [versions.as_json(session, settings, v) for v in versions.list_ready(session, project)]


@router.post("/projects/{project_id}/train", status_code=202)
def train(
    _: AdminUser, engine: EngineDep, settings: SettingsDep, project_id: Id, body: NewTraining
) -> dict[str, Any]:
    """Queue a training; the answer is its job. `recipe` is the project's if none is given; `major`
    begins a new series, v2.0 after v1.4."""
    with writing(engine) as session:
        project = projects.get(session, project_id)
        job = retrain.request_training(
            session, settings, project, body.note, body.recipe, body.major
        )
        return job_json(job)


@router.post("/versions/{version_id}/activate")
def activate_version(
    _: AdminUser, engine: EngineDep, settings: SettingsDep, version_id: Id
) -> dict[str, Any]:
    with writing(engine) as session:
        version = versions.get(session, version_id)
        versions.verify(settings, version)
        versions.activate(session, version)
        predictions.enqueue_predictions(session, version)
        return versions.as_json(session, settings, version)


# --- jobs ----------------------------------------------------------------------------------------


@router.get("/jobs")
def list_jobs(_: AdminUser, session: ReadSession) -> list[dict[str, Any]]:
    return [job_json(job) for job in jobs.recent(session)]


@router.get("/jobs/{job_id}")
def show_job(_: AdminUser, session: ReadSession, job_id: Id) -> dict[str, Any]:
    lines = [entry.line for entry in jobs.log_of(session, job_id)]
    return job_json(jobs.get(session, job_id)) | {"log": lines}


@router.post("/jobs/{job_id}/cancel")
def cancel_job(_: AdminUser, engine: EngineDep, job_id: Id) -> dict[str, Any]:
    with writing(engine) as session:
        return job_json(jobs.cancel(session, job_id))


@router.post("/jobs/{job_id}/retry")
def retry_job(_: AdminUser, engine: EngineDep, job_id: Id) -> dict[str, Any]:
    with writing(engine) as session:
        return job_json(jobs.retry(session, job_id))


def job_json(job: Job) -> dict[str, Any]:
    """A job for programs; what its worker alone needs (payload, fence) stays out."""
    inner = {"payload", "fence", "heartbeat"}
    return job.model_dump(mode="json", exclude=inner) | {"seconds_left": jobs.seconds_left(job)}


def ids(text: str) -> Sequence[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and len(part) < 19 for part in parts):
        raise Invalid("“exclude” is a list of image ids with commas between them.")
    return [int(part) for part in parts]
