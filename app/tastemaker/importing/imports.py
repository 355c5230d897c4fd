"""The import job: walk, read, deduplicate, thumbnail, group, tag; one bad file never stops it.

What arrives is a list of places: folders and files on this machine, or staged uploads (zips
unpacked first). Pictures are read in child processes that a malicious file may kill; rows are
written in small transactions; embedding is queued as soon as the first images are in, so that it
goes on behind while people score.
"""

import functools
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from more_itertools import chunked
from sqlmodel import Session, col, select

from tastemaker import files, images, jobs, projects, scores
from tastemaker.config import Settings
from tastemaker.database.tables import Collection, Image, ImagePath, Project, SetAside
from tastemaker.embeddings import declare_encoder, store_vectors
from tastemaker.errors import BadImage, Invalid, TastemakerError
from tastemaker.importing.archives import unpack
from tastemaker.importing.folder_names import folder_tags, score_of
from tastemaker.importing.sidecars import Beside, read_sidecars, sidecars_among, sidecars_on_disk
from tastemaker.importing.vectors import read_vector, vector_hash
from tastemaker.jobs.context import JobContext
from tastemaker.pictures.decode_pool import DecodePool
from tastemaker.pictures.pictures import IMAGE_SUFFIXES, Examined, Limits, ingest

CHUNK = 64  # rows written in one transaction


@dataclass(frozen=True)
class ImportItem:
    """A file to import, what it is called, and what lies beside it."""

    path: Path
    name: str
    staged: bool = False
    score: int | None = None
    sidecars: tuple[Beside, ...] = ()

    @property
    def shown(self) -> str:
        """What people know it by: its path, or for uploads its name."""
        return self.name if self.staged else str(self.path)


@dataclass(frozen=True)
class Target:
    """Where imported images go: a collection, and the project that uses it, if any."""

    collection: Collection
    project: Project | None
    embeds: bool
    in_order: bool


@dataclass
class Tally:
    added: int = 0
    known: int = 0
    set_aside: int = 0
    scored: int = 0
    first_reason: str = ""
    skipped: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return {
            "added": self.added, "known": self.known, "set_aside": self.set_aside,
            "scored": self.scored, "first_reason": self.first_reason,
        }  # fmt: skip


# --- the job -----------------------------------------------------------------------------------


def run(work: JobContext) -> dict[str, Any]:
    """Import what the job's payload names."""
    return import_files(work, work.payload, work.project_id, queue_embedding=True)


def import_files(
    work: JobContext,
    payload: dict[str, Any],
    project_id: int,
    *,
    queue_embedding: bool,
    in_order: bool = False,
) -> dict[str, Any]:
    """Import what `payload` names: `paths`, or `staging` with `files`. Safe to run again after a
    crash: known files are skipped. With `in_order`, images get their ids in the order of the files
    rather than as they are decoded; a slow file then holds up the others."""
    settings = work.settings
    staging = settings.incoming / payload["staging"] if "staging" in payload else None
    if staging is not None and not staging.exists():
        work.log("an earlier attempt had imported everything")
        return Tally().as_dict() | {"collection": payload["collection"]}
    unpacked: list[Path] = []
    tally = Tally()
    try:
        work.stage("Looking for pictures")
        found = list(_find(work, payload, staging, unpacked, tally))
        if not found:
            raise Invalid(
                "No picture was found, so nothing was imported.",
                tally.first_reason or "JPEG, PNG, WebP and GIF files are looked for.",
            )
        with work.writing() as session:
            collection = images.collection_named(session, payload["collection"])
            project = session.get(Project, project_id) if project_id else None
            if project is not None:
                projects.add_collection(session, project, collection, payload["role"])
        embeds = queue_embedding and project is not None
        target = Target(collection, project, embeds, in_order)
        _import(work, found, target, tally)
        _mark_missing(work, payload.get("paths", []))
    finally:
        for folder in unpacked:
            shutil.rmtree(folder, ignore_errors=True)
    if staging is not None:  # only now: after a crash the job needs the files again
        shutil.rmtree(staging, ignore_errors=True)
    work.log(
        f"{tally.added} new, {tally.known} known already, {tally.set_aside} set aside, "
        f"{tally.scored} scores"
    )
    if tally.added == tally.known == 0:
        raise Invalid(f"None of the {tally.set_aside} files could be used.", tally.first_reason)
    return tally.as_dict() | {"collection": collection.name}


def _find(
    work: JobContext,
    payload: dict[str, Any],
    staging: Path | None,
    unpacked: list[Path],
    tally: Tally,
) -> Iterator[ImportItem]:
    with_scores = payload.get("scores_from_folders", False)
    suffixes = IMAGE_SUFFIXES | {".npy"} if with_scores else IMAGE_SUFFIXES
    entries: list[tuple[Path, str, bool]] = []
    uploads: dict[str, Path] = {}
    if staging is not None:  # two may have come from different folders under one name
        entries = [(staging / stored, name, True) for stored, name in payload["files"]]
        uploads = {name: path for path, name, _ in entries}
    for given in map(Path, payload.get("paths", [])):
        if given.is_dir():
            walked = _walk(given, besides=work.settings.root)
            entries += [(path, str(path.relative_to(given)), False) for path in walked]
        else:
            entries.append((given, given.name, False))
    for path, name, staged in entries:
        suffix = Path(name).suffix.lower()
        if not files.is_text(name):
            shown = os.fsencode(path).decode("utf-8", "replace")
            _set_aside(work, shown, "Its name is not in UTF-8; rename it.", tally)
            continue
        if suffix == ".zip":
            into = work.settings.incoming / f"unpacked-{work.claim.job_id}-{len(unpacked)}"
            shutil.rmtree(into, ignore_errors=True)
            unpacked.append(into)
            try:
                content = unpack(path, into)
            except TastemakerError as error:
                _set_aside(work, name, str(error), tally)
                continue
            members = {member: stored for stored, member in content.files}
            for member, reason in content.skipped:
                work.log(f"left out {member}: {reason}")
            for member, stored in members.items():
                if Path(member).suffix.lower() in suffixes:
                    score = score_of(member) if with_scores else None
                    yield ImportItem(stored, member, True, score, sidecars_among(member, members))
        elif suffix in suffixes:
            score = score_of(name) if with_scores else None
            sidecars = sidecars_among(name, uploads) if staged else sidecars_on_disk(path)
            yield ImportItem(path, name, staged, score, sidecars)


def _walk(folder: Path, besides: Path) -> Iterator[Path]:
    """Every file below, in a fixed order; nothing of the app's own folder `besides`."""
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if Path(here, name) != besides)
        yield from (Path(here, name) for name in sorted(names))


def _import(work: JobContext, found: list[ImportItem], target: Target, tally: Tally) -> None:
    vectors = [item for item in found if item.path.suffix.lower() == ".npy"]
    pictures = [item for item in found if item.path.suffix.lower() != ".npy"]
    work.stage("Importing", len(found))
    done = 0
    with work.reading() as session:
        fresh, unchanged = _split_unchanged(session, pictures)
    for chunk in chunked(unchanged, 512):
        with work.writing() as session:
            for item, image_id in chunk:
                image = images.get(session, image_id)
                _place(session, item, image, target, tally)
        done += len(chunk)
        work.progress(done)
    by_path = {item.path: item for item in fresh}
    task = functools.partial(
        ingest, thumbs_root=work.settings.thumbs, limits=Limits.of(work.settings)
    )
    with DecodePool(workers=2, limits=Limits.of(work.settings)) as pool:
        waiting: list[tuple[ImportItem, Examined]] = []
        size = 4  # small at first: the first images are to be scored at once
        outcomes = pool.map(task, by_path)
        for path, outcome in _as_listed(by_path, outcomes) if target.in_order else outcomes:
            item = by_path[path]
            if isinstance(outcome, BadImage):
                _set_aside(work, item.shown, str(outcome), tally)
            else:
                waiting.append((item, outcome))
            if len(waiting) >= size:
                _write(work, waiting, target, tally)
                if size < CHUNK and target.embeds:
                    _queue_embedding(work, target.project)
                waiting, size = [], CHUNK
            done += 1
            work.progress(done)
        _write(work, waiting, target, tally)
    for part in chunked(vectors, CHUNK):
        _write_vectors(work, part, target, tally)
        done += len(part)
        work.progress(done)
    if pictures and target.embeds:
        _queue_embedding(work, target.project)


def _as_listed(
    paths: Iterable[Path], outcomes: Iterator[tuple[Path, Examined | BadImage]]
) -> Iterator[tuple[Path, Examined | BadImage]]:
    """The outcomes in the order of the paths, which they come in nearly anyway."""
    early: dict[Path, Examined | BadImage] = {}
    for path in paths:
        while path not in early:
            early.update([next(outcomes)])
        yield path, early.pop(path)


def _split_unchanged(
    session: Session, items: list[ImportItem]
) -> tuple[list[ImportItem], list[tuple[ImportItem, int]]]:
    """Files that were imported before and have the same size and time need not be read again."""
    fresh, unchanged = [], []
    for item in items:
        row = (
            None
            if item.staged
            else session.exec(select(ImagePath).where(ImagePath.path == str(item.path))).first()
        )
        status = item.path.stat() if row is not None and item.path.exists() else None
        if row and status and (row.size, row.mtime_ns) == (status.st_size, status.st_mtime_ns):
            unchanged.append((item, row.image_id))
        else:
            fresh.append(item)
    return fresh, unchanged


def _write(
    work: JobContext, batch: list[tuple[ImportItem, Examined]], target: Target, tally: Tally
) -> None:
    """One transaction: rows for pictures that were read."""
    if not batch:
        return
    with work.writing() as session:
        for item, seen in batch:
            sidecar = read_sidecars(item.sidecars)
            image = images.by_sha256(session, seen.sha256)
            if image is None:
                image = Image(
                    sha256=seen.sha256, kind="upload" if item.staged else "file",
                    name=Path(item.name).name, format=seen.format, width=seen.width,
                    height=seen.height, bytes=seen.bytes, phash=seen.phash,
                    source_group=images.group_for(
                        session, seen.sha256, seen.phash, sidecar.source
                    ),
                )  # fmt: skip
                session.add(image)
                session.flush()
                tally.added += 1
                fresh = True
            else:
                fresh = False
            if item.staged:
                _keep_upload(work.settings, session, item.path, image)
            images.add_tags(session, image.id, sidecar.tags)
            _place(session, item, image, target, tally, fresh=fresh)


def _place(
    session: Session,
    item: ImportItem,
    image: Image,
    target: Target,
    tally: Tally,
    *,
    fresh: bool = False,
) -> None:
    """Note where the bytes are, put the image into the collection, record its folder's score."""
    if not item.staged:
        status = item.path.stat()
        row = session.exec(select(ImagePath).where(ImagePath.path == str(item.path))).first()
        if row is None:
            row = ImagePath(path=str(item.path), image_id=image.id, size=0, mtime_ns=0)
        row.image_id, row.state = image.id, "present"
        row.size, row.mtime_ns = status.st_size, status.st_mtime_ns
        session.add(row)
    aside = session.exec(select(SetAside).where(SetAside.path == item.shown)).first()
    if aside is not None:  # it was mended
        session.delete(aside)
    images.put_in_collection(session, target.collection.id, image.id)
    images.add_tags(session, image.id, folder_tags(item.name, scored=item.score is not None))
    if not fresh:
        tally.known += 1
    if item.score is not None and target.project is not None:
        person = projects.annotator(session, projects.IMPORTED, stand_in=True)
        tally.scored += scores.record_many(
            session, target.project, person, [(image.id, item.score)], origin="import"
        )


def _keep_upload(settings: Settings, session: Session, staged: Path, image: Image) -> None:
    """Keep the bytes of an upload unless they are on this machine already."""
    if image.kind != "upload" and any(
        path.is_file() for path in images.source_paths(session, settings, image)
    ):
        return
    image.kind = "upload"
    session.add(image)
    kept = images.stored_path(settings, image)
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_suffix(".part")
        shutil.copyfile(staged, temporary)
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(kept)


def _write_vectors(work: JobContext, batch: list[ImportItem], target: Target, tally: Tally) -> None:
    """Vectors without a picture stand under the hash of their values and a declared encoder."""
    if target.project is None:
        raise Invalid("Vectors need a project, which names their encoder.", "Use --project.")
    for item in batch:
        try:
            vector = read_vector(item.path)
            with work.writing() as session:
                _write_vector(session, target.project.id, item, vector, target, tally)
        except Invalid as error:
            _set_aside(work, item.shown, str(error), tally)


def _write_vector(
    session: Session,
    project_id: int,
    item: ImportItem,
    vector: np.ndarray,
    target: Target,
    tally: Tally,
) -> None:
    encoder = declare_encoder(session, projects.get(session, project_id), vector)
    sha256 = vector_hash(vector, encoder.fingerprint)
    image = images.by_sha256(session, sha256)
    fresh = image is None
    if image is None:
        name = Path(item.name).name
        image = Image(sha256=sha256, kind="vector", name=name, source_group=sha256[:16])
        session.add(image)
        session.flush()
    store_vectors(session, encoder.id, [(image.id, vector)])
    tally.added += fresh
    _place(session, item, image, target, tally, fresh=fresh)


def _queue_embedding(work: JobContext, project: Project | None) -> None:
    assert project is not None
    with work.writing() as session:
        jobs.enqueue(
            session, "embed", f"Embed the images of “{project.name}”", {}, project.id, once=True
        )


def _set_aside(work: JobContext, path: str, reason: str, tally: Tally) -> None:
    tally.set_aside += 1
    tally.first_reason = tally.first_reason or f"{Path(path).name}: {reason}"
    work.log(f"set aside {path}: {reason}")
    with work.writing() as session:
        images.set_aside(session, path, reason, work.claim.job_id)


def _mark_missing(work: JobContext, roots: list[str]) -> None:
    """Paths below an imported folder that are no longer there were moved or deleted."""
    for root in roots:
        prefix = root.rstrip("/") + "/"
        with work.writing() as session:
            below = session.exec(
                select(ImagePath).where(
                    col(ImagePath.path).startswith(prefix, autoescape=True),
                    ImagePath.state == "present",
                )
            )
            for row in below:
                if not Path(row.path).exists():
                    row.state = "missing"
                    session.add(row)
