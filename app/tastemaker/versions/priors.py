"""Heads that a project starts from, and those that a version started from.

A prior is kept as its line, with the name, hash and encoder of its head, so that it lives on when
the version it was, or that version's project, is deleted. A head whose logit is no line is kept
whole until there are images to follow it on; how far the line is from it is told. `starting_heads`
chooses them.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as tensors_of
from sqlalchemy.orm import defer
from sqlmodel import Session, col, func, select

from tastemaker import embeddings, projects
from tastemaker.database.sessions import Transactions
from tastemaker.database.tables import (
    Embedding,
    EncoderRow,
    Project,
    ProjectPrior,
    Version,
    VersionPrior,
)
from tastemaker.database.tables.versions import PriorLine
from tastemaker.encoding.encoder_names import canonical
from tastemaker.files import percentages
from tastemaker.learning.lines import followed
from tastemaker.learning.prior import Prior, Trust

FEWEST_FOLLOWED = 20  # images, with fewer of which a head that bends is not followed yet
ENOUGH_FOLLOWED = 2000  # images that tell as much of a line as more would

# --- reading -----------------------------------------------------------------------------------


def of_project(session: Session, project: Project) -> list[ProjectPrior]:
    """The heads that a project starts from, without what those that bend are kept as."""
    return list(
        session.exec(
            select(ProjectPrior)
            .where(ProjectPrior.project_id == project.id)
            .order_by(col(ProjectPrior.id))
            .options(defer(ProjectPrior.head))  # type: ignore[arg-type]  # an attribute of the class
        )
    )


def usable(session: Session, project: Project, encoder_id: int | None = None) -> list[ProjectPrior]:
    """Those with a line that vectors of an encoder, the project's own by default, can be put on:
    all, as a rule, but for a head that is not followed yet, and for an encoder that turned out to
    be another one."""
    there = [prior for prior in of_project(session, project) if prior.weights is not None]
    encoder_id = encoder_id or project.encoder_id
    if not there or encoder_id is None:
        return []
    pinned = session.get_one(EncoderRow, encoder_id)
    normalised = embeddings.is_normalised(session, pinned)
    return [prior for prior in there if _fits(prior, pinned, normalised)]


def _fits(prior: PriorLine, pinned: EncoderRow, normalised: bool) -> bool:
    return (
        (prior.normalised or not normalised)
        and canonical(prior.encoder) == canonical(pinned.name)
        and prior.features == pinned.dim
        and may_be_the_same(prior.fingerprint, pinned)
    )


def may_be_the_same(fingerprint: str, pinned: EncoderRow) -> bool:
    """Whether a head's encoder may be the pinned one: vectors from outside only have a name."""
    outside = pinned.declared or not fingerprint or fingerprint.startswith("declared:")
    return outside or fingerprint == pinned.fingerprint


def line_of(row: PriorLine) -> Prior:
    """A prior as the numeric code wants it."""
    assert row.weights is not None
    return Prior(np.frombuffer(row.weights, "<f4"), row.bias, row.name)


def of_version(session: Session, version: Version) -> list[VersionPrior]:
    """What a version started from, in order, without the weights."""
    return of_versions(session, [version])[version.id]


def of_versions(session: Session, versions: Sequence[Version]) -> dict[int, list[VersionPrior]]:
    """What each of these versions started from, as `of_version` gives it, by their ids."""
    found: dict[int, list[VersionPrior]] = {version.id: [] for version in versions}
    query = select(VersionPrior).where(col(VersionPrior.version_id).in_(found))
    for row in session.exec(
        query.order_by(col(VersionPrior.position)).options(
            defer(VersionPrior.weights)  # type: ignore[arg-type]  # an attribute of the class
        )
    ):
        found[row.version_id].append(row)
    return found


def lines_of_version(session: Session, version: Version) -> tuple[Prior, ...]:
    """The lines that a version started from, in order."""
    query = select(VersionPrior).where(VersionPrior.version_id == version.id)
    return tuple(map(line_of, session.exec(query.order_by(col(VersionPrior.position)))))


def as_json(row: ProjectPrior | VersionPrior) -> dict[str, Any]:
    """A prior for programs. `line_error` is in points of 0–10, and null where the head is a line;
    `trust` is the probability that it is of use, by the labels."""
    told: dict[str, Any] = {
        "name": row.name, "sha256": row.sha256, "encoder": row.encoder,
        "fingerprint": row.fingerprint, "line_error": row.line_error,
    }  # fmt: skip
    if isinstance(row, ProjectPrior):
        return {"id": row.id} | told | {"ready": row.weights is not None}
    return told | {"trust": row.probability, "slope": row.slope}


# --- following a head that bends -----------------------------------------------------------------


def follow(transactions: Transactions, project_id: int) -> None:
    """Follow the heads that are no lines on the images at hand, anew when there are twice as many:
    those of the project first, then others with the same encoder."""
    with transactions.reading() as session:
        project = projects.get(session, project_id)
        owed = [prior for prior in of_project(session, project) if _is_owed(prior)]
        if not owed or project.encoder_id is None:
            return
        pinned = session.get_one(EncoderRow, project.encoder_id)
        count = select(func.count()).where(Embedding.encoder_id == pinned.id)
        normalised = embeddings.is_normalised(session, pinned)
        there = min(int(session.exec(count).one()), ENOUGH_FOLLOWED)
        owed = [
            prior
            for prior in owed
            if _fits(prior, pinned, normalised)
            and there >= max(FEWEST_FOLLOWED, 2 * (prior.followed_on or 0))
        ]
        if not owed:
            return
        x = _images_at_hand(session, project, pinned)
        held = dict(
            session.execute(
                select(ProjectPrior.id, ProjectPrior.head).where(
                    col(ProjectPrior.id).in_([prior.id for prior in owed])
                )
            ).all()
        )
    for prior in owed:
        head = held[prior.id]
        assert head is not None
        line = _follow(tensors_of(zlib.decompress(head)), x, prior.normalised and not normalised)
        with transactions.writing() as session:
            row = session.get(ProjectPrior, prior.id)
            if row is None:  # taken away meanwhile
                continue
            row.weights, row.bias, row.line_error = line
            row.followed_on = len(x)
            if len(x) >= ENOUGH_FOLLOWED:
                row.head = None
            session.add(row)


def _is_owed(prior: ProjectPrior) -> bool:
    return prior.followed_on is not None and prior.followed_on < ENOUGH_FOLLOWED


def _images_at_hand(session: Session, project: Project, pinned: EncoderRow) -> NDArray[np.float32]:
    ids = projects.sample(session, project, ENOUGH_FOLLOWED, projects.ANY_ROLE)
    own, x = embeddings.matrix(session, pinned.id, ids)
    if (missing := ENOUGH_FOLLOWED - len(own)) > 0:
        others = session.exec(
            select(Embedding.image_id)
            .where(Embedding.encoder_id == pinned.id, col(Embedding.image_id).not_in(own.tolist()))
            .order_by(col(Embedding.image_id))
            .limit(missing)
        ).all()
        x = np.concatenate([x, embeddings.matrix(session, pinned.id, others)[1]])
    return x.astype(np.float32)


def _follow(
    tensors: Mapping[str, Any], x: NDArray[np.float32], divide: bool
) -> tuple[bytes, float, float | None]:
    """The line of a head on rows x (N, D), its bias, and how far it is from the head in points;
    `divide` where the head reads rows divided by their length."""
    from tastemaker.learning.heads import Head

    read = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) if divide else x
    weights, bias, error = followed(Head(tensors)(read), x)
    return weights.astype("<f4").tobytes(), bias, error


# --- what a version started from -----------------------------------------------------------------


def freeze(
    session: Session, version: Version, project: Project, more: Sequence[ProjectPrior] = ()
) -> None:
    """Copy what the project starts from, and `more`, into the rows of a version whose training
    begins."""
    same = set(PriorLine.model_fields) | {"source_id"}
    session.add_all(
        VersionPrior(version_id=version.id, position=position, **prior.model_dump(include=same))
        for position, prior in enumerate([*usable(session, project, version.encoder_id), *more])
    )


def keep_trust(session: Session, version: Version, trust: Sequence[Trust]) -> None:
    """Note how far the labels bore out what a version started from."""
    for row, found in zip(of_version(session, version), trust, strict=False):
        row.probability, row.slope = found.probability, found.slope
        session.add(row)


def trust_in_words(probability: float | None, slope: float | None) -> str:
    """“trust 63 %”, “trust 80 %, turned round”; empty where nothing bore it out yet."""
    if probability is None:
        return ""
    turned = ", turned round" if slope is not None and slope < 0 else ""
    told = percentages.probability(probability).replace(" ", "\u202f")
    return f"trust {told}{turned}"


def loss_in_words(line_error: float | None) -> str:
    """What a head that bends lost when it was followed by a line; empty for one that is a line."""
    if line_error is None:
        return ""
    return f"; as a line, on average {line_error:.2f} points from the head itself"
