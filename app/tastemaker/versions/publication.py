"""Publishing a version, never half-done.

`begin` makes a row that nobody can see, with the labels the version sees. Its predictions are
written and judged. `publish` then writes the file under a temporary name, reads it back and
compares it, syncs it, notes its hash in the row, links it to its final name without overwriting,
syncs the folder; and one last transaction makes the row `ready`. Killed anywhere, the next attempt
under the same `made_by` picks up the same number and ends the same way.
"""

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from sqlmodel import Session, func, select, update

from tastemaker import jobs
from tastemaker.config import Settings
from tastemaker.database.sessions import Transactions
from tastemaker.database.tables import (
    EncoderRow,
    Job,
    Project,
    ProjectPrior,
    Version,
    VersionAnswer,
    VersionLabel,
    now,
)
from tastemaker.errors import CheckpointError
from tastemaker.files import (
    publish_exclusive,
    require_free_space,
    sha256_of,
    sync_folder,
    write_atomic,
)
from tastemaker.files.json_text import json_text
from tastemaker.learning.checkpoints import Tensors, load_checkpoint, save_checkpoint, sidecar
from tastemaker.learning.class_metrics import ClassRecord
from tastemaker.learning.prior import Trust
from tastemaker.learning.version_metrics import LossCurve, StoredRecipe, VersionMetrics
from tastemaker.processes import failpoint
from tastemaker.scores.answers import Answer
from tastemaker.versions import priors, registry

DELETED = "deleted"  # how `made_by` begins of a row that only keeps its number from being given
GIVEN_UP_AFTER = timedelta(days=1)  # a row that no job makes, and that nobody finished

Side = Literal["train", "holdout", "aside"]


class FrozenLabel(NamedTuple):
    """A label as it stands when the training begins; `value` is 0–10."""

    image_id: int
    value: float
    side: Side


class UsedLabel(NamedTuple):
    """What became of a label: its side, and the fold it was left out with, if it trained."""

    image_id: int
    side: Side
    fold: int | None


@dataclass(frozen=True)
class HeadFile:
    """What a version's file holds: the 16 tensors, and `metadata` beside them. `labels` names the
    classes of a classifier. `source` is a file of these tensors that is published to the byte;
    `original` one of another layout, which is kept beside it. `about` joins the sidecar."""

    tensors: Tensors
    metadata: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    source: Path | None = None
    original: Path | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What is known of a version when it is shown, whether it becomes the active one, and why.
    `labels` tells what became of those it saw; their values stay as they were frozen. `trust` is
    how far they bore out what it started from. One that `moves` takes the project along to its
    encoder; any other becomes active only while the project works with that one."""

    metrics: VersionMetrics
    recipe: StoredRecipe
    activate: bool
    why: str
    curve: LossCurve = field(default_factory=LossCurve)
    labels: Sequence[UsedLabel] = ()
    trust: Sequence[Trust] = ()
    moves: bool = False
    classes: ClassRecord = field(default_factory=ClassRecord)


# --- the row -----------------------------------------------------------------------------------


def begin(
    transactions: Transactions,
    project_id: int,
    made_by: str,
    labels: Iterable[FrozenLabel],
    answers: Iterable[Answer] = (),
    *,
    encoder_id: int,
    event_high: int,
    seed: int,
    note: str,
    recipe: StoredRecipe | None = None,
    major: int | None = None,
    hints: Sequence[ProjectPrior] = (),
) -> Version:
    """The row of the version that `made_by` makes, with the labels and answers it sees and the
    heads that the project starts from, `hints` among them: the one an earlier attempt began, or a
    new one with the next minor number. Majors begin at 1; 0 is for heads that were not trained
    here, which have no parent and no start. `building` rows are seen by nobody."""
    with transactions.writing() as session:
        version = made_before(session, made_by)
        if version is not None:
            return version
        _forget_given_up(session, project_id)
        if major is None:
            major = _highest(session, project_id) or 1
        highest = session.exec(
            select(func.max(Version.minor)).where(
                Version.project_id == project_id, Version.major == major
            )
        ).one()
        project = session.get(Project, project_id)
        assert project is not None
        parent = registry.active(session, project) if major else None
        version = Version(
            project_id=project_id, major=major, minor=0 if highest is None else highest + 1,
            made_by=made_by, parent_id=parent.id if parent else None, encoder_id=encoder_id,
            event_high=event_high, seed=seed, note=note, recipe=recipe or {},
        )  # fmt: skip
        version.file = f"{project_id}/{registry.base_name(project)}-{version.number}.safetensors"
        session.add(version)
        session.flush()
        session.add_all(VersionLabel(version_id=version.id, **row._asdict()) for row in labels)
        session.add_all(
            VersionAnswer(version_id=version.id, number=number, **answer._asdict())
            for number, answer in enumerate(answers)
        )
        if major:
            priors.freeze(session, version, project, hints)
    failpoint("publish.begun")
    return version


def made_before(session: Session, made_by: str) -> Version | None:
    """The version of an earlier attempt, ready or not."""
    return session.exec(select(Version).where(Version.made_by == made_by)).first()


def next_major(session: Session, project_id: int) -> int:
    """The first number of the series after the newest: 2 after v1.4, 1 where nothing is."""
    return (_highest(session, project_id) or 0) + 1


def _highest(session: Session, project_id: int) -> int | None:
    return session.exec(
        select(func.max(Version.major)).where(Version.project_id == project_id)
    ).one()


def _forget_given_up(session: Session, project_id: int) -> None:
    """Remove the rows that nobody will finish, so that they leave no gap in the numbers: those of
    jobs that have ended, and those of no job that are a day old. Who made one and tries again
    begins anew."""
    building = select(Version).where(Version.project_id == project_id, Version.state == "building")
    for version in session.exec(building).all():
        if _is_given_up(session, version):
            session.delete(version)
    session.flush()


def _is_given_up(session: Session, version: Version) -> bool:
    if version.made_by.startswith(DELETED):
        return False
    by_job = re.match(r"job (\d+)\b", version.made_by)
    if by_job is None:
        begun = version.created_at  # SQLite gives it without its zone
        begun = begun if begun.tzinfo else begun.replace(tzinfo=UTC)
        return datetime.now(UTC) - begun > GIVEN_UP_AFTER
    job = session.get(Job, int(by_job[1]))
    return job is None or job.state in jobs.FINISHED


# --- the file and the end ----------------------------------------------------------------------


def publish(
    transactions: Transactions,
    settings: Settings,
    version: Version,
    head: HeadFile,
    outcome: Outcome,
) -> Version:
    """Put the file of a begun version in place, then show the version; returns it."""
    _write_file(transactions, settings, version, head)
    with transactions.writing() as session:
        row = session.get(Version, version.id)
        assert row is not None
        if row.state == "ready":
            return row
        if outcome.labels:  # near-duplicates of the hold-out turned out to be aside
            rows = [{"version_id": row.id} | used._asdict() for used in outcome.labels]
            session.execute(update(VersionLabel), rows)
        priors.keep_trust(session, row, outcome.trust)
        row.metrics, row.curve, row.recipe = outcome.metrics, outcome.curve, outcome.recipe
        row.classes = outcome.classes
        activate, why = outcome.activate, outcome.why
        if activate and not outcome.moves and (elsewhere := _moved_since(session, row)):
            activate, why = False, f"not activated: {elsewhere}"
        row.state, row.created_at, row.activation = "ready", now(), why
        session.add(row)
        session.flush()
        if activate:
            registry.activate(session, row, why)
    failpoint("publish.ready")
    return row


def _moved_since(session: Session, version: Version) -> str:
    """Why a version stays aside whose project works with another encoder than it was begun on;
    empty where it does not. A move that begins now waits for this transaction."""
    project = session.get(Project, version.project_id, with_for_update={"key_share": True})
    assert project is not None
    if project.encoder_id in (None, version.encoder_id):
        return ""
    trained_on = session.get_one(EncoderRow, version.encoder_id)
    return f"trained on {trained_on.name}, and the project works with {project.encoder} by now"


def _write_file(
    transactions: Transactions, settings: Settings, version: Version, head: HeadFile
) -> None:
    """The checkpoint, its sidecar, and the original if it came in another layout."""
    final = registry.checkpoint_path(settings, version)
    final.parent.mkdir(parents=True, exist_ok=True)
    require_free_space(settings.checkpoints, min(settings.min_free_gb, 0.1))
    failpoint("publish.predicted")
    for leftover in final.parent.glob(f".{final.name}.*.part"):
        leftover.unlink()
    temporary = final.with_name(f".{final.name}.{secrets.token_hex(4)}.part")
    sha256 = _write_and_compare(temporary, head)
    failpoint("publish.written")
    with temporary.open("rb+") as handle:
        os.fsync(handle.fileno())
    with transactions.writing() as session:
        row = session.get(Version, version.id)
        assert row is not None and row.state == "building"
        row.sha256, row.bytes = sha256, temporary.stat().st_size
        session.add(row)
        config = _sidecar(session, row, head)
    failpoint("publish.hashed")
    if final.exists() and sha256_of(final) != sha256:
        final.unlink()  # an earlier attempt at this unpublished version left it
    if not final.exists():
        publish_exclusive(temporary, final)
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    write_atomic(
        registry.config_path(settings, version),
        json_text(config, indent=2).encode(),
    )
    if head.original is not None:
        write_atomic(registry.original_path(settings, version), head.original.read_bytes())
    sync_folder(final.parent)
    failpoint("publish.linked")


def _write_and_compare(path: Path, head: HeadFile) -> str:
    """Write the checkpoint, read it back as a stranger would, and compare every number; returns
    its SHA-256."""
    if head.source is not None:
        shutil.copyfile(head.source, path)
    else:
        save_checkpoint(path, head.tensors, head.metadata)
    read = load_checkpoint(path)
    if any(
        not np.array_equal(read.tensors[name], np.float32(value))
        for name, value in head.tensors.items()
    ):
        raise CheckpointError("The checkpoint read back differently from what was written.")
    return read.sha256


def _sidecar(session: Session, version: Version, head: HeadFile) -> dict[str, Any]:
    project = session.get(Project, version.project_id)
    encoder = session.get(EncoderRow, version.encoder_id)
    assert project is not None and encoder is not None
    scale: dict[str, Any] = {
        "score_range": [0, 10], "threshold": project.threshold, "brackets": project.brackets,
    }  # fmt: skip
    told = sidecar(
        registry.base_name(project),
        version.number,
        features=head.tensors["up.0.weight"].shape[1],
        labels=list(head.labels) or None,
        encoder={"name": encoder.name, "fingerprint": encoder.fingerprint, **encoder.details},
        **(scale if project.labelling == "scores" else {}),
        sha256=version.sha256,
        **head.about,
    )
    if project.labelling == "tags":  # the original's loader would put a softmax over them
        told["arch"] = "tags"
    return told
