"""Versions: the list with its training, one version's page, its files, activating it."""

from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import Field
from sqlmodel import Session

from tastemaker import jobs, projects, scores, versions
from tastemaker.auth.origins import by_htmx
from tastemaker.auth.permissions import AdminUser, GuardedRoute, ViewerUser
from tastemaker.config import Settings
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import EncoderRow, Job, Project, Version
from tastemaker.errors import Conflict, Invalid, NotFound, TastemakerError
from tastemaker.evaluation import expectations
from tastemaker.learning import recipes
from tastemaker.pages import class_version, results
from tastemaker.pages.deps import Body, CurrentProject, EngineDep, Id, ReadSession, SettingsDep
from tastemaker.pages.downloads import attachment
from tastemaker.pages.project_jobs import job_of, job_to_show, newest_job
from tastemaker.pages.render import lead_to, load_anew, render, see_other, shell
from tastemaker.publishing import exports, sheets
from tastemaker.training import auto_train, retrain, trainable
from tastemaker.versions import (
    deletion,
    file_checks,
    predictions,
    priors,
    training_set,
    version_report,
)
from tastemaker.versions.outlook import outlook

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")

ON_A_SHEET = 12  # tiles on the page; a downloaded sheet holds DOWNLOADED
DOWNLOADED = 100


# --- the list ------------------------------------------------------------------------------------


@router.get("/projects/{project_id}/versions")
def page(
    _: ViewerUser,
    request: Request,
    session: ReadSession,
    settings: SettingsDep,
    project: CurrentProject,
) -> Response:
    ready = versions.list_ready(session, project)
    numbers = {version.id or 0: version.number for version in ready}
    context = {
        "versions": [
            {
                "row": v,
                **class_version.in_words(v),
                "parent": numbers.get(v.parent_id or 0),
                "activation": activation(v),
                "file": file_checks.check_hash(session, settings, v),
                "expectations": expected(v),
            }
            for v in ready
        ],
        "outlook": outlook(ready[0].metrics) if ready else None,
        "errors": [(v.number, v.metrics) for v in reversed(ready) if v.major],
        "labelled": scores.count_labels(session, project.id),
        "job": job_to_show(session, project, "train"),
        "safe": file_checks.SAFE,
        "way_out": file_checks.WAY_OUT,
    }
    context |= train_form(session, project)
    return render(request, "versions.html", None, shell(session, project, "versions") | context)


@router.get("/projects/{project_id}/versions/training")
def training_progress(
    _: ViewerUser, request: Request, session: ReadSession, project: CurrentProject, job_id: int = 0
) -> Response:
    """Asked every second while a training runs. When it has ended well the page reloads; the first
    version leads to its results."""
    job = job_of(session, project, job_id)
    if job.state == "done" and len(versions.list_ready(session, project)) == 1:
        page = "results" if project.labelling == "scores" else "confusion"
        return lead_to(f"/projects/{project.id}/{page}")
    if job.state in ("done", "cancelled"):
        return load_anew()
    return render(request, "versions.html", "training", training_context(session, project, job))


@router.post("/projects/{project_id}/train")
def train(
    _: AdminUser,
    request: Request,
    engine: EngineDep,
    settings: SettingsDep,
    project_id: Id,
    note: Annotated[str, Form()] = "",
    recipe: Annotated[str, Form()] = "",
    major: Annotated[bool, Form()] = False,
) -> Response:
    with writing(engine) as session:
        project = projects.get(session, project_id)
        job = retrain.request_training(
            session, settings, project, note[:500].strip(), recipe or None, major
        )
        context = training_context(session, project, job)
    if by_htmx(request):
        return render(request, "versions.html", "training", context)
    return see_other(f"/projects/{project_id}/versions")


def training_context(session: Session, project: Project, job: Job) -> dict[str, Any]:
    return {"project": project, "job": job, **train_form(session, project)}


def train_form(session: Session, project: Project) -> dict[str, Any]:
    """What stands beside the button Train: why it cannot be pressed, note and recipe, whether the
    last training was cancelled, and the version that saw every score, if there is one.

    What was chosen for a training that was cancelled or failed is kept for the next try, unless it
    began by itself: then nobody chose it."""
    newest, event_high = (
        newest_job(session, project, "train"),
        scores.highest_event(session, project),
    )
    last = next(iter(versions.list_ready(session, project)), None)
    broken_off = newest is not None and newest.state in ("cancelled", "failed")
    tried = newest.payload if newest is not None and broken_off else {}
    if str(tried.get("note", "")).startswith(auto_train.BY_ITSELF):
        tried = {}
    return {
        "trainable": trainable.count_training_labels(session, project),
        "why_not": trainable.why_not(trainable.known_now(session, project)),
        "enough": trainable.ENOUGH_TO_TRAIN,
        "note": tried.get("note", ""),
        "recipe": tried.get("recipe", project.recipe),
        "recipes": recipes.IN_WORDS,
        "major": bool(tried.get("major")),
        "cancelled": newest is not None and newest.state == "cancelled",
        "nothing_since": last.number
        if last and last.major and last.event_high == event_high
        else "",
    }


# --- one version ---------------------------------------------------------------------------------


@router.get("/versions/{version_id}")
def one(
    _: ViewerUser, request: Request, session: ReadSession, settings: SettingsDep, version_id: Id
) -> Response:
    return version_page(request, session, settings, version_id)


def version_page(
    request: Request,
    session: Session,
    settings: Settings,
    version_id: int,
    delete_error: TastemakerError | None = None,
) -> Response:
    version = versions.get(session, version_id)
    project = projects.get(session, version.project_id)
    encoder = session.get(EncoderRow, version.encoder_id)
    status = delete_error.status if delete_error else 200
    ending = {**deletable(session, version), "delete_error": delete_error}
    if version.classes.numbers:
        ending["activation"] = activation_in_full(version)
        return class_version.page(request, session, settings, project, version, ending, status)
    context = {
        "version": version,
        "encoder": encoder,
        "figures": version_report.metrics_table(version),
        "baselines": version_report.baselines(version),
        "caveats": version_report.caveats(version),
        "outlook": outlook(version.metrics),
        "summary": results.summarise(
            session, project, version, results.before_it(session, project, version)
        ),
        "measured_in_words": version_report.measured_in_words(version.metrics),
        "scores_within": version_report.scores_within,
        "coverage": version_report.calibration_sentence(version),
        "recipe": version_report.recipe_sentence(version),
        "started": priors.of_version(session, version),
        "trust_in_words": priors.trust_in_words,
        "loss_in_words": priors.loss_in_words,
        "histograms": version_report.prediction_histograms(session, project, version),
        "sides": training_set.count_sides(session, version),
        "activation": activation_in_full(version),
        "file": file_checks.check_hash(session, settings, version),
        "score_check": file_checks.verify_scores(session, settings, version),
        "close": file_checks.CLOSE,
        "safe": file_checks.SAFE,
        "way_out": file_checks.WAY_OUT,
        "report": expectations.check(session, version),
        "wanted": expectations.wanted,
        "editable": False,
        "sheets": [
            (name, title, sheets.sheet_tiles(session, project, version, name, ON_A_SHEET))
            for name, title in sheets.SHEETS.items()
        ],
        **version_report.neighbours(session, project, version),
        **ending,
    }
    page = shell(session, project, "versions") | context
    return render(request, "version.html", None, page, status=status)


def deletable(session: Session, version: Version) -> dict[str, Any]:
    """What would go with the version, or why it has to stay."""
    try:
        return {"goes": deletion.what_goes(session, version), "stays": None}
    except Conflict as error:
        return {"goes": None, "stays": error}


@router.post("/versions/{version_id}/delete")
def delete(
    _: AdminUser,
    request: Request,
    engine: EngineDep,
    settings: SettingsDep,
    version_id: Id,
    number: Annotated[str, Form()] = "",
) -> Response:
    """Delete the version, once its number was typed."""
    try:
        with reading(engine) as session:
            version = versions.get(session, version_id)
        if number.strip() not in (version.number, version.number[1:]):
            raise Invalid(
                "That is not the number of this version; nothing was deleted.",
                f"Type {version.number} to delete it.",
            )
        deletion.delete_version(settings, engine, version_id)
    except (Conflict, Invalid) as error:
        with reading(engine) as session:
            return version_page(request, session, settings, version_id, error)
    return see_other(f"/projects/{version.project_id}/versions")


@router.post("/versions/{version_id}/activate")
def activate(_: AdminUser, engine: EngineDep, settings: SettingsDep, version_id: Id) -> Response:
    with writing(engine) as session:
        version = versions.get(session, version_id)
        predictions.activate_by_hand(session, settings, version)
    return see_other(f"/projects/{version.project_id}/versions#{version.number}")


@router.get("/versions/{version_id}/checkpoint")
def checkpoint(
    _: AdminUser, session: ReadSession, settings: SettingsDep, version_id: Id
) -> Response:
    """The head as safetensors; refused if the file is no longer the one that was published."""
    version = versions.get(session, version_id)
    versions.verify(settings, version)
    path = versions.checkpoint_path(settings, version)
    name = f"{file_name(session, version)}.safetensors"
    return FileResponse(path, media_type="application/octet-stream", filename=name)


@router.get("/versions/{version_id}/config")
def config(_: AdminUser, session: ReadSession, settings: SettingsDep, version_id: Id) -> Response:
    """The sidecar, with what became known since: percentiles, parent, calibration."""
    version = versions.get(session, version_id)
    part = exports.config(session, settings, version)
    name = f"{file_name(session, version)}.config.json"
    return attached(b"".join(part.pieces()), "application/json", name)


@router.get("/versions/{version_id}/training-set.csv")
def training_set_csv(_: AdminUser, session: ReadSession, version_id: Id) -> Response:
    version = versions.get(session, version_id)
    content = training_set.as_csv(session, version)
    return attached(content, "text/csv", f"{file_name(session, version)}.training-set.csv")


@router.get("/versions/{version_id}/training-set.jsonl")
def training_set_jsonl(_: AdminUser, session: ReadSession, version_id: Id) -> Response:
    version = versions.get(session, version_id)
    content = training_set.as_jsonl(session, version)
    name = f"{file_name(session, version)}.training-set.jsonl"
    return attached(content, "application/jsonl", name)


@router.get("/versions/{version_id}/sheets/{sheet}")
def sheet(
    _: ViewerUser, session: ReadSession, settings: SettingsDep, version_id: Id, sheet: str
) -> Response:
    """A contact sheet as a PNG to keep or to send."""
    version = versions.get(session, version_id)
    project = projects.get(session, version.project_id)
    tiles = sheets.sheet_tiles(session, project, version, sheet, DOWNLOADED)
    if not tiles:
        raise NotFound(f"{version.number} has predicted nothing yet.", "Train again.")
    title = f"{project.name} {version.number}: {sheets.SHEETS[sheet].lower()} {len(tiles)}"
    content = sheets.draw(settings, tiles, title)
    return attached(content, "image/png", f"{file_name(session, version)}-{sheet}.png")


def attached(content: str | bytes, media_type: str, name: str) -> Response:
    return Response(content, media_type=media_type, headers=attachment(name))


def file_name(session: Session, version: Version) -> str:
    project = projects.get(session, version.project_id)
    return f"{versions.base_name(project)}-{version.number}"


# --- in words ------------------------------------------------------------------------------------


def activation(version: Version) -> str:
    """Why the version was made active or not, where the comparison shown does not say it."""
    why = version.activation
    if why.startswith("not activated: worse"):
        return "It was not made active."
    if why.startswith("not activated: "):
        return f"It was not made active: {why.removeprefix('not activated: ')}."
    compared = version.metrics.versus_parent is not None and why != "chosen by hand"
    if compared or not why:
        return ""
    return f"Active ({why})." if version.active else f"It was active before ({why})."


def activation_in_full(version: Version) -> str:
    """The same beside the state of a version, whether the comparison says it or not."""
    why = version.activation
    if version.active or not why or why.startswith("not activated"):
        return why
    return f"it was active before ({why})."


def expected(version: Version) -> dict[str, Any]:
    """How many expectations the version met when it was published, and those it missed."""
    checks = [check for check in version.metrics.expectations if check.met is not None]
    return {
        "n": len(checks),
        "met": sum(check.met is True for check in checks),
        "missed": [expectations.missed(check) for check in checks if not check.met],
    }


# --- for programs --------------------------------------------------------------------------------


@api.get("/versions/{version_id}")
def show_version(
    _: ViewerUser, session: ReadSession, settings: SettingsDep, version_id: Id
) -> dict[str, Any]:
    """All that the version's page shows: metrics, recipe, what its file proved, and what it makes
    of slices and expectations today, `labels_since` it was published."""
    version = versions.get(session, version_id)
    project = projects.get(session, version.project_id)
    return versions.as_json(session, settings, version) | {
        "measured_on": version.metrics.measured_on or "",
        "figures": [figure.as_dict() for figure in version_report.metrics_table(version)],
        "beside": [figure.as_dict() for figure in version_report.baselines(version)],
        "doubts": version_report.caveats(version),
        "recipe_in_words": version_report.recipe_sentence(version),
        "curve": version.curve,
        "labels": training_set.count_sides(session, version),
        "predictions": [
            s.as_dict() for s in version_report.prediction_histograms(session, project, version)
        ],
        "file_state": file_checks.check_hash(session, settings, version).as_json(),
        "format": file_checks.verify_scores(session, settings, version).as_json(),
        **expectations.check(session, version).as_json(),
    }


@api.get("/versions/{version_id}/training-set")
def show_training_set(_: AdminUser, session: ReadSession, version_id: Id) -> list[dict[str, Any]]:
    """The exact labels the version saw: sha256, path, score, side (train, holdout, aside), fold."""
    return list(training_set.rows(session, versions.get(session, version_id)))


@api.get("/versions/{version_id}/sheets/{sheet}")
def show_sheet(
    _: ViewerUser,
    session: ReadSession,
    version_id: Id,
    sheet: str,
    n: Annotated[int, Query(ge=1, le=200)] = 100,
) -> list[dict[str, Any]]:
    """The images a version puts at the `top`, at the `bottom`, or around the `threshold`."""
    version = versions.get(session, version_id)
    project = projects.get(session, version.project_id)
    return [tile.as_dict() for tile in sheets.sheet_tiles(session, project, version, sheet, n)]


class NewTraining(Body):
    note: str = Field(default="", max_length=500)
    recipe: recipes.Name | None = None
    major: bool = False


@api.get("/projects/{project_id}/versions")
def list_versions(
    _: ViewerUser, session: ReadSession, settings: SettingsDep, project: CurrentProject
) -> list[dict[str, Any]]:
    """The versions of a project, newest first, with their metrics."""
    return versions.list_as_json(session, settings, versions.list_ready(session, project))


@api.post("/projects/{project_id}/train", status_code=202)
def start_training(
    _: AdminUser, engine: EngineDep, settings: SettingsDep, project_id: Id, body: NewTraining
) -> dict[str, Any]:
    """Queue a training; the answer is its job. `recipe` is the project's by default; `major`
    begins a new series, v2.0 after v1.4."""
    with writing(engine) as session:
        project = projects.get(session, project_id)
        job = retrain.request_training(
            session, settings, project, body.note, body.recipe, body.major
        )
        return jobs.as_json(job)


@api.post("/versions/{version_id}/activate")
def activate_version(
    _: AdminUser, engine: EngineDep, settings: SettingsDep, version_id: Id
) -> dict[str, Any]:
    """Make a version the active one of its project, after checking its file."""
    with writing(engine) as session:
        version = versions.get(session, version_id)
        predictions.activate_by_hand(session, settings, version)
        return versions.as_json(session, settings, version)


@api.delete("/versions/{version_id}")
def delete_version(
    _: AdminUser, engine: EngineDep, settings: SettingsDep, version_id: Id
) -> dict[str, Any]:
    """Delete a version with its file, predictions and test runs; the answer tells what went. The
    active one is refused, and one that a test run is under way with."""
    return deletion.delete_version(settings, engine, version_id).as_json()
