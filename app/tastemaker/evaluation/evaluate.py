"""How a freshly trained version is judged, and what is stored of it.

The arrays come from the training; the database adds what only it knows: the order in which the
labels were given, which of them were drawn at random, how steady the people are, and the version
that is active now.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlmodel import Session, col, func, select

from tastemaker import projects, versions
from tastemaker.database.tables import Prediction, ScoreEvent, Version
from tastemaker.jobs.context import JobContext
from tastemaker.learning.checkpoints import load_checkpoint
from tastemaker.learning.folds import TrainingSet
from tastemaker.learning.heads import Scorer
from tastemaker.learning.learning_curve import learning_curve
from tastemaker.learning.metrics import compare, flat, histogram, percentiles
from tastemaker.learning.training import Trained
from tastemaker.scores import Origin, agreement


def against_active(
    work: JobContext, version: Version, data: TrainingSet, trained: Trained
) -> dict[str, Any] | None:
    """The new file against the active version's file on the same hold-out images, paired; None
    where there is nothing to compare with."""
    with work.reading() as session:
        current = versions.active(session, projects.get(session, version.project_id))
    rows = trained.split.holdout
    if current is None or current.encoder_id != version.encoder_id or not rows.any():
        return None
    scorer = Scorer(load_checkpoint(versions.verify(work.settings, current)))
    comparison = compare(
        np.abs(trained.final[rows] - data.y[rows]),
        np.abs(scorer(data.x[rows]) - data.y[rows]),
        trained.split.groups[rows],
    )
    return {"version": current.number, **comparison.flat()}


def stored_metrics(
    work: JobContext,
    version: Version,
    data: TrainingSet,
    trained: Trained,
    duel: dict[str, Any] | None,
) -> dict[str, Any]:
    """The numbers of the version page; every one with its n, and its 95 % interval if known."""
    with work.reading() as session:
        said = _said(session, version)
        floor = noise_floor(session, version)
        order, control = _history(session, version, data.image_ids)
    measured = trained.metrics
    return {
        "images": int(trained.split.train.sum()),
        "kind": trained.kind,
        "aside": measured["aside"],
        "groups": measured["groups"],
        "folds": measured["folds"],
        "noise": trained.noise,
        "holdout": flat(measured["holdout"]),
        "out_of_fold": flat(measured["out_of_fold"]),
        "baseline_mae": measured["baseline_mae"],
        "versus_baseline": measured["versus_baseline"],
        "out_of_fold_baseline": measured["out_of_fold_baseline"],
        "calibration": measured["calibration"],
        "noise_floor": floor,
        "learning_curve": learning_curve(
            data, trained.split, order, control, floor["mae"] if floor else None
        ),
        "label_histogram": histogram(data.y),
        "prediction_histogram": np.histogram(said, bins=20, range=(0, 1))[0].tolist(),
        "percentiles": percentiles(said),
        "predicted": len(said),
        "versus_parent": duel,
    }


def noise_floor(session: Session, version: Version) -> dict[str, Any] | None:
    """How far a person is from themselves, in points: `sigma` of one score, and `mae`, the error
    that a perfect model would still show; with intervals, and `n` pairs. None without a re-ask."""
    project = projects.get(session, version.project_id)
    noise = agreement.annotator_noise(session, project)
    if not noise["pairs"]:
        return None
    to_mae = math.sqrt(2 / math.pi)  # mean |error| of a normal error of standard deviation 1
    return {
        "sigma": noise["sigma"], "sigma_low": noise["sigma_low"],
        "sigma_high": noise["sigma_high"], "mae": noise["sigma"] * to_mae,
        "mae_low": noise["sigma_low"] * to_mae, "mae_high": noise["sigma_high"] * to_mae,
        "n": noise["pairs"],
    }  # fmt: skip


def _said(session: Session, version: Version) -> NDArray[np.float64]:
    """What the version says of every image of the project."""
    query = select(Prediction.score).where(Prediction.version_id == version.id)
    return np.fromiter(session.execute(query).scalars(), np.float64)


def _history(
    session: Session, version: Version, image_ids: NDArray[np.integer]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Of every image, the first event that scored it, and whether it was drawn at random then."""
    first = (
        select(func.min(ScoreEvent.id))
        .where(
            ScoreEvent.project_id == version.project_id,
            ScoreEvent.kind == "set",
            col(ScoreEvent.id) <= version.event_high,
        )
        .group_by(col(ScoreEvent.image_id))
    )
    rows = session.execute(
        select(ScoreEvent.image_id, ScoreEvent.id, ScoreEvent.origin).where(
            col(ScoreEvent.id).in_(first)
        )
    )
    known = {image_id: (event_id, origin == Origin.CONTROL) for image_id, event_id, origin in rows}
    pairs = [known.get(image_id, (0, False)) for image_id in image_ids.tolist()]
    return np.array([p[0] for p in pairs], np.int64), np.array([p[1] for p in pairs], bool)
