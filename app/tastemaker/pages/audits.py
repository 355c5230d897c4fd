"""Audits: how good what a version keeps is, by images drawn at random and scored blind."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from pydantic import Field, StrictInt
from sqlalchemy import Engine
from sqlmodel import Session

from tastemaker import jobs, projects, versions
from tastemaker.auth.identity import Identity
from tastemaker.auth.origins import by_htmx
from tastemaker.auth.permissions import AdminUser, AnnotatorUser, GuardedRoute, ViewerUser
from tastemaker.config import Settings
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import Project, Version
from tastemaker.errors import Forbidden, Invalid, NotFound, TastemakerError
from tastemaker.evaluation import audit_reports, audits, test_run_cards
from tastemaker.evaluation.audits import Target, Terms
from tastemaker.library import saved_filters
from tastemaker.library.filters import LibraryFilter, from_dict
from tastemaker.pages.deps import (
    Body,
    CurrentAnnotator,
    CurrentProject,
    EngineDep,
    Id,
    ReadSession,
    SettingsDep,
)
from tastemaker.pages.formats import predicted
from tastemaker.pages.render import load_anew, redirect, render, shell

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")

VERSIONS_OFFERED = 4
SHARES_BELOW = {"0.2": "mostly how good what is kept is", "0.5": "how much is lost, just as much"}


# --- the list, and starting one ------------------------------------------------------------------


@router.get("/projects/{project_id}/audits")
def page(
    _: ViewerUser,
    request: Request,
    session: ReadSession,
    project: CurrentProject,
    target: str = "",
) -> Response:
    """`target` is chosen beforehand, as from the page of a test run or of a version."""
    return list_page(request, session, project, {"target": target} if target else {})


def list_page(
    request: Request, session: Session, project: Project, given: dict[str, str],
    error: TastemakerError | None = None,
) -> Response:  # fmt: skip
    """With an error, what was typed is kept."""
    offered = targets(session, project)
    usual = audits.usual_terms(project)
    typed = {
        "target": "", "cut": predicted(usual.cut), "good_from": str(usual.good_from), "goal": "90",
        "confidence": "95", "share_below": "0.2",
    } | given  # fmt: skip
    context = {
        "reports": audit_reports.listing(session, project), "headline": audit_reports.headline,
        "targets": offered, "typed": typed, "shares": SHARES_BELOW, "error": error,
    }  # fmt: skip
    frame = shell(session, project, "versions")
    status = error.status if error else 200
    return render(request, "audits.html", None, frame | context, status=status)


@dataclass(frozen=True)
class Choice:
    """A target that the form offers: its `value`, and what it is called under which heading."""

    value: str
    name: str
    group: str


def targets(session: Session, project: Project) -> list[Choice]:
    """Test runs that have ended, the library by the newest versions, and the saved filters by the
    active one."""
    ready = versions.list_ready(session, project)
    active = next((version for version in ready if version.active), None)
    runs = [
        Choice(f"run:{one.run.id}", f"{one.collection.name} by {one.version.number}", "Test runs")
        for one in test_run_cards.listing(session, project)
        if one.state == "done"
    ]
    # the active one first: it is what the form begins with where there is no test run
    first = sorted(ready[:VERSIONS_OFFERED], key=lambda version: not version.active)
    library = [Choice(f"library:{v.number}", f"All images by {v.number}", "Library") for v in first]
    saved = [
        Choice(f"filter:{one.id}", f"{one.name} by {active.number}", "Saved filters")
        for one, _ in (saved_filters.list_saved(session, project) if active else [])
        if active is not None
    ]
    return [*runs, *library, *saved]


def chosen(session: Session, project: Project, value: str) -> tuple[Version, Target]:
    """What a value of the form means. Raises `Invalid` or `NotFound`."""
    kind, _, which = value.partition(":")
    number = int(which) if which.isdecimal() and len(which) < 19 else 0
    if kind == "run":
        run = test_run_cards.get(session, project, number)
        return run.version, Target(test_run=run.run.id)
    if kind == "library":
        return versions.by_number(session, project, which), Target(filter=LibraryFilter())
    if kind == "filter":
        for one, wanted in saved_filters.list_saved(session, project):
            if one.id == number:
                return versions.by_number(session, project, "active"), Target(filter=wanted)
        raise NotFound("There is no such filter.", "Choose one of the list.")
    raise Invalid("Choose what to audit.", "A test run, or images of the library.")


class StartForm(Body):
    """Points of 0–10 and per cent, as they are typed; without a cut, one is searched for."""

    target: str = Field(default="", max_length=80)
    cut: str = Field(default="", max_length=20)
    good_from: str = Field(default="", max_length=20)
    goal: str = Field(default="90", max_length=20)
    confidence: str = Field(default="95", max_length=20)
    share_below: str = Field(default="0.2", max_length=20)
    opened_for: str = ""
    opened_in: str = ""

    def terms(self) -> Terms:
        return Terms(
            cut=_number(self.cut, "cut") / 10 if self.cut.strip() else None,
            good_from=int(_number(self.good_from, "good score")),
            goal=_number(self.goal, "promise") / 100,
            confidence=_number(self.confidence, "confidence") / 100,
            share_below=_number(self.share_below, "share from below"),
        )


def _number(typed: str, what: str) -> float:
    try:
        number = float(typed.strip().removesuffix("%").replace(",", "."))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise Invalid(f"“{typed[:20]}” is no number for the {what}.", "Type one.")
    return number


@router.post("/projects/{project_id}/audits")
def start(
    request: Request, engine: EngineDep, settings: SettingsDep, user: AnnotatorUser,
    project_id: Id, form: Annotated[StartForm, Form()],
) -> Response:  # fmt: skip
    """Draw an audit. After a refusal, what was typed is kept."""
    try:
        with reading(engine) as session:
            project = projects.get(session, project_id)
            version, target = chosen(session, project, form.target)
        audit_id = _start(engine, settings, user, project_id, version.id, target, form.terms())
    except TastemakerError as error:
        if by_htmx(request):
            raise
        with reading(engine) as session:
            given = form.model_dump(exclude={"opened_for", "opened_in"})
            return list_page(request, session, projects.get(session, project_id), given, error)
    return redirect(request, f"/projects/{project_id}/audits/{audit_id}")


def _start(
    engine: Engine, settings: Settings, user: Identity, project_id: int, version_id: int,
    target: Target, terms: Terms,
) -> int:  # fmt: skip
    with reading(engine) as session:
        project = projects.get(session, project_id)
        version = versions.get(session, version_id)
        person = user.person(session)
        prepared = audits.prepare(session, settings, project, version, person, target, terms)
    with writing(engine) as session:
        return audits.store(session, prepared).id


# --- one audit -----------------------------------------------------------------------------------


@router.get("/projects/{project_id}/audits/{audit_id}")
def audit_page(
    _: ViewerUser,
    request: Request,
    session: ReadSession,
    project: CurrentProject,
    person: CurrentAnnotator,
    audit_id: Id,
) -> Response:
    context = _context(session, project, person.id, audit_id)
    return render(request, "audit.html", None, shell(session, project, "versions") | context)


@router.get("/projects/{project_id}/audits/{audit_id}/progress")
def progress(
    _: ViewerUser,
    request: Request,
    session: ReadSession,
    project: CurrentProject,
    person: CurrentAnnotator,
    audit_id: Id,
) -> Response:
    """Asked again and again while the images of a table are drawn."""
    context = _context(session, project, person.id, audit_id)
    if context["report"].state not in ("queued", "running"):
        return load_anew()
    return render(request, "audit.html", "progress", {"project": project} | context)


def _context(session: Session, project: Project, person_id: int, audit_id: int) -> dict[str, Any]:
    report = audit_reports.get(session, project, audit_id)
    return {
        "report": report, "audit": report.audit, "found": report.findings,
        "headline": audit_reports.headline(report), "forecast": audit_reports.forecast(report),
        "stricter": audit_reports.stricter(report), "mine": report.audit.annotator_id == person_id,
        "at_least": audit_reports.at_least, "at_most": audit_reports.at_most,
    }  # fmt: skip


@router.post("/projects/{project_id}/audits/{audit_id}/retry")
def retry(
    _: AdminUser, request: Request, engine: EngineDep, project_id: Id, audit_id: Id
) -> Response:
    """Go on with drawing the images of a table, which failed or was cancelled."""
    with writing(engine) as session:
        report = audit_reports.get(session, projects.get(session, project_id), audit_id)
        jobs.retry(session, report.audit.job_id or 0)
    return redirect(request, f"/projects/{project_id}/audits/{audit_id}")


# --- for programs --------------------------------------------------------------------------------


class NewAudit(Body):
    """What to audit: exactly one of `test_run_id`, `filter` (as a saved filter is written; `{}`
    for the whole library) and `table` (on the machine of the server; its relative paths begin at
    `root`). `cut` is in 0–1, `good_from` in 0–10; both are the project's threshold by default.
    With `find`, the cut is one from which on the stricter ones are tried. `seed` fixes what is
    drawn."""

    version_id: int = Field(ge=1, lt=2**63)
    test_run_id: int | None = Field(default=None, ge=1, lt=2**63)
    filter: dict[str, Any] | None = None
    table: str = Field(default="", max_length=4096)
    root: str = Field(default="", max_length=4096)
    cut: float | None = None
    find: bool = False
    good_from: StrictInt | None = None
    goal: float = 0.9
    confidence: float = 0.95
    share_below: float = 0.2
    seed: int | None = Field(default=None, ge=0, lt=2**31)

    def target(self) -> Target:
        return Target(
            self.test_run_id,
            None if self.filter is None else from_dict(self.filter),
            Path(self.table) if self.table else None,
            Path(self.root) if self.root else None,
        )

    def terms(self, project: Project) -> Terms:
        usual = audits.usual_terms(project)
        return Terms(
            None if self.find else usual.cut if self.cut is None else self.cut,
            usual.good_from if self.good_from is None else self.good_from,
            self.goal, self.confidence, self.share_below, self.seed,
        )  # fmt: skip


@api.get("/projects/{project_id}/audits")
def list_audits(
    _: ViewerUser, session: ReadSession, project: CurrentProject
) -> list[dict[str, Any]]:
    """Every audit, newest first, with what it promises."""
    return [audit_reports.as_json(one) for one in audit_reports.listing(session, project)]


@api.post("/projects/{project_id}/audits", status_code=201)
def start_audit(
    engine: EngineDep, settings: SettingsDep, user: AnnotatorUser, project_id: Id, body: NewAudit
) -> dict[str, Any]:
    """Draw an audit. Its images are those of the queue `audit` with this one's id as `collection`;
    their scores are its answers."""
    if body.table and not user.is_admin:
        raise Forbidden("Only an administrator may name files of the server.")
    with reading(engine) as session:
        terms = body.terms(projects.get(session, project_id))
    audit_id = _start(engine, settings, user, project_id, body.version_id, body.target(), terms)
    with reading(engine) as session:
        project = projects.get(session, project_id)
        return audit_reports.as_json(audit_reports.get(session, project, audit_id))


@api.get("/projects/{project_id}/audits/{audit_id}")
def show_audit(
    _: ViewerUser, session: ReadSession, project: CurrentProject, audit_id: Id
) -> dict[str, Any]:
    """One audit: what it promises by now, and what more keys would bring."""
    return audit_reports.as_json(audit_reports.get(session, project, audit_id))
