"""When images were taken that were imported before that was asked of them: read from their files,
which are read no further than that."""

import functools
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from sqlalchemy import update
from sqlmodel import Session, col, select

from tastemaker import images, projects
from tastemaker.config import Settings
from tastemaker.database.sessions import Transactions
from tastemaker.database.tables import Image, Project
from tastemaker.errors import BadImage
from tastemaker.pictures.decode_pool import DecodePool
from tastemaker.pictures.embedded import taken_at
from tastemaker.pictures.pictures import Limits

AT_ONCE = 500  # images that are noted in one transaction

Told = Callable[[int, int], None]  # how many images were asked, of how many


def unasked(session: Session, project: Project) -> list[int]:
    """The images of a project's pool of which nobody has asked yet when they were taken."""
    query = select(Image.id).where(
        projects.is_member(project.id, Image.id), Image.kind != "vector",
        col(Image.taken_at).is_(None),
    )  # fmt: skip
    return list(session.exec(query.order_by(col(Image.id))))


def read_taken_times(
    transactions: Transactions, settings: Settings, image_ids: Sequence[int], progress: Told
) -> None:
    """Note when these images were taken, some hundred at a time. Those whose file is gone, changed
    or cannot be read are left for the next time. Safe to break off."""
    limits = Limits.of(settings)
    task = functools.partial(taken_at, limits=limits)
    with closing(DecodePool(limits=limits)) as readers:
        for start in range(0, len(image_ids), AT_ONCE):
            with transactions.reading() as session:
                files = _files(session, settings, image_ids[start : start + AT_ONCE])
            found = []
            for done, (path, said) in enumerate(readers.map(task, files), start):
                progress(done, len(image_ids))
                if not isinstance(said, BadImage):
                    found.append({"id": files[path], "taken_at": said})
            if found:
                with transactions.writing() as session:
                    session.execute(update(Image), found)
    progress(len(image_ids), len(image_ids))


def _files(session: Session, settings: Settings, image_ids: Sequence[int]) -> dict[Path, int]:
    """A file of each image that still holds its bytes → the image."""
    files = {}
    places = images.places_of(session, image_ids)
    for image in session.exec(select(Image).where(col(Image.id).in_(image_ids))):
        own = [images.stored_path(settings, image)] if image.kind == "upload" else []
        there = (Path(row.path) for row in places.get(image.id, []) if images.is_untouched(row))
        for path in (*filter(Path.is_file, own), *there):
            files[path] = image.id
            break
    return files
