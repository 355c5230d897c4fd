"""Audits: how good what a version keeps of a target is, found out by scoring a few images blind.

The target is a test run, a filter of the library, or a table that `tastemaker score --out` wrote.
Some of its images are drawn at random on either side of a cut, once and for all; the person scores
them on the Score page like any others, and may stop at any time (`learning.audits`). Images that
the version learned from or was measured on, and their relatives, are left out: it never saw what
judges it. A later version may learn from the answers; what was promised of this one stands.
"""

import contextlib
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlmodel import Session, col, select

from tastemaker import embeddings, jobs, projects, versions
from tastemaker.config import Settings
from tastemaker.database.tables import (
    Annotator,
    Audit,
    AuditImage,
    Embedding,
    Image,
    Prediction,
    Project,
    TestRun,
    Version,
    VersionAnswer,
    VersionLabel,
)
from tastemaker.database.tables.audits import AuditPopulation
from tastemaker.errors import CheckpointError, Conflict, Invalid, NotFound
from tastemaker.evaluation import test_runs
from tastemaker.evaluation.audit_reports import CutWords, in_points
from tastemaker.evaluation.audit_tables import (
    ScoredTable,
    known_image,
    picture_archive,
    picture_file,
    read_table,
)
from tastemaker.files.percentages import percent
from tastemaker.files.roots import outside, within
from tastemaker.learning import audits
from tastemaker.learning.checkpoints import load_checkpoint
from tastemaker.library import scopes
from tastemaker.library.filters import LibraryFilter
from tastemaker.scores import classes
from tastemaker.scores.references import References
from tastemaker.versions.predictions import UNMEASURED

SAMPLE = 100  # drawn images that are held against the training set
LEARNED_SAMPLE = 2000
FEWEST_LEARNED = 30


@dataclass(frozen=True)
class Target:
    """What is audited: exactly one of a test run's id, a filter, and the path of a table. Relative
    paths in a table are looked for in `root`, else beside it."""

    test_run: int | None = None
    filter: LibraryFilter | None = None
    table: Path | None = None
    root: Path | None = None


@dataclass(frozen=True)
class Terms:
    """What is promised: that at least a share `goal` of what scores `cut` (0–1) or more would be
    given `good_from` (of 0–10) or more. Without a cut, one is taken from which on the stricter ones
    are worth trying. One of 1 ÷ `share_below` images comes from below the cut. `seed` fixes what is
    drawn; None: by chance."""

    cut: float | None
    good_from: int
    goal: float = 0.9
    confidence: float = 0.95
    share_below: float = 0.2
    seed: int | None = None


def usual_terms(project: Project) -> Terms:
    """What passes the project's threshold, and is scored so."""
    return Terms(project.threshold, max(1, math.ceil(10 * project.threshold - 1e-9)))


# --- starting one ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared:
    """An audit that is not stored yet, with its drawn images; those of a table are drawn by a job,
    which `title` names."""

    audit: Audit
    images: tuple[AuditImage, ...] = ()
    title: str = ""


def prepare(
    session: Session, settings: Settings, project: Project, version: Version, person: Annotator,
    target: Target, terms: Terms, tell: CutWords = in_points,
) -> Prepared:  # fmt: skip
    """Draw the images of an audit; this reads every prediction of the target, so not within a
    transaction that writes. What is raised tells of cuts as they were asked for. Raises
    `Conflict` where an audit would tell nothing: too few images pass, or they are unlike what the
    version learned from."""
    classes.check_scores(project)
    check_terms(terms, tell)
    if version.project_id != project.id:
        raise NotFound(f"“{project.name}” has no such version.", "Choose one of its own.")
    if person.proxy:
        raise Invalid(f"“{person.name}” is no person who could score.", "Choose a person.")
    if sum(each is not None for each in (target.test_run, target.filter, target.table)) != 1:
        raise Invalid(
            "Name what to audit: one of a test run, a filter of the library, and a table.",
            "Choose one.",
        )
    audit = Audit(
        project_id=project.id, version_id=version.id, annotator_id=person.id, kind="library",
        name="the library", cut=terms.cut or 0.0, good_from=terms.good_from, goal=terms.goal,
        confidence=terms.confidence, share_below=terms.share_below,
        seed=secrets.randbelow(2**31) if terms.seed is None else terms.seed,
    )  # fmt: skip
    if target.table is not None:
        return _of_table(session, settings, version, audit, target.table, target.root, tell)
    if target.test_run is not None:
        run = session.get(TestRun, target.test_run)
        if run is None or run.project_id != project.id:
            raise NotFound("There is no such test run.", "Choose one of the list.")
        audit.kind, audit.target = "test-run", {"test_run": run.id}
        audit.name = test_runs.collection_name(session, run)
        inside = test_runs.in_collection(run)
    else:
        wanted = target.filter or LibraryFilter()
        audit.target = {"filter": wanted.as_dict()}
        audit.name = "a filter of the library" if wanted.as_dict() else "the library"
        inside = col(Prediction.image_id).in_(scopes.filtered_ids(session, project, wanted))
    drawable, learned = _drawable(session, version, inside)
    if not len(drawable.ids):
        raise Conflict(
            f"{version.number} has predicted none of these images"
            + (", or learned from all of them." if learned else "."),
            "Try a test run of it on images that it does not know.",
        )
    return _draw(session, version, audit, drawable, {"learned": learned}, tell)


def store(session: Session, prepared: Prepared) -> Audit:
    """Write a prepared audit down; for a table, queue the job that imports and draws its images."""
    audit = prepared.audit
    versions.get(session, audit.version_id)  # it may have been deleted while images were drawn
    session.add(audit)
    session.flush()
    for image in prepared.images:
        image.audit_id = audit.id
    session.add_all(prepared.images)
    if prepared.title:
        payload = {"audit": audit.id}
        audit.job_id = jobs.enqueue(session, "audit", prepared.title, payload, audit.project_id).id
        session.add(audit)
    session.flush()
    return audit


def check_terms(terms: Terms, tell: CutWords = in_points) -> None:
    """Raises `Invalid`."""
    if terms.cut is not None and not (math.isfinite(terms.cut) and 0 < terms.cut <= 1):
        raise Invalid(f"The cut is above 0 and at most {tell(1)}.", "The threshold is a good one.")
    if not 1 <= terms.good_from <= 10:
        raise Invalid("Good is a score of at least 1 to 10.", "Choose one of them.")
    if not 0.5 <= terms.goal <= 0.99:
        raise Invalid("A promise is of 50 % to 99 %.", "90 % is a usual one.")
    if not 0.5 <= terms.confidence <= 0.999:
        raise Invalid("The confidence is 50 % to 99.9 %.", "95 % is the usual one.")
    if not 0.05 <= terms.share_below <= 0.8:
        raise Invalid("The share from below the cut is 5 % to 80 %.", "20 % is the usual one.")


@dataclass(frozen=True)
class Drawable:
    """Images that may be drawn: ids (n,), what the version gives them and its spread, in 0–1."""

    ids: NDArray[np.int64]
    scores: NDArray[np.float64]
    spread: NDArray[np.float64]


def _drawable(session: Session, version: Version, inside: Any) -> tuple[Drawable, int]:
    """The predicted images that are meant and can be shown, but for those that the version learned
    from; and how many those are. In the order of their ids, so that a seed draws the same."""
    rows = session.execute(
        select(Prediction.image_id, Prediction.score, Prediction.uncertainty, Image.source_group)
        .join(Image, col(Image.id) == Prediction.image_id)
        .where(
            Prediction.version_id == version.id,
            Image.kind != "vector",
            ~projects.is_removed(version.project_id, Prediction.image_id),
            inside,
        )
        .order_by(col(Prediction.image_id))
    ).all()
    groups = learned_groups(session, version)
    mine = [row for row in rows if row[3] not in groups]
    columns = list(zip(*mine, strict=True)) or [(), (), (), ()]
    return (
        Drawable(
            np.array(columns[0], np.int64), np.array(columns[1], np.float64),
            np.array(columns[2], np.float64),
        ),
        len(rows) - len(mine),
    )  # fmt: skip


def learned_groups(session: Session, version: Version) -> set[str]:
    """The source groups of what a version was trained on, answers such as comparisons and sweeps
    too, or chosen by (the hold-out)."""
    labelled = (
        select(Image.source_group)
        .join(VersionLabel, col(VersionLabel.image_id) == Image.id)
        .where(VersionLabel.version_id == version.id, VersionLabel.side != "aside")
    )
    answered = (
        select(Image.source_group)
        .join(
            VersionAnswer,
            col(Image.id).in_((VersionAnswer.first_id, VersionAnswer.second_id)),
        )
        .where(VersionAnswer.version_id == version.id)
    )
    return {*session.exec(labelled), *session.exec(answered)}


def require_enough(version: Version, kept: int, every: int, cut: str) -> None:
    """Raises `Conflict` where so few pass that one looks at all of them."""
    if kept < audits.FEWEST_KEPT:
        raise Conflict(
            f"Only {kept:,} of {every:,} images pass at {cut} by {version.number}: too "
            f"few to draw from. An audit needs {audits.FEWEST_KEPT}.",
            "Choose a lower cut, or look at all of those that pass.",
        )


def _draw(
    session: Session, version: Version, audit: Audit, drawable: Drawable,
    population: AuditPopulation, tell: CutWords,
) -> Prepared:  # fmt: skip
    if not audit.cut:
        audit.target = audit.target | {"search": True}
        chances = audits.chance_of(drawable.scores, drawable.spread, audit.good_from)
        audit.cut = audits.cut_to_search_from(drawable.scores, chances, audit.goal)
    kept = drawable.scores >= audit.cut
    require_enough(version, int(kept.sum()), len(kept), tell(audit.cut))
    order = audits.draw(drawable.scores, audit.cut, audit.seed, audit.share_below)
    first = [int(drawable.ids[row]) for row in order if kept[row]][:SAMPLE]
    unlike = _share_unlike(session, version, first)
    if unlike is not None and unlike >= audits.UNLIKE_SHARE:
        raise Conflict(
            f"Most of these images ({percent(unlike)} of a sample) are unlike everything that "
            f"{version.number} learned from, so its scores of them are no filter yet.",
            "Score some of them, train, and audit that version.",
        )
    expected = audits.chance_of(drawable.scores[order], drawable.spread[order], audit.good_from)
    audit.population = {
        **population,
        "kept": int(kept.sum()), "below": int((~kept).sum()), "unlike": unlike,
        "cuts": list(audits.stricter_cuts(drawable.scores[kept], audit.cut)),
    }  # fmt: skip
    images = (
        AuditImage(
            position=position, image_id=int(drawable.ids[row]), score=float(drawable.scores[row]),
            expected=float(chance),
        )
        for position, (row, chance) in enumerate(zip(order, expected, strict=True))
    )  # fmt: skip
    return Prepared(audit, tuple(images))


def _share_unlike(session: Session, version: Version, sample: Sequence[int]) -> float | None:
    """The share of the sample that is far from the training set; None where vectors are wanting."""
    learned = session.exec(
        select(VersionLabel.image_id)
        .join(Embedding, col(Embedding.image_id) == VersionLabel.image_id)
        .where(
            VersionLabel.version_id == version.id, VersionLabel.side == "train",
            Embedding.encoder_id == version.encoder_id,
        )
        .order_by(col(VersionLabel.image_id))
    ).all()  # fmt: skip
    if len(learned) < FEWEST_LEARNED:
        return None
    chosen = np.linspace(0, len(learned) - 1, min(LEARNED_SAMPLE, len(learned))).astype(int)
    x = embeddings.matrix(session, version.encoder_id, [learned[i] for i in chosen.tolist()])[1]
    theirs = embeddings.matrix(session, version.encoder_id, sample)[1]
    return audits.share_unlike(theirs, x) if len(theirs) else None


# --- a table -------------------------------------------------------------------------------------


def _of_table(
    session: Session, settings: Settings, version: Version, audit: Audit, path: Path,
    root: Path | None, tell: CutWords,
) -> Prepared:  # fmt: skip
    for place in (path, root):
        if place is not None and not within(place.resolve(), settings.roots):
            raise outside(str(place), settings.roots)
    table = read_table(path)
    table.require_by(version, _names(session, settings, version))
    if not audit.cut:
        audit.target = {"search": True}
        spread = np.full(len(table.scores), version.metrics.noise or UNMEASURED)
        chances = audits.chance_of(table.scores, spread, audit.good_from)
        audit.cut = audits.cut_to_search_from(table.scores, chances, audit.goal)
    kept = int((table.scores >= audit.cut).sum())
    require_enough(version, kept, len(table.scores), tell(audit.cut))
    audit.kind, audit.name = "table", path.name
    beside = (root or path.absolute().parent).absolute()
    references = References(session, beside)
    drawn = audits.draw(table.scores, audit.cut, audit.seed, audit.share_below)[:SAMPLE]
    named = table.paths(drawn)
    if not any(
        picture_file(name, beside) or picture_archive(name, beside) or known_image(references, name)
        for name in named.values()
    ):
        raise NotFound(
            f"None of the pictures of {path.name} is there, such as “{named[drawn[0]]}”.",
            f"They were looked for in {beside}; name the folder that was scored (--root).",
        )
    audit.target = audit.target | {
        "table": str(path.absolute()), "root": str(beside), "sha256": table.sha256,
    }  # fmt: skip
    return Prepared(audit, title=f"Draw an audit of {version.number} from “{audit.name}”")


def _names(session: Session, settings: Settings, version: Version) -> set[str]:
    """What a table may call a version: by its project as it is called now, and as it was when the
    file was written."""
    project = session.get_one(Project, version.project_id)
    names = {f"{project.name}@{version.number}"}
    with contextlib.suppress(CheckpointError, NotFound, OSError):
        about = load_checkpoint(versions.checkpoint_path(settings, version)).metadata
        names.add(f"{about.get('project')}@{about.get('version')}")
    return names


def draw_from_table(
    session: Session, audit: Audit, version: Version, table: ScoredTable, order: Sequence[int],
    images: Mapping[int, int],
) -> None:  # fmt: skip
    """Write down the images of a table that were drawn: `order` are its rows as they were drawn,
    and `images` the image of each row that could be had. Raises `Conflict` where none is left of
    those that pass."""
    groups = learned_groups(session, version)
    ids = set(images.values())
    group_of = dict(
        session.execute(select(Image.id, Image.source_group).where(col(Image.id).in_(ids))).all()
    )
    seen: set[int] = set()
    rows, learned = [], 0
    for row in order:
        image_id = images.get(row)
        if image_id is None or image_id in seen:
            continue
        seen.add(image_id)
        if group_of[image_id] in groups:
            learned += 1
        else:
            rows.append(row)
    if not any(table.scores[row] >= audit.cut for row in rows):
        raise Conflict(
            f"Of the drawn pictures that pass, none is left to ask about: {version.number} learned "
            f"from {learned:,}, and the others could not be found.",
            "Audit a table of pictures that it does not know.",
        )
    spread = np.full(len(rows), version.metrics.noise or UNMEASURED)
    expected = audits.chance_of(table.scores[rows], spread, audit.good_from)
    session.add_all(
        AuditImage(
            audit_id=audit.id, position=position, image_id=images[row],
            score=float(table.scores[row]), expected=float(chance),
        )
        for position, (row, chance) in enumerate(zip(rows, expected, strict=True))
    )  # fmt: skip
    kept = table.scores >= audit.cut
    # Rows left out after the draw leave a random draw of the others; how many others there are is
    # then not known, and the whole table is the larger, so the more uncertain, population.
    audit.population = {
        "kept": int(kept.sum()), "below": int((~kept).sum()), "learned": learned, "unlike": None,
        "unreadable": sum(row not in images for row in order),
        "cuts": list(audits.stricter_cuts(table.scores[kept], audit.cut)),
    }  # fmt: skip
    session.add(audit)
    session.flush()
