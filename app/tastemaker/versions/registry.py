"""Finding the versions of a project, activating one, and where their files lie."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlmodel import Session, col, select, update

from tastemaker import embeddings, projects
from tastemaker.config import Settings
from tastemaker.database.tables import EncoderRow, Project, Version, VersionPrior
from tastemaker.errors import Conflict, NotFound
from tastemaker.files import sha256_of
from tastemaker.files.addresses import is_address
from tastemaker.learning.checkpoints import sidecar_path
from tastemaker.learning.version_metrics import MeasuredOn
from tastemaker.versions import class_report, priors
from tastemaker.versions.outlook import outlook

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


def newest(session: Session, project: Project) -> Version | None:
    return session.exec(
        select(Version)
        .where(Version.project_id == project.id, Version.state == "ready")
        .order_by(col(Version.major).desc(), col(Version.minor).desc())
        .limit(1)
    ).first()


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


def chosen(session: Session, project: Project, number: str = "") -> Version | None:
    """The version of that number; without one the active version, else the newest; None before
    there is any. Raises `NotFound` for a number that is not there."""
    if number:
        return by_number(session, project, number)
    ready = list_ready(session, project)
    return next((version for version in ready if version.active), ready[0] if ready else None)


def project_and_number(session: Session, text: str) -> tuple[Project, str]:
    """“PROJECT@v1.3” in its two parts; of “PROJECT” the number is empty, also where its own name
    has an @. Raises `NotFound` for a project that is not there."""
    text = text.strip()
    name, at, number = text.rpartition("@")
    if not at or is_address(text) or projects.find(session, text):
        return projects.by_name(session, text), ""
    return projects.by_name(session, name), number


def named(session: Session, text: str) -> Version:
    """The version “PROJECT@v1.3”, or the active one of “PROJECT”. Raises `NotFound`."""
    project, number = project_and_number(session, text)
    return by_number(session, project, number or "active")


def ready_on(session: Session, encoder_id: int) -> list[tuple[Project, Version]]:
    """Every version on an encoder with its project: by project, the active one before its others,
    newest first."""
    query = (
        select(Project, Version)
        .where(
            Version.project_id == Project.id,
            Version.state == "ready",
            Version.encoder_id == encoder_id,
        )
        .order_by(
            col(Project.id), col(Version.active).desc(), col(Version.major).desc(),
            col(Version.minor).desc(),
        )
    )  # fmt: skip
    return list(session.exec(query))


def by_number(session: Session, project: Project, number: str) -> Version:
    """The version “v1.3”, “1.3” or “active” of a project."""
    ready = list_ready(session, project)
    for version in ready:
        if number in (version.number, version.number[1:]) or (
            number == "active" and version.active
        ):
            return version
    numbers = ", ".join(version.number for version in ready)
    raise NotFound(
        f"Project “{project.name}” has no version {number}.",
        f"There are: {numbers}." if numbers else "Train one first.",
    )


# --- activating --------------------------------------------------------------------------------


def activate(session: Session, version: Version, why: str = "chosen by hand") -> None:
    """Make this the active version of its project, and no other. The project works with the encoder
    of its active version: with that of an older one again, where it was moved since."""
    session.execute(
        update(Version)
        .where(col(Version.project_id) == version.project_id, col(Version.id) != version.id)
        .values(active=False)
    )
    version.active, version.activation = True, why
    session.add(version)
    session.flush()
    project, encoder = (
        session.get_one(Project, version.project_id),
        session.get_one(EncoderRow, version.encoder_id),
    )
    embeddings.use_encoder(session, project, encoder)


# --- files -------------------------------------------------------------------------------------


def checkpoint_path(settings: Settings, version: Version) -> Path:
    return settings.checkpoints / version.file


def config_path(settings: Settings, version: Version) -> Path:
    return sidecar_path(checkpoint_path(settings, version))


def original_path(settings: Settings, version: Version) -> Path:
    """Where a head that came in the LAION layout is kept byte for byte."""
    path = checkpoint_path(settings, version)
    return path.with_name(path.name.removesuffix(".safetensors") + ".laion.safetensors")


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


# --- for programs ----------------------------------------------------------------------------


BY: dict[MeasuredOn, str] = {
    "holdout": "hold-out", "all_labels": "hold-out",
    "random_sample": "out-of-fold", "out_of_fold": "out-of-fold",
}  # fmt: skip


def as_json(session: Session, settings: Settings, version: Version) -> dict[str, Any]:
    """A version for programs: see `list_as_json`."""
    return list_as_json(session, settings, [version])[0]


def list_as_json(
    session: Session, settings: Settings, versions: Sequence[Version]
) -> list[dict[str, Any]]:
    """What `versions list --json` and the API give. `mae` is in points of 0–10; `fp_rate` is false
    positives ÷ predicted passes, `fn_rate` false negatives ÷ labelled passes; all three are the
    numbers in front (`VersionMetrics.measured`), and null while too few images tell. `mae_on` says
    which images these are, `mae_by` whether they never trained (`hold-out`) or were predicted by
    heads that never saw them (`out-of-fold`). `outlook` says what more labels would bring;
    `classes` is null of a version that scores."""
    started = priors.of_versions(session, versions)
    return [_as_json(session, settings, version, started[version.id]) for version in versions]


def _as_json(
    session: Session, settings: Settings, version: Version, started: Sequence[VersionPrior]
) -> dict[str, Any]:
    measured, on = version.metrics.measured, version.metrics.measured_on
    expected = outlook(version.metrics)
    encoder = session.get(EncoderRow, version.encoder_id)
    parent = session.get(Version, version.parent_id) if version.parent_id else None
    return {
        "version": version.number,
        "active": version.active,
        "images": version.metrics.images,
        **measured.mae.flat("mae"),
        "mae_by": BY[on] if on else None,
        "mae_on": on,
        "baseline_mae": version.metrics.baseline_mae,
        "fp_rate": measured.fp_rate.value,
        "fn_rate": measured.fn_rate.value,
        "file": str(checkpoint_path(settings, version)),
        "sha256": version.sha256,
        "bytes": version.bytes,
        "config": str(config_path(settings, version)),
        "recipe": version.recipe,
        "encoder": encoder.name if encoder else None,
        "encoder_fingerprint": encoder.fingerprint if encoder else None,
        "parent": parent.number if parent else None,
        "starts_from": [priors.as_json(row) for row in started],
        "note": version.note,
        "activation": version.activation,
        "metrics": version.metrics.as_json(),
        "classes": class_report.as_json(version),
        "outlook": expected.as_json() if expected else None,
        "created_at": version.created_at.isoformat(),
        "id": version.id,
    }
