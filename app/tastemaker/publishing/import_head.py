"""Heads made elsewhere: a score or class file of the original, or a LAION head, becomes v0.0.

    foreign_files      what the file is, checked byte by byte
    fitting            whether it can score the project's embeddings
    import_checkpoint  stages a file that does, and queues the job
    run                the job: publish the file as it came, predict every image, measure

Whatever is refused leaves nothing behind.
"""

import functools
import secrets
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Engine
from sqlmodel import select

from tastemaker import embeddings, jobs, projects, scores, versions
from tastemaker.database import sessions
from tastemaker.database.tables import EncoderRow, Image, Job, Label, Project, Version
from tastemaker.errors import CheckpointError, NotFound
from tastemaker.files import require_free_space, write_atomic
from tastemaker.jobs.context import JobContext
from tastemaker.learning.checkpoints import load_checkpoint, save_checkpoint, sidecar
from tastemaker.learning.checkpoints import sidecar_path as beside
from tastemaker.publishing.compatibility import check_compatible
from tastemaker.publishing.foreign_files import ForeignHead, canonical, read_foreign_head
from tastemaker.versions import predictions

FEWEST_FOR_NOISE = 8  # labels from which the head's own error is taken for its uncertainty
USUAL_ERROR = 0.15  # a point and a half: what such heads are off where nothing is known yet


# --- asking for it -----------------------------------------------------------------------------


def import_checkpoint(
    engine: Engine,
    settings: Any,
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
    if config is None and beside(file).is_file():
        config = beside(file)
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
    if config is None and beside(file).is_file():
        config = beside(file)
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


def run(work: JobContext) -> dict[str, Any]:
    """Publish the staged head as the next version v0.x. Safe to run again after a crash."""
    made_by = f"job {work.claim.job_id}"
    staging = work.settings.incoming / work.payload["staging"]
    with work.reading() as session:
        version = session.exec(select(Version).where(Version.made_by == made_by)).first()
    if version is None or version.state != "ready":
        version = _adopt(work, staging, made_by)
    shutil.rmtree(staging, ignore_errors=True)
    return {"version": version.number, "version_id": version.id, "active": version.active}


def _adopt(work: JobContext, staging: Path, made_by: str) -> Version:
    file, config = staging / "head.safetensors", staging / "head.config.json"
    head = read_foreign_head(file, work.payload["name"], config if config.exists() else None)
    with work.reading() as session:
        project = projects.get(session, work.project_id)
    if project.encoder_id is None:  # nothing was embedded yet: that settles the fingerprint
        embeddings.embed_project(work, project.id)
    with work.reading() as session:
        project = projects.get(session, work.project_id)
        check_compatible(session, project, head, work.payload["encoder"])
        encoder = session.get(EncoderRow, project.encoder_id)
        assert encoder is not None
        labels = scores.labels_at(session, project, work.payload["event_high"])
        ids, x = embeddings.project_matrix(session, project)
        group_of = dict(session.execute(select(Image.id, Image.source_group)).all())
    embedded = set(ids.tolist())
    version = versions.begin(
        work,
        project.id,
        made_by,
        labels=[
            {
                "image_id": label.image_id, "value": label.value,
                "side": "holdout" if label.measures else "aside",
            }
            for label in labels.values()
            if label.image_id in embedded
        ],
        major=0, encoder_id=encoder.id, event_high=work.payload["event_high"], seed=project.seed,
        note=work.payload["note"] or f"imported from {head.name}",
    )  # fmt: skip

    work.stage(f"Writing {version.number}")
    path = versions.write_file(
        work, version, functools.partial(_save, file, head),
        functools.partial(_config, project, version, encoder, head),
    )  # fmt: skip
    if head.layout == "laion":
        write_atomic(original_path(path), file.read_bytes())
    said = _say(work, head, x)
    metrics = _measure(project, head, ids, said, labels, group_of)
    versions.discard_predictions(work, version)
    predictions.write(
        work, version.id, ids, said, np.full(len(ids), np.nan),
        np.full(len(ids), metrics["noise"]), progress=work.progress,
    )  # fmt: skip
    with work.reading() as session:
        first = versions.active(session, project) is None
    why = "the first version" if first else "chosen when it was imported"
    active = first or bool(work.payload["activate"])
    versions.make_ready(
        work, version, sides=[], metrics=metrics, curve={}, recipe=_recipe(head),
        activation=(active, why if active else "not activated: it was only imported"),
    )  # fmt: skip
    work.log(f"published {path.name}")
    with work.reading() as session:
        return versions.get(session, version.id)


def original_path(checkpoint: Path) -> Path:
    """Where a head that came in the LAION layout is kept byte for byte."""
    return checkpoint.with_name(checkpoint.name.removesuffix(".safetensors") + ".laion.safetensors")


def _save(source: Path, head: ForeignHead, path: Path) -> str:
    """The file as it came, to the byte; one of another layout as the 16 tensors."""
    tensors = head.tensors()
    if head.layout == "city96":
        shutil.copyfile(source, path)
    else:
        save_checkpoint(path, tensors, {"imported_from": head.name})
    read = load_checkpoint(path)
    if any(not np.array_equal(read.tensors[n], np.float32(v)) for n, v in tensors.items()):
        raise CheckpointError("The checkpoint read back differently from what was written.")
    return read.sha256


def _config(
    project: Project, version: Version, encoder: EncoderRow, head: ForeignHead, sha256: str
) -> dict[str, Any]:
    return sidecar(
        versions.base_name(project),
        version.number,
        features=head.features,
        labels=list(head.labels) or None,
        encoder={"name": encoder.name, "fingerprint": encoder.fingerprint, **encoder.details},
        score_range=[0, 10],
        threshold=project.threshold,
        brackets=project.brackets,
        sha256=sha256,
        imported={"file": head.name, "sha256": head.sha256, "sidecar": head.sidecar},
    )


def _recipe(head: ForeignHead) -> dict[str, Any]:
    return {
        "name": "imported", "file": head.name, "layout": head.layout, "source_sha256": head.sha256,
        "outputs": head.outputs, "labels": list(head.labels),
    }  # fmt: skip


def _say(work: JobContext, head: ForeignHead, x: np.ndarray) -> np.ndarray:
    """(N,) what the head says of every embedded image, as one score in [0, 1] each."""
    import torch

    from tastemaker.learning.heads import Head, as_score

    torch.set_num_threads(work.settings.torch_threads or torch.get_num_threads())
    scorer = Head(head.tensors())
    said = np.empty(len(x), np.float32)
    work.stage("Predicting every image", len(x))
    for start in range(0, len(x), 4096):
        said[start : start + 4096] = as_score(scorer(x[start : start + 4096]))
        work.progress(start)
    if not np.isfinite(said).all():
        raise CheckpointError(f"{head.name} gives numbers that are not finite for some images.")
    return said


def _measure(
    project: Project,
    head: ForeignHead,
    ids: np.ndarray,
    said: np.ndarray,
    labels: dict[int, Label],
    group_of: dict[int, str],
) -> dict[str, Any]:
    """Its error on the hold-out, as of any version; and on every label, none of which it was
    trained on as far as anybody knows."""
    from tastemaker.learning.metrics import flat, histogram, summary

    at = {image_id: row for row, image_id in enumerate(ids.tolist())}
    known = [label for image_id, label in sorted(labels.items()) if image_id in at]

    def measured(some: list[Label]) -> dict[str, Any]:
        return flat(
            summary(
                [label.value / 10 for label in some],
                said[[at[label.image_id] for label in some]],
                [group_of[label.image_id] for label in some] if some else None,
                threshold=project.threshold,
            )
        )

    errors = np.array([said[at[label.image_id]] - label.value / 10 for label in known])
    noise = float(np.sqrt(np.mean(errors**2))) if len(errors) >= FEWEST_FOR_NOISE else USUAL_ERROR
    return {
        "images": 0,
        "kind": head.kind,
        "noise": max(noise, 0.01),
        "holdout": measured([label for label in known if label.measures]),
        "out_of_fold": {},
        "all_labels": measured(known),
        "label_histogram": histogram([label.value / 10 for label in known]),
        "prediction_histogram": np.histogram(said, bins=20, range=(0, 1))[0].tolist(),
        "predicted": len(said),
        "versus_parent": None,
    }
