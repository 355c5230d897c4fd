"""The retrain job: labels frozen at one moment in, a published version out.

The moment is a score event: everything said up to it counts, nothing later. The labels are copied
into the version's own rows before anything else happens, so a job that is killed and started again
trains on exactly the same set, with the same seed, and measures the same.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlmodel import Session, col, select

from tastemaker import __version__, embeddings, jobs, projects, scores, versions
from tastemaker.config import Settings
from tastemaker.database.tables import EncoderRow, Image, Job, Label, Project, Version, VersionLabel
from tastemaker.errors import CheckpointError, NotTrainable
from tastemaker.evaluation import expectations
from tastemaker.files import require_free_space
from tastemaker.jobs.context import JobContext
from tastemaker.learning.checkpoints import load_checkpoint, save_checkpoint, sidecar
from tastemaker.learning.recipes import recipe_named
from tastemaker.versions import predictions, version_report

if TYPE_CHECKING:
    from tastemaker.learning.folds import TrainingSet

# --- asking for it -----------------------------------------------------------------------------


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
    if project.kind != "score":
        raise NotTrainable(
            f"“{project.name}” holds a classifier made elsewhere; only scores can be learned.",
            "Make another project to train on scores.",
        )
    recipe = recipe or project.recipe
    recipe_named(recipe)
    require_free_space(settings.root, settings.min_free_gb)
    check_trainable(session, project)
    payload = {
        "event_high": scores.highest_event(session, project),
        "seed": project.seed, "recipe": recipe, "note": note.strip()[:500], "major": major,
    }  # fmt: skip
    return jobs.enqueue(session, "train", f"Train “{project.name}”", payload, project.id, once=True)


def check_trainable(session: Session, project: Project) -> None:
    """`NotTrainable` when the labels at hand cannot train anything."""
    counts = select(Label.value).where(
        Label.project_id == project.id, ~projects.is_removed(project.id, Label.image_id)
    )
    values = session.exec(counts.where(~col(Label.holdout))).all()
    everything = session.exec(counts).all()
    more = "Score a few more images, then train again."
    if not everything:
        raise NotTrainable("No image is scored yet, so there is nothing to learn from.", more)
    if len(everything) == 1:
        raise NotTrainable("Only one image is scored; training needs at least two.", more)
    if len(set(everything)) == 1:
        raise NotTrainable(
            f"All {len(everything)} scored images have the same score, so there is nothing to "
            "tell apart.",
            "Score images that you like more, or less.",
        )
    if len(set(values)) < 2:
        raise NotTrainable(
            "Outside the hold-out, which only measures, there are not yet two different scores.",
            more,
        )


# --- the job -----------------------------------------------------------------------------------


def run(work: JobContext) -> dict[str, Any]:
    """Train the job's project as its payload says."""
    version = train_and_publish(
        work,
        work.project_id,
        made_by=f"job {work.claim.job_id}",
        event_high=work.payload["event_high"],
        seed=work.payload["seed"],
        recipe=work.payload["recipe"],
        note=work.payload["note"],
        major=work.payload.get("major", False),
    )
    return {"version": version.number, "version_id": version.id, "active": version.active}


def train_and_publish(
    work: JobContext,
    project_id: int,
    *,
    made_by: str,
    event_high: int,
    seed: int,
    recipe: str,
    note: str,
    major: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Version:
    """Train on the labels as they stood at `event_high` and publish the result. Doing it again
    under the same `made_by` finishes what was begun, or gives what was made. `settings` of the
    recipe, such as `passes`, replace its own."""
    import torch

    from tastemaker.evaluation import evaluate
    from tastemaker.learning.training import train

    torch.set_num_threads(work.settings.torch_threads or torch.get_num_threads())
    version = _freeze(work, project_id, made_by, event_high, seed, recipe, note, major)
    if version.state == "ready":
        return version
    with work.reading() as session:
        project = projects.get(session, project_id)
        encoder = session.get(EncoderRow, version.encoder_id)
        assert encoder is not None
        data, group_names = _training_set(session, version)
        metadata = _metadata(session, project, version, encoder)
    work.stage(f"Training {version.number} on {len(data.y)} labels")
    trained = train(
        data,
        recipe_named(recipe, seed=seed, **(settings or {})),
        progress=functools.partial(_tell, work),
        threshold=project.threshold,
    )
    work.log(f"{trained.kind}: {trained.metrics['choice']['why']}")

    work.stage(f"Writing {version.number}")
    path = versions.write_file(
        work,
        version,
        functools.partial(_save, tensors=trained.tensors, metadata=metadata),
        functools.partial(_config, project, version, encoder, data.x.shape[1]),
    )
    _predict(work, project, version, trained, group_names)
    work.stage("Measuring it")
    duel = evaluate.against_active(work, version, data, trained)
    with work.reading() as session:
        report = expectations.check(session, version, frozen=True)
    versions.make_ready(
        work,
        version,
        sides=[
            {
                "image_id": image_id,
                "side": "train" if train else "holdout" if holdout else "aside",
                "fold": fold if train else None,
            }
            for image_id, train, holdout, fold in zip(
                data.image_ids.tolist(), trained.split.train, trained.split.holdout,
                trained.split.fold.tolist(), strict=True,
            )
        ],
        metrics=evaluate.stored_metrics(work, version, data, trained, duel) | report.as_dict(),
        curve=_curve(trained.loss_curve),
        recipe=trained.recipe.as_dict() | {"choice": trained.metrics["choice"]},
        activation=_activation(version, duel, report),
    )  # fmt: skip
    work.log(f"published {path.name}")
    with work.reading() as session:
        return versions.get(session, version.id)


def _freeze(
    work: JobContext, project_id: int, made_by: str, event_high: int, seed: int, recipe: str,
    note: str, major: bool,
) -> Version:  # fmt: skip
    """The version row, with the labels of that moment copied into its own rows."""
    with work.reading() as session:
        project = projects.get(session, project_id)
        if project.encoder_id is None:
            raise NotTrainable(
                "No image is embedded yet.", "Wait for the embedding job, then train again."
            )
        version = session.exec(select(Version).where(Version.made_by == made_by)).first()
        if version is not None:
            return version
        removed = projects.removed_ids(session, project_id)
        labels = {
            image_id: label
            for image_id, label in scores.labels_at(session, project, event_high).items()
            if image_id not in removed
        }
        embedded, _ = embeddings.matrix(session, project.encoder_id, labels)
        series = versions.next_major(session, project_id) if major else None
    rows = [labels[image_id] for image_id in embedded.tolist()]
    without = len(labels) - len(rows)
    if without:
        work.log(f"{without} labelled images have no embedding yet and are left out")
    if not rows:
        raise NotTrainable(
            "None of the scored images is embedded yet.",
            "Wait for the embedding job, then train again.",
        )
    return versions.begin(
        work,
        project_id,
        made_by,
        labels=[
            {
                "image_id": label.image_id, "value": label.value,
                "side": "holdout" if label.measures else "aside" if label.holdout else "train",
            }
            for label in rows
        ],
        major=series, encoder_id=project.encoder_id, event_high=event_high, seed=seed, note=note,
        recipe={"name": recipe},
    )  # fmt: skip


def _training_set(session: Session, version: Version) -> tuple["TrainingSet", dict[str, int]]:
    """The frozen labels as arrays, and the numbers given to source groups.

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
    assert ids.tolist() == [row[0] for row in rows]
    names = {name: number for number, name in enumerate(sorted({row[3] for row in rows}))}
    data = TrainingSet(
        image_ids=ids,
        x=x.astype(np.float32),
        y=np.array([row[1] / 10 for row in rows], np.float32),
        groups=np.array([names[row[3]] for row in rows], np.int64),
        holdout=np.array([row[2] == "holdout" for row in rows], bool),
    )
    return data, names


def _tell(work: JobContext, done: int, total: int, message: str, curve: Any = None) -> None:
    work.progress(done, total, message, curve=_curve(curve) if curve else None)


def _save(path: Path, *, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> str:
    """Write the checkpoint, read it back as a stranger would, and compare every number."""
    sha256 = save_checkpoint(path, tensors, metadata)
    read = load_checkpoint(path)
    if any(
        not np.array_equal(read.tensors[name], np.float32(value)) for name, value in tensors.items()
    ):
        raise CheckpointError("The checkpoint read back differently from what was written.")
    return sha256


def _predict(
    work: JobContext, project: Project, version: Version, trained: Any, group_names: dict[str, int]
) -> None:
    """What the published file says about every image of the project, row by row. The file was
    read back and holds exactly the tensors that speak here."""
    versions.discard_predictions(work, version)
    with work.reading() as session:
        ids, x = embeddings.project_matrix(session, project)
        group_of = dict(session.execute(select(Image.id, Image.source_group)).all())
    groups = np.array([group_names.get(group_of[i], -1) for i in ids.tolist()], np.int64)
    work.stage("Predicting every image", len(ids))
    for start in range(0, len(ids), 4096):
        part = slice(start, start + 4096)
        score, out_of_fold, spread = trained.predict(x[part].astype(np.float32), groups[part])
        predictions.write(
            work, version.id, ids[part], score, out_of_fold, spread,
            progress=functools.partial(_count, work, start, len(ids)),
        )  # fmt: skip


def _count(work: JobContext, before: int, total: int, done: int) -> None:
    work.progress(before + done, total)


# --- judging it --------------------------------------------------------------------------------


def _activation(
    version: Version, duel: dict[str, Any] | None, report: expectations.Report
) -> tuple[bool, str]:
    if version.parent_id is None:
        return True, "the first version"
    if report.blocking:
        return False, "not activated: " + "; ".join(check.missed for check in report.blocking)
    if duel is None:
        return True, "not compared: no hold-out label yet"
    against = f"than {duel['version']} on {duel['n']} hold-out images"
    if duel["verdict"] == "worse":
        return False, f"not activated: worse {against}"
    if duel["verdict"] == "better":
        return True, f"better {against}"
    return True, f"not shown to be worse {against}"


def _curve(points: list[dict[str, float]]) -> dict[str, list[float]]:
    if not points:
        return {}
    names = {"step": "step", "train": "train", "inner": "validation", "lr": "lr"}
    return {new: [point[old] for point in points] for old, new in names.items()}


# --- what the file says of itself --------------------------------------------------------------


def _metadata(
    session: Session, project: Project, version: Version, encoder: EncoderRow
) -> dict[str, str]:
    normalised = embeddings.is_normalised(session, encoder)
    return {
        "format": "city96",
        "project": project.name,
        "version": version.number,
        "encoder": encoder.name,
        "encoder_fingerprint": encoder.fingerprint,
        "embedding": f"{'' if normalised else 'not '}L2-normalised",
        "score": "sigmoid(2z) in 0-1; hand scores were 0-10",
        "threshold": f"{project.threshold:g}",
        "event_high": str(version.event_high),
        "seed": str(version.seed),
        "training_set_sha256": version_report.training_set_hash(session, version),
        "program": f"tastemaker {__version__}",
    }


def _config(
    project: Project, version: Version, encoder: EncoderRow, features: int, sha256: str
) -> dict[str, Any]:
    return sidecar(
        versions.base_name(project),
        version.number,
        features=features,
        encoder={"name": encoder.name, "fingerprint": encoder.fingerprint, **encoder.details},
        score_range=[0, 10],
        threshold=project.threshold,
        brackets=project.brackets,
        sha256=sha256,
    )
