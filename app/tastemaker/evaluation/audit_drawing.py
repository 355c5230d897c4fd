"""The job “audit”: the drawn pictures of a table become images, which can then be scored."""

import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from sqlmodel import Session, col, select

from tastemaker import images, projects, versions
from tastemaker.database.tables import Audit, ImagePath, Project
from tastemaker.errors import BadImage, Invalid, NotFound
from tastemaker.evaluation.audit_tables import (
    known_image,
    picture_archive,
    picture_file,
    read_table,
)
from tastemaker.evaluation.audits import draw_from_table
from tastemaker.files.roots import outside, within
from tastemaker.filtering.shards import Shards
from tastemaker.importing import imports
from tastemaker.jobs.context import JobContext
from tastemaker.learning import audits
from tastemaker.pictures.pictures import Limits
from tastemaker.scores.references import References


def run(job: JobContext) -> dict[str, Any]:
    """Import the drawn pictures that are not here yet. Safe to run again: the draw is fixed by the
    audit's seed, and what is imported is known."""
    with job.reading() as session:
        audit = session.get(Audit, job.payload["audit"])
        if audit is None:
            raise NotFound("This audit was removed.")
        if audit.population:
            return {"audit": audit.id, "kept": audit.population["kept"]}
        version = versions.get(session, audit.version_id)
    job.stage("Reading the table")
    table = read_table(Path(audit.target["table"]))
    table.require_same(audit.target.get("sha256", ""))
    order = audits.draw(table.scores, audit.cut, audit.seed, audit.share_below)
    root = Path(audit.target["root"])
    named = table.paths(order)
    there = {row: path for row in order if (path := picture_file(named[row], root)) is not None}
    collection = f"Audit {audit.id}: {audit.name}"[:100]
    staging = job.settings.incoming / f"samples-{job.claim.job_id}"
    try:
        packed = {row: name for row, name in named.items() if row not in there}
        files, hashes = _taken_out(job, packed, root, staging)
        if there or files:
            paths = sorted({str(path) for path in there.values()})
            wanted = {"collection": collection, "role": "test-run", "paths": paths}
            sent = {"staging": staging.name, "files": files} if files else {}
            imports.import_files(job, wanted | sent, job.project_id, queue_embedding=True)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    with job.writing() as session:
        project = session.get_one(Project, audit.project_id)
        known = _images(session, there)
        for row, digest in hashes.items():
            if (image := images.by_sha256(session, digest)) is not None:
                known[row] = image.id
        references = References(session, root)
        for row in order:
            if row not in known and (image_id := known_image(references, named[row])):
                known[row] = image_id
        if not known:
            raise Invalid(
                f"None of the {len(order):,} drawn pictures could be found.",
                f"They were looked for in {root}; name the folder that was scored with --root.",
            )
        home = images.collection_named(session, collection)
        projects.add_collection(session, project, home, "test-run")
        for image_id in set(known.values()):
            images.put_in_collection(session, home.id, image_id)
        row_of_audit = session.get_one(Audit, audit.id)
        draw_from_table(session, row_of_audit, version, table, order, known)
        return {"audit": audit.id, "kept": row_of_audit.population["kept"]}


def _taken_out(
    job: JobContext, named: Mapping[int, str], root: Path, into: Path
) -> tuple[list[tuple[str, str]], dict[int, str]]:
    """Write the pictures of these rows that lie in archives into a folder: its files, each with the
    name it has in its archive; and row → the SHA-256 of its picture. Of what cannot be had, the
    log tells why."""
    rows_of: dict[str, list[int]] = defaultdict(list)
    archives: dict[str, Path] = {}
    for row, name in named.items():
        found = picture_archive(name, root)
        if found is None:
            continue
        if not within(found[1], job.settings.roots):
            job.log(f"left out {name}: {outside(found[0], job.settings.roots)}")
            continue
        rows_of[name].append(row)
        archives.setdefault(*found)
    if not archives:
        return [], {}
    job.stage("Taking the drawn pictures out of their archives", len(rows_of))
    shutil.rmtree(into, ignore_errors=True)  # of an attempt that was stopped
    into.mkdir(parents=True)
    files, hashes = list[tuple[str, str]](), dict[int, str]()
    shards = Shards(sorted(archives.items()), Limits.of(job.settings), only=rows_of)
    for done, (name, content) in enumerate(shards.pictures(), 1):
        if isinstance(content, BadImage):
            job.log(f"left out {name}: {content}")
            continue
        stored = f"{len(files)}{PurePosixPath(name).suffix.lower()}"
        (into / stored).write_bytes(content)
        files.append((stored, PurePosixPath(name).name))
        hashes |= dict.fromkeys(rows_of[name], sha256(content).hexdigest())
        job.progress(min(done, len(rows_of)))
    return files, hashes


def _images(session: Session, there: dict[int, Path]) -> dict[int, int]:
    """Row → the image that its file is."""
    paths = sorted({str(path) for path in there.values()})
    known: dict[str, int] = {}
    for start in range(0, len(paths), 500):
        some: Sequence[str] = paths[start : start + 500]
        rows = select(ImagePath.path, ImagePath.image_id).where(col(ImagePath.path).in_(some))
        known |= dict(session.execute(rows).tuples().all())
    return {row: known[str(path)] for row, path in there.items() if str(path) in known}
