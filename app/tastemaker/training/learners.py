"""What the labelling of a project decides in its training: which head is trained, what is kept of
its predictions, how it is judged, and what its file says of itself. The rest of the job is one way
(`retrain`)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sqlmodel import Session, select

from tastemaker import embeddings, projects
from tastemaker.database.sessions import Transactions
from tastemaker.database.tables import Image, Project, Version
from tastemaker.jobs.progress import Progress
from tastemaker.learning.class_metrics import ClassRecord
from tastemaker.learning.recipes import Progress as OnProgress
from tastemaker.learning.recipes import Recipe
from tastemaker.learning.version_metrics import VersionMetrics
from tastemaker.scores import classes
from tastemaker.versions import predictions, training_set

if TYPE_CHECKING:
    from tastemaker.learning.classifier import ClassData, TrainedClasses
    from tastemaker.learning.folds import TrainingSet
    from tastemaker.learning.training import Trained


@dataclass(frozen=True)
class Judged:
    """What of a judgement is published (see `publication.Outcome`)."""

    metrics: VersionMetrics
    activate: bool
    why: str
    classes: ClassRecord


class Learner(Protocol):
    """One training: made of the frozen labels, then asked in this order."""

    def train(self, recipe: Recipe, progress: OnProgress) -> "Trained | TrainedClasses": ...

    def predict(
        self, transactions: Transactions, groups: Mapping[str, int], report: Progress
    ) -> None: ...

    def judge(self, transactions: Transactions) -> Judged: ...

    def labels(self) -> tuple[str, ...]: ...

    def metadata(self) -> dict[str, str]: ...


def learner(session: Session, project: Project, version: Version, data: "TrainingSet") -> Learner:
    """The learner for a project's labels; data are those of the version, in arrays."""
    if project.labelling == "scores":
        return ScoreLearner(project, version, data)
    return ClassLearner(version, class_data(session, project, version, data))


class ScoreLearner:
    def __init__(self, project: Project, version: Version, data: "TrainingSet") -> None:
        self.project, self.version, self.data = project, version, data
        self.trained: Trained

    def train(self, recipe: Recipe, progress: OnProgress) -> "Trained":
        from tastemaker.learning.training import train

        self.trained = train(self.data, recipe, progress=progress, threshold=self.project.threshold)
        return self.trained

    def predict(
        self, transactions: Transactions, groups: Mapping[str, int], report: Progress
    ) -> None:
        _predict_all(transactions, self.version, self.trained.predict, groups, report)

    def judge(self, transactions: Transactions) -> Judged:
        from tastemaker.evaluation import evaluate

        made = evaluate.judge(transactions, self.version, self.data, self.trained)
        return Judged(made.metrics, made.activate, made.why, ClassRecord())

    def labels(self) -> tuple[str, ...]:
        return ()

    def metadata(self) -> dict[str, str]:
        return {
            "score": "sigmoid(2z) in 0-1; hand scores were 0-10",
            "threshold": f"{self.project.threshold:g}",
        }


class ClassLearner:
    def __init__(self, version: Version, data: "ClassData") -> None:
        self.version, self.data = version, data
        self.trained: TrainedClasses

    def train(self, recipe: Recipe, progress: OnProgress) -> "TrainedClasses":
        from tastemaker.learning import classifier

        self.trained = classifier.train(self.data, recipe, progress=progress)
        return self.trained

    def predict(
        self, transactions: Transactions, groups: Mapping[str, int], report: Progress
    ) -> None:
        _predict_all(
            transactions, self.version, self.trained.predict, groups, report, self.trained.record
        )

    def judge(self, transactions: Transactions) -> Judged:
        from tastemaker.evaluation import class_evaluation

        made = class_evaluation.judge(transactions, self.version, self.trained)
        return Judged(made.metrics, made.activate, made.why, made.record)

    def labels(self) -> tuple[str, ...]:
        return self.trained.data.names

    def metadata(self) -> dict[str, str]:
        if self.data.several:
            return {"read_out": "sigmoid", "score": "each output is a tag: sigmoid(2z) in 0-1"}
        return {"read_out": "softmax", "score": "softmax over the outputs, one for each class"}


def class_data(
    session: Session, project: Project, version: Version, data: "TrainingSet"
) -> "ClassData":
    """The frozen labels of a version as classes, in the order of the rows of `data`."""
    from tastemaker.learning.classifier import ClassData

    values = training_set.values(session, version)
    known = classes.of(session, project.id)
    return ClassData(
        rows=data,
        truth=known.truth([values[image_id] for image_id in data.image_ids.tolist()]),
        numbers=tuple(row.number for row in known.alive),
        names=tuple(row.name for row in known.alive),
        weights=tuple(row.weight for row in known.alive),
        several=known.several,
    )


Predicted = Callable[[NDArray[Any], NDArray[np.integer]], tuple[Any, ...]]


def _predict_all(
    transactions: Transactions,
    version: Version,
    predict: Predicted,
    group_names: Mapping[str, int],
    report: Progress,
    record: ClassRecord | None = None,
) -> None:
    """What the tensors to be published give every image of the project, row by row."""
    with transactions.reading() as session:
        project = projects.get(session, version.project_id)
        ids, x = embeddings.project_matrix(session, project, version.encoder_id)
        group_of = dict(session.exec(select(Image.id, Image.source_group)).all())
    groups = np.array([group_names.get(group_of[i], -1) for i in ids.tolist()], np.int64)
    predictions.replace_all(
        transactions, version, ids, x, lambda rows, part: predict(rows, groups[part]), report,
        record,
    )  # fmt: skip
