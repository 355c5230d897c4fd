"""Why a project cannot be trained: one rule, asked by the page before the button is pressed, by
the request before a job is queued, and by the job on the labels that it has frozen."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlmodel import Session, col, func, select

from tastemaker import projects
from tastemaker.database.tables import Embedding, Label, Project
from tastemaker.errors import NotTrainable
from tastemaker.learning import trainable
from tastemaker.scores import classes
from tastemaker.scores.classes import ClassList

ENOUGH_TO_TRAIN = 20  # labels, below which a version knows little
WAIT = "Wait for the embedding job, then train again."


@dataclass(frozen=True)
class Known:
    """What decides: the project, its labels (n,) in 0–1 (of a project with classes, as a label
    holds them, and the classes), which of them may train (n,), and whether any of the images has an
    embedding."""

    project: Project
    y: NDArray[np.float64]
    trains: NDArray[np.bool_]
    embedded: bool
    classes: ClassList | None = None


def why_not(known: Known) -> NotTrainable | None:
    """The first reason against training, in a sentence; None where nothing speaks against it."""
    project = known.project
    if known.classes is not None:
        distinct, at = np.unique(known.y, return_inverse=True)  # a label costs a look-up
        truth = known.classes.truth(distinct.tolist())[at]
        several = known.classes.several
        if reason := trainable.why_no_classes(truth, known.trains, several=several):
            return reason
    elif project.kind != "score":
        return NotTrainable(
            f"“{project.name}” holds a classifier made elsewhere; only scores can be learned.",
            "Make another project to train on scores.",
        )
    elif reason := trainable.why_not(known.y, known.trains):
        return reason
    if project.encoder_id is None:
        return NotTrainable("No image is embedded yet.", WAIT)
    if not known.embedded:
        what = "scored" if known.classes is None else "labelled"
        return NotTrainable(f"None of the {what} images is embedded yet.", WAIT)
    return None


def known_now(session: Session, project: Project, encoder_id: int | None = None) -> Known:
    """What is known of a project at this moment, on its own encoder or on another one."""
    encoder_id = encoder_id or project.encoder_id
    labels = (
        Label.project_id == project.id, ~projects.is_removed(project.id, Label.image_id)
    )  # fmt: skip
    rows = session.execute(
        select(Label.value, Label.holdout, func.count())
        .where(*labels)
        .group_by(col(Label.value), col(Label.holdout))
    ).all()
    counts = [count for _, _, count in rows]
    embedded = (
        select(Label.image_id)
        .join(Embedding, col(Embedding.image_id) == Label.image_id)
        .where(*labels, Embedding.encoder_id == encoder_id)
        .limit(1)
    )
    points = 10 if project.labelling == "scores" else 1
    return Known(
        project,
        y=np.repeat([value / points for value, _, _ in rows], counts),
        trains=np.repeat([not holdout for _, holdout, _ in rows], counts).astype(bool),
        embedded=encoder_id is not None and session.exec(embedded).first() is not None,
        classes=classes.of_project(session, project),
    )


def count_training_labels(session: Session, project: Project) -> int:
    """How many labels a head can learn from: all but those of the hold-out."""
    training = (
        Label.project_id == project.id, ~col(Label.holdout),
        ~projects.is_removed(project.id, Label.image_id),
    )  # fmt: skip
    return int(session.exec(select(func.count()).select_from(Label).where(*training)).one())
