"""Pairs for a project with classes: of each clean picture of an import a twin, damaged on purpose
(`pictures.damage`), and a label for both. So a classifier of artefacts begins without hand work.

A twin is kept in the home like an upload, in the clean picture's group: whatever divides labels
into folds and sides leaves the pair together. Of a picture on the hold-out side none is made, and
it gets no label: versions are measured by labels of people (`docs/decisions/0050`).
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from more_itertools import chunked
from sqlmodel import Session, col, select

from tastemaker import images, projects, scores
from tastemaker.database.tables import Collection, Image, Project, SyntheticImage
from tastemaker.errors import BadImage, NotFound
from tastemaker.importing.requests import SyntheticPairs
from tastemaker.importing.sources import Skipped
from tastemaker.jobs.context import JobContext
from tastemaker.pictures import damage
from tastemaker.pictures.damage import TwinOrder
from tastemaker.pictures.decode_pool import DecodePool
from tastemaker.pictures.pictures import Examined, KnownPicture, Limits
from tastemaker.scores import classes

BATCH = 32  # pairs written in one transaction
TAG = "synthetic"


@dataclass
class PairCount:
    """What came of it: pairs that are there now, and pictures that were left without a twin, being
    on the hold-out side or labelled as something else than clean."""

    pairs: int = 0
    held_out: int = 0
    otherwise: int = 0


def make_pairs(
    job: JobContext,
    decoders: DecodePool,
    pairs: SyntheticPairs,
    project: Project,
    collection: Collection,
    image_ids: Iterable[int],
    folder: Path,
    skip: Callable[[Skipped], None],
) -> PairCount:
    """Make the twins of these images, label the pairs and put the twins into the collection. Done
    again, it makes and labels what is missing. Files are made in `folder`. A clean file that is
    gone, was changed or cannot be damaged goes to `skip`, and the others go on."""
    count = PairCount()
    with job.reading() as session:
        kinds = classes.of(session, project.id)
        clean, damaged = kinds.current(pairs.clean), kinds.current(pairs.damaged)
        if clean is None or damaged is None or clean == damaged:
            job.log("A class of the pairs was deleted or merged meanwhile: no twins are made")
            return count
        pairs = pairs.model_copy(update={"clean": clean, "damaged": damaged})
        ids = _clean_images(session, pairs, project, sorted(image_ids), count)
    job.stage("Making damaged twins", len(ids))
    task = functools.partial(
        damage.make_twin, thumbs_root=job.settings.thumbs, limits=Limits.of(job.settings)
    )
    for done, batch in enumerate(chunked(ids, BATCH)):
        with job.reading() as session:
            known, orders = _orders(session, job, pairs, batch, folder, skip)
        made: list[tuple[int, TwinOrder, Examined]] = []
        for order, outcome in decoders.map(task, orders):
            if isinstance(outcome, BadImage):
                skip(Skipped(orders[order], f"It has no damaged twin. {outcome}"))
            else:
                made.append((known[order.clean.sha256], order, outcome))
        there = set(batch) - set(known.values())
        with job.writing(turn="import") as session:
            for clean_id, order, facts in made:
                _keep(session, job, collection, clean_id, order, facts)
            twins = _twins_of(session, pairs, [*there, *(clean_id for clean_id, _, _ in made)])
            _label(session, pairs, project, collection, twins)
            count.pairs += len(twins)
        for _, order, _ in made:
            order.to.unlink(missing_ok=True)
        job.progress(min((done + 1) * BATCH, len(ids)))
    job.log(f"{count.pairs} pairs of a clean picture and its damaged twin")
    if count.held_out:
        job.log(
            f"{count.held_out} are on the hold-out side: no twin and no label, so that what "
            "measures a version is labelled by hand"
        )
    if count.otherwise:
        job.log(f"{count.otherwise} are labelled as something else than clean: no twin")
    return count


def _clean_images(
    session: Session, pairs: SyntheticPairs, project: Project, ids: list[int], count: PairCount
) -> list[int]:
    """Those of the images that may have a twin."""
    removed, labels = projects.removed_ids(session, project.id), dict[int, float]()
    rows: list[tuple[int, str]] = []
    for some in chunked(ids, 500):
        made = select(SyntheticImage.image_id)
        query = select(Image.id, Image.source_group).where(
            col(Image.id).in_(some), Image.kind != "vector", col(Image.id).not_in(made)
        )
        rows += session.execute(query.order_by(col(Image.id))).tuples()
        labels |= scores.values_of(session, project.id, some)
    found = []
    for image_id, group in rows:
        if image_id in removed:
            continue
        if projects.on_holdout_side(project, group):
            count.held_out += 1
        elif labels.get(image_id, pairs.clean) != pairs.clean:
            count.otherwise += 1
        else:
            found.append(image_id)
    return found


def _orders(
    session: Session, job: JobContext, pairs: SyntheticPairs, ids: list[int], folder: Path,
    skip: Callable[[Skipped], None],
) -> tuple[dict[str, int], dict[TwinOrder, str]]:  # fmt: skip
    """SHA-256 → id of the images whose twin is still to be made, and the orders, each with what
    people know its clean file by. Without those whose file is gone."""
    known, orders = dict[str, int](), dict[TwinOrder, str]()
    there = {source_id for source_id, _ in _twins_of(session, pairs, ids)}
    for image in session.exec(select(Image).where(col(Image.id).in_(set(ids) - there))):
        known[image.sha256] = image.id
        label = images.shown_path(session, image)
        try:
            path = images.source_path(session, job.settings, image)
        except NotFound as error:
            skip(Skipped(label, f"It has no damaged twin. {error}"))
            continue
        done = damage.drawn(pairs.kinds, image.sha256, pairs.seed)
        to = folder / f"{image.sha256}{done.suffix}"
        orders[TwinOrder(KnownPicture(path, image.sha256), done, to)] = label
    return known, orders


def _twins_of(session: Session, pairs: SyntheticPairs, ids: list[int]) -> list[tuple[int, int]]:
    """(clean, twin) of those of the images that have the twin which these pairs ask for."""
    rows = session.execute(
        select(
            SyntheticImage.source_id, SyntheticImage.image_id, SyntheticImage.damage, Image.sha256
        )
        .join(Image, col(Image.id) == SyntheticImage.source_id)
        .where(col(SyntheticImage.source_id).in_(ids))
        .order_by(col(SyntheticImage.image_id))
    ).tuples()
    return [
        (source_id, image_id)
        for source_id, image_id, done, sha256 in rows
        if done == damage.drawn(pairs.kinds, sha256, pairs.seed).as_json()
    ]


def _keep(
    session: Session, job: JobContext, collection: Collection, clean_id: int, order: TwinOrder,
    facts: Examined,
) -> None:  # fmt: skip
    """The rows of a twin, and its bytes. One that is in the library as something else, as where
    nothing was changed by the damage, stays what it is."""
    clean, done = images.get(session, clean_id), order.damage
    name = f"{Path(clean.name).stem}, {done.in_words}{done.suffix}"
    twin, is_new = images.add_picture(session, facts, name, None, uploaded=True)
    if not is_new:
        return
    twin.source_group = clean.source_group
    images.keep_upload(session, job.settings, twin, order.to)
    session.add(SyntheticImage(image_id=twin.id, source_id=clean.id, damage=done.as_json()))
    images.add_tags(session, twin.id, [TAG, f"{TAG} {done.kind}"])


def _label(
    session: Session, pairs: SyntheticPairs, project: Project, collection: Collection,
    twins: list[tuple[int, int]],
) -> None:  # fmt: skip
    person = projects.annotator(session, projects.IMPORTED, proxy=True)
    removed = projects.removed_ids(session, project.id)
    labels = {clean: pairs.clean for clean, _ in twins} | {twin: pairs.damaged for _, twin in twins}
    for _, twin in twins:
        images.put_in_collection(session, collection.id, twin)
    scores.record_many(
        session, project,
        [scores.Given(i, person.id, value) for i, value in labels.items() if i not in removed],
        origin=scores.Origin.SYNTHETIC,
    )  # fmt: skip
