"""Choosing the heads that a project starts from.

Refused is what cannot help: a head of another encoder, one that gives every image the same score,
and one that has learned from this very project, be it by way of others. Its labels would count
twice, and every number that rests on predictions without a label would flatter.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as bytes_of
from sqlalchemy.orm import load_only
from sqlmodel import Session, col, func, select

from tastemaker import embeddings, projects
from tastemaker.config import DEFAULT_ENCODER, Settings
from tastemaker.database.tables import (
    EncoderRow,
    Label,
    Project,
    ProjectPrior,
    Version,
    VersionLabel,
    VersionPrior,
)
from tastemaker.encoding.encoder_names import canonical
from tastemaker.errors import Conflict, Invalid, NotFound
from tastemaker.learning.checkpoints import load_checkpoint
from tastemaker.learning.city96 import Tensors
from tastemaker.learning.lines import Bends, logit_line
from tastemaker.versions import registry
from tastemaker.versions.priors import may_be_the_same, of_project

MOST = 8  # priors of a project
LARGEST = 1e6  # of a line's numbers; those of real heads are below 1000
SAME_SCORES = 0.9  # of a project's labels that a head saw, from which on they are the same scores
FEWEST_SAME = 10  # labels, with fewer of which that is chance
NAMED = (Version.project_id, Version.major, Version.minor, Version.sha256)  # not all it measured


@dataclass(frozen=True)
class StartingHead:
    """A head to start from: the `name` and `sha256` of its file, and the encoder it reads, whose
    `fingerprint` is empty where nobody says. Its logit is the `line` (weights and bias), or it is
    `packed` whole, to be followed. Reading a file takes a while: to be done before one writes."""

    name: str
    sha256: str
    features: int
    encoder: str
    fingerprint: str
    normalised: bool
    source_id: int | None
    line: tuple[NDArray[np.float32], float] | None
    packed: bytes
    constant: bool


def starting_head(
    name: str,
    sha256: str,
    tensors: Tensors,
    encoder: str,
    fingerprint: str = "",
    normalised: bool = False,
    source_id: int | None = None,
) -> StartingHead:
    """The head in the 16 tensors."""
    try:
        line = logit_line(tensors)
    except Bends:
        line = None
    # A line on divided vectors is none on those that a project may have.
    whole = line is None or normalised
    packed = zlib.compress(bytes_of(dict(tensors)), 1) if whole else b""
    first = tensors["up.0.weight"]
    return StartingHead(
        name, sha256, first.shape[1], encoder, fingerprint, normalised, source_id, line, packed,
        constant=not first.any(),
    )  # fmt: skip


def fitting(
    session: Session, encoder: str, project: Project | None = None
) -> list[tuple[Version, str]]:
    """The versions that a project with this encoder can start from, and the names of their
    projects: of each project the active one first."""
    rows = session.execute(
        select(Version, Project.name, EncoderRow)
        .join(Project, col(Project.id) == Version.project_id)
        .join(EncoderRow, col(EncoderRow.id) == Version.encoder_id)
        .where(Version.state == "ready", Project.kind == "score")
        .order_by(
            Project.name, col(Version.active).desc(), col(Version.major).desc(),
            col(Version.minor).desc(),
        )
        .options(load_only(*NAMED))  # type: ignore[arg-type]  # attributes of the class
    ).all()  # fmt: skip
    known = knowing(session, project.id) if project else set()
    taken = {prior.sha256 for prior in of_project(session, project)} if project else set()
    pinned = project.encoder_id if project else None
    return [
        (version, name)
        for version, name, row in rows
        if canonical(row.name) == canonical(encoder)
        and pinned in (None, row.id)
        and version.sha256 not in taken
        and version.id not in known
    ]


def other_encoders(session: Session, encoder: str) -> list[str]:
    """The encoders of versions that a project with this one cannot start from."""
    names = session.exec(
        select(EncoderRow.name)
        .join(Version, col(Version.encoder_id) == EncoderRow.id)
        .where(Version.state == "ready")
        .distinct()
    )
    return sorted({canonical(name) for name in names} - {canonical(encoder)})


def head_of(session: Session, settings: Settings, version: Version) -> StartingHead:
    """A version as a head to start from, with the place that its project reads the weights of the
    encoder from. Raises `NotFound` or `Conflict` where its file is not the one that was published,
    and `Invalid` for one that sorts into classes."""
    project = projects.get(session, version.project_id)
    encoder = session.get_one(EncoderRow, version.encoder_id)
    name = f"{project.name} {version.number}"
    read = load_checkpoint(registry.verify(settings, version))
    if read.outputs != 1:
        raise Invalid(f"{name} sorts into classes; only a head that gives scores can be started "
                      "from.", "Choose another one.")  # fmt: skip
    reads = project.encoder if project.encoder_id == encoder.id else encoder.name
    return starting_head(
        name, version.sha256, read.tensors, reads, encoder.fingerprint,
        embeddings.is_normalised(session, encoder), version.id,
    )  # fmt: skip


def encoder_for(heads: Sequence[StartingHead], named: str | None) -> str:
    """The encoder of a new project that starts from these heads: the one that was named for it,
    else that of the first head, else the default."""
    if named is not None:
        return named
    return heads[0].encoder if heads else DEFAULT_ENCODER


def start_from(session: Session, project: Project, heads: Sequence[StartingHead]) -> None:
    """Let a project start from these heads and no others; none: from nothing. Raises `Conflict` or
    `Invalid` for one that does not fit, and then nothing was changed."""
    if len(heads) > MOST:
        raise Invalid(
            f"A project starts from {MOST} heads at most, and {len(heads)} were named.",
            "Leave some out: what the best of them know the others hardly add to.",
        )
    if project.kind != "score" and heads:
        raise Invalid(
            f"“{project.name}” sorts into classes; only scores can start from a head.",
            "Make another project for scores.",
        )
    known = {prior.sha256: prior for prior in of_project(session, project)}
    wanted = {head.sha256: head for head in heads}
    rows = [_row(session, project, head) for sha, head in wanted.items() if sha not in known]
    for sha, prior in known.items():
        if sha not in wanted:
            session.delete(prior)
    session.flush()
    session.add_all(rows)
    session.flush()


def add(session: Session, project: Project, head: StartingHead) -> ProjectPrior:
    """Let a project start from one more head. Raises as `start_from` does."""
    known = of_project(session, project)
    if any(prior.sha256 == head.sha256 for prior in known):
        raise Conflict(f"“{project.name}” starts from {head.name} already.", "Nothing was changed.")
    if len(known) >= MOST:
        raise Conflict(
            f"“{project.name}” starts from {MOST} heads already, which is the most.",
            "Take one of them away first.",
        )
    if project.kind != "score":
        raise Invalid(f"“{project.name}” sorts into classes; only scores can start from a head.")
    row = _row(session, project, head)
    session.add(row)
    session.flush()
    return row


def take_away(session: Session, project: Project, prior_id: int) -> str:
    """A project starts from this head no longer; returns its name. Versions that did stay as they
    are. Raises `NotFound`."""
    prior = next((one for one in of_project(session, project) if one.id == prior_id), None)
    if prior is None:
        raise NotFound(
            f"“{project.name}” does not start from this head (any more).", "Load the page again."
        )
    session.delete(prior)
    session.flush()
    return prior.name


def copy_to(session: Session, project: Project, copy: Project) -> None:
    """Let a duplicate start from what its original starts from; one on another encoder, from
    those of them alone that read it: they were chosen before the original moved."""
    query = select(ProjectPrior).where(ProjectPrior.project_id == project.id)
    same = canonical(copy.encoder) == canonical(project.encoder)
    session.add_all(
        ProjectPrior(project_id=copy.id, **row.model_dump(exclude={"id", "project_id"}))
        for row in session.exec(query.order_by(col(ProjectPrior.id))).all()
        if same or canonical(row.encoder) == canonical(copy.encoder)
    )
    session.flush()


def _row(session: Session, project: Project, head: StartingHead) -> ProjectPrior:
    """The row of a head that fits a project."""
    pinned = session.get(EncoderRow, project.encoder_id) if project.encoder_id else None
    _check_encoder(session, project, pinned, head)
    _check_origin(session, project, head)
    row = ProjectPrior(
        project_id=project.id, name=head.name, sha256=head.sha256, encoder=head.encoder,
        fingerprint=head.fingerprint, normalised=head.normalised, features=head.features,
        source_id=head.source_id,
    )  # fmt: skip
    if head.constant:
        raise Invalid(
            f"{head.name} gives every image the same score, so there is nothing to start from.",
            "Choose another head.",
        )
    as_stored = pinned is not None and embeddings.is_normalised(session, pinned) == head.normalised
    if head.line is None or (head.normalised and not as_stored):
        row.followed_on, row.head = 0, head.packed
        return row
    weights, bias = head.line
    if not (np.abs(weights).max() <= LARGEST and abs(bias) <= LARGEST):
        raise Invalid(
            f"{head.name} holds numbers beyond {LARGEST:,.0f}; no head that was trained does.",
            "Choose another head, or get the file anew.",
        )
    row.weights, row.bias = weights.astype("<f4").tobytes(), bias
    return row


def _check_encoder(
    session: Session, project: Project, pinned: EncoderRow | None, head: StartingHead
) -> None:
    ours, theirs = canonical(project.encoder), canonical(head.encoder)
    if ours != theirs:
        raise Conflict(
            f"{head.name} reads the vectors of {theirs}; “{project.name}” works with {ours}.",
            "Start from a head of the same encoder, or make a project with that one.",
        )
    if pinned is None:
        return
    if pinned.dim != head.features:
        raise Conflict(
            f"{head.name} reads {head.features:,} numbers an image; {pinned.name} of "
            f"“{project.name}” gives {pinned.dim:,}.",
            "Start from a head of the same encoder.",
        )
    if not may_be_the_same(head.fingerprint, pinned):
        raise Conflict(
            f"{head.name} and “{project.name}” have the encoder {theirs} with other weights, or "
            "another preprocessing.",
            "Vectors of different fingerprints never mix. Start from a head of the same one.",
        )
    if embeddings.is_normalised(session, pinned) and not head.normalised:
        raise Conflict(
            f"{head.name} reads vectors of {theirs} as they are; those of “{project.name}” are "
            "L2-normalised.",
            "Start from a head that was trained on normalised ones.",
        )


def _check_origin(session: Session, project: Project, head: StartingHead) -> None:
    """Refuse a head that knows the project's scores, by whichever way it came: as a version, as its
    file, or as that file imported elsewhere."""
    twice = "Its scores would count twice, and every measurement would flatter."
    same_file = select(Version.id, Version.project_id, Version.major)
    sources = session.execute(same_file.where(Version.sha256 == head.sha256)).all()
    trained = [source for source in sources if source.major]  # others were made elsewhere
    if any(source.project_id == project.id for source in trained):
        raise Conflict(
            f"{head.name} learned from the scores of this project itself. {twice}",
            "A training uses all of its scores anyway; start from another project's head.",
        )
    if not knowing(session, project.id).isdisjoint(source.id for source in sources):
        raise Conflict(
            f"{head.name} started from “{project.name}” itself, and knows its scores. {twice}",
            "Start from a version that did not.",
        )
    for source in trained:
        same, of = _same_scores(session, project, source.id)
        if of >= FEWEST_SAME and same >= SAME_SCORES * of:
            raise Conflict(
                f"{head.name} learned from the very scores of “{project.name}”: {same} of {of} are "
                f"the same. {twice}",
                "Start from the head of another taste.",
            )


def knowing(session: Session, project_id: int) -> set[int]:
    """The ids of the versions that know a project's scores: those trained on them, those that
    started from one of these, and so on, deleted ones too; and those made of the same files. One
    that was made elsewhere knows none."""
    columns = select(Version.id, Version.sha256)
    own = columns.where(Version.project_id == project_id, Version.major > 0)
    known, files = set[int](), set[str]()
    found = dict(session.execute(own).all())
    while found:
        known |= found.keys()
        new = {sha256 for sha256 in found.values() if sha256} - files
        files |= new
        started = select(VersionPrior.version_id).where(col(VersionPrior.sha256).in_(new))
        rows = session.execute(
            columns.where(col(Version.sha256).in_(new) | col(Version.id).in_(started))
        )
        found = {version_id: sha256 for version_id, sha256 in rows if version_id not in known}
    return known


def _same_scores(session: Session, project: Project, source_id: int) -> tuple[int, int]:
    """How many of a project's labels that may train a version learned from with the same score, of
    how many."""
    labels = select(func.count()).select_from(Label)
    labels = labels.where(Label.project_id == project.id, ~col(Label.holdout))
    same = labels.join(
        VersionLabel,
        (col(VersionLabel.image_id) == Label.image_id)
        & (col(VersionLabel.value) == Label.value)
        & (col(VersionLabel.version_id) == source_id)
        & (col(VersionLabel.side) == "train"),
    )
    return int(session.exec(same).one()), int(session.exec(labels).one())
