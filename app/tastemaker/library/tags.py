"""Tags: words about images, from folders, from the files beside them, or given by hand.

A grouped count over a million tagged images takes a second, so the most common tags of a large
project are estimated from images drawn at random; a small project's are counted.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select
from sqlmodel import Session, col, delete, func, select

from tastemaker import projects
from tastemaker.database import counts
from tastemaker.database.sessions import rows_changed
from tastemaker.database.statements import insert_missing
from tastemaker.database.tables import Project, Tag
from tastemaker.errors import Invalid
from tastemaker.files import is_text
from tastemaker.files.texts import composed
from tastemaker.images import MAX_TAG_LENGTH

SAMPLE = 4000  # images that are looked at; a tag on 1 in 100 is then known to within a fifth


@dataclass(frozen=True)
class TagCount:
    """A tag and how many of the project's images have it; `estimated` from a sample."""

    tag: str
    images: int
    estimated: bool = False


def most_common(session: Session, project: Project, limit: int = 40) -> list[TagCount]:
    """The project's most common tags, most common first."""
    key = ("tags", str(session.get_bind().engine.url), project.id, limit)
    return counts.cached_count(
        key,
        lambda: _count(session, project, limit),
        lambda found: any(tag.estimated for tag in found),
    )


def _count(session: Session, project: Project, limit: int) -> list[TagCount]:
    size = projects.size(session, project)
    few = size <= SAMPLE
    sample: Any = projects.image_ids(project.id).distinct()
    if not few:
        sample = projects.sample(session, project, SAMPLE)
    share = 1.0 if few else size / max(1, len(sample))
    rows = session.execute(
        select(Tag.tag, func.count())
        .where(col(Tag.image_id).in_(sample))
        .group_by(col(Tag.tag))
        .order_by(func.count().desc(), col(Tag.tag))
        .limit(limit)
    )
    return [TagCount(tag, round(share * n), not few) for tag, n in rows]


def starting_with(session: Session, text: str, limit: int = 12) -> list[str]:
    """Tags that begin with these letters, in order. Each look-up jumps to the next tag, however
    many images have the one before."""
    text = composed(" ".join(text.split()))
    found: list[str] = []
    last = None
    while len(found) < limit:
        query: Select[Any] = select(func.min(Tag.tag)).where(
            col(Tag.tag) >= text if last is None else col(Tag.tag) > last
        )
        last = session.execute(query).scalar_one()
        if last is None or not last.startswith(text):
            break
        found.append(last)
    return found


def of_image(session: Session, image_id: int) -> list[str]:
    return list(session.exec(select(Tag.tag).where(Tag.image_id == image_id).order_by(Tag.tag)))


def parse(text: str) -> list[str]:
    """Tags as a person types them, with commas between. Raises `Invalid` if there is none."""
    found = [" ".join(part.split()) for part in composed(text).split(",")]
    found = list(dict.fromkeys(tag for tag in found if tag))
    if not found:
        raise Invalid("No tag was typed.", "Type one, or several with commas between them.")
    for tag in found:
        if len(tag) > MAX_TAG_LENGTH or not is_text(tag) or not tag.isprintable():
            raise Invalid(
                f"“{tag[:40]}” cannot be a tag.",
                f"A tag has at most {MAX_TAG_LENGTH} characters and no line breaks.",
            )
    return found


def add(session: Session, image_ids: Iterable[int], names: Iterable[str]) -> int:
    """Give images these tags; returns how many were new, pairs of image and tag."""
    names = list(names)
    rows = [{"image_id": image_id, "tag": tag} for image_id in image_ids for tag in names]
    if not rows:
        return 0
    before = _pairs(session, image_ids, names)
    insert_missing(session, Tag, rows)
    return _pairs(session, image_ids, names) - before


def _pairs(session: Session, image_ids: Iterable[int], names: list[str]) -> int:
    there = select(func.count()).where(
        col(Tag.image_id).in_(list(image_ids)), col(Tag.tag).in_(names)
    )
    return int(session.exec(there).one())


def remove(session: Session, image_ids: Iterable[int], names: Iterable[str]) -> int:
    """Take these tags away from images; returns how many were there."""
    gone = delete(Tag).where(col(Tag.image_id).in_(list(image_ids)), col(Tag.tag).in_(list(names)))
    return rows_changed(session, gone)
