"""Test runs: a version tried on other images; its best, its worst, its doubts; corrected there."""

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr
from sqlalchemy import Engine
from sqlmodel import Session

from tastemaker import jobs, projects, versions
from tastemaker.auth.identity import Identity
from tastemaker.auth.lanes import SCORES
from tastemaker.auth.origins import by_htmx
from tastemaker.auth.permissions import AdminUser, AnnotatorUser, GuardedRoute, ViewerUser
from tastemaker.config import Settings
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import Project
from tastemaker.errors import Invalid, TastemakerError
from tastemaker.evaluation import test_run_cards, test_runs
from tastemaker.evaluation.test_run_cards import TestRunReport
from tastemaker.evaluation.test_runs import Source
from tastemaker.pages import keymap
from tastemaker.pages.deps import (
    CurrentAnnotator,
    CurrentProject,
    EngineDep,
    Id,
    ReadSession,
    SettingsDep,
)
from tastemaker.pages.json_response import ValidJSON
from tastemaker.pages.places import TestRunPlace
from tastemaker.pages.render import kinds_of, load_anew, redirect, render, see_other, shell
from tastemaker.pages.scores import (
    NEVER_STALE,
    ScoreForm,
    ScoreInput,
    UndoForm,
    record,
    recorded_json,
    respond,
    saved_toast,
    take_back,
)
from tastemaker.pages.uploads import Reception, Upload
from tastemaker.queues.cards import Card

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")

PER_PAGE = 48
SOURCES = {
    "collection": "A collection", "folder": "A folder on this machine", "files": "Files, or a zip",
}  # fmt: skip
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
    folder: str = "",
) -> Response:
    """`version`, `collection` or `folder` are chosen beforehand, as from the page of a run."""
    given = {"version": version, "collection": collection, "folder": folder}
    return list_page(request, session, project, given)


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
    given = {"collection": 0, "folder": "", "name": "", "source": ""} | given
    there = test_runs.collections_to_try(session, project)
    if given["source"] not in SOURCES:
        given["source"] = "folder" if given["folder"] or not there else "collection"
    given["version"] = given.get("version") or active
    context = {
        "histories": by_collection(told),
        "versions": every,
        "collections": there,
        "given": given,
        "sources": SOURCES,
        "kinds": kinds_of(request, project),
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
    typed: dict[str, Any] = {name: fields.get(name, "") for name in ("folder", "name", "source")}
    try:
        upload.require(0)
        typed |= {name: number(fields.get(name, "")) for name in ("version", "collection")}
        source = source_of(typed, upload)
        run_id = enqueue(engine, settings, project_id, typed["version"], source)
        upload.hand_over()
    except TastemakerError as error:
        if by_htmx(request):
            raise
        return refused(request, engine, project_id, typed, error)
    return redirect(request, f"/projects/{project_id}/test-runs/{run_id}")


def source_of(typed: dict[str, Any], upload: Upload) -> Source:
    """The source that was chosen; what was typed for the others is not looked at. A form that
    chooses none means whatever it names."""
    chosen = typed["source"]
    if chosen not in ("", *SOURCES):
        raise Invalid(f"“{chosen[:40]}” is not one of the choices.", "Choose from the list.")
    means = {name: chosen in ("", name) for name in SOURCES}
    return Source(
        collection_id=(typed["collection"] or None) if means["collection"] else None,
        folder=typed["folder"] if means["folder"] else "",
        staging=upload.staging,
        files=tuple(upload.files) if means["files"] else (),
        name=typed["name"].strip(),
    )


def refused(
    request: Request, engine: Engine, project_id: int, given: dict[str, Any], error: TastemakerError
) -> Response:
    with reading(engine) as session:
        return list_page(request, session, projects.get(session, project_id), given, error)


def enqueue(
    engine: Engine, settings: Settings, project_id: int, version_id: int, source: Source
) -> int:
    source = source.checked(settings)
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
    settings: SettingsDep,
    project: CurrentProject,
    person: CurrentAnnotator,
    run_id: Id,
    part: str = "",
    after: int = 0,
    saved: int = 0,
    undone: bool = False,
) -> Response:
    """`part` names the grid, `after` is how many of its cards came before; `saved` and `undone`
    tell what a form without a script has just done."""
    report = test_run_cards.get(session, project, run_id)
    after, part = max(0, after), part or next(iter(report.parts))
    shown = len(report.grid(part)) if part in report.parts else 0
    place = TestRunPlace(run=run_id, part=part, after=after)
    context = {
        "report": report, "s": report.run.summary, "parts_of": report.parts, "part": part,
        "after": after, "shown": shown, "per_page": PER_PAGE, "place": place,
        "cards": test_run_cards.cards(
            session, settings, project, report, part, person, after, PER_PAGE
        ),
        "toast": saved_toast(session, project, person, place, saved, undone),
        "keys": keymap.of(person), "kinds": kinds_of(request, project),
    }  # fmt: skip
    page = shell(session, project, "test-runs") | context
    return render(request, "test_run.html", None, page, headers=NEVER_STALE)


@router.get("/projects/{project_id}/test-runs/{run_id}/progress")
def progress(
    _: ViewerUser, request: Request, session: ReadSession, project: CurrentProject, run_id: Id
) -> Response:
    """Asked every second while the run is under way; then the page is loaded anew."""
    report = test_run_cards.get(session, project, run_id, measured=False)
    if report.state not in ("queued", "running"):
        return load_anew()
    return render(request, "test_run.html", "progress", {"project": project, "report": report})


@router.post("/projects/{project_id}/test-runs/{run_id}/retry")
def retry(_: AdminUser, engine: EngineDep, project_id: Id, run_id: Id) -> Response:
    """Go on with a run that failed or was cancelled."""
    with writing(engine) as session:
        project = projects.get(session, project_id)
        report = test_run_cards.get(session, project, run_id, measured=False)
        jobs.retry(session, report.run.job_id or 0)
    return see_other(f"/projects/{project_id}/test-runs/{run_id}")


@router.post("/projects/{project_id}/test-runs/{run_id}/cancel")
def cancel(_: AdminUser, engine: EngineDep, project_id: Id, run_id: Id) -> Response:
    with writing(engine) as session:
        project = projects.get(session, project_id)
        report = test_run_cards.get(session, project, run_id, measured=False)
        jobs.cancel(session, report.run.job_id or 0)
    return see_other(f"/projects/{project_id}/test-runs/{run_id}")


# --- older addresses of a correction -------------------------------------------------------------


class At(BaseModel):
    part: str = "top"
    after: int = Field(default=0, ge=0, lt=2**31)


class RunScoreForm(At, ScoreForm):
    pass


class RunUndoForm(At, UndoForm):
    pass


@router.post("/projects/{project_id}/test-runs/{run_id}/images/{image_id}/score")
@SCORES
def score(
    request: Request, engine: EngineDep, settings: SettingsDep, user: AnnotatorUser, project_id: Id,
    run_id: Id, image_id: Id, form: Annotated[RunScoreForm, Form()],
) -> Response:  # fmt: skip
    place = TestRunPlace(run=run_id, part=form.part, after=form.after)
    given = replace(form.input("set"), offer=offer(engine, user, project_id, run_id, image_id))
    return respond(request, engine, settings, user, project_id, image_id, given, place)


@router.post("/projects/{project_id}/test-runs/{run_id}/undo")
@SCORES
def undo(
    request: Request, engine: EngineDep, settings: SettingsDep, user: AnnotatorUser, project_id: Id,
    run_id: Id, form: Annotated[RunUndoForm, Form()],
) -> Response:  # fmt: skip
    place = TestRunPlace(run=run_id, part=form.part, after=form.after)
    return take_back(request, engine, settings, user, project_id, form.event_id, place)


def offer(engine: Engine, user: Identity, project_id: int, run_id: int, image_id: int) -> str:
    """The offer of a card of the run, for a form or a program that brings none."""
    with reading(engine) as session:
        project = projects.get(session, project_id)
        report = test_run_cards.get(session, project, run_id, measured=False)
        return test_run_cards.offer(session, project, report, image_id, user.person(session))


# --- for programs --------------------------------------------------------------------------------


class NewRun(BaseModel):
    """What to try, and on what: exactly one of `collection_id` and `folder` (on this machine)."""

    model_config = ConfigDict(extra="forbid")

    version_id: int = Field(ge=1, lt=2**63)
    collection_id: int | None = Field(default=None, ge=1, lt=2**63)
    folder: str = Field(default="", max_length=4096)
    name: str = Field(default="", max_length=120)


class Correction(BaseModel):
    """`value` 0–10, or in a project with classes the number of one, or else `class`, its name (of
    tags their names, with commas). `key` makes a repeat harmless; `expected` is the event the asker
    knew of (0: none)."""

    model_config = ConfigDict(extra="forbid")

    image_id: int = Field(ge=1, lt=2**63)
    value: StrictInt | None = Field(default=None, ge=0, lt=2**53)
    named: StrictStr | None = Field(default=None, alias="class", max_length=4000)
    key: str | None = Field(default=None, min_length=8, max_length=80)
    expected: int | None = None


@api.get("/projects/{project_id}/test-runs")
def list_runs(_: ViewerUser, session: ReadSession, project: CurrentProject) -> list[dict[str, Any]]:
    """Every test run, newest first, with its figures."""
    return [report.as_json() for report in test_run_cards.listing(session, project)]


@api.post("/projects/{project_id}/test-runs", status_code=202)
def start_run(
    _: AdminUser, engine: EngineDep, settings: SettingsDep, project_id: Id, body: NewRun
) -> dict[str, Any]:
    """Queue a test run. Files are sent by the page's form; a program names a folder."""
    source = Source(body.collection_id, body.folder, name=body.name.strip())
    run_id = enqueue(engine, settings, project_id, body.version_id, source)
    with reading(engine) as session:
        return test_run_cards.get(session, projects.get(session, project_id), run_id).as_json()


@api.get("/projects/{project_id}/test-runs/{run_id}")
def show_run(
    _: ViewerUser, session: ReadSession, project: CurrentProject, run_id: Id
) -> dict[str, Any]:
    """One test run, with its figures once it has ended."""
    return test_run_cards.get(session, project, run_id).as_json()


@api.get("/projects/{project_id}/test-runs/{run_id}/images")
def run_images(
    _: ViewerUser,
    session: ReadSession,
    settings: SettingsDep,
    project: CurrentProject,
    person: CurrentAnnotator,
    run_id: Id,
    part: str = "",
    after: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    n: Annotated[int, Query(ge=1, le=240)] = PER_PAGE,
) -> list[dict[str, Any]]:
    """The images a run shows; `part` is top, threshold or bottom, or of a classifier sample, unsure
    or class-NUMBER. Without one, the first of these."""
    report = test_run_cards.get(session, project, run_id, measured=False)
    part = part or next(iter(report.parts))
    cards = test_run_cards.cards(session, settings, project, report, part, person, after, n)
    return [run_card_json(card) for card in cards]


@api.post("/projects/{project_id}/test-runs/{run_id}/scores")
@SCORES
def correct(
    request: Request,
    engine: EngineDep,
    user: AnnotatorUser,
    project_id: Id,
    run_id: Id,
    body: Correction,
) -> ValidJSON:
    """Score an image that the run shows. It is on disk when this answers."""
    given = ScoreInput(
        "set", body.value if body.named is None else body.named, body.key, body.expected,
        offer(engine, user, project_id, run_id, body.image_id),
    )  # fmt: skip
    return recorded_json(request, record(engine, user, project_id, body.image_id, given))


def run_card_json(card: Card) -> dict[str, Any]:
    return {
        "image_id": card.image_id, "name": card.name, "prediction": card.prediction,
        "uncertainty": card.uncertainty, "says": card.says,
        "predicted_by": card.predicted_by, "label": card.label,
        "event_id": card.event_id, "offer": card.offer,
        "thumb": f"/images/{card.image_id}/thumb" if card.has_pixels else None,
    }  # fmt: skip
