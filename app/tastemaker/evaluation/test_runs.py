"""Test runs: a version tried on a collection outside the pool.

One job does it all: import what is not here yet, embed what has no vector, let the version's file
predict, and write down what was seen. A run is a record, so the images it shows are chosen once:
the highest, the lowest, and those nearest to the threshold.

Images on the hold-out side count in the figures, but are not shown: they only measure.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement
from sqlalchemy.orm import aliased
from sqlmodel import Session, and_, case, col, func, select

from tastemaker import embeddings, jobs, projects, versions
from tastemaker.config import Settings
from tastemaker.database.tables import (
    Collection,
    CollectionImage,
    Image,
    Job,
    Prediction,
    Project,
    ProjectCollection,
    TestRun,
    Version,
)
from tastemaker.database.tables.versions import EarlierRun, RunSummary
from tastemaker.errors import Conflict, Invalid, NotFound
from tastemaker.evaluation import class_test_runs
from tastemaker.files import require_free_space
from tastemaker.importing import imports, requests
from tastemaker.jobs.context import JobContext
from tastemaker.versions import predictions

GRIDS = {"top": "Highest", "threshold": "Around the threshold", "bottom": "Lowest"}
SHOWN = 240  # images a run keeps for each of its grids
BINS = 20


# --- asking for one ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """What a run looks at: exactly one of a collection, a folder or file on this machine, and
    uploads staged in the incoming folder as (stored, original) names."""

    collection_id: int | None = None
    folder: str = ""
    staging: Path | None = None
    files: tuple[tuple[str, str], ...] = ()
    name: str = ""  # of the new collection
    looked_into: bool = False  # the folder was found to hold pictures

    def checked(self, settings: Settings) -> "Source":
        """The same after a look into its folder, which takes up to seconds and is for before a
        transaction. Raises `NotFound` and `Invalid`, as `validate_paths` does."""
        if not self.folder.strip():
            return self
        [path] = requests.validate_paths(settings, [self.folder.strip()])
        return replace(self, folder=str(path), looked_into=True)


def request_run(
    session: Session, settings: Settings, project: Project, version: Version, source: Source
) -> TestRun:
    """Queue a test run. The same run that still waits or works is returned instead of a second."""
    if version.project_id != project.id:
        raise NotFound(f"“{project.name}” has no such version.", "Choose one of its own.")
    if version.encoder_id != project.encoder_id:
        raise Conflict(
            f"{version.number} was trained on another encoder than “{project.name}” uses now.",
            "Make it the active version first, or choose another one.",
        )
    sources = [bool(source.collection_id), bool(source.folder.strip()), bool(source.files)]
    if sum(sources) != 1:
        raise Invalid(
            "Name what to look at." if not any(sources) else "This names more than one source.",
            "Choose a collection, a folder on this machine, or files.",
        )
    require_free_space(settings.root, settings.min_free_gb)
    payload: dict[str, Any] = {}
    if source.collection_id:
        collection = _outside_the_pool(session, project, source.collection_id)
    else:
        if source.files:
            assert source.staging is not None
            files = [list(pair) for pair in source.files]
            origin: dict[str, Any] = {"staging": source.staging.name, "files": files}
            name = source.name or "Test uploads"
        else:
            source = source if source.looked_into else source.checked(settings)
            path = Path(source.folder)
            origin, name = {"paths": [str(path)]}, source.name or requests.free_name(path)
        collection = _own_collection(session, project, name)
        payload["import"] = origin | {
            "collection": collection.name, "role": "test-run", "scores_from_folders": False,
        }  # fmt: skip
    projects.add_collection(session, project, collection, "test-run")
    if not payload and (running := _unfinished(session, version, collection)):
        return running
    run = TestRun(project_id=project.id, version_id=version.id, collection_id=collection.id)
    session.add(run)
    session.flush()
    title = f"Test run of {version.number} on “{collection.name}”"
    job = jobs.enqueue(session, "test-run", title, payload | {"run": run.id}, project.id)
    run.job_id = job.id
    session.add(run)
    session.flush()
    return run


def collections_to_try(session: Session, project: Project) -> list[tuple[int, str, int]]:
    """(id, name, images) of the collections that do not feed this project's queues; those tried
    before come first."""
    link = (
        select(ProjectCollection.role)
        .where(
            ProjectCollection.project_id == project.id,
            ProjectCollection.collection_id == Collection.id,
        )
        .scalar_subquery()
    )
    size = (
        select(func.count())
        .select_from(CollectionImage)
        .where(CollectionImage.collection_id == Collection.id)
        .scalar_subquery()
    )
    rows = session.execute(
        select(Collection.id, Collection.name, size)
        .where(func.coalesce(link, "") != "pool")
        .order_by(link.is_(None), col(Collection.name))
    )
    return [(int(row[0]), str(row[1]), int(row[2])) for row in rows]


def _outside_the_pool(session: Session, project: Project, collection_id: int) -> Collection:
    collection = session.get(Collection, collection_id)
    if collection is None:
        raise NotFound("There is no such collection.", "Choose one of the list.")
    link = session.get(ProjectCollection, (project.id, collection.id))
    if link is not None and link.role == "pool":
        raise Conflict(
            f"“{collection.name}” feeds the queues of this project; a test run looks at images "
            "from outside.",
            "Choose another collection, or a folder.",
        )
    return collection


def _own_collection(session: Session, project: Project, name: str) -> Collection:
    """The collection for new images: the one of that name if it is this project's and only tried,
    else a new one. Images of a pool, or of another project, are never mixed in."""
    name = " ".join(name.split())[:100]
    for number in range(1, 1000):
        numbered = name if number == 1 else f"{name} {number}"
        collection = session.exec(select(Collection).where(Collection.name == numbered)).first()
        if collection is None:
            collection = Collection(name=numbered)
            session.add(collection)
            session.flush()
            return collection
        links = session.exec(
            select(ProjectCollection).where(ProjectCollection.collection_id == collection.id)
        ).all()
        if [(link.project_id, link.role) for link in links] == [(project.id, "test-run")]:
            return collection
    raise Conflict(f"There are too many collections named “{name}”.", "Choose another name.")


def _unfinished(session: Session, version: Version, collection: Collection) -> TestRun | None:
    return session.exec(
        select(TestRun)
        .join(Job, col(Job.id) == TestRun.job_id)
        .where(TestRun.version_id == version.id, TestRun.collection_id == collection.id)
        .where(col(Job.state).in_(("queued", "running")))
    ).first()


# --- the job -----------------------------------------------------------------------------------


def run(job: JobContext) -> dict[str, Any]:
    """The job “test-run”. Each step skips what is done, so it may be killed and started again."""
    with job.reading() as session:
        test_run = session.get(TestRun, job.payload["run"])
        if test_run is None:
            raise NotFound("This test run was removed.")
        if test_run.summary:
            return {"run": test_run.id, "n": test_run.summary["n"]}
        version = versions.get(session, test_run.version_id)
    if "import" in job.payload:
        imports.import_files(job, job.payload["import"], job.project_id, queue_embedding=False)
    with job.reading() as session:
        query = embeddings.missing(version.encoder_id, None, test_run.collection_id).limit(1)
        without_vector = session.exec(query).first() is not None
    if without_vector:
        embeddings.embed_project(job, job.project_id, test_run.collection_id)
    predictions.predict_missing(job, job.settings, version, test_run.collection_id, report=job)
    job.stage("Looking at the result")
    with job.reading() as session:
        project = projects.get(session, job.project_id)
        summary = summarise(session, project, test_run, version)
    with job.writing() as session:
        row = session.get(TestRun, test_run.id)
        assert row is not None
        row.summary = summary
        session.add(row)
    return {"run": test_run.id, "n": summary["n"]}


def summarise(
    session: Session, project: Project, test_run: TestRun, version: Version
) -> RunSummary:
    """What the version gives the collection. Scores are in [0, 1], and honest: where an image
    was trained on, it is the score by a head that never saw it."""
    if version.classes.numbers:
        earlier = _earlier(session, test_run)
        return class_test_runs.summarise(session, project, test_run, version, earlier)
    threshold = project.threshold
    rows = session.execute(
        select(Prediction.image_id, Prediction.honest, Prediction.uncertainty, Image.source_group)
        .join(Image, col(Image.id) == Prediction.image_id)
        .where(Prediction.version_id == version.id, in_collection(test_run))
        .order_by(col(Prediction.image_id))
    ).all()
    scores = np.array([row[1] for row in rows], np.float64)
    held = np.array([projects.on_holdout_side(project, row[3]) for row in rows], bool)
    all_images = select(func.count()).select_from(CollectionImage).where(
        CollectionImage.collection_id == test_run.collection_id
    )  # fmt: skip
    n = len(scores)
    order = {
        "top": np.argsort(-scores, kind="stable"),
        "threshold": np.argsort(np.abs(scores - threshold), kind="stable"),
        "bottom": np.argsort(scores, kind="stable"),
    }
    return {
        "n": n,
        "without_prediction": int(session.exec(all_images).one()) - n,
        "holdout": int(held.sum()),
        "threshold": threshold,
        "passes": int((scores >= threshold).sum()),
        "pass_rate": float((scores >= threshold).mean()) if n else None,
        "mean": float(scores.mean()) if n else None,
        "median": float(np.median(scores)) if n else None,
        "histogram": np.histogram(scores, bins=BINS, range=(0, 1))[0].tolist(),
        "against": _against_earlier(session, test_run, version, threshold),
        "grids": {
            grid: [
                [rows[i][0], round(float(scores[i]), 4), round(float(rows[i][2]), 4)]
                for i in indices[~held[indices]][:SHOWN].tolist()
            ]
            for grid, indices in order.items()
        },
    }


def in_collection(test_run: TestRun) -> ColumnElement[bool]:
    """Condition on Prediction: its image is in the run's collection and was not taken out of the
    project."""
    inside = (
        select(CollectionImage.image_id)
        .where(
            CollectionImage.collection_id == test_run.collection_id,
            CollectionImage.image_id == Prediction.image_id,
        )
        .exists()
    )
    return and_(inside, ~projects.is_removed(test_run.project_id, Prediction.image_id))


def collection_name(session: Session, test_run: TestRun) -> str:
    return session.get_one(Collection, test_run.collection_id).name


def _against_earlier(
    session: Session, test_run: TestRun, version: Version, threshold: float
) -> EarlierRun | None:
    """The newest earlier run: on the images that both have predicted, how many pass now that failed
    (`up`), and the reverse (`down`)."""
    found = _earlier(session, test_run)
    if found is None or found[1].encoder_id != version.encoder_id:
        return None
    run, other = found
    before = aliased(Prediction)
    now, then = Prediction.honest, before.honest
    up = case((and_(now >= threshold, then < threshold), 1), else_=0)
    down = case((and_(now < threshold, then >= threshold), 1), else_=0)
    n, rose, fell, shift = session.execute(
        select(func.count(), func.sum(up), func.sum(down), func.avg(now - then))
        .join(before, and_(before.image_id == Prediction.image_id, before.version_id == other.id))
        .where(Prediction.version_id == version.id, in_collection(test_run))
    ).one()
    return {
        "run": run.id, "version": other.number, "version_id": other.id, "n": n,
        "up": int(rose or 0), "down": int(fell or 0), "shift": float(shift or 0),
    }  # fmt: skip


def _earlier(session: Session, test_run: TestRun) -> tuple[TestRun, Version] | None:
    """The newest run of another version on the same collection that came before, and that
    version."""
    earlier = session.execute(
        select(TestRun, Version)
        .join(Version, col(Version.id) == TestRun.version_id)
        .where(
            TestRun.collection_id == test_run.collection_id,
            TestRun.project_id == test_run.project_id,
            TestRun.id < test_run.id, TestRun.version_id != test_run.version_id,
        )
        .order_by(col(TestRun.id).desc())
    ).all()  # fmt: skip
    return next(((run, other) for run, other in earlier if run.summary), None)
