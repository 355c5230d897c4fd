"""Heads made elsewhere: a score or class file of the original, or a LAION head, becomes v0.0.

    read_foreign       what the file is, checked byte by byte; nothing is stored yet
    import_checkpoint  does it fit the project? then it is staged and a job is queued
    run                the job: publish the file as it came, predict every image, measure

Whether a head fits cannot be seen from its numbers: CLIP at 224 and at 336 pixels both give 768,
and a head fed with the wrong one scores without a sign that anything is wrong. So the encoder is
named by the file, its sidecar or the person, and never guessed.
"""

import functools
import json
import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sqlalchemy import Engine
from sqlmodel import Session, func, select

from app import db, embeddings, jobs, projects
from app.encoding.encoders import KNOWN, parse
from app.errors import CheckpointError, Conflict, Invalid, NotFound
from app.files import require_free_space, write_atomic
from app.learning import laion
from app.learning.checkpoints import (
    Tensors,
    load_checkpoint,
    save_checkpoint,
    sidecar,
    tensor_names,
)
from app.learning.checkpoints import sidecar_path as beside
from app.scoring import scores
from app.tables import EncoderRow, Image, Job, Label, Project, Version
from app.versioning import predictions, versions
from app.work import Work

MOST_SIDECAR_BYTES = 2**20
FEWEST_FOR_NOISE = 8  # labels from which the head's own error is taken for its uncertainty
USUAL_ERROR = 0.15  # a point and a half: what such heads are off where nothing is known yet

# The same networks under the names other programs give them.
ALIASES = {
    "openai/clip-vit-large-patch14": "ViT-L-14-quickgelu/openai",
    "openai/clip-vit-large-patch14-336": "ViT-L-14-336-quickgelu/openai",
    "openai/clip-vit-base-patch16": "ViT-B-16-quickgelu/openai",
    "openai/clip-vit-base-patch32": "ViT-B-32-quickgelu/openai",
    "ViT-L/14": "ViT-L-14-quickgelu/openai",
    "ViT-L/14@336px": "ViT-L-14-336-quickgelu/openai",
    "ViT-B/32": "ViT-B-32-quickgelu/openai",
    "ViT-B/16": "ViT-B-16-quickgelu/openai",
    "ViT-L-14/openai": "ViT-L-14-quickgelu/openai",
    "ViT-L-14-336/openai": "ViT-L-14-336-quickgelu/openai",
    "ViT-B-32/openai": "ViT-B-32-quickgelu/openai",
    "ViT-B-16/openai": "ViT-B-16-quickgelu/openai",
}


@dataclass(frozen=True)
class Foreign:
    """A head from a file: the 16 tensors, or the line of a LAION head. `encoder` and `fingerprint`
    are what the file or its sidecar says of them; `labels` names the classes (empty: one score)."""

    name: str
    head: Tensors | laion.Line
    features: int
    outputs: int
    labels: tuple[str, ...]
    encoder: str | None
    fingerprint: str | None
    normalised: bool
    sha256: str
    sidecar: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> Literal["score", "class"]:
        return "score" if self.outputs == 1 else "class"

    @property
    def layout(self) -> Literal["city96", "laion"]:
        return "laion" if isinstance(self.head, laion.Line) else "city96"

    def tensors(self) -> Tensors:
        """The head as the 16 tensors; a line is within 1e-5 of its clipped self there."""
        if not isinstance(self.head, laion.Line):
            return self.head
        from app.learning.heads import linear_head  # torch: for the job alone

        none, one = np.zeros(self.features, np.float32), np.ones(self.features, np.float32)
        weights = (self.head.weights / laion.POINTS).astype(np.float32)
        bias = self.head.bias / laion.POINTS
        return linear_head(weights, bias, none, one, link="identity")


# --- reading -----------------------------------------------------------------------------------


def read_foreign(file: Path, name: str = "", config: Path | None = None) -> Foreign:
    """The head in `file` (called `name`), with its sidecar `config` if there is one. Raises
    `NotFound`, `CheckpointError`."""
    name = name or file.name
    if not file.is_file():
        raise NotFound(f"There is no file {file}.", "Name a .safetensors file.")
    try:
        said = _read_sidecar(config) if config is not None else {}
        if laion.is_laion(tensor_names(file)):
            return _read_laion(file, name, said)
        return _read_city96(file, name, said)
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error.message}", error.hint) from error


def _read_city96(file: Path, name: str, said: dict[str, Any]) -> Foreign:
    read = load_checkpoint(file)
    encoder, fingerprint = _said_encoder(said, read.metadata)
    return Foreign(
        name=name, head=read.tensors, features=read.features,
        outputs=read.outputs, labels=_labels(said, read.features, read.outputs), encoder=encoder,
        fingerprint=fingerprint, normalised=read.metadata.get("embedding") == "L2-normalised",
        sha256=read.sha256, sidecar=said,
    )  # fmt: skip


def _read_laion(file: Path, name: str, said: dict[str, Any]) -> Foreign:
    line, metadata, sha256 = laion.read_line(file)
    encoder, fingerprint = _said_encoder(said, metadata)
    return Foreign(
        name=name, head=line, features=laion.FEATURES, outputs=1, labels=(),
        encoder=encoder or laion.ENCODER, fingerprint=fingerprint, normalised=True, sha256=sha256,
        sidecar=said,
    )  # fmt: skip


def _read_sidecar(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MOST_SIDECAR_BYTES:
            raise CheckpointError("The sidecar is larger than a megabyte; it holds a few lines.")
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise CheckpointError("The sidecar is not a JSON file.") from None
    if not isinstance(said, dict):
        raise CheckpointError("The sidecar is not a JSON object.")
    return said


def _labels(said: dict[str, Any], features: int, outputs: int) -> tuple[str, ...]:
    """The names of the classes, in order; their numbers where nobody named them."""
    params = said.get("model_params") or {}
    found = {"features": features, "outputs": outputs}
    if not isinstance(params, dict) or any(params.get(k, n) != n for k, n in found.items()):
        raise CheckpointError(
            f"The sidecar speaks of another head: this one reads {features} numbers and has "
            f"{outputs} {'output' if outputs == 1 else 'outputs'}.",
            "Take the .config.json that came with the file.",
        )
    labels = said.get("labels")
    if outputs == 1:
        if labels or said.get("arch") == "class":
            raise CheckpointError("The sidecar names classes, but the head has a single output.")
        return ()
    if labels is None or labels == {}:
        return tuple(str(i) for i in range(outputs))
    wanted = [str(i) for i in range(outputs)]
    if not isinstance(labels, dict) or sorted(labels) != sorted(wanted):
        raise CheckpointError(
            f"The sidecar must name the {outputs} classes “0” to “{outputs - 1}”, each once."
        )
    if not all(isinstance(labels[key], str) and labels[key].strip() for key in wanted):
        raise CheckpointError("The sidecar holds the name of a class that is no text.")
    return tuple(labels[key] for key in wanted)


def _said_encoder(said: dict[str, Any], metadata: dict[str, str]) -> tuple[str | None, str | None]:
    """(name, fingerprint) of the encoder by the file's metadata, else by its sidecar."""
    if metadata.get("encoder"):
        return canonical(metadata["encoder"]), metadata.get("encoder_fingerprint")
    named = said.get("encoder")
    if isinstance(named, dict):
        fingerprint = named.get("fingerprint")
        fingerprint = fingerprint if isinstance(fingerprint, str) else None
        named = named.get("name")
    else:
        fingerprint = None
    return (canonical(named), fingerprint) if isinstance(named, str) and named else (None, None)


def canonical(name: str) -> str:
    """An encoder's name as this program writes it, without the place of local weights."""
    identity = name.strip().partition("@")[0] if name not in ALIASES else name
    return ALIASES.get(identity, identity)


# --- does it fit? ------------------------------------------------------------------------------


def check_fits(
    session: Session, project: Project, head: Foreign, encoder: str | None = None
) -> None:
    """Raise the reason why this head cannot score the project's embeddings. `encoder` is what the
    person says it was trained on."""
    _check_kind(session, project, head)
    if encoder:
        parse(ALIASES.get(encoder.strip(), encoder))  # a misspelt name is told as such
    told = canonical(encoder) if encoder else None
    if told and head.encoder and told != head.encoder:
        raise Conflict(
            f"{head.name} says that it was trained on {head.encoder}, not on {told}.",
            "Leave the encoder out, or take the file that was trained on it.",
        )
    pinned = session.get(EncoderRow, project.encoder_id) if project.encoder_id else None
    dim = pinned.dim if pinned else parse(project.encoder).dim
    if dim is not None and dim != head.features:
        raise Conflict(
            f"{head.name} takes embeddings of {head.features} numbers, but the encoder of "
            f"“{project.name}” gives {dim}.",
            "Import it into a project with the encoder it was trained on.",
        )
    needed = told or head.encoder
    if needed is None:
        raise Invalid(
            f"{head.name} does not say which encoder it was trained on, and {head.features} "
            f"numbers are what {_giving(head.features, project)}.",
            "Name the encoder (--encoder NAME, or the list on the page): with the wrong one every "
            "score would be wrong without a sign of it.",
        )
    same_weights = pinned is not None and head.fingerprint == pinned.fingerprint
    if needed != canonical(project.encoder) and not same_weights:
        raise Conflict(
            f"{head.name} needs the encoder {needed}; “{project.name}” works with "
            f"{canonical(project.encoder)}.",
            f"Make a project with the encoder {needed} and import it there.",
        )
    if pinned is not None:
        _check_fingerprint(session, project, head, pinned)


def _check_kind(session: Session, project: Project, head: Foreign) -> None:
    if head.kind == project.kind:
        return
    if head.kind == "score":
        raise Conflict(
            f"“{project.name}” sorts into classes; {head.name} gives a score.",
            "Import it into another project.",
        )
    used = any(
        session.exec(select(func.count()).select_from(table).where(table.project_id == project.id))
        .one()
        for table in (Label, Version)
    )  # fmt: skip
    if used:
        raise Conflict(
            f"{head.name} tells {head.outputs} classes apart; “{project.name}” gives scores and is "
            "in use.",
            "Import it into a new project, which then becomes one for classes.",
        )


def _check_fingerprint(
    session: Session, project: Project, head: Foreign, pinned: EncoderRow
) -> None:
    if head.normalised != (normalised := is_normalised(session, pinned)):
        wants, has = ("", "not ") if head.normalised else ("not ", "")
        raise Conflict(
            f"{head.name} was trained on embeddings that are {wants}L2-normalised; those of "
            f"“{project.name}” are {has}so{'' if normalised else ' but raw'}.",
            "Import it into a project whose embeddings are of that kind.",
        )
    if head.fingerprint and not pinned.declared and head.fingerprint != pinned.fingerprint:
        declared = head.fingerprint.startswith("declared:")
        if not declared:
            raise Conflict(
                f"{head.name} was trained on another fingerprint of {pinned.name} (other weights, "
                "preprocessing or number type).",
                "Vectors of different fingerprints never mix.",
            )


def _giving(features: int, project: Project) -> str:
    """“A and B both give”: the encoders of that width, those most likely first."""
    names = [known.name for known in KNOWN if known.dim == features]
    if (own := canonical(project.encoder)) not in names and parse(project.encoder).dim is None:
        names.insert(0, own)
    if len(names) < 2:
        return f"{names[0]} gives, and others too" if names else "several encoders give"
    return f"{', '.join(names[:-1])} and {names[-1]} give alike"


def is_normalised(session: Session, encoder: EncoderRow) -> bool:
    """Whether an encoder's vectors have length 1: as it says, else as a few of them show."""
    if "l2_normalised" in encoder.details:
        return bool(encoder.details["l2_normalised"])
    few = session.exec(
        select(embeddings.Embedding.vector)
        .where(embeddings.Embedding.encoder_id == encoder.id)
        .limit(64)
    ).all()
    lengths = [float(np.linalg.norm(np.frombuffer(v, "<f2").astype(np.float32))) for v in few]
    return bool(lengths) and all(abs(length - 1) < 0.01 for length in lengths)


# --- asking for it -----------------------------------------------------------------------------


def import_checkpoint(
    engine: Engine,
    settings: Any,
    project_id: int,
    file: Path,
    *,
    name: str = "",
    config: Path | None = None,
    encoder: str | None = None,
    note: str = "",
    activate: bool = False,
) -> Job:
    """Check a foreign head against a project and queue its import. Whatever is refused leaves
    nothing behind."""
    if config is None and beside(file).is_file():
        config = beside(file)
    head = read_foreign(file, name, config)
    with db.reading(engine) as session:
        check_fits(session, projects.get(session, project_id), head, encoder)
    require_free_space(settings.root, settings.min_free_gb)
    staging = settings.incoming / secrets.token_hex(16)
    staging.mkdir(parents=True)
    try:
        shutil.copyfile(file, staging / "head.safetensors")
        if config is not None:
            shutil.copyfile(config, staging / "head.config.json")
        with db.writing(engine) as session:
            project = projects.get(session, project_id)
            check_fits(session, project, head, encoder)
            if project.kind != head.kind:
                project.kind = head.kind
                session.add(project)
            payload = {
                "staging": staging.name, "name": head.name, "encoder": encoder,
                "note": note.strip()[:500], "activate": activate,
                "event_high": scores.highest_event(session, project),
            }  # fmt: skip
            return jobs.enqueue(session, "adopt", f"Import {head.name}", payload, project.id)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def project_for(
    engine: Engine, name: str, file: Path, encoder: str | None, config: Path | None = None
) -> int:
    """The id of the project a head goes into: the one of that name, or a new one for its encoder.
    A file that cannot be read makes no project."""
    with db.reading(engine) as session:
        project = projects.find(session, name)
    if project is not None:
        return project.id
    if config is None and beside(file).is_file():
        config = beside(file)
    head = read_foreign(file, config=config)
    needed = head.encoder or (canonical(encoder) if encoder else None)
    if needed is None:
        raise NotFound(
            f"There is no project “{name}”, and {head.name} does not say for which encoder to make "
            "one.",
            "Name a project that there is, or the encoder with --encoder.",
        )
    with db.writing(engine) as session:
        project = projects.create(session, name, encoder=needed)
        check_fits(session, project, head, encoder)
        return project.id


# --- the job -----------------------------------------------------------------------------------


def run(work: Work) -> dict[str, Any]:
    """Publish the staged head as the next version v0.x. Safe to run again after a crash."""
    made_by = f"job {work.claim.job_id}"
    staging = work.settings.incoming / work.payload["staging"]
    with work.reading() as session:
        version = session.exec(select(Version).where(Version.made_by == made_by)).first()
    if version is None or version.state != "ready":
        version = _adopt(work, staging, made_by)
    shutil.rmtree(staging, ignore_errors=True)
    return {"version": version.number, "version_id": version.id, "active": version.active}


def _adopt(work: Work, staging: Path, made_by: str) -> Version:
    file, config = staging / "head.safetensors", staging / "head.config.json"
    head = read_foreign(file, work.payload["name"], config if config.exists() else None)
    with work.reading() as session:
        project = projects.get(session, work.project_id)
    if project.encoder_id is None:  # nothing was embedded yet: that settles the fingerprint
        embeddings.embed_project(work, project.id)
    with work.reading() as session:
        project = projects.get(session, work.project_id)
        check_fits(session, project, head, work.payload["encoder"])
        encoder = session.get(EncoderRow, project.encoder_id)
        assert encoder is not None
        labels = scores.labels_at(session, project, work.payload["event_high"])
        ids, x = embeddings.project_matrix(session, project)
        group_of = dict(session.execute(select(Image.id, Image.source_group)).all())
    embedded = set(ids.tolist())
    version = versions.begin(
        work,
        project.id,
        made_by,
        labels=[
            {
                "image_id": label.image_id, "value": label.value,
                "side": "holdout" if label.measures else "aside",
            }
            for label in labels.values()
            if label.image_id in embedded
        ],
        major=0, encoder_id=encoder.id, event_high=work.payload["event_high"], seed=project.seed,
        note=work.payload["note"] or f"imported from {head.name}",
    )  # fmt: skip

    work.stage(f"Writing {version.number}")
    path = versions.write_file(
        work, version, functools.partial(_save, file, head),
        functools.partial(_config, project, version, encoder, head),
    )  # fmt: skip
    if head.layout == "laion":
        write_atomic(original_path(path), file.read_bytes())
    said = _say(work, head, x)
    metrics = _measure(project, head, ids, said, labels, group_of)
    versions.discard_predictions(work, version)
    predictions.write(
        work, version.id, ids, said, np.full(len(ids), np.nan),
        np.full(len(ids), metrics["noise"]), progress=work.progress,
    )  # fmt: skip
    with work.reading() as session:
        first = versions.active(session, project) is None
    why = "the first version" if first else "chosen when it was imported"
    active = first or bool(work.payload["activate"])
    versions.make_ready(
        work, version, labels=[], metrics=metrics, curve={}, recipe=_recipe(head),
        activation=(active, why if active else "not activated: it was only imported"),
    )  # fmt: skip
    work.log(f"published {path.name}")
    with work.reading() as session:
        return versions.get(session, version.id)


def original_path(checkpoint: Path) -> Path:
    """Where a head that came in the LAION layout is kept byte for byte."""
    return checkpoint.with_name(checkpoint.name.removesuffix(".safetensors") + ".laion.safetensors")


def _save(source: Path, head: Foreign, path: Path) -> str:
    """The file as it came, to the byte; one of another layout as the 16 tensors."""
    tensors = head.tensors()
    if head.layout == "city96":
        shutil.copyfile(source, path)
    else:
        save_checkpoint(path, tensors, {"imported_from": head.name})
    read = load_checkpoint(path)
    if any(not np.array_equal(read.tensors[n], np.float32(v)) for n, v in tensors.items()):
        raise CheckpointError("The checkpoint read back differently from what was written.")
    return read.sha256


def _config(
    project: Project, version: Version, encoder: EncoderRow, head: Foreign, sha256: str
) -> dict[str, Any]:
    return sidecar(
        versions.base_name(project),
        version.number,
        features=head.features,
        labels=list(head.labels) or None,
        encoder={"name": encoder.name, "fingerprint": encoder.fingerprint, **encoder.details},
        score_range=[0, 10],
        threshold=project.threshold,
        brackets=project.brackets,
        sha256=sha256,
        imported={"file": head.name, "sha256": head.sha256, "sidecar": head.sidecar},
    )


def _recipe(head: Foreign) -> dict[str, Any]:
    return {
        "name": "imported", "file": head.name, "layout": head.layout, "source_sha256": head.sha256,
        "outputs": head.outputs, "labels": list(head.labels),
    }  # fmt: skip


def _say(work: Work, head: Foreign, x: np.ndarray) -> np.ndarray:
    """(N,) what the head says of every embedded image, as one score in [0, 1] each."""
    import torch

    from app.learning.heads import Scorer, as_score

    torch.set_num_threads(work.settings.torch_threads or torch.get_num_threads())
    scorer = Scorer(head.tensors())
    said = np.empty(len(x), np.float32)
    work.stage("Predicting every image", len(x))
    for start in range(0, len(x), 4096):
        said[start : start + 4096] = as_score(scorer(x[start : start + 4096]))
        work.progress(start)
    if not np.isfinite(said).all():
        raise CheckpointError(f"{head.name} gives numbers that are not finite for some images.")
    return said


def _measure(
    project: Project,
    head: Foreign,
    ids: np.ndarray,
    said: np.ndarray,
    labels: dict[int, Label],
    group_of: dict[int, str],
) -> dict[str, Any]:
    """Its error on the hold-out, as of any version; and on every label, none of which it was
    trained on as far as anybody knows."""
    from app.learning.metrics import flat, histogram, summary

    at = {image_id: row for row, image_id in enumerate(ids.tolist())}
    known = [label for image_id, label in sorted(labels.items()) if image_id in at]

    def measured(some: list[Label]) -> dict[str, Any]:
        return flat(
            summary(
                [label.value / 10 for label in some],
                said[[at[label.image_id] for label in some]],
                [group_of[label.image_id] for label in some] if some else None,
                threshold=project.threshold,
            )
        )

    errors = np.array([said[at[label.image_id]] - label.value / 10 for label in known])
    noise = float(np.sqrt(np.mean(errors**2))) if len(errors) >= FEWEST_FOR_NOISE else USUAL_ERROR
    return {
        "images": 0,
        "kind": head.kind,
        "noise": max(noise, 0.01),
        "holdout": measured([label for label in known if label.measures]),
        "out_of_fold": {},
        "all_labels": measured(known),
        "label_histogram": histogram([label.value / 10 for label in known]),
        "prediction_histogram": np.histogram(said, bins=20, range=(0, 1))[0].tolist(),
        "predicted": len(said),
        "versus_parent": None,
    }
