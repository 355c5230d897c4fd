"""How a freshly trained classifier is judged: compared with the active version on the images drawn
at random, each by heads of either that never saw it, and activated unless it is shown to be worse
(see `evaluate`)."""

from dataclasses import dataclass

import numpy as np
from sqlmodel import Session, col, func, select

from tastemaker import projects, versions
from tastemaker.database.sessions import Transactions
from tastemaker.database.tables import ClassPrediction, Version
from tastemaker.evaluation import expectations
from tastemaker.evaluation.evaluate import activation
from tastemaker.learning import metrics
from tastemaker.learning.class_metrics import ClassRecord
from tastemaker.learning.classifier import TrainedClasses
from tastemaker.learning.version_metrics import VersionMetrics, VersusVersion
from tastemaker.scores import classes
from tastemaker.versions import class_rows


@dataclass(frozen=True)
class ClassJudgement:
    """What was measured, whether the version becomes the active one, and why in words."""

    record: ClassRecord
    metrics: VersionMetrics
    activate: bool
    why: str


def judge(transactions: Transactions, version: Version, trained: TrainedClasses) -> ClassJudgement:
    """Compare a classifier whose predictions are written with the active one."""
    with transactions.reading() as session:
        current = versions.active(session, projects.get(session, version.project_id))
        versus = _against(session, current, trained) if current is not None else None
        counts = dict(
            session.execute(
                select(ClassPrediction.predicted, func.count())
                .where(ClassPrediction.version_id == version.id)
                .group_by(col(ClassPrediction.predicted))
            )
            .tuples()
            .all()
        )
        report = expectations.check_to_publish(session, version)
    split = trained.split
    several = trained.data.several
    predicted = [
        sum(
            n
            for value, n in counts.items()
            if (value >> number & 1 if several else value == number)
        )
        for number in trained.data.numbers
    ]
    told = {"versus": versus, "predicted": tuple(predicted), "slices": tuple(report.class_slices)}
    record = trained.record.model_copy(update=told)
    facts = VersionMetrics(
        images=int(split.train.sum()), kind=trained.kind, aside=int(split.aside.sum()),
        groups=len(np.unique(split.groups)), folds=len(trained.members),
        predicted=sum(counts.values()), expectations=tuple(report.expectations),
    )  # fmt: skip
    activate, why = activation(version, versus, report.blocking)
    return ClassJudgement(record, facts, activate, why)


def _against(session: Session, current: Version, trained: TrainedClasses) -> VersusVersion | None:
    """The share that is wrong, minus that of the active version, on everything drawn at random.
    Classes merged since it was trained count as what they became. None without such an image, or
    where the active version tells no classes apart."""
    if not current.classes.numbers:
        return None
    data = trained.data
    honest = trained.honest
    rows = np.flatnonzero(data.rows.drawn & np.isfinite(honest).all(axis=1))
    known = classes.of(session, current.project_id)
    before = class_rows.of_images(session, current, data.rows.image_ids[rows].tolist())
    rows = rows[[image_id in before for image_id in data.rows.image_ids[rows].tolist()]]
    if not len(rows):
        return None
    truth = class_rows.encoded(data.truth[rows].astype(np.float32), trained.record)
    labelled = data.truth[rows].any(axis=1) | data.several
    mine = class_rows.encoded(honest[rows], trained.record)
    ids = data.rows.image_ids[rows].tolist()
    theirs = [known.current(before[image_id]) for image_id in ids]
    new, old = (
        (np.array([said != label for said, label in zip(some, truth, strict=True)]) | ~labelled)
        for some in (mine, theirs)
    )
    groups = trained.split.groups[rows]
    result = metrics.compare(new.astype(np.float64), old.astype(np.float64), groups)
    apart = result.difference
    shares = {
        name: None if (value := getattr(apart, name)) is None else value / 10
        for name in ("value", "low", "high")
    }
    difference = apart.model_copy(update=shares)
    return VersusVersion(difference=difference, verdict=result.verdict, version=current.number)
