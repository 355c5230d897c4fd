"""The retrain job: labels frozen at one moment in, a published version out.

The moment is a score event: every event up to it counts, nothing later. The labels are copied into
the version's own rows before anything else happens, so a job that is killed and started again
trains on exactly the same set, with the same seed, and measures the same.
"""

import functools
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlmodel import Session, col, select

from tastemaker import __version__, embeddings, jobs, projects, scores
from tastemaker.config import Settings
from tastemaker.database.sessions import Transactions
from tastemaker.database.tables import (
    EncoderRow,
    Image,
    Job,
    Project,
    Version,
    VersionAnswer,
    VersionLabel,
)
from tastemaker.errors import Unavailable
from tastemaker.files import require_free_space
from tastemaker.files.percentages import probability
from tastemaker.jobs.context import JobContext
from tastemaker.jobs.progress import Progress, Silent
from tastemaker.learning.recipes import Curve, recipe_named
from tastemaker.learning.version_metrics import LossCurve, StoredRecipe
from tastemaker.processes import ready_to_compute
from tastemaker.scores import answers, classes
from tastemaker.scores.answers import Answer
from tastemaker.training import learners
from tastemaker.training.trainable import Known, known_now, why_not
from tastemaker.versions import hints, priors, publication, training_set
from tastemaker.versions.publication import FrozenLabel, HeadFile, Outcome, UsedLabel

if TYPE_CHECKING:
    from tastemaker.learning.answers import Answers
    from tastemaker.learning.classifier import TrainedClasses
    from tastemaker.learning.folds import TrainingSet
    from tastemaker.learning.training import Trained

MOST_ANSWERS = 1_500  # besides scores, the newest of them: more would cost minutes

# --- requesting it -----------------------------------------------------------------------------


def request_training(
    session: Session,
    settings: Settings,
    project: Project,
    note: str = "",
    recipe: str | None = None,
    major: bool = False,
) -> Job:
    """Queue a training on the labels as they stand now. What cannot train is refused at once.
    `major` begins a new series, v2.0 after v1.4: for a new meaning of the scale."""
    recipe = recipe or project.recipe
    recipe_named(recipe)
    if reason := why_not(known_now(session, project)):
        raise reason
    require_free_space(settings.root, settings.min_free_gb)
    payload = {
        "event_high": scores.highest_event(session, project),
        "comparison_high": answers.highest_comparison(session, project),
        "seed": project.seed, "recipe": recipe, "note": note.strip()[:500], "major": major,
    }  # fmt: skip
    return jobs.enqueue(session, "train", f"Train “{project.name}”", payload, project.id, once=True)


# --- the job -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """What to train: the labels as they stood at the score event `event_high` and the pairs as they
    stood at `comparison_high` (None: as they stand when the training begins), by a recipe, some of
    whose settings (such as `passes`) may be `changed`, on the vectors of the project's encoder or
    of the one named, to which the project then moves. The same `made_by` is the same version: doing
    it again finishes what was begun, or gives what was made."""

    project_id: int
    made_by: str
    event_high: int
    seed: int
    _: KW_ONLY
    comparison_high: int | None = None
    recipe: str = "auto"
    note: str = ""
    major: bool = False
    changed: Mapping[str, Any] = field(default_factory=dict)
    encoder_id: int | None = None


def run(job: JobContext) -> dict[str, Any]:
    """Train the job's project as its payload says."""
    request = Request(job.project_id, made_by=f"job {job.claim.job_id}", **job.payload)
    version = train_and_publish(job, job.settings, request, report=job)
    return {"version": version.number, "version_id": version.id, "active": version.active}


def train_and_publish(
    transactions: Transactions,
    settings: Settings,
    request: Request,
    *,
    report: Progress | None = None,
) -> Version:
    """Train as requested, judge the result, and publish it. Raises `NotTrainable`."""
    report = report or Silent()
    ready_to_compute(settings.torch_threads)
    version = _freeze(transactions, request, report)
    if version.state == "ready":
        return version
    with transactions.reading() as session:
        project = projects.get(session, request.project_id)
        data, group_names = _training_set(session, version)
        metadata = _metadata(session, project, version)
        started = priors.of_version(session, version)
        learner = learners.learner(session, project, version, data)
    report.stage(f"Training {version.number} on {len(data.y)} labels")
    trained = learner.train(
        recipe_named(request.recipe, seed=request.seed, **request.changed),
        functools.partial(_report_training, report),
    )
    report.log(f"{trained.kind}: {trained.choice.why}")
    lineage = [
        priors.as_json(row) | {"trust": trust.probability, "slope": trust.slope}
        for row, trust in zip(started, trained.trust, strict=False)
    ]
    for prior in lineage:
        report.log(f"starts from {prior['name']}: trust {probability(prior['trust'])}")
    learner.predict(transactions, group_names, report)
    report.stage("Measuring it")
    judgement = learner.judge(transactions)
    report.stage(f"Writing {version.number}")
    version = publication.publish(
        transactions,
        settings,
        version,
        HeadFile(
            trained.tensors,
            metadata | learner.metadata(),
            labels=learner.labels(),
            about={"starts_from": lineage} if lineage else {},
        ),
        Outcome(
            metrics=judgement.metrics,
            recipe=_recipe(trained),
            activate=judgement.activate,
            why=judgement.why,
            curve=_columns(trained.loss_curve),
            labels=_used_labels(data, trained),
            trust=trained.trust,
            moves=request.encoder_id is not None,
            classes=judgement.classes,
        ),
    )
    report.log(f"published {Path(version.file).name}")
    return version


def _freeze(transactions: Transactions, request: Request, report: Progress) -> Version:
    """The version row, with the labels of that moment copied into its own rows."""
    with transactions.reading() as session:
        version = publication.made_before(session, request.made_by)
        if version is not None:
            return version
        project = projects.get(session, request.project_id)
        removed = projects.removed_ids(session, project.id)
        labels = {
            image_id: label
            for image_id, label in scores.labels_at(session, project, request.event_high).items()
            if image_id not in removed
        }
        said = answers.answers_at(session, project, request.event_high, request.comparison_high)
        embedded: list[int] = []
        encoder_id = request.encoder_id or project.encoder_id
        if encoder_id is not None:
            embedded = embeddings.matrix(session, encoder_id, labels)[0].tolist()
        stars = hints.as_priors(session, project, encoder_id, labels)
        series = publication.next_major(session, project.id) if request.major else None
        told_apart = classes.of_project(session, project)
        points = 1 if told_apart else 10
    priors.follow(transactions, project.id)
    known = Known(
        project,
        y=np.array([label.value / points for label in labels.values()], np.float64),
        trains=np.array([not label.holdout for label in labels.values()], bool),
        embedded=bool(embedded),
        classes=told_apart,
    )
    if reason := why_not(known):
        raise reason
    if without := len(labels) - len(embedded):
        report.log(f"{without} labelled images have no embedding yet and are left out")
    rows = [labels[image_id] for image_id in embedded]
    assert encoder_id is not None  # or it could not be trained
    return publication.begin(
        transactions,
        project.id,
        request.made_by,
        [
            FrozenLabel(
                label.image_id, label.value,
                "holdout" if label.measures else "aside" if label.holdout else "train",
            )
            for label in rows
        ],
        said[-MOST_ANSWERS:],
        encoder_id=encoder_id, event_high=request.event_high, seed=request.seed,
        note=request.note, recipe={"name": request.recipe}, major=series,
        hints=stars,
    )  # fmt: skip


def _training_set(session: Session, version: Version) -> tuple["TrainingSet", dict[str, int]]:
    """The frozen labels as arrays, and the numbers of the source groups.

    Labels on the hold-out side that somebody picked rather than drew neither train nor measure;
    they stay out altogether."""
    from tastemaker.learning.folds import TrainingSet

    rows = session.execute(
        select(VersionLabel.image_id, VersionLabel.value, VersionLabel.side, Image.source_group)
        .join(Image, col(Image.id) == VersionLabel.image_id)
        .where(VersionLabel.version_id == version.id, VersionLabel.side != "aside")
        .order_by(col(VersionLabel.image_id))
    ).all()
    ids, x = embeddings.matrix(session, version.encoder_id, [row[0] for row in rows])
    if missing := len(rows) - len(ids):
        raise Unavailable(
            f"{missing:,} of the images that it learns from have no vector any more.",
            "Train again once they are embedded; the scores are kept.",
        )
    names = {name: number for number, name in enumerate(sorted({row[3] for row in rows}))}
    drawn = scores.drawn_at_random(session, version.project_id, version.event_high)
    groups = np.array([names[row[3]] for row in rows], np.int64)
    data = TrainingSet(
        image_ids=ids,
        x=x.astype(np.float32),
        y=np.array([row[1] / 10 for row in rows], np.float32),
        groups=groups,
        holdout=np.array([row[2] == "holdout" for row in rows], bool),
        random=np.array([row[0] in drawn for row in rows], bool),
        answers=_answers(session, version, names),
        priors=priors.lines_of_version(session, version),
    )
    return data, names


def _answers(session: Session, version: Version, names: dict[str, int]) -> "Answers | None":
    """The frozen answers about images off the hold-out side as arrays; sources of images without a
    label get further numbers in `names`."""
    frozen = session.exec(
        select(VersionAnswer)
        .where(VersionAnswer.version_id == version.id)
        .order_by(col(VersionAnswer.number))
    ).all()
    if not frozen:
        return None
    said = [Answer(row.first_id, row.second_id, row.share, row.bound) for row in frozen]
    about = {i for answer in said for i in (answer.first_id, answer.second_id) if i is not None}
    ids, x = embeddings.matrix(session, version.encoder_id, about)
    groups_of = select(Image.id, Image.source_group).where(col(Image.id).in_(ids.tolist()))
    source = dict(session.exec(groups_of).all())
    project = projects.get(session, version.project_id)
    sources = [source[image_id] for image_id in ids.tolist()]
    groups = np.array([names.setdefault(name, len(names)) for name in sources], np.int64)
    row_of = {
        image_id: row
        for row, (image_id, name) in enumerate(zip(ids.tolist(), sources, strict=True))
        if not projects.on_holdout_side(project, name)
    }
    return answers.as_arrays(said, row_of, x.astype(np.float32), groups)


def _report_training(
    report: Progress, done: int, total: int, message: str, curve: Curve | None = None
) -> None:
    report.progress(done, total, message, curve=dict(_columns(curve)) if curve else None)


# --- what is recorded of it --------------------------------------------------------------------


def _used_labels(data: "TrainingSet", trained: "Trained | TrainedClasses") -> list[UsedLabel]:
    split = trained.split
    return [
        UsedLabel(
            image_id, "train" if trains else "holdout" if measures else "aside",
            fold if trains else None,
        )
        for image_id, trains, measures, fold in zip(
            data.image_ids.tolist(), split.train, split.holdout, split.fold.tolist(), strict=True
        )
    ]  # fmt: skip


def _recipe(trained: "Trained | TrainedClasses") -> StoredRecipe:
    recipe: StoredRecipe = trained.recipe.as_dict()  # type: ignore[assignment]  # the same fields
    recipe["choice"] = trained.choice.as_json()
    return recipe


def _columns(points: Curve) -> LossCurve:
    if not points:
        return {}
    return {
        "step": [point["step"] for point in points],
        "train": [point["train"] for point in points],
        "validation": [point["inner"] for point in points],
        "lr": [point["lr"] for point in points],
    }


def _metadata(session: Session, project: Project, version: Version) -> dict[str, str]:
    """What the file carries about itself."""
    encoder = session.get(EncoderRow, version.encoder_id)
    assert encoder is not None
    normalised = embeddings.is_normalised(session, encoder)
    started = [f"{row.name} ({row.sha256})" for row in priors.of_version(session, version)]
    return ({"starts_from": ", ".join(started)} if started else {}) | {
        "format": "city96",
        "project": project.name,
        "version": version.number,
        "encoder": encoder.name,
        "encoder_fingerprint": encoder.fingerprint,
        "embedding": f"{'' if normalised else 'not '}L2-normalised",
        "event_high": str(version.event_high),
        "seed": str(version.seed),
        "training_set_sha256": training_set.sha256(session, version),
        "program": f"tastemaker {__version__}",
    }
