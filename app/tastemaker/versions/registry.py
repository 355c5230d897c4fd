"""Versions: numbered, immutable, verified files, of which one is active.

Publishing is never half-done. The file is written under a temporary name, read back and compared,
synced, its hash noted in a row that nobody can see yet, linked to its final name without
overwriting, the folder synced; and one last transaction makes the row `ready`. Killed anywhere,
the next attempt picks up the same number and ends the same way.
"""

import contextlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sqlmodel import Session, col, delete, func, select, update

from tastemaker import jobs
from tastemaker.config import Settings
from tastemaker.database.tables import (
    EncoderRow,
    Job,
    Prediction,
    Project,
    Version,
    VersionLabel,
    now,
)
from tastemaker.errors import Conflict, NotFound
from tastemaker.files import (
    publish_exclusive,
    require_free_space,
    sha256_of,
    sync_folder,
    write_atomic,
)
from tastemaker.jobs.context import JobContext
from tastemaker.learning.checkpoints import sidecar_path
from tastemaker.processes import failpoint

# --- finding -----------------------------------------------------------------------------------


def list_ready(session: Session, project: Project) -> list[Version]:
    """The project's versions, newest first."""
    return list(
        session.exec(
            select(Version)
            .where(Version.project_id == project.id, Version.state == "ready")
            .order_by(col(Version.major).desc(), col(Version.minor).desc())
        )
    )


def active(session: Session, project: Project) -> Version | None:
    return session.exec(
        select(Version).where(
            Version.project_id == project.id, Version.state == "ready", col(Version.active)
        )
    ).first()


def get(session: Session, version_id: int) -> Version:
    version = session.get(Version, version_id)
    if version is None or version.state != "ready":
        raise NotFound("There is no such version.", "It may still be in training.")
    return version


def by_number(session: Session, project: Project, number: str) -> Version:
    """The version “v1.3”, “1.3” or “active” of a project."""
    versions = list_ready(session, project)
    for version in versions:
        if number in (version.number, version.number[1:]) or (
            number == "active" and version.active
        ):
            return version
    there = ", ".join(v.number for v in versions)
    raise NotFound(
        f"Project “{project.name}” has no version {number}.",
        f"There are: {there}." if there else "Train one first.",
    )


# --- activating --------------------------------------------------------------------------------


def activate(session: Session, version: Version, why: str = "chosen by hand") -> None:
    """Make this the active version of its project, and no other."""
    session.execute(
        update(Version)
        .where(col(Version.project_id) == version.project_id, col(Version.id) != version.id)
        .values(active=False)
    )
    version.active, version.activation = True, why
    session.add(version)
    session.flush()


# --- files -------------------------------------------------------------------------------------


def checkpoint_path(settings: Settings, version: Version) -> Path:
    return settings.checkpoints / version.file


def config_path(settings: Settings, version: Version) -> Path:
    return sidecar_path(checkpoint_path(settings, version))


def verify(settings: Settings, version: Version) -> Path:
    """The version's file, after checking that it is the one that was published."""
    path = checkpoint_path(settings, version)
    if not path.is_file():
        raise NotFound(
            f"The file of {version.number} is missing from the checkpoints folder.",
            "Restore it from a backup, or train again; labels and scores are safe.",
        )
    if sha256_of(path) != version.sha256:
        raise Conflict(
            f"The file of {version.number} was altered after publishing and is not given out.",
            "Restore it from a backup, or train again; labels and scores are safe.",
        )
    return path


def base_name(project: Project) -> str:
    """The project's name as the first part of its file names."""
    return re.sub(r"[^\w.]+", "-", project.name, flags=re.ASCII).strip("-.") or "Project"


# --- publishing --------------------------------------------------------------------------------


def begin(
    work: JobContext,
    project_id: int,
    made_by: str,
    labels: list[dict[str, Any]],
    *,
    major: int | None = None,
    **fields: Any,
) -> Version:
    """The row of the version that this job step makes, with the labels it shall see: the one an
    earlier attempt began, or a new one with the next minor number. Majors begin at 1; 0 is for
    heads that were not trained here, which have no parent. `building` rows are seen by nobody."""
    with work.writing() as session:
        version = session.exec(select(Version).where(Version.made_by == made_by)).first()
        if version is not None:
            return version
        _forget_given_up(session, project_id)
        if major is None:
            newest = select(func.max(Version.major)).where(Version.project_id == project_id)
            major = session.exec(newest).one() or 1
        highest = session.exec(
            select(func.max(Version.minor)).where(
                Version.project_id == project_id, Version.major == major
            )
        ).one()
        project = session.get(Project, project_id)
        assert project is not None
        parent = active(session, project) if major else None
        minor = 0 if highest is None else highest + 1
        version = Version(
            project_id=project_id, major=major, minor=minor, made_by=made_by,
            parent_id=parent.id if parent else None, **fields,
        )  # fmt: skip
        version.file = f"{project_id}/{base_name(project)}-{version.number}.safetensors"
        session.add(version)
        session.flush()
        for label in labels:
            session.add(VersionLabel(version_id=version.id, **label))
    failpoint("publish.begun")
    return version


def next_major(session: Session, project_id: int) -> int:
    """The first number of the series after the newest: 2 after v1.4, 1 where nothing is."""
    newest = select(func.max(Version.major)).where(Version.project_id == project_id)
    return (session.exec(newest).one() or 0) + 1


def _forget_given_up(session: Session, project_id: int) -> None:
    """Remove the rows of jobs that ended without a version, so that they leave no gap in the
    numbers. Such a job, if it is tried again, begins anew."""
    building = select(Version).where(Version.project_id == project_id, Version.state == "building")
    for version in session.exec(building).all():
        job = session.get(Job, int(version.made_by.split()[1].rstrip(":")))
        if job is None or job.state in jobs.FINISHED:
            session.delete(version)
    session.flush()


def write_file(
    work: JobContext,
    version: Version,
    save: Callable[[Path], str],
    config: Callable[[str], Mapping[str, Any]],
) -> Path:
    """Put the checkpoint and its sidecar in place. `save(path)` writes, reads back, compares, and
    returns the SHA-256; `config(sha256)` is the sidecar."""
    settings = work.settings
    final = checkpoint_path(settings, version)
    final.parent.mkdir(parents=True, exist_ok=True)
    require_free_space(settings.checkpoints, min(settings.min_free_gb, 0.1))
    temporary = final.with_name(f".{final.name}.{work.claim.fence}.part")
    for leftover in final.parent.glob(f".{final.name}.*.part"):
        leftover.unlink()
    sha256 = save(temporary)
    failpoint("publish.written")
    with temporary.open("rb+") as handle:
        os.fsync(handle.fileno())
    with work.writing() as session:
        row = session.get(Version, version.id)
        assert row is not None and row.state == "building"
        row.sha256, row.bytes = sha256, temporary.stat().st_size
        session.add(row)
    version.sha256, version.bytes = sha256, row.bytes
    failpoint("publish.hashed")
    if final.exists() and sha256_of(final) != sha256:
        final.unlink()  # an earlier attempt at this unpublished version left it
    if not final.exists():
        publish_exclusive(temporary, final)
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    write_atomic(
        config_path(settings, version),
        json.dumps(config(sha256), indent=2, ensure_ascii=False).encode(),
    )
    sync_folder(final.parent)
    failpoint("publish.linked")
    return final


def make_ready(
    work: JobContext,
    version: Version,
    sides: list[dict[str, Any]],
    metrics: dict[str, Any],
    curve: dict[str, Any],
    recipe: dict[str, Any],
    activation: tuple[bool, str],
) -> None:
    """The one transaction that shows the version and its numbers, and activates it where
    `activation` (whether, why) says so. `sides` tells what became of its labels: `image_id`, `side`
    and `fold`. Their values stay as they were frozen."""
    failpoint("publish.predicted")
    with work.writing() as session:
        row = session.get(Version, version.id)
        assert row is not None
        if row.state == "ready":
            return
        if sides:  # near-duplicates of the hold-out turned out to be aside
            session.execute(update(VersionLabel), [{"version_id": row.id} | told for told in sides])
        row.metrics, row.curve, row.recipe = metrics, curve, recipe
        row.state, row.created_at, row.activation = "ready", now(), activation[1]
        session.add(row)
        session.flush()
        if activation[0]:
            activate(session, row, activation[1])
    failpoint("publish.ready")


def discard_predictions(work: JobContext, version: Version) -> None:
    """Remove what an earlier attempt at this unpublished version had predicted."""
    with work.writing() as session:
        session.execute(delete(Prediction).where(col(Prediction.version_id) == version.id))


def as_json(session: Session, settings: Settings, version: Version) -> dict[str, Any]:
    """What `versions list --json` prints. `mae` is in points of 0–10; `fp_rate` is false
    positives ÷ predicted passes, `fn_rate` false negatives ÷ labelled passes; all three on the
    hold-out, and null while it is empty."""
    holdout = version.metrics.get("holdout", {})
    encoder = session.get(EncoderRow, version.encoder_id)
    parent = session.get(Version, version.parent_id) if version.parent_id else None
    return {
        "version": version.number,
        "active": version.active,
        "images": version.metrics.get("images", 0),
        "mae": holdout.get("mae"),
        "fp_rate": holdout.get("fp_rate"),
        "fn_rate": holdout.get("fn_rate"),
        "file": str(checkpoint_path(settings, version)),
        "sha256": version.sha256,
        "bytes": version.bytes,
        "config": str(config_path(settings, version)),
        "recipe": version.recipe,
        "encoder": encoder.name if encoder else None,
        "encoder_fingerprint": encoder.fingerprint if encoder else None,
        "parent": parent.number if parent else None,
        "note": version.note,
        "activation": version.activation,
        "metrics": version.metrics,
        "created_at": version.created_at.isoformat(),
        "id": version.id,
    }
