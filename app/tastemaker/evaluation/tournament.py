"""Which encoder suits this taste: candidates tried on the project's own labels.

A sample of the labelled images is embedded with each. Each label is then predicted by a ridge head
that never saw it nor a near-duplicate of it (leave one out, exactly), so every candidate is judged
on the same labels and the same folds. Labels of the hold-out stay out: they are there to measure
the version that follows. The vectors are kept, so a second tournament, or a migration to the
winner, goes on from them.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlmodel import Session, col, func, select

from tastemaker import embeddings, jobs, projects
from tastemaker.config import Settings
from tastemaker.database.tables import Image, Job, Label, Project
from tastemaker.encoding.encode_files import embed_files
from tastemaker.encoding.encoders import Encoder
from tastemaker.errors import Conflict, Invalid, NotTrainable, TastemakerError
from tastemaker.files import require_free_space
from tastemaker.jobs.context import JobContext
from tastemaker.learning import metrics
from tastemaker.learning.trainable import why_not
from tastemaker.pictures.pictures import Limits
from tastemaker.scores import classes

KIND = "tournament"
FEWEST, IMAGES, MOST = 20, 400, 2000  # labelled images of the sample
MOST_CANDIDATES = 8
TIMED = 16  # pictures that tell the speed of an encoder whose vectors are there already
GB = 1e9


@dataclass
class Candidate:
    """An encoder that is tried. `seconds` are those of one picture, None where it was not timed;
    `error` says why it could not be tried."""

    name: str
    ids: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    x: NDArray[np.float16] = field(default_factory=lambda: np.empty((0, 0), np.float16))
    seconds: float | None = None
    missing: int = 0
    error: str = ""


def request_tournament(
    session: Session,
    settings: Settings,
    project: Project,
    encoders: Sequence[str],
    images: int = IMAGES,
) -> Job:
    """Queue a tournament between the project's encoder and those named, on at most so many labelled
    images. Raises `Invalid`, `Conflict` or `NotTrainable`, each with what to do."""
    classes.check_scores(project)
    names = dict.fromkeys(projects.validate_encoder(name) for name in encoders if name.strip())
    names.pop(project.encoder, None)
    if not 1 <= len(names) <= MOST_CANDIDATES:
        raise Invalid(
            "A tournament needs another encoder than the project's own."
            if not names
            else f"At most {MOST_CANDIDATES} encoders are tried at once.",
            f"Name 1 to {MOST_CANDIDATES}.",
        )
    if not FEWEST <= images <= MOST:
        raise Invalid(f"The sample has {FEWEST} to {MOST:,} images.", f"{IMAGES} are plenty.")
    if project.encoder_id is None or embeddings.declared(session, project):
        raise Conflict(
            f"“{project.name}” does not embed its own images"
            f"{' yet' if project.encoder_id is None else ''}.",
            "A tournament needs its pictures, and its encoder to compare with.",
        )
    drawn = sample(session, project, images)
    reason = why_not(np.array(list(drawn.values())), np.ones(len(drawn), bool))
    if reason or len(drawn) < FEWEST:
        raise reason or NotTrainable(
            f"Only {len(drawn)} images that may train are scored; a tournament needs {FEWEST}.",
            "Score some more, then start it.",
        )
    require_free_space(settings.root, settings.min_free_gb)
    title = f"Try encoders on “{project.name}”"
    payload = {"encoders": list(names), "images": images}
    return jobs.enqueue(session, KIND, title, payload, project.id, once=True)


def latest(session: Session, project: Project) -> Job | None:
    """The newest tournament of a project that ended with a result."""
    return session.exec(
        select(Job)
        .where(Job.kind == KIND, Job.project_id == project.id, Job.state == "done")
        .order_by(col(Job.id).desc())
    ).first()


def sample(session: Session, project: Project, count: int) -> dict[int, float]:
    """Image → label in 0–1 of at most so many labelled images with pixels that may train, drawn
    at random, and the same ones again but for what is new or gone: each image has its own lot."""
    rows = session.execute(
        select(Label.image_id, Label.value)
        .join(Image, col(Image.id) == Label.image_id)
        .where(
            Label.project_id == project.id, ~col(Label.holdout), Image.kind != "vector",
            ~projects.is_removed(project.id, Label.image_id),
        )
    ).all()  # fmt: skip

    def lot(row: Any) -> bytes:
        return hashlib.blake2b(f"{project.seed}:{row[0]}".encode(), digest_size=8).digest()

    drawn = sorted(rows, key=lot)[:count]
    return {image_id: value / 10 for image_id, value in sorted(map(tuple, drawn))}


# --- the job -----------------------------------------------------------------------------------


def run(job: JobContext) -> dict[str, Any]:
    """The job “tournament”. What is embedded stays: killed and started again, it goes on."""
    with job.reading() as session:
        project = projects.get(session, job.project_id)
        drawn = sample(session, project, job.payload["images"])
        own = _own(session, project, list(drawn))
        library = projects.size(session, project, projects.ANY_ROLE)
    candidates = [own]
    for name in job.payload["encoders"]:
        try:
            candidates.append(_embedded(job, name, list(drawn)))
        except TastemakerError as error:
            job.log(f"{name}: {error}")
            candidates.append(Candidate(name, error=str(error)))
    job.stage("Comparing the encoders")
    with job.reading() as session:
        group_of = dict(
            session.execute(
                select(Image.id, Image.source_group).where(col(Image.id).in_(list(drawn)))
            ).all()
        )
    rows = compared(candidates, drawn, group_of, project.threshold, library)
    return {"rows": rows, "images": library}


def _own(session: Session, project: Project, ids: list[int]) -> Candidate:
    assert project.encoder_id is not None
    found, x = embeddings.matrix(session, project.encoder_id, ids)
    missing = _count_missing(session, project.encoder_id, project.id)
    return Candidate(project.encoder, found, x, missing=missing)


def _embedded(job: JobContext, name: str, ids: list[int]) -> Candidate:
    """A candidate with the vectors of the sample, and how long a picture takes."""
    encoder, row = embeddings.load_for(job, name)
    job.stage(f"Embedding {len(ids)} images with {name}")
    wanted = embeddings.missing(row.id, None).where(col(Image.id).in_(ids))
    began = time.perf_counter()
    embedded, _ = embeddings.embed_images(job, encoder, row, wanted)
    seconds = (time.perf_counter() - began) / embedded if embedded >= TIMED else None
    with job.reading() as session:
        found, x = embeddings.matrix(session, row.id, ids)
        missing = _count_missing(session, row.id, job.project_id)
        pictures = embeddings.readable_files(session, job, found[:TIMED].tolist())
    if seconds is None and pictures:
        seconds = _timed(encoder, pictures, Limits.of(job.settings))
    return Candidate(name, found, x, seconds, missing)


def _timed(encoder: Encoder, pictures: Sequence[Any], limits: Limits) -> float | None:
    """Seconds a picture, from the first vector on: before it, the decoding children start. None
    with fewer than two vectors."""
    at = [
        time.perf_counter()
        for _ in embed_files(encoder, pictures, limits=limits, guarded=True)
    ]  # fmt: skip
    return (at[-1] - at[0]) / (len(at) - 1) if len(at) > 1 else None


def _count_missing(session: Session, encoder_id: int, project_id: int) -> int:
    query = embeddings.missing(encoder_id, project_id).subquery()
    return int(session.exec(select(func.count()).select_from(query)).one())


def compared(
    candidates: Sequence[Candidate],
    labels: dict[int, float],
    group_of: dict[int, str],
    threshold: float,
    library: int,
) -> list[dict[str, Any]]:
    """A row for each candidate, the first being the encoder in use: how well heads on it predict
    labels they never saw (`mae` in points, `spearman`), the difference from the one in use with
    its verdict, and what it would cost for a `library` of so many images."""
    from scipy.special import expit, logit  # for a job's process alone

    from tastemaker.learning.ridge import edge_among, fit_ridge, to_link

    common = set(labels)
    for candidate in candidates:
        if not candidate.error:
            common &= set(candidate.ids.tolist())
    ids = np.array(sorted(common), np.int64)
    if len(ids) < FEWEST:
        raise NotTrainable(
            f"Only {len(ids)} of the labelled images could be embedded with every encoder.",
            "The log names those that could not be read; leave out the encoder that fails.",
        )
    y = np.array([labels[i] for i in ids.tolist()])
    groups = np.unique([group_of[i] for i in ids.tolist()], return_inverse=True)[1]
    rows: list[dict[str, Any]] = []
    before: NDArray[np.float32] | None = None
    for candidate in candidates:
        row: dict[str, Any] = {
            "encoder": candidate.name, "error": candidate.error, "difference": None, "verdict": "",
        }  # fmt: skip
        rows.append(row)
        if candidate.error:
            continue
        x = candidate.x[np.searchsorted(candidate.ids, ids)].astype(np.float32)
        p = fit_ridge(x, y, groups, link="logit").out_of_group
        told = metrics.summary(y, p, groups, threshold=threshold)
        others = without_own(to_link(y, "logit", edge_among(len(y))), groups)
        added = expit(logit(np.clip(p, 1e-6, 1 - 1e-6)) - others)
        ranks = metrics.summary(y, added, groups, threshold=threshold)
        row |= {
            "n": len(ids), "numbers": x.shape[1], "mae": told.mae.as_json(),
            "spearman": ranks.spearman.as_json(),
            "hours": None if candidate.seconds is None
            else candidate.seconds * candidate.missing / 3600,
            "missing": candidate.missing, "gigabytes": library * x.shape[1] * 2 / GB,
        }  # fmt: skip
        if before is None:
            before = p
        else:
            error = metrics.paired(y, p, before, groups, threshold=threshold)["mae"]
            row |= {"difference": error.difference.as_json(), "verdict": error.verdict}
    return rows


def without_own(values: NDArray[np.float64], groups: NDArray[np.intp]) -> NDArray[np.float64]:
    """(n,) the mean value of the other groups. It falls as the own one rises, so predictions that
    are little more than that mean would rank backwards; what they add to it ranks."""
    sums, sizes = np.bincount(groups, values), np.bincount(groups)
    mean: NDArray[np.float64] = (values.sum() - sums[groups]) / (len(values) - sizes[groups])
    return mean
