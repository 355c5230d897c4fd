"""A project moves to another encoder: embed all its images with it, train a new major version on
them, and change over only where that version is not shown to be worse.

Until the change, which is one transaction, the project works as before. What is embedded stays, so
a migration that was stopped, or asked for again, goes on where it was. The versions from before
keep their encoder and its vectors: both are compared on the same images, and making an old one
active moves the project back.
"""

from typing import Any

from sqlmodel import Session

from tastemaker import embeddings, jobs, projects, scores
from tastemaker.config import Settings
from tastemaker.database.tables import Job, Project
from tastemaker.encoding.encoder_specs import parse
from tastemaker.errors import Conflict
from tastemaker.files import require_free_space
from tastemaker.jobs.context import JobContext
from tastemaker.training import retrain
from tastemaker.training.trainable import known_now, why_not

GB = 1e9


def request_migration(session: Session, settings: Settings, project: Project, encoder: str) -> Job:
    """Queue the migration to an encoder. Raises `Conflict` where there is nothing to move or a
    migration is under way, `Invalid` and `EncoderUnavailable` as for a new project, and
    `StorageFull` where the new vectors would not fit on the disk."""
    name = projects.validate_encoder(encoder)
    check_movable(session, project)
    if name == project.encoder:
        raise Conflict(f"“{project.name}” works with {name} already.", "Choose another encoder.")
    for job in jobs.unfinished(session, "migrate", project.id):
        if job.payload == {"encoder": name}:
            return job
        raise Conflict(
            f"“{project.name}” is moving to {job.payload['encoder']} already.",
            "Wait for that job, or cancel it first: what it embedded is kept.",
        )
    width = parse(name).dim or 0
    needed = projects.size(session, project, projects.ANY_ROLE) * width * 2 / GB
    require_free_space(settings.root, settings.min_free_gb + needed)
    title = f"Move “{project.name}” to {name}"
    return jobs.enqueue(session, "migrate", title, {"encoder": name}, project.id)


def check_movable(session: Session, project: Project) -> None:
    """Raises `Conflict` for a project whose vectors another encoder cannot make, or that has none
    yet."""
    if project.encoder_id is None:
        raise Conflict(
            f"No image of “{project.name}” is embedded yet.",
            "Choose its encoder on the page Add images; nothing has to be moved.",
        )
    if embeddings.declared(session, project):
        raise Conflict(
            f"“{project.name}” is made of vectors from outside: there is no picture that another "
            "encoder could embed.",
            "Make another project for the pictures.",
        )


def run(job: JobContext) -> dict[str, Any]:
    """The job “migrate”. Killed and started again, it makes the same version."""
    name = job.payload["encoder"]
    encoder, row = embeddings.load_for(job, name)
    job.stage(f"Embedding with {name}")
    embedded, skipped = embeddings.embed_images(
        job, encoder, row, embeddings.missing(row.id, job.project_id)
    )
    job.log(f"{embedded} embedded, {len(skipped)} skipped")
    result = {"encoder": name, "embedded": embedded, "set_aside": len(skipped)}
    with job.reading() as session:
        project = projects.get(session, job.project_id)
        untrainable = why_not(known_now(session, project, row.id))
        event_high = scores.highest_event(session, project)
    if untrainable is not None:
        with job.writing() as session:
            project = projects.get(session, job.project_id)
            embeddings.use_encoder(session, project, row)
            project.encoder = name
        return result | {"moved": True, "version": None, "why": f"not trained: {untrainable}"}
    request = retrain.Request(
        project.id, made_by=f"job {job.claim.job_id}", event_high=event_high, seed=project.seed,
        recipe=project.recipe, note=f"moved to {name}", major=True, encoder_id=row.id,
    )  # fmt: skip
    version = retrain.train_and_publish(job, job.settings, request, report=job)
    with job.writing() as session:
        project = projects.get(session, job.project_id)
        moved = project.encoder_id == row.id
        if moved:
            project.encoder = name  # where its weights lie, as it was typed
            session.add(project)
    return result | {
        "moved": moved, "version": version.number, "version_id": version.id,
        "why": version.activation,
    }  # fmt: skip
