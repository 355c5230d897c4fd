"""Series: pictures taken within seconds of each other that look alike, and copies of one picture;
and which of each to keep, with the reason.

Time is what the camera's clock showed, likeness that of the vectors. Pictures that state no time
are compared among themselves by when their files were written, and never with those that do. The
tags `BEST` and `REST` put the outcome where the library filters and sweeps by it; nothing is
deleted. The job “series” does it for the page.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby, pairwise
from pathlib import PurePath
from typing import Any, Literal

import numpy as np
from more_itertools import chunked
from pydantic import BaseModel, Field
from sqlalchemy import func
from sqlalchemy import select as select_columns
from sqlmodel import Session, col, delete, select

from tastemaker import embeddings, jobs, projects, scores, versions
from tastemaker.database.sessions import Transactions
from tastemaker.database.statements import insert_missing
from tastemaker.database.tables import Image, ImagePath, Job, Project, Tag, Version
from tastemaker.files.texts import enumerated
from tastemaker.jobs.context import JobContext
from tastemaker.library.taken_times import read_taken_times, unasked
from tastemaker.scores import classes
from tastemaker.versions import predictions

Link = Literal["copies", "taken", "written"]

WITHIN = 10.0  # seconds between one picture of a series and the next
ALIKE = 0.9  # cosine of their vectors
BEST, REST = "best of its series", "rest of its series"
NS = 10**9
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UPLOADS = ":"  # the folder of those that say when they were taken
MOST_LISTED = 1000  # series that a job's result holds,
MOST_BESIDES = 50  # and how many pictures of each besides the best
AT_ONCE = 500  # images that are tagged in one transaction

Told = Callable[[int, int], None]  # how many pairs were compared, of how many


@dataclass(frozen=True)
class Member:
    """A picture of a series: its score in points of 0–10, whether a person gave it, None without
    either; its size in pixels; and when it was taken, by its camera's clock in ISO 8601, None where
    that is not known."""

    image_id: int
    path: str
    score: float | None
    scored: bool
    pixels: int
    taken_at: str | None = None


@dataclass(frozen=True)
class Series:
    """The picture to keep, why, and the others, the best first. `links` are what makes them one:
    all that holds between some of them."""

    keep: Member
    rest: tuple[Member, ...]
    reason: str
    links: tuple[Link, ...] = ()


@dataclass(frozen=True)
class _Shot:
    image_id: int
    path: str
    folder: str
    written_ns: int
    taken_at: str
    group: str
    pixels: int


def find_series(
    session: Session,
    project: Project,
    version: Version | None,
    *,
    within: float = WITHIN,
    alike: float = ALIKE,
    progress: Told = lambda done, total: None,
) -> Iterator[Series]:
    """The series of a project's pool, in the order of their folders and times. Images without a
    vector are in no burst, nor are uploads that do not say when they were taken; of these copies
    are found. Raises `Conflict` for a project with classes."""
    classes.check_scores(project)
    shots = _shots(session, project)
    of = {shot.image_id: shot for shot in shots}
    root = {image_id: image_id for image_id in of}

    def top(image_id: int) -> int:
        while root[image_id] != image_id:
            root[image_id] = image_id = root[root[image_id]]
        return image_id

    linked: list[tuple[int, Link]] = []
    first_of: dict[str, int] = {}
    for shot in shots:
        first = first_of.setdefault(shot.group, shot.image_id)
        if first != shot.image_id:
            root[top(shot.image_id)] = top(first)
            linked.append((first, "copies"))
    for one, other, link in _followers(session, project, shots, within, alike, progress):
        root[top(other)] = top(one)
        linked.append((one, link))
    links: dict[int, set[Link]] = {}
    for image_id, link in linked:
        links.setdefault(top(image_id), set()).add(link)
    members: dict[int, list[_Shot]] = {}
    for shot in shots:
        members.setdefault(top(shot.image_id), []).append(shot)
    found = [series for series in members.values() if len(series) > 1]
    for some in chunked(found, 200):
        ids = [shot.image_id for series in some for shot in series]
        labels = scores.values_of(session, project.id, ids)
        told = predictions.of_images(session, version.id, ids) if version else {}
        for series in some:
            why = tuple(sorted(links[top(series[0].image_id)]))
            yield choose([_member(shot, labels, told) for shot in series], why)


def _shots(session: Session, project: Project) -> list[_Shot]:
    """The images of the pool by folder and time, each at the first of its places; last the uploads,
    which lie in one folder if they say when they were taken, and otherwise in none."""
    rows = session.execute(
        select_columns(
            col(Image.id), col(ImagePath.path), col(ImagePath.mtime_ns), col(Image.source_group),
            col(Image.width), col(Image.height), col(Image.name), col(Image.taken_at),
        )
        .outerjoin(
            ImagePath,
            (col(ImagePath.image_id) == col(Image.id)) & (col(ImagePath.state) == "present"),
        )
        .where(
            projects.is_member(project.id, Image.id), col(Image.kind) != "vector",
            col(ImagePath.id).is_not(None) | (col(Image.kind) == "upload"),
        )
        .order_by(col(Image.id), col(ImagePath.id))
    )  # fmt: skip
    shots: dict[int, _Shot] = {}
    for image_id, path, mtime, group, width, height, name, taken in rows:
        apart = UPLOADS if taken else f"{UPLOADS}{image_id}"
        folder = apart if path is None else str(PurePath(path).parent)
        shot = _Shot(image_id, path or name, folder, mtime or 0, taken or "", group, width * height)
        shots.setdefault(image_id, shot)
    return sorted(
        shots.values(),
        key=lambda shot: (shot.folder, shot.taken_at[:19], shot.written_ns, shot.path),
    )


def _comparable(inside: Iterable[_Shot]) -> Iterator[tuple[Link, list[tuple[int, _Shot]]]]:
    """The shots of one folder with their times in nanoseconds, in that order, as far as they can be
    compared: those that say when they were taken, and apart from them those that do not.

    Clocks are compared as they were shown, which is right for one camera, and for several that are
    set alike. Only where each shot states its offset from UTC are they compared by that.
    """
    shots = list(inside)
    stated = [(datetime.fromisoformat(shot.taken_at), shot) for shot in shots if shot.taken_at]
    in_utc = all(at.tzinfo is not None for at, _ in stated)
    taken = [(_nanoseconds(at if in_utc else at.replace(tzinfo=UTC)), shot) for at, shot in stated]
    written = [(shot.written_ns, shot) for shot in shots if not shot.taken_at]
    for timed in (taken, written):
        timed.sort(key=lambda one: (one[0], one[1].path))
    yield from (("taken", taken), ("written", written))


def _nanoseconds(at: datetime) -> int:
    return (at - EPOCH) // timedelta(microseconds=1) * 1000


def _followers(
    session: Session, project: Project, shots: Sequence[_Shot], within: float, alike: float,
    progress: Told,
) -> Iterator[tuple[int, int, Link]]:  # fmt: skip
    """Pairs of images of which one followed the other within the time, and looks alike; and which
    time that was."""
    if project.encoder_id is None:
        return
    close = [
        (one.image_id, other.image_id, link)
        for _, inside in groupby(shots, key=lambda shot: shot.folder)
        for link, timed in _comparable(inside)
        for (before, one), (after, other) in pairwise(timed)
        if after - before <= within * NS
    ]
    for start in range(0, len(close), 2000):
        some = close[start : start + 2000]
        progress(start, len(close))
        ids, x = embeddings.matrix(
            session, project.encoder_id, {image_id for pair in some for image_id in pair[:2]}
        )
        unit = x.astype(np.float32)
        unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
        row = {image_id: number for number, image_id in enumerate(ids.tolist())}
        for one, other, link in some:
            if one in row and other in row and unit[row[one]] @ unit[row[other]] >= alike:
                yield one, other, link


def _member(
    shot: _Shot, labels: Mapping[int, float], told: Mapping[int, tuple[float, float]]
) -> Member:
    label = labels.get(shot.image_id)
    said = told.get(shot.image_id)
    score = label if label is not None else 10 * said[0] if said is not None else None
    taken_at = shot.taken_at or None
    return Member(shot.image_id, shot.path, score, label is not None, shot.pixels, taken_at)


def choose(members: Iterable[Member], links: tuple[Link, ...] = ()) -> Series:
    """Which of a series to keep: the best score, a person's before a prediction where they are
    equal; among equals the largest picture."""
    best, *rest = sorted(
        members,
        key=lambda m: (m.score is None, -(m.score or 0), not m.scored, -m.pixels, m.path),
    )
    return Series(best, tuple(rest), _reason(best, rest), links)


def why_together(links: Sequence[Link], within: float) -> str:
    """What makes pictures one series, `within` so many seconds; empty where nothing is known."""
    words: dict[Link, str] = {
        "copies": "copies of one picture",
        "taken": f"each taken within {within:g} s of the one before",
        "written": f"without a camera's time, each file written within {within:g} s of the one "
        "before",
    }
    return "; ".join(words[link] for link in links)


def _reason(best: Member, rest: Sequence[Member]) -> str:
    if best.score is None:
        return "nothing is scored or predicted yet: the largest picture"
    how = "scored" if best.scored else "predicted"
    own = f"{how} {best.score:.{0 if best.scored else 1}f}"
    known = [member for member in rest if member.score is not None]
    if known and known[0].score == best.score and known[0].scored == best.scored:
        return f"{own}, as others are: the largest of them"
    others = [f"{member.score:.1f}".removesuffix(".0") for member in known[:3]]
    these = "the others" if len(known) <= 3 else "the next"
    return f"{own}, {these} {enumerated(others)}" if others else f"{own}, the only one known"


# --- tags, and the job ---------------------------------------------------------------------------


def tag(transactions: Transactions, series: Iterable[Series], project: Project) -> None:
    """Tag the images of these series as `BEST` and `REST`, and no others of the project, in
    transactions that hold nobody up."""
    untag(transactions, project)
    tags = [
        {"image_id": member.image_id, "tag": word}
        for one in series
        for word, members in ((BEST, (one.keep,)), (REST, one.rest))
        for member in members
    ]
    for some in chunked(tags, AT_ONCE):
        with transactions.writing() as session:
            ids = [row["image_id"] for row in some]
            there = set(session.exec(select(Image.id).where(col(Image.id).in_(ids))))
            insert_missing(session, Tag, [row for row in some if row["image_id"] in there])


def untag(transactions: Transactions, project: Project) -> None:
    """Take both tags away from the images of the project."""
    mine = projects.image_ids(project.id)
    with transactions.writing() as session:
        session.execute(
            delete(Tag).where(col(Tag.tag).in_((BEST, REST)), col(Tag.image_id).in_(mine))
        )


def count_tagged(session: Session, project: Project) -> dict[str, int]:
    """Tag → how many images of the project have it."""
    mine = projects.image_ids(project.id)
    rows = session.execute(
        select_columns(col(Tag.tag), func.count())
        .where(col(Tag.tag).in_((BEST, REST)), col(Tag.image_id).in_(mine))
        .group_by(col(Tag.tag))
    )
    return {word: int(count) for word, count in rows}


class SeriesRequest(BaseModel, frozen=True):
    """The payload of the job: `within` seconds, `alike` as a cosine, and whether to `tag`."""

    within: float = Field(default=WITHIN, ge=0, le=86_400)
    alike: float = Field(default=ALIKE, ge=0, le=1)
    tag: bool = False


def request_series(
    session: Session, project: Project, request: SeriesRequest, asked_by: int = 0
) -> Job:
    """Queue the job. Raises `Conflict` for a project with classes."""
    classes.check_scores(project)
    title = "Find series and tag the best of each" if request.tag else "Find series"
    payload = request.model_dump(mode="json")
    return jobs.enqueue(session, "series", title, payload, project.id, once=True, asked_by=asked_by)


def run(job: JobContext) -> dict[str, Any]:
    """Find the series, and tag them if asked; safe to run again. Returns the request, how many
    there are, and the first `MOST_LISTED` with what to keep, why, how many there are besides and
    the best of those."""
    request = SeriesRequest.model_validate(job.payload)
    with job.reading() as session:
        project = projects.get(session, job.project_id)
        waiting = unasked(session, project)
    if waiting:
        job.stage("Reading when pictures were taken", len(waiting))
        read_taken_times(job, job.settings, waiting, job.progress)
    job.stage("Comparing pictures taken one after another")
    with job.reading() as session:
        project = projects.get(session, job.project_id)
        version = versions.chosen(session, project)
        found = list(
            find_series(
                session, project, version, within=request.within, alike=request.alike,
                progress=job.progress,
            )
        )  # fmt: skip
    if request.tag:
        job.stage("Tagging them")
        tag(job, found, project)
    return request.model_dump() | {
        "series": len(found), "besides": sum(len(one.rest) for one in found),
        "version": version.number if version else "",
        "listed": [
            {
                "keep": asdict(one.keep), "reason": one.reason, "links": list(one.links),
                "besides": len(one.rest),
                "rest": [asdict(member) for member in one.rest[:MOST_BESIDES]],
            }
            for one in found[:MOST_LISTED]
        ],
    }  # fmt: skip
