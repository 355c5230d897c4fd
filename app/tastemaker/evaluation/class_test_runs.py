"""Test runs of a classifier: what the images of a collection are taken for, and how often that is
right (see `test_runs`).

Which images a run shows first, and which of their labels measure, does not depend on the model:
`sample` is in the order of the hashes of the files, which says nothing of what they show. The
labels measure as far as the sample is labelled without a gap, so that whoever corrects only what
is wrong makes no version look worse. The order is the same for every version, so that two are
judged by the same images.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import ColumnElement, and_, true
from sqlalchemy import select as select_columns
from sqlmodel import Session, col, func, select

from tastemaker import projects, scores
from tastemaker.database.tables import (
    ClassPrediction,
    CollectionImage,
    Image,
    Label,
    Prediction,
    Project,
    TestRun,
    Version,
)
from tastemaker.database.tables.versions import EarlierClassRun, RunSummary
from tastemaker.evaluation.class_slices import truths
from tastemaker.learning import metrics
from tastemaker.learning.class_metrics import ClassShare, shares_of
from tastemaker.learning.version_metrics import NOTHING, Estimate, VersusVersion
from tastemaker.scores import classes
from tastemaker.versions import class_rows

SAMPLE, UNSURE = "sample", "unsure"  # parts of a run
OF_CLASS = "class-"  # and one of each class, with its number
SHOWN, SHOWN_OF_ONE = 240, 96  # images a run keeps of a part, and of one class


class _Told(NamedTuple):
    """What is said of an image, as a label holds it, and how sure that is."""

    image_id: int
    said: int
    margin: float
    certainty: float
    group: str


def summarise(
    session: Session, project: Project, test_run: TestRun, version: Version,
    earlier: tuple[TestRun, Version] | None,
) -> RunSummary:  # fmt: skip
    """What a classifier takes the images of the collection for, each by a head that never saw it.
    `earlier` is the newest run of another version on it."""
    columns: tuple[Any, ...] = (
        ClassPrediction.image_id, ClassPrediction.predicted, ClassPrediction.margin,
        Prediction.honest, Image.source_group,
    )  # fmt: skip
    query = (
        select_columns(*columns)
        .select_from(ClassPrediction)
        .join(Prediction, (col(Prediction.image_id) == ClassPrediction.image_id)
              & (col(Prediction.version_id) == version.id))
        .join(Image, col(Image.id) == ClassPrediction.image_id)
        .where(col(ClassPrediction.version_id) == version.id, _inside(test_run))
        .order_by(col(Image.sha256))
    )  # fmt: skip
    rows = [_Told(*row) for row in session.execute(query)]
    known = classes.of(session, project.id)
    counts = truths(known, np.array([row.said for row in rows], np.float64)).sum(axis=0)
    shown = [row for row in rows if not projects.on_holdout_side(project, row.group)]
    grids = {
        SAMPLE: _entries(shown, SHOWN),
        UNSURE: _entries(sorted(shown, key=lambda row: row.margin), SHOWN),
    }
    surest = sorted(shown, key=lambda row: -row.margin)
    said = truths(known, np.array([row.said for row in surest], np.float64))
    for k, one in enumerate(known.alive):
        of_it = [surest[at] for at in np.flatnonzero(said[:, k])[:SHOWN_OF_ONE].tolist()]
        if of_it:
            grids[f"{OF_CLASS}{one.number}"] = _entries(of_it, SHOWN_OF_ONE)
    in_all = select(func.count()).select_from(CollectionImage).where(
        CollectionImage.collection_id == test_run.collection_id
    )  # fmt: skip
    return {
        "n": len(rows),
        "without_prediction": int(session.exec(in_all).one()) - len(rows),
        "holdout": len(rows) - len(shown),
        "taken_for": [
            {"number": one.number, "name": one.name, "images": int(count)}
            for one, count in zip(known.alive, counts, strict=True)
        ],
        "against": _against(session, version, {row.image_id: row.said for row in rows}, earlier),
        "grids": grids,
    }


def _entries(rows: list[_Told], most: int) -> list[list[Any]]:
    return [[row.image_id, round(row.certainty, 4), round(1 - row.margin, 4)]
            for row in rows[:most]]  # fmt: skip


def _inside(test_run: TestRun) -> ColumnElement[bool]:
    inside = select(CollectionImage.image_id).where(
        CollectionImage.collection_id == test_run.collection_id
    )
    removed = projects.is_removed(test_run.project_id, ClassPrediction.image_id)
    return and_(col(ClassPrediction.image_id).in_(inside), ~removed)


def _against(
    session: Session, version: Version, said: dict[int, int],
    earlier: tuple[TestRun, Version] | None,
) -> EarlierClassRun | None:  # fmt: skip
    if earlier is None or earlier[1].encoder_id != version.encoder_id:
        return None
    run, other = earlier
    known = classes.of(session, version.project_id)
    before = class_rows.of_images(session, other, sorted(said))
    changed = sum(known.current(said[i]) != known.current(value) for i, value in before.items())
    return {
        "run": run.id, "version": other.number, "version_id": other.id, "n": len(before),
        "changed": changed,
    }  # fmt: skip


# --- how often it is right -----------------------------------------------------------------------


@dataclass(frozen=True)
class RunFigures:
    """How good a version is on a collection, as far as its sample is labelled: the first `n` of it
    without a gap. `versus` is the share that is wrong, minus that of the version of the earlier
    run, on the same images."""

    n: int = 0
    accuracy: Estimate = NOTHING
    classes: tuple[ClassShare, ...] = ()
    versus: VersusVersion | None = None

    def of(self, number: int) -> ClassShare | None:
        """The rates of one class, if any image is labelled so or taken for it."""
        return next((row for row in self.classes if row.number == number), None)

    def as_json(self) -> dict[str, object]:
        return {
            **self.accuracy.flat("accuracy"),
            "classes": [row.as_json() for row in self.classes],
            "versus": self.versus.as_json() if self.versus else None,
        }


def figures(session: Session, project: Project, test_run: TestRun, version: Version) -> RunFigures:
    """By the labels as they stand now; nothing before a first one."""
    found = list(_labelled_without_a_gap(session, project, test_run, version))
    if not found:
        return RunFigures()
    ids, values, labels, groups = map(list, zip(*found, strict=True))
    known = classes.of(session, project.id)
    truth = truths(known, np.array(labels, np.float64))
    said = truths(known, np.array(values, np.float64))
    keys = np.unique(groups, return_inverse=True)[1]
    named = [(one.number, one.name) for one in known.alive]
    accuracy, rows = shares_of(named, truth, said, keys, said.sum(axis=0))
    versus = None
    against = test_run.summary.get("against")
    other = session.get(Version, against["version_id"]) if against else None
    if other is not None:
        before = class_rows.of_images(session, other, ids)
        if len(before) == len(ids):
            old = truths(known, np.array([before[i] for i in ids], np.float64))
            wrong = [(one != truth).any(axis=1).astype(np.float64) for one in (said, old)]
            result = metrics.compare(wrong[0], wrong[1], keys)
            shares = {
                name: None if (value := getattr(result.difference, name)) is None else value / 10
                for name in ("value", "low", "high")
            }
            versus = VersusVersion(
                difference=result.difference.model_copy(update=shares), verdict=result.verdict,
                version=other.number,
            )  # fmt: skip
    return RunFigures(len(ids), accuracy, rows, versus)


def _labelled_without_a_gap(
    session: Session, project: Project, test_run: TestRun, version: Version
) -> Iterator[tuple[int, int, float, str]]:
    """Image, what is said of it, its label, and its source group, in the order of the sample. The
    collection behind what the run shows of it is read only where all of that is labelled."""
    shown = [image_id for image_id, *_ in test_run.summary.get("grids", {}).get(SAMPLE, [])]
    settled = (
        projects.removed_ids(session, project.id, shown)
        | scores.values_of(session, project.id, shown).keys()
    )
    before_gap = list(takewhile(settled.__contains__, shown))
    whole = len(before_gap) == len(shown)
    columns: tuple[Any, ...] = (
        ClassPrediction.image_id, ClassPrediction.predicted, Label.value, Image.source_group,
    )  # fmt: skip
    rows = session.execute(
        select_columns(*columns)
        .select_from(ClassPrediction)
        .join(Image, col(Image.id) == ClassPrediction.image_id)
        .outerjoin(Label, (col(Label.image_id) == ClassPrediction.image_id)
                   & (col(Label.project_id) == project.id))
        .where(col(ClassPrediction.version_id) == version.id, _inside(test_run),
               true() if whole else col(Image.id).in_(before_gap))
        .order_by(col(Image.sha256))
    )  # fmt: skip
    for image_id, said, label, group in rows:
        if projects.on_holdout_side(project, group):
            continue
        if label is None:
            return
        yield image_id, said, label, group
