"""The import job: find the files, read each one, write it down, ask for its embedding.

Pictures are read in child processes that a malicious file may kill: there they are hashed and
thumbnailed. Rows are written in small transactions, so the job may be killed and run again; known
files are then skipped. Embedding is queued as soon as the first images are in, and goes on behind
while people score. One bad file never stops the rest.
"""

import functools
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from more_itertools import chunked
from sqlmodel import Session, col, select

from tastemaker import embeddings, images, jobs, projects, scores
from tastemaker.config import Settings
from tastemaker.database.tables import (
    Collection,
    CollectionImage,
    Image,
    ImagePath,
    Project,
    ProjectCollection,
    in_utc,
)
from tastemaker.errors import BadImage, FilesGone, Invalid
from tastemaker.images import FileStamp
from tastemaker.importing import rewritten, synthetic
from tastemaker.importing.outcome import known_in_words
from tastemaker.importing.requests import ImportRequest
from tastemaker.importing.sources import (
    FolderLabel,
    ImportItem,
    Seen,
    Skipped,
    find_items,
    keep_notes,
    read_sidecars,
    read_vector,
)
from tastemaker.importing.stopped import stopped_since
from tastemaker.importing.tally import Tally
from tastemaker.jobs.context import JobContext
from tastemaker.pictures import formats
from tastemaker.pictures.decode_pool import DecodePool
from tastemaker.pictures.pictures import Examined, Limits, ingest
from tastemaker.scores import classes

FIRST_BATCH = 4  # small, so that the first images can be scored at once
BATCH = 64  # files written in one transaction
KNOWN_BATCH = 512


def run(job: JobContext) -> dict[str, Any]:
    """Import what the job's payload names."""
    return import_files(job, job.payload, job.project_id, queue_embedding=True)


def import_files(
    job: JobContext,
    payload: dict[str, Any],
    project_id: int,
    *,
    queue_embedding: bool,
    in_order: bool = False,
) -> dict[str, Any]:
    """Import what `payload` (an `ImportRequest`) names into its collection, and use that in the
    project (0: none). Safe to run again after a crash. With `in_order`, images get their ids in the
    order of the files rather than as they are decoded; a slow file then holds up the others.

    Returns the counts. Raises `Invalid` where no file was found, or none could be used.
    """
    if payload.get("swept"):
        raise FilesGone("The files of this upload are no longer kept.", "Upload them again.")
    request = ImportRequest.model_validate(payload)
    incoming = job.settings.incoming
    staging = incoming / request.staging if request.staging else None
    if staging is not None and not staging.exists():
        job.log("an earlier attempt had imported everything")
        return Tally().as_dict() | {"collection": request.collection}
    unpacked = incoming / f"unpacked-{job.claim.job_id}"
    shutil.rmtree(unpacked, ignore_errors=True)
    tally = Tally()
    decoders = DecodePool(limits=Limits.of(job.settings))
    try:
        decoders.start()  # meanwhile the files are looked for
        job.stage("Looking for pictures")
        items: list[ImportItem] = []
        seen = Seen()
        for item in find_items(
            request, incoming, unpacked, job.settings.root, job.log, seen, job.settings.roots,
            _folder_label(job, project_id),
        ):  # fmt: skip
            if isinstance(item, ImportItem):
                items.append(item)
            else:
                _skip(job, tally, item)
        tally.left_out = formats.left_out_of(seen.left_out)
        if tally.left_out:
            job.log(tally.left_out)
        if not items:
            nothing = FilesGone if seen.unreadable else Invalid
            raise nothing(
                "No picture was found, so nothing was imported.",
                tally.first_reason
                or f"{formats.NAMES} files are looked for. {tally.left_out}".rstrip(),
            )
        with _writing(job) as session:
            collection = images.collection_named(session, request.collection)
            project = session.get(Project, project_id) if project_id else None
            joined: int | None = None
            if project is not None:
                if session.get(ProjectCollection, (project.id, collection.id)) is None:
                    joined = collection.id
                projects.add_collection(session, project, collection, request.role)
            since = stopped_since(session, job.claim.job_id, request)
        embeds = queue_embedding and project is not None
        target = Target(collection, project, job.settings, embeds, in_order, joined, since)
        _import(job, items, target, decoders, tally)
        if request.synthetic is not None and project is not None:
            tally.paired = synthetic.make_pairs(
                job, decoders, request.synthetic, project, collection, tally.placed, unpacked,
                functools.partial(_skip, job, tally),
            )  # fmt: skip
            _queue_embedding(job, target)
        _look_again(job, seen)
    finally:
        decoders.close()
        shutil.rmtree(unpacked, ignore_errors=True)
    if staging is not None:  # only now: after a crash the job needs the files again
        shutil.rmtree(staging, ignore_errors=True)
    job.log(
        f"{tally.added} new, {known_in_words(tally.as_dict())}, {tally.skipped} skipped, "
        f"{tally.scored} scores"
    )
    if tally.rewritten:
        job.log(
            f"{tally.rewritten} were files of known images, written again with the same pixels: "
            "their scores and tags were carried over"
        )
    if tally.added == tally.known == 0:
        none = f"None of the {tally.skipped:,} files" if tally.skipped > 1 else "The only file"
        verb = "could be used" if tally.skipped > 1 else "cannot be used"
        raise Invalid(f"{none} {verb}.", tally.first_reason)
    return tally.as_dict() | {"collection": collection.name}


@dataclass(frozen=True)
class Target:
    """Where imported images go: a collection, and the project that uses it, if any."""

    collection: Collection
    project: Project | None
    settings: Settings
    embeds: bool
    in_order: bool
    joined: int | None = None  # the collection, if the project had nothing of it before
    since: datetime | None = None  # images since then are those of the run that was stopped


def _folder_label(job: JobContext, project_id: int) -> FolderLabel | None:
    """What the folders of a project with classes are read as; None where they give scores."""
    with job.reading() as session:
        project = session.get(Project, project_id) if project_id else None
        if project is None or project.labelling == "scores":
            return None
        return classes.of(session, project.id).of_folder


def _import(
    job: JobContext, items: list[ImportItem], target: Target, decoders: DecodePool, tally: Tally
) -> None:
    """Known files first, which costs nothing; then the pictures, then vectors."""
    job.stage("Importing", len(items))
    vectors = [item for item in items if item.is_vector]
    pictures = [item for item in items if not item.is_vector]
    with job.reading() as session:
        unchanged = _unchanged_images(session, pictures)
    known = [(item, *there) for item, there in unchanged.items()]
    fresh = [item for item in pictures if item not in unchanged]

    done = 0
    for batch in chunked(known, KNOWN_BATCH):
        with _writing(job) as session:
            for item, image_id, stamp in batch:
                image = images.get(session, image_id)
                _place(session, item, image, False, target, tally, stamp)
        done += len(batch)
        job.progress(done)
    changed = _import_pictures(job, fresh, target, decoders, tally, done)
    done += len(fresh)
    # Those that somebody wrote to meanwhile: once more, and then they are told by name.
    for item in _import_pictures(job, changed, target, decoders, tally, done):
        reason = "It was changed while it was imported. Import it again when it is finished."
        _skip(job, tally, Skipped(item.label, reason))
    for item in vectors:
        _write_vector(job, item, target, tally)
        done += 1
        job.progress(done)
    if pictures:
        _queue_embedding(job, target)


def _import_pictures(
    job: JobContext,
    items: Sequence[ImportItem],
    target: Target,
    decoders: DecodePool,
    tally: Tally,
    done: int,
) -> list[ImportItem]:
    """Read pictures and write them down; returns those whose files were changed meanwhile."""
    waiting: list[tuple[ImportItem, Examined]] = []
    changed: list[ImportItem] = []
    size = FIRST_BATCH
    for item, outcome in _examine(job, decoders, items, in_order=target.in_order):
        if isinstance(outcome, BadImage):
            _skip(job, tally, Skipped(item.label, str(outcome)))
        else:
            waiting.append((item, outcome))
        if len(waiting) >= size:
            changed += _write_pictures(job, waiting, target, tally)
            if size == FIRST_BATCH:
                _queue_embedding(job, target)
            waiting, size = [], BATCH
        done += 1
        job.progress(done)
    return changed + _write_pictures(job, waiting, target, tally)


def _unchanged_images(
    session: Session, items: Iterable[ImportItem]
) -> dict[ImportItem, tuple[int, FileStamp]]:
    """The images of those files that were imported before and have the same size and time: they
    need not be read again."""
    stamps = {item: _stamp_of(item) for item in items if not item.staged}
    found = {}
    for some in chunked(stamps, KNOWN_BATCH):
        paths = col(ImagePath.path).in_([str(item.path) for item in some])
        rows = {row.path: row for row in session.exec(select(ImagePath).where(paths))}
        for item in some:
            row, stamp = rows.get(str(item.path)), stamps[item]
            if row is not None and stamp is not None and stamp == (row.size, row.mtime_ns):
                found[item] = (row.image_id, stamp)
    return found


def _stamp_of(item: ImportItem) -> FileStamp | None:
    """None where the file is gone, or cannot be looked at."""
    try:
        return FileStamp.of(item.path.stat())
    except OSError:
        return None


# --- reading -----------------------------------------------------------------------------------

Outcome = tuple[ImportItem, Examined | BadImage]


def _examine(
    job: JobContext, decoders: DecodePool, items: Sequence[ImportItem], *, in_order: bool
) -> Iterator[Outcome]:
    """Hash and thumbnail every picture, in children; as they finish, or in the items' order."""
    by_path = {item.path: item for item in items}
    task = functools.partial(
        ingest, thumbs_root=job.settings.thumbs, limits=Limits.of(job.settings)
    )
    outcomes = ((by_path[path], outcome) for path, outcome in decoders.map(task, by_path))
    yield from _reordered(by_path.values(), outcomes) if in_order else outcomes


def _reordered(items: Iterable[ImportItem], outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    """The outcomes in the order of the items, in which they come nearly anyway."""
    early: dict[ImportItem, Examined | BadImage] = {}
    for item in items:
        while item not in early:
            early.update([next(outcomes)])
        yield item, early.pop(item)


# --- writing -----------------------------------------------------------------------------------


@contextmanager
def _writing(job: JobContext) -> Iterator[Session]:
    """A write transaction of one import at a time: each looks what is there, near-duplicates too,
    and inserts what is not."""
    with job.writing(turn="import") as session:
        yield session


def _write_pictures(
    job: JobContext, batch: list[tuple[ImportItem, Examined]], target: Target, tally: Tally
) -> list[ImportItem]:
    """The rows of pictures that were read, in one transaction. What vanished since is skipped; what
    was changed since is returned."""
    stamps = {item: _stamp_of(item) for item, _ in batch}
    gone = [item for item, stamp in stamps.items() if stamp is None]
    changed = [
        item
        for item, facts in batch
        if not item.staged and stamps[item] not in (None, _read_as(facts))
    ]
    for item in gone:
        reason = "It was moved or deleted while it was imported."
        _skip(job, tally, Skipped(item.label, reason))
    with _writing(job) as session:
        for item, facts in batch:
            if item in gone or item in changed:
                continue
            sidecar = read_sidecars(item.sidecars, Limits.of(target.settings).roots)
            image, is_new = images.add_picture(
                session, facts, Path(item.name).name, sidecar.source, uploaded=item.staged
            )
            if item.staged:
                images.keep_upload(session, job.settings, image, item.path)
                keep_notes(job.settings, image, item.sidecars)
            images.add_tags(session, image.id, sidecar.tags)
            _place(session, item, image, is_new, target, tally, _read_as(facts))
    return changed


def _read_as(facts: Examined) -> FileStamp:
    return FileStamp(facts.bytes, facts.mtime_ns)


def _write_vector(job: JobContext, item: ImportItem, target: Target, tally: Tally) -> None:
    """A vector without a picture stands under the hash of its values and a declared encoder."""
    if target.project is None:
        raise Invalid("Vectors need a project, which names their encoder.", "Use --project.")
    try:
        vector, stamp = read_vector(item.path, Limits.of(target.settings).roots)
        with _writing(job) as session:
            project = projects.get(session, target.project.id)
            image, is_new = embeddings.add_vector(session, project, Path(item.name).name, vector)
            _place(session, item, image, is_new, target, tally, stamp)
    except Invalid as error:
        _skip(job, tally, Skipped(item.label, str(error)))


def _place(
    session: Session, item: ImportItem, image: Image, is_new: bool, target: Target, tally: Tally,
    stamp: FileStamp,
) -> None:  # fmt: skip
    """Note where the bytes are, put the image into the collection, record its folder's score."""
    former = None if item.staged else images.note_file(session, image, item.path, stamp)
    images.forget_skipped(session, item.label)  # it was mended
    if is_new:
        tally.added += 1
    elif image.id in tally.placed:
        tally.twice += 1
    elif target.since is not None and in_utc(image.added_at) >= target.since:
        tally.kept += 1
    elif _in_project(session, target, image.id):
        tally.in_project += 1
    else:
        tally.in_library += 1
    tally.placed.add(image.id)
    images.put_in_collection(session, target.collection.id, image.id)
    images.add_tags(session, image.id, item.folder_tags)
    if (former is not None or is_new) and not item.is_vector:
        tally.rewritten += rewritten.carry_over(session, target.settings, image, former)
    if item.score is not None and target.project is not None:
        kinds = classes.of_project(session, target.project)
        value = item.score if kinds is None else kinds.current(item.score)
        if value is None:  # the class was deleted since the folders were read
            return
        person = projects.annotator(session, projects.IMPORTED, proxy=True)
        given = [scores.Given(image.id, person.id, value)]
        tally.scored += sum(
            scores.record_many(session, target.project, given, origin=scores.Origin.IMPORT)
        )


def _in_project(session: Session, target: Target, image_id: int) -> bool:
    """Whether the image was in the project before this import, in its pool or in a test run, taken
    out of it or not."""
    if target.project is None:
        return False
    there = projects.image_ids(target.project.id, projects.ANY_ROLE, removed_too=True)
    inside = there.where(
        CollectionImage.image_id == image_id,
        CollectionImage.collection_id != (target.joined or 0),
    )
    return session.exec(inside.limit(1)).first() is not None


def _skip(job: JobContext, tally: Tally, file: Skipped) -> None:
    tally.skip(file)
    job.log(f"skipped {file.label}: {file.reason}")
    with _writing(job) as session:
        images.record_skipped(session, file.label, file.reason, job.claim.job_id)


def _queue_embedding(job: JobContext, target: Target) -> None:
    if not target.embeds or target.project is None:
        return
    title = f"Embed the images of “{target.project.name}”"
    with _writing(job) as session:
        jobs.enqueue(session, "embed", title, {}, target.project.id, once=True)


def _look_again(job: JobContext, seen: Seen) -> None:
    """Files below a folder that was gone through and are no longer there were moved or deleted;
    folders that can be entered again are no longer skipped."""
    for root in seen.walked:
        with _writing(job) as session:
            images.mark_missing(session, str(root), seen.unreadable)
            images.forget_skipped_folders(session, root, seen.unreadable)
