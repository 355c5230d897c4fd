"""Heads made elsewhere: a score or class file of the original, or a LAION head, becomes v0.0.

    foreign_files      what the file is, checked byte by byte
    compatibility      whether it can score the project's embeddings
    import_checkpoint  stages a file that can, and queues the job
    publish_head       the job: predict every image, measure, publish the file as it came

Whatever is refused leaves nothing behind.
"""

import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine
from sqlmodel import select

from tastemaker import embeddings, jobs, projects, scores, versions
from tastemaker.config import Settings
from tastemaker.database import sessions
from tastemaker.database.sessions import Transactions
from tastemaker.database.tables import Image, Job, Label, Project, Version
from tastemaker.encoding.encoder_names import canonical
from tastemaker.errors import CheckpointError, NotFound
from tastemaker.files import is_file, require_free_space
from tastemaker.jobs.context import JobContext
from tastemaker.jobs.progress import Progress, Silent
from tastemaker.learning.checkpoints import sidecar_path
from tastemaker.learning.metrics import histogram, histogram_of_predictions, summary
from tastemaker.learning.version_metrics import LabelMetrics, StoredRecipe, VersionMetrics
from tastemaker.processes import ready_to_compute
from tastemaker.publishing.compatibility import check_compatible
from tastemaker.publishing.foreign_files import ForeignHead, read_foreign_head
from tastemaker.versions import predictions, publication
from tastemaker.versions.publication import FrozenLabel, HeadFile, Outcome

FEWEST_FOR_NOISE = 8  # labels from which the head's own error is taken for its uncertainty
USUAL_ERROR = 0.15  # a point and a half: what such heads are off where nothing is known yet


# --- requesting it -----------------------------------------------------------------------------


def import_checkpoint(
    engine: Engine,
    settings: Settings,
    project_id: int,
    file: Path,
    *,
    name: str = "",
    config: Path | None = None,
    encoder: str | None = None,
    note: str = "",
    activate: bool = False,
) -> Job:
    """Check a foreign head against a project and queue its import. Whatever is refused leaves
    nothing behind."""
    if config is None and is_file(sidecar_path(file)):
        config = sidecar_path(file)
    head = read_foreign_head(file, name, config)
    with sessions.reading(engine) as session:
        check_compatible(session, projects.get(session, project_id), head, encoder)
    require_free_space(settings.root, settings.min_free_gb)
    staging = settings.incoming / secrets.token_hex(16)
    staging.mkdir(parents=True)
    try:
        shutil.copyfile(file, staging / "head.safetensors")
        if config is not None:
            shutil.copyfile(config, staging / "head.config.json")
        with sessions.writing(engine) as session:
            project = projects.get(session, project_id)
            check_compatible(session, project, head, encoder)
            if project.kind != head.kind:
                project.kind = head.kind
                session.add(project)
            payload = {
                "staging": staging.name, "name": head.name, "encoder": encoder,
                "note": note.strip()[:500], "activate": activate,
                "event_high": scores.highest_event(session, project),
            }  # fmt: skip
            return jobs.enqueue(session, "adopt", f"Import {head.name}", payload, project.id)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def project_for(
    engine: Engine, name: str, file: Path, encoder: str | None, config: Path | None = None
) -> int:
    """The id of the project a head goes into: the one of that name, or a new one for its encoder.
    A file that cannot be read makes no project."""
    with sessions.reading(engine) as session:
        project = projects.find(session, name)
    if project is not None:
        return project.id
    if config is None and is_file(sidecar_path(file)):
        config = sidecar_path(file)
    head = read_foreign_head(file, config=config)
    needed = head.encoder or (canonical(encoder) if encoder else None)
    if needed is None:
        raise NotFound(
            f"There is no project “{name}”, and {head.name} does not say for which encoder to make "
            "one.",
            "Name a project that there is, or the encoder with --encoder.",
        )
    with sessions.writing(engine) as session:
        project = projects.create(session, name, encoder=needed)
        check_compatible(session, project, head, encoder)
        return project.id


# --- the job -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeadRequest:
    """What to publish: the `file` of a head (called `name`) and its sidecar `config`, judged on the
    labels as they stood at `event_high`. `encoder` is what the person named as its own; the
    same `made_by` is the same version."""

    project_id: int
    made_by: str
    file: Path
    name: str
    event_high: int
    config: Path | None = None
    encoder: str | None = None
    note: str = ""
    activate: bool = False


def run(job: JobContext) -> dict[str, Any]:
    """Publish the staged head as the next version v0.x. Safe to run again after a crash."""
    staging = job.settings.incoming / job.payload["staging"]
    config = staging / "head.config.json"
    request = HeadRequest(
        job.project_id, f"job {job.claim.job_id}", staging / "head.safetensors",
        config=config if config.exists() else None,
        name=job.payload["name"], event_high=job.payload["event_high"],
        encoder=job.payload["encoder"], note=job.payload["note"],
        activate=bool(job.payload["activate"]),
    )  # fmt: skip
    with job.reading() as session:
        project = projects.get(session, job.project_id)
    if project.encoder_id is None:  # nothing was embedded yet: that pins the fingerprint
        embeddings.embed_project(job, project.id)
    version = publish_head(job, job.settings, request, report=job)
    shutil.rmtree(staging, ignore_errors=True)
    return {"version": version.number, "version_id": version.id, "active": version.active}


def publish_head(
    transactions: Transactions,
    settings: Settings,
    request: HeadRequest,
    *,
    report: Progress | None = None,
) -> Version:
    """Publish a head as it came, with what it gives every image of the project, measured."""
    report = report or Silent()
    with transactions.reading() as session:
        version = publication.made_before(session, request.made_by)
    if version is not None and version.state == "ready":
        return version
    head = read_foreign_head(request.file, request.name, request.config)
    with transactions.reading() as session:
        project = projects.get(session, request.project_id)
        check_compatible(session, project, head, request.encoder)
        labels = scores.labels_at(session, project, request.event_high)
        drawn = scores.drawn_at_random(session, project.id, request.event_high)
        ids, x = embeddings.project_matrix(session, project)
        group_of = dict(session.exec(select(Image.id, Image.source_group)).all())
        first = versions.active(session, project) is None
    assert project.encoder_id is not None
    embedded = set(ids.tolist())
    version = publication.begin(
        transactions,
        project.id,
        request.made_by,
        [
            FrozenLabel(label.image_id, label.value, "holdout" if label.measures else "aside")
            for label in labels.values()
            if label.image_id in embedded
        ],
        major=0, encoder_id=project.encoder_id, event_high=request.event_high, seed=project.seed,
        note=request.note or f"imported from {head.name}",
    )  # fmt: skip
    predicted = _predict(settings, head, x, report)
    metrics = _measure(project, head, ids, predicted, labels, group_of, drawn)
    uncertainty = np.full(len(ids), metrics.noise)
    unseen = np.full(len(ids), np.nan)
    predictions.replace_all(
        transactions, version, ids, x,
        lambda rows, part: (predicted[part], unseen[part], uncertainty[part]), report,
    )  # fmt: skip
    activate = first or request.activate
    why = "first version" if first else "chosen when it was imported"
    report.stage(f"Writing {version.number}")
    version = publication.publish(
        transactions,
        settings,
        version,
        _head_file(head, request.file),
        Outcome(
            metrics=metrics,
            recipe=_recipe(head),
            activate=activate,
            why=why if activate else "not activated: it was only imported",
        ),
    )
    report.log(f"published {Path(version.file).name}")
    return version


def _head_file(head: ForeignHead, file: Path) -> HeadFile:
    """The file as it came, to the byte; one of another layout as the 16 tensors, and itself."""
    as_it_came = head.layout == "city96"
    return HeadFile(
        head.tensors(),
        metadata={"imported_from": head.name},
        labels=head.labels,
        source=file if as_it_came else None,
        original=None if as_it_came else file,
        about={"imported": {"file": head.name, "sha256": head.sha256, "sidecar": head.sidecar}},
    )


def _recipe(head: ForeignHead) -> StoredRecipe:
    return {
        "name": "imported", "file": head.name, "layout": head.layout, "source_sha256": head.sha256,
        "outputs": head.outputs, "labels": list(head.labels),
    }  # fmt: skip


def _predict(
    settings: Settings, head: ForeignHead, x: NDArray[np.float16], report: Progress
) -> NDArray[np.float32]:
    """(N,) what the head gives every embedded image, as one score in [0, 1] each."""
    from tastemaker.learning.heads import Head, as_score

    ready_to_compute(settings.torch_threads)
    scorer = Head(head.tensors())
    predicted = np.empty(len(x), np.float32)
    report.stage("Scoring every image", len(x))
    for start in range(0, len(x), predictions.CHUNK):
        part = slice(start, start + predictions.CHUNK)
        predicted[part] = as_score(scorer(x[part]))
        report.progress(start)
    if not np.isfinite(predicted).all():
        raise CheckpointError(f"{head.name} gives numbers that are not finite for some images.")
    return predicted


def _measure(
    project: Project,
    head: ForeignHead,
    ids: NDArray[np.int64],
    predicted: NDArray[np.float32],
    labels: dict[int, Label],
    group_of: dict[int, str],
    drawn: set[int],
) -> VersionMetrics:
    """Its error on the hold-out and the random sample, as of any version; and on every label, none
    of which it was trained on as far as anybody knows."""
    at = {image_id: row for row, image_id in enumerate(ids.tolist())}
    known = [label for image_id, label in sorted(labels.items()) if image_id in at]

    def measured(some: list[Label]) -> LabelMetrics:
        return summary(
            [label.value / 10 for label in some],
            predicted[[at[label.image_id] for label in some]],
            [group_of[label.image_id] for label in some] if some else None,
            threshold=project.threshold,
        )

    errors = np.array([predicted[at[label.image_id]] - label.value / 10 for label in known])
    noise = float(np.sqrt(np.mean(errors**2))) if len(errors) >= FEWEST_FOR_NOISE else USUAL_ERROR
    return VersionMetrics(
        images=0,
        kind=head.kind,
        noise=max(noise, 0.01),
        holdout=measured([label for label in known if label.measures]),
        random_sample=measured([label for label in known if label.image_id in drawn]),
        out_of_fold=LabelMetrics(),
        all_labels=measured(known),
        label_histogram=histogram([label.value / 10 for label in known]),
        prediction_histogram=histogram_of_predictions(predicted),
        predicted=len(predicted),
        versus_parent=None,
    )
