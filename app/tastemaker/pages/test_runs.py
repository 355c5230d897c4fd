"""Test runs: a version tried on other images; its best, its worst, its doubts; corrected there."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StrictInt
from sqlalchemy import Engine
from sqlmodel import Session

from tastemaker import jobs, projects, versions
from tastemaker.auth.identity import Identity
from tastemaker.auth.origins import by_htmx
from tastemaker.auth.permissions import AdminUser, AnnotatorUser, GuardedRoute, ViewerUser
from tastemaker.config import Settings
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import Annotator, Project, ScoreEvent, TestRun
from tastemaker.errors import Invalid, TastemakerError
from tastemaker.evaluation import test_run_cards, test_runs
from tastemaker.evaluation.test_run_cards import RunCard, TestRunReport
from tastemaker.evaluation.test_runs import GRIDS, Source
from tastemaker.pages import keymap
from tastemaker.pages.deps import (
    CurrentAnnotator,
    CurrentProject,
    EngineDep,
    Id,
    ReadSession,
    SettingsDep,
)
from tastemaker.pages.render import redirect, render, see_other, shell
from tastemaker.pages.scores import NEVER_STALE, undo_score
from tastemaker.pages.uploads import Reception, Upload

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")

PER_PAGE = 48
Files = Annotated[Upload, Depends(Reception(), scope="function")]


# --- the list, and starting one ------------------------------------------------------------------


@router.get("/projects/{project_id}/test-runs")
def page(
    _: ViewerUser,
    request: Request,
    session: ReadSession,
    project: CurrentProject,
    version: int = 0,
    collection: int = 0,
) -> Response:
    """`version` and `collection` are chosen beforehand, as from the page of a run."""
    return list_page(request, session, project, {"version": version, "collection": collection})


def list_page(
    request: Request,
    session: Session,
    project: Project,
    given: dict[str, Any],
    error: TastemakerError | None = None,
) -> Response:
    """With an error, what was typed is kept."""
    every = versions.list_ready(session, project)
    active = next((v.id for v in every if v.active), 0)
    told = test_run_cards.listing(session, project)
    given = {"collection": 0, "folder": "", "name": ""} | given
    given["version"] = given.get("version") or active
    context = {
        "histories": by_collection(told),
        "versions": every,
        "collections": test_runs.collections_to_try(session, project),
        "given": given,
        "error": error,
    }
    frame = shell(session, project, "test-runs")
    status = error.status if error else 200
    return render(request, "test_runs.html", None, frame | context, status=status)


def by_collection(told: list[TestRunReport]) -> list[tuple[str, list[TestRunReport]]]:
    """Runs under the name of their collection, so that numbers on the same images stand together;
    the collection tried last comes first."""
    groups: dict[str, list[TestRunReport]] = {}
    for one in told:
        groups.setdefault(one.collection.name, []).append(one)
    return list(groups.items())


@router.post("/projects/{project_id}/test-runs")
def start(
    _: AdminUser,
    request: Request,
    engine: EngineDep,
    settings: SettingsDep,
    project_id: Id,
    upload: Files,
) -> Response:
    """Start a run, on files where some were sent. After a refusal, what was typed is kept."""
    fields = upload.fields
    typed: dict[str, Any] = {name: fields.get(name, "") for name in ("folder", "name")}
    try:
        upload.require(0)
        typed |= {name: number(fields.get(name, "")) for name in ("version", "collection")}
        source = Source(
            collection_id=typed["collection"] or None, folder=typed["folder"],
            staging=upload.staging, files=tuple(upload.files), name=typed["name"].strip(),
        )  # fmt: skip
        run_id = enqueue(engine, settings, project_id, typed["version"], source)
        upload.hand_over()
    except TastemakerError as error:
        if by_htmx(request):
            raise
        return refused(request, engine, project_id, typed, error)
    return redirect(request, f"/projects/{project_id}/test-runs/{run_id}")


def refused(
    request: Request, engine: Engine, project_id: int, given: dict[str, Any], error: TastemakerError
) -> Response:
    with reading(engine) as session:
        return list_page(request, session, projects.get(session, project_id), given, error)


def enqueue(
    engine: Engine, settings: Settings, project_id: int, version_id: int, source: Source
) -> int:
    with writing(engine) as session:
        project = projects.get(session, project_id)
        version = versions.get(session, version_id)
        return test_runs.request_run(session, settings, project, version, source).id


def number(text: str) -> int:
    """An id as a form brings it; empty means none."""
    if not text.strip():
        return 0
    if not text.isdecimal() or len(text) > 18:
        raise Invalid(f"“{text[:40]}” is not one of the choices.", "Choose from the list.")
    return int(text)


# --- one run -------------------------------------------------------------------------------------


@router.get("/projects/{project_id}/test-runs/{run_id}")
def run_page(
    _: ViewerUser,
    request: Request,
    session: ReadSession,
    project: CurrentProject,
    person: CurrentAnnotator,
    run_id: Id,
    part: str = "top",
    after: int = 0,
    saved: int = 0,
    undone: bool = False,
) -> Response:
    """`part` names the grid, `after` is how many of its cards came before; `saved` and `undone`
    tell what a form without a script has just done."""
    told = test_run_cards.get(session, project, run_id)
    toast: dict[str, Any] | None = None
    if undone:
        toast = {"text": "Taken back."}
    elif (event := session.get(ScoreEvent, saved)) and event.project_id == project.id:
        toast = saved_toast(event, told, part)
    after = max(0, after)
    shown = told.run.summary.get("grids", {}).get(part, [])
    context = {
        "told": told, "s": told.run.summary, "parts_of": GRIDS, "part": part, "after": after,
        "cards": test_run_cards.cards(session, told, part, person, after, PER_PAGE),
        "shown": len(shown), "per_page": PER_PAGE, "toast": toast, "keys": keymap.of(person),
    }  # fmt: skip
    page = shell(session, project, "test-runs") | context
    return render(request, "test_run.html", None, page, headers=NEVER_STALE)


@router.get("/projects/{project_id}/test-runs/{run_id}/progress")
def progress(
    _: ViewerUser, request: Request, session: ReadSession, project: CurrentProject, run_id: Id
) -> Response:
    """Asked every second while the run is under way; then the page is loaded anew."""
    told = test_run_cards.get(session, project, run_id)
    if told.state not in ("queued", "running"):
        return Response(headers={"HX-Refresh": "true"})
    return render(request, "test_run.html", "progress", {"project": project, "told": told})


@router.post("/projects/{project_id}/test-runs/{run_id}/retry")
def retry(_: AdminUser, engine: EngineDep, project_id: Id, run_id: Id) -> Response:
    """Go on with a run that failed or was cancelled."""
    with writing(engine) as session:
        told = test_run_cards.get(session, projects.get(session, project_id), run_id)
        jobs.retry(session, told.run.job_id or 0)
    return see_other(f"/projects/{project_id}/test-runs/{run_id}")


@router.post("/projects/{project_id}/test-runs/{run_id}/cancel")
def cancel(_: AdminUser, engine: EngineDep, project_id: Id, run_id: Id) -> Response:
    with writing(engine) as session:
        told = test_run_cards.get(session, projects.get(session, project_id), run_id)
        jobs.cancel(session, told.run.job_id or 0)
    return see_other(f"/projects/{project_id}/test-runs/{run_id}")


@router.post("/projects/{project_id}/test-runs/{run_id}/images/{image_id}/score")
def score(
    request: Request,
    engine: EngineDep,
    user: AnnotatorUser,
    project_id: Id,
    run_id: Id,
    image_id: Id,
    value: Annotated[str, Form()] = "",
    key: Annotated[str, Form()] = "",
    expected: Annotated[int | None, Form()] = None,
    part: Annotated[str, Form()] = "top",
    after: Annotated[int, Form(ge=0)] = 0,
) -> Response:
    """Correct a score where the mistake is seen."""
    event = say(engine, user, project_id, run_id, image_id, value, key or None, expected)
    if by_htmx(request):
        return changed_card(request, engine, user, project_id, run_id, image_id, part, event)
    at = f"/projects/{project_id}/test-runs/{run_id}"
    return see_other(f"{at}?part={known_part(part)}&after={after}&saved={event.id}#card-{image_id}")


@router.post("/projects/{project_id}/test-runs/{run_id}/undo")
def undo(
    request: Request,
    engine: EngineDep,
    user: AnnotatorUser,
    project_id: Id,
    run_id: Id,
    event_id: Annotated[int | None, Form()] = None,
    part: Annotated[str, Form(alias="queue")] = "top",
) -> Response:
    with reading(engine) as session:
        test_run_cards.get(session, projects.get(session, project_id), run_id)
    event = undo_score(engine, user, project_id, event_id, None)
    if by_htmx(request):
        return changed_card(request, engine, user, project_id, run_id, event.image_id, part, None)
    return see_other(f"/projects/{project_id}/test-runs/{run_id}?part={known_part(part)}&undone=1")


def say(
    engine: Engine, user: Identity, project_id: int, run_id: int, image_id: int,
    value: Any, key: str | None, expected: int | None,
) -> ScoreEvent:  # fmt: skip
    """Record a correction, in one transaction, committed when this returns."""
    with writing(engine) as session:
        project = projects.get(session, project_id)
        told = test_run_cards.get(session, project, run_id)
        return test_run_cards.correct(
            session,
            project,
            told,
            image_id,
            user.person(session),
            value,
            key=key,
            expected=expected,
        )


def changed_card(
    request: Request, engine: Engine, user: Identity, project_id: int, run_id: int, image_id: int,
    part: str, saved: ScoreEvent | None,
) -> Response:  # fmt: skip
    """What changes after a correction: the verdict and the form of one card, the count of
    corrections, and a toast that can take the change back."""
    with reading(engine) as session:
        project = projects.get(session, project_id)
        told = test_run_cards.get(session, project, run_id)
        toast = saved_toast(saved, told, part) if saved else {"text": "Taken back."}
        context: dict[str, Any] = {
            "project": project, "told": told, "toast": toast, "part": part, "after": 0,
            "changed": saved is not None,
        }  # fmt: skip
        blocks: tuple[str, ...] = ("corrected", "toast")
        if card := shown_card(session, told, image_id, user.person(session)):
            context["card"] = card
            blocks = ("verdict", "correction", *blocks)
        return render(request, "test_run.html", blocks, context)


def shown_card(
    session: Session, told: TestRunReport, image_id: int, person: Annotator
) -> RunCard | None:
    """The card of an image; None where the run does not show it (an undo reached further back)."""
    try:
        return test_run_cards.card_of(session, told, image_id, person)
    except TastemakerError:
        return None


def saved_toast(event: ScoreEvent, told: TestRunReport, part: str) -> dict[str, Any]:
    at = f"/projects/{told.run.project_id}/test-runs/{told.run.id}"
    return {
        "text": f"Saved {event.value}.", "undo": event.id, "project_id": told.run.project_id,
        "queue": part, "undo_at": f"{at}/undo",
    }  # fmt: skip


def known_part(part: str) -> str:
    return part if part in GRIDS else "top"


# --- for programs --------------------------------------------------------------------------------


class NewRun(BaseModel):
    """What to try, and on what: exactly one of `collection_id` and `folder` (on this machine)."""

    model_config = ConfigDict(extra="forbid")

    version_id: int = Field(ge=1, lt=2**63)
    collection_id: int | None = Field(default=None, ge=1, lt=2**63)
    folder: str = Field(default="", max_length=4096)
    name: str = Field(default="", max_length=120)


class Correction(BaseModel):
    """`key` makes a repeat harmless; `expected` is the event the asker knew of (0: none)."""

    model_config = ConfigDict(extra="forbid")

    image_id: int = Field(ge=1, lt=2**63)
    value: StrictInt = Field(ge=0, le=10)
    key: str | None = Field(default=None, min_length=8, max_length=80)
    expected: int | None = None


@api.get("/projects/{project_id}/test-runs")
def list_runs(_: ViewerUser, session: ReadSession, project: CurrentProject) -> list[dict[str, Any]]:
    """Every test run, newest first, with its figures."""
    return [run_json(told) for told in test_run_cards.listing(session, project)]


@api.post("/projects/{project_id}/test-runs", status_code=202)
def start_run(
    _: AdminUser, engine: EngineDep, settings: SettingsDep, project_id: Id, body: NewRun
) -> dict[str, Any]:
    """Queue a test run. Files are sent by the page's form; a program names a folder."""
    source = Source(body.collection_id, body.folder, name=body.name.strip())
    run_id = enqueue(engine, settings, project_id, body.version_id, source)
    with reading(engine) as session:
        return run_json(test_run_cards.get(session, projects.get(session, project_id), run_id))


@api.get("/projects/{project_id}/test-runs/{run_id}")
def show_run(
    _: ViewerUser, session: ReadSession, project: CurrentProject, run_id: Id
) -> dict[str, Any]:
    """One test run, with its figures once it has ended."""
    return run_json(test_run_cards.get(session, project, run_id))


@api.get("/projects/{project_id}/test-runs/{run_id}/images")
def run_images(
    _: ViewerUser,
    session: ReadSession,
    project: CurrentProject,
    person: CurrentAnnotator,
    run_id: Id,
    part: str = "top",
    after: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    n: Annotated[int, Query(ge=1, le=240)] = PER_PAGE,
) -> list[dict[str, Any]]:
    """The images a run shows; `part` is top, threshold or bottom."""
    told = test_run_cards.get(session, project, run_id)
    return [card_json(card) for card in test_run_cards.cards(session, told, part, person, after, n)]


@api.post("/projects/{project_id}/test-runs/{run_id}/scores")
def correct(
    engine: EngineDep, user: AnnotatorUser, project_id: Id, run_id: Id, body: Correction
) -> JSONResponse:
    """Score an image that the run shows. It is on disk when this answers."""
    event = say(
        engine, user, project_id, run_id, body.image_id, body.value, body.key, body.expected
    )  # fmt: skip
    return JSONResponse({"event_id": event.id, "saved": True, "image_id": event.image_id})


def card_json(card: RunCard) -> dict[str, Any]:
    return {
        "image_id": card.image_id, "name": card.name, "prediction": card.prediction,
        "uncertainty": card.uncertainty, "predicted_by": card.predicted_by, "label": card.label,
        "event_id": card.event_id,
        "thumb": f"/images/{card.image_id}/thumb" if card.has_pixels else None,
    }  # fmt: skip


def run_json(told: TestRunReport) -> dict[str, Any]:
    """A run for programs: its figures are null while it is under way."""
    run: TestRun = told.run
    figures = ("n", "passes", "pass_rate", "mean", "median", "threshold", "histogram", "holdout",
               "without_prediction", "against")  # fmt: skip
    return {
        "id": run.id, "version": told.version.number, "version_id": run.version_id,
        "collection": told.collection.name, "collection_id": run.collection_id,
        "state": told.state, "job_id": run.job_id, "corrected": told.corrected,
        "error": told.job.error if told.job else "",
        "created_at": run.created_at.isoformat(),
        **{name: run.summary.get(name) for name in figures},
    }  # fmt: skip
