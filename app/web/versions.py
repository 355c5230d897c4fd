"""Versions: train, compare, download, activate."""

from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import FileResponse
from sqlmodel import Session, col, func, select

from app import jobs, projects, retraining, versions
from app.db import writing
from app.errors import NotFound
from app.tables import Job, Label, Project, Version
from app.web.deps import EngineDep, Id, Reader, SettingsDep, TheProject
from app.web.render import by_htmx, render, see_other, shell
from app.web.score import ENOUGH_TO_TRAIN, labelled, newest_job

router = APIRouter(include_in_schema=False)


@router.get("/projects/{project_id}/versions")
def page(request: Request, session: Reader, project: TheProject) -> Response:
    every = versions.listing(session, project)
    numbers = {version.id or 0: version.number for version in every}
    context = {
        "versions": [
            {
                "row": v,
                "figures": figures(v),
                "parent": numbers.get(v.parent_id or 0),
                "activation": activation(v),
            }
            for v in every
        ],
        "labelled": labelled(session, project.id or 0),
        "trainable": trainable(session, project.id or 0),
        "enough": ENOUGH_TO_TRAIN,
        "job": training(session, project),
    }
    return render(request, "versions.html", None, shell(session, project, "versions") | context)


@router.get("/projects/{project_id}/versions/training")
def training_progress(
    request: Request, session: Reader, project: TheProject, job_id: int = 0
) -> Response:
    """Asked every second while a training runs; the page reloads when it has ended well."""
    job = session.get(Job, job_id)
    if job is None or job.project_id != project.id:
        raise NotFound("There is no such training.")
    if job.state in ("done", "cancelled"):
        return Response(headers={"HX-Refresh": "true"})
    return render(request, "versions.html", "training", training_context(session, project, job))


@router.post("/projects/{project_id}/train")
def train(
    request: Request,
    engine: EngineDep,
    settings: SettingsDep,
    project_id: Id,
    note: Annotated[str, Form()] = "",
) -> Response:
    with writing(engine) as session:
        project = projects.get(session, project_id)
        job = retraining.request_training(session, settings, project, note=note[:500].strip())
        context = training_context(session, project, job)
    if by_htmx(request):
        return render(request, "versions.html", "training", context)
    return see_other(f"/projects/{project_id}/versions")


@router.post("/versions/{version_id}/activate")
def activate(engine: EngineDep, version_id: Id) -> Response:
    with writing(engine) as session:
        version = versions.get(session, version_id)
        versions.activate(session, version)
    return see_other(f"/projects/{version.project_id}/versions#{version.number}")


@router.get("/versions/{version_id}/checkpoint")
def checkpoint(session: Reader, settings: SettingsDep, version_id: Id) -> Response:
    """The head as safetensors; refused if the file is no longer the one that was published."""
    version = versions.get(session, version_id)
    versions.verify(settings, version)
    path = versions.checkpoint_path(settings, version)
    name = f"{file_name(session, version)}.safetensors"
    return FileResponse(path, media_type="application/octet-stream", filename=name)


@router.get("/versions/{version_id}/config")
def config(session: Reader, settings: SettingsDep, version_id: Id) -> Response:
    version = versions.get(session, version_id)
    path = versions.config_path(settings, version)
    if not path.is_file():
        raise NotFound(f"The configuration of {version.number} is missing on the disk.")
    name = f"{file_name(session, version)}.config.json"
    return FileResponse(path, media_type="application/json", filename=name)


def file_name(session: Session, version: Version) -> str:
    project = projects.get(session, version.project_id)
    return f"{versions.base_name(project)}-{version.number}"


def training_context(session: Session, project: Project, job: Job) -> dict[str, Any]:
    return {"project": project, "job": job, "trainable": trainable(session, project.id or 0)}


def trainable(session: Session, project_id: int) -> int:
    """How many labels a head can learn from: all but those of the hold-out."""
    training = (Label.project_id == project_id, ~col(Label.holdout))
    return int(session.exec(select(func.count()).select_from(Label).where(*training)).one())


def activation(version: Version) -> str:
    """Why the version was made active or not, where the comparison shown does not say it."""
    why = version.activation
    if why.startswith("not activated"):
        return "It was not made active."
    compared = bool(version.metrics.get("versus_parent")) and why != "chosen by hand"
    return "" if compared or not why else f"Made active because: {why}."


def training(session: Session, project: Project) -> Job | None:
    """The training to show: the one that runs, or the newest if it failed."""
    running = jobs.unfinished(session, "train", project.id)
    if running:
        return running[0]
    newest = newest_job(session, project, "train")
    return newest if newest is not None and newest.state == "failed" else None


def figures(version: Version) -> dict[str, Any]:
    """The measurement to show, and what it was made on: the hold-out, or out-of-fold while there
    is none (`measured_on` is empty when there is neither)."""
    for where in ("holdout", "out_of_fold"):
        measured = version.metrics.get(where) or {}
        if measured.get("mae") is not None:
            return {"measured_on": where, **measured}
    return {"measured_on": ""}
