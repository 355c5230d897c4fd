"""What the stars of other programs say of a taste, as a line that a project starts from.

They are coarse, old, and perhaps somebody else's, so they are no labels: a head is fitted on them
alone, and its line is a prior like another project's (`learning.prior`), trusted as far as the
person's own scores bear it out. No star of an image that is scored, of a relative of it, or of the
hold-out side has a part in it: what is said of a left-out image would rest on its own star.
"""

import hashlib
from collections.abc import Collection

import numpy as np
from more_itertools import chunked
from sqlalchemy import func
from sqlalchemy import select as select_columns
from sqlmodel import Session, col, select

from tastemaker import embeddings, projects
from tastemaker.database.tables import (
    Annotator,
    Embedding,
    EncoderRow,
    Image,
    Label,
    Project,
    ProjectPrior,
    ScoreEvent,
)
from tastemaker.errors import NotTrainable
from tastemaker.scores.answers import OTHER_PROGRAMS, RATED

NAME = "stars of other programs"
FEWEST = 20  # stars, fewer of which are no line
MOST = 500  # of them, drawn at random: with more, a refit while one scores would take too long


def as_priors(
    session: Session,
    project: Project,
    encoder_id: int | None = None,
    labelled: Collection[int] = (),
) -> list[ProjectPrior]:
    """The line of the stars, on vectors of an encoder, the project's own by default: one row that
    is in no session, or none where there are too few, or where all are the same. `labelled` are
    images to leave out besides those that have a label."""
    from tastemaker.learning.ridge import fit_ridge

    encoder_id = encoder_id or project.encoder_id
    said = _stars(session, project, encoder_id, labelled) if encoder_id is not None else {}
    if encoder_id is None or len(said) < FEWEST:
        return []
    ids, x = embeddings.matrix(session, encoder_id, said)
    y = np.array([said[image_id] / 10 for image_id in ids.tolist()])
    try:
        weights, bias = fit_ridge(x.astype(np.float32), y).raw()
    except NotTrainable:
        return []
    pinned = session.get_one(EncoderRow, encoder_id)
    line = weights.astype("<f4").tobytes()
    return [
        ProjectPrior(
            project_id=project.id, name=NAME, sha256=hashlib.sha256(line).hexdigest(),
            encoder=pinned.name, fingerprint=pinned.fingerprint, features=pinned.dim,
            normalised=embeddings.is_normalised(session, pinned), weights=line, bias=bias,
        )
    ]  # fmt: skip


def _stars(
    session: Session, project: Project, encoder_id: int, labelled: Collection[int]
) -> dict[int, int]:
    """Image id → score by its star: at most `MOST`, drawn by the images' hashes."""
    by = session.exec(select(Annotator.id).where(Annotator.name == OTHER_PROGRAMS)).first()
    if by is None:
        return {}
    undone = select(ScoreEvent.undoes).where(
        ScoreEvent.project_id == project.id, ScoreEvent.kind == "undo"
    )
    newest = (
        select_columns(col(ScoreEvent.image_id), func.max(col(ScoreEvent.id)).label("event"))
        .where(
            col(ScoreEvent.project_id) == project.id,
            col(ScoreEvent.annotator_id) == by,  # an index knows them
            col(ScoreEvent.kind) == RATED,
            col(ScoreEvent.id).not_in(undone),
        )
        .group_by(col(ScoreEvent.image_id))
        .subquery()
    )
    scored = select(Label.image_id).where(
        Label.project_id == project.id, Label.image_id == Image.id
    )
    embedded = select(Embedding.image_id).where(
        Embedding.encoder_id == encoder_id, Embedding.image_id == Image.id
    )
    rows = session.execute(
        select_columns(col(Image.id), col(Image.source_group), col(ScoreEvent.value))
        .join(newest, newest.c.image_id == col(Image.id))
        .join(ScoreEvent, col(ScoreEvent.id) == newest.c.event)
        .where(
            ~scored.exists(), embedded.exists(), ~projects.is_removed(project.id, Image.id)
        )
        .order_by(col(Image.sha256))
        .limit(4 * MOST)
    ).all()  # fmt: skip
    apart = [row for row in rows if not projects.on_holdout_side(project, row[1])]
    related = _groups_with_labels(session, project, {group for _, group, _ in apart}, labelled)
    kept = [(image_id, value) for image_id, group, value in apart if group not in related]
    return dict(kept[:MOST])


def _groups_with_labels(
    session: Session, project: Project, groups: Collection[str], labelled: Collection[int]
) -> set[str]:
    found: set[str] = set()
    for some in chunked(sorted(groups), 500):
        found |= set(
            session.exec(
                select(Image.source_group)
                .join(Label, col(Label.image_id) == Image.id)
                .where(Label.project_id == project.id, col(Image.source_group).in_(some))
            )
        )
    for ids in chunked(labelled, 500):
        found |= set(session.exec(select(Image.source_group).where(col(Image.id).in_(ids))))
    return found
