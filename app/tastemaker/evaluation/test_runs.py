"""Test runs: a version tried on a collection outside the pool.

One job does it all: import what is not here yet, embed what has no vector, let the version's file
predict, and write down what was seen. A run is a record, so the images it shows are chosen once:
the highest, the lowest, and those nearest to the threshold.

Images on the hold-out side count in the figures, but are not shown: they only measure.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
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
from tastemaker.errors import Conflict, Invalid, NotFound
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


def request_run(
    session: Session, settings: Settings, project: Project, version: Version, source: Source
) -> TestRun:
    """Queue a test run. The same run that still waits or works is given instead of a second."""
    if version.project_id != project.id:
        raise NotFound(f"“{project.name}” has no such version.", "Choose one of its own.")
    if version.encoder_id != project.encoder_id:
        raise Conflict(
            f"{version.number} was trained on another encoder than “{project.name}” uses now.",
            "Choose another version.",
        )
    given = [bool(source.collection_id), bool(source.folder.strip()), bool(source.files)]
    if sum(given) != 1:
        raise Invalid(
            "Name what to look at." if not any(given) else "This names more than one source.",
            "Choose a collection, a folder on this machine, or files.",
        )
    require_free_space(settings.root, settings.min_free_gb)
    payload: dict[str, Any] = {}
    if source.collection_id:
        collection = _outside_the_pool(session, project, source.collection_id)
    else:
        if source.files:
            assert source.staging is not None
            told = {"staging": source.staging.name, "files": [list(pair) for pair in source.files]}
            name = source.name or "Test uploads"
        else:
            path = requests.validate_paths(settings, [source.folder.strip()])[0]
            told, name = {"paths": [str(path)]}, source.name or requests.free_name(path)
        collection = _own_collection(session, project, name)
        payload["import"] = told | {
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
        called = name if number == 1 else f"{name} {number}"
        found = session.exec(select(Collection).where(Collection.name == called)).first()
        if found is None:
            found = Collection(name=called)
            session.add(found)
            session.flush()
            return found
        links = session.exec(
            select(ProjectCollection).where(ProjectCollection.collection_id == found.id)
        ).all()
        if [(link.project_id, link.role) for link in links] == [(project.id, "test-run")]:
            return found
    raise Conflict(f"There are too many collections named “{name}”.", "Choose another name.")


def _unfinished(session: Session, version: Version, collection: Collection) -> TestRun | None:
    return session.exec(
        select(TestRun)
        .join(Job, col(Job.id) == TestRun.job_id)
        .where(TestRun.version_id == version.id, TestRun.collection_id == collection.id)
        .where(col(Job.state).in_(("queued", "running")))
    ).first()


# --- the job -----------------------------------------------------------------------------------


def run(work: JobContext) -> dict[str, Any]:
    """The job “test-run”. Each step skips what is done, so it may be killed and started again."""
    with work.reading() as session:
        found = session.get(TestRun, work.payload["run"])
        if found is None:
            raise NotFound("This test run was removed.")
        if found.summary:
            return {"run": found.id, "n": found.summary["n"]}
        version = versions.get(session, found.version_id)
    if "import" in work.payload:
        imports.import_files(
            work, work.payload["import"], work.project_id, queue_embedding=False
        )  # fmt: skip
    with work.reading() as session:
        query = embeddings.missing(version.encoder_id, None, found.collection_id).limit(1)
        without_vector = session.exec(query).first() is not None
    if without_vector:
        embeddings.embed_project(work, work.project_id, found.collection_id)
    predictions.predict_missing(work, version, found.collection_id)
    work.stage("Looking at the result")
    with work.reading() as session:
        summary = summarise(session, projects.get(session, work.project_id), found, version)
    with work.writing() as session:
        row = session.get(TestRun, found.id)
        assert row is not None
        row.summary = summary
        session.add(row)
    return {"run": found.id, "n": summary["n"]}


def summarise(
    session: Session, project: Project, found: TestRun, version: Version
) -> dict[str, Any]:
    """What the version says about the collection. Scores are in [0, 1], and honest: where an image
    was trained on, it is the score by a head that never saw it."""
    threshold = project.threshold
    rows = session.execute(
        select(Prediction.image_id, _honest(Prediction), Prediction.uncertainty, Image.source_group)
        .join(Image, col(Image.id) == Prediction.image_id)
        .where(Prediction.version_id == version.id, _in_collection(found))
        .order_by(col(Prediction.image_id))
    ).all()
    said = np.array([row[1] for row in rows], np.float64)
    held = np.array([projects.on_holdout_side(project, row[3]) for row in rows], bool)
    all_images = select(func.count()).select_from(CollectionImage).where(
        CollectionImage.collection_id == found.collection_id
    )  # fmt: skip
    n = len(said)
    order = {
        "top": np.argsort(-said, kind="stable"),
        "threshold": np.argsort(np.abs(said - threshold), kind="stable"),
        "bottom": np.argsort(said, kind="stable"),
    }
    return {
        "n": n,
        "without_prediction": int(session.exec(all_images).one()) - n,
        "holdout": int(held.sum()),
        "threshold": threshold,
        "passes": int((said >= threshold).sum()),
        "pass_rate": float((said >= threshold).mean()) if n else None,
        "mean": float(said.mean()) if n else None,
        "median": float(np.median(said)) if n else None,
        "histogram": np.histogram(said, bins=BINS, range=(0, 1))[0].tolist(),
        "against": _against_earlier(session, found, version, threshold),
        "grids": {
            grid: [
                [rows[i][0], round(float(said[i]), 4), round(float(rows[i][2]), 4)]
                for i in indices[~held[indices]][:SHOWN].tolist()
            ]
            for grid, indices in order.items()
        },
    }


def _honest(table: Any) -> Any:
    return func.coalesce(table.out_of_fold, table.score)


def _in_collection(found: TestRun) -> Any:
    """Condition on Prediction: its image is in the run's collection and was not taken out of the
    project."""
    inside = (
        select(CollectionImage.image_id)
        .where(
            CollectionImage.collection_id == found.collection_id,
            CollectionImage.image_id == Prediction.image_id,
        )
        .exists()
    )
    return and_(inside, ~projects.is_removed(found.project_id, Prediction.image_id))


def _against_earlier(
    session: Session, found: TestRun, version: Version, threshold: float
) -> dict[str, Any] | None:
    """The newest earlier run of another version on the same collection: on the images that both
    have predicted, how many pass now that failed (`up`), and the reverse (`down`)."""
    earlier = session.execute(
        select(TestRun, Version)
        .join(Version, col(Version.id) == TestRun.version_id)
        .where(
            TestRun.collection_id == found.collection_id, TestRun.project_id == found.project_id,
            TestRun.id < found.id, TestRun.version_id != found.version_id,
        )
        .order_by(col(TestRun.id).desc())
    ).all()  # fmt: skip
    done = [(run, other) for run, other in earlier if run.summary]
    if not done or done[0][1].encoder_id != version.encoder_id:
        return None
    run, other = done[0]
    before = aliased(Prediction)
    now, then = _honest(Prediction), _honest(before)
    up = case((and_(now >= threshold, then < threshold), 1), else_=0)
    down = case((and_(now < threshold, then >= threshold), 1), else_=0)
    n, rose, fell, shift = session.execute(
        select(func.count(), func.sum(up), func.sum(down), func.avg(now - then))
        .join(before, and_(before.image_id == Prediction.image_id, before.version_id == other.id))
        .where(Prediction.version_id == version.id, _in_collection(found))
    ).one()
    return {
        "run": run.id, "version": other.number, "version_id": other.id, "n": n,
        "up": int(rose or 0), "down": int(fell or 0), "shift": float(shift or 0),
    }  # fmt: skip
