"""How a freshly trained version is judged: what is stored of it, and whether it becomes active.

The arrays come from the training; the database adds what only it knows: the order in which the
labels were given, which of them were drawn at random, how steady the people are, the slices and
what is expected of them, and the version that is active now.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlmodel import Session, col, func, select

from tastemaker import projects, versions
from tastemaker.database.sessions import Transactions
from tastemaker.database.tables import ScoreEvent, Version
from tastemaker.evaluation import expectations
from tastemaker.learning.folds import TrainingSet
from tastemaker.learning.learning_curve import learning_curve
from tastemaker.learning.metrics import (
    compare,
    histogram,
    histogram_of_predictions,
    percentiles,
)
from tastemaker.learning.training import Trained
from tastemaker.learning.version_metrics import (
    ExpectationCheck,
    VersionMetrics,
    VersusVersion,
)
from tastemaker.scores import Origin, agreement
from tastemaker.versions import predictions


@dataclass(frozen=True)
class Judgement:
    """What was measured, whether the version becomes the active one, and why in words."""

    metrics: VersionMetrics
    activate: bool
    why: str


def judge(
    transactions: Transactions,
    version: Version,
    data: TrainingSet,
    trained: Trained,
) -> Judgement:
    """Measure a version whose predictions are written, and compare it with the active one."""
    with transactions.reading() as session:
        current = versions.active(session, projects.get(session, version.project_id))
        versus = _against(session, current, data, trained) if current is not None else None
        report = expectations.check_to_publish(session, version)
        metrics = _measure(session, version, data, trained, versus, report)
    activate, why = activation(version, versus, report.blocking)
    return Judgement(metrics, activate, why)


def _against(
    session: Session, current: Version, data: TrainingSet, trained: Trained
) -> VersusVersion | None:
    """The new head against the active version on everything drawn at random, paired: each image
    predicted by heads of either that never saw it. None without such an image."""
    rows = np.flatnonzero(data.drawn)
    before = predictions.honest(session, current, data.image_ids[rows].tolist())
    rows = rows[[image_id in before for image_id in data.image_ids[rows].tolist()]]
    if not len(rows):
        return None
    y = data.y[rows]
    theirs = np.array([before[image_id] for image_id in data.image_ids[rows].tolist()])
    result = compare(
        np.abs(trained.honest[rows] - y), np.abs(theirs - y), trained.split.groups[rows]
    )
    return VersusVersion(
        difference=result.difference, verdict=result.verdict, version=current.number
    )


def _measure(
    session: Session,
    version: Version,
    data: TrainingSet,
    trained: Trained,
    versus: VersusVersion | None,
    report: expectations.Report,
) -> VersionMetrics:
    """The training's own numbers, and those that need the database."""
    predicted = predictions.all_scores(session, version)
    floor = agreement.annotator_noise(session, projects.get(session, version.project_id))
    order, control = _history(session, version, data.image_ids)
    return trained.metrics.model_copy(
        update={
            "noise_floor": floor,
            "learning_curve": learning_curve(
                data, trained.split, order, control, floor.mae.value if floor else None
            ),
            "label_histogram": histogram(data.y),
            "prediction_histogram": histogram_of_predictions(predicted),
            "percentiles": percentiles(predicted),
            "predicted": len(predicted),
            "versus_parent": versus,
            "slices": tuple(report.slices),
            "expectations": tuple(report.expectations),
        }
    )


def activation(
    version: Version, versus: VersusVersion | None, blocking: Sequence[ExpectationCheck]
) -> tuple[bool, str]:
    """Whether a version becomes the active one, and why: unless it is shown to be worse, or misses
    an expectation that blocks."""
    if version.parent_id is None:
        return True, "first version"
    if blocking:
        missed = "; ".join(expectations.missed(check) for check in blocking)
        return False, f"not activated: {missed}"
    if versus is None:
        return True, "not compared: no label drawn at random or from a file yet"
    other = f"{versus.version} on {versus.difference.n} images drawn at random or from files"
    if versus.verdict == "worse":
        return False, f"not activated: worse than {other}"
    if versus.verdict == "better":
        return True, f"better than {other}"
    return True, f"no significant regression against {other}"


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
