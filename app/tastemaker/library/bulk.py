"""What is done to many images of a project at once.

Every action takes a list of image ids that `chosen` or `matching` has vouched for, does what is
still to be done, and says how many images it changed. Doing it again changes nothing, so a form
that was sent twice does no harm. No action touches a file.
"""

from collections.abc import Iterable, Iterator, Sequence

from sqlmodel import Session, col, delete, func, select

from tastemaker import images, projects, scores
from tastemaker.database.sessions import rows_changed
from tastemaker.database.statements import insert_missing
from tastemaker.database.tables import (
    Annotator,
    Collection,
    CollectionImage,
    Project,
    ProjectCollection,
    RemovedImage,
)
from tastemaker.errors import Invalid, NotFound
from tastemaker.files.texts import composed
from tastemaker.library import scopes
from tastemaker.library.filters import LibraryFilter

AT_ONCE = 500  # images a transaction: others may score in between
MOST = 100_000
MOST_SCORED = 2_000  # one undo, which is one transaction, takes all of these back


def selected_images(session: Session, project: Project, ids: Iterable[int]) -> list[int]:
    """Those of the ids that are images of the project, taken out of it or not, each once. Raises
    `NotFound` where none is."""
    wanted = list(dict.fromkeys(ids))
    if not wanted:
        raise Invalid("No image is selected.", "Select one or more, then choose what to do.")
    if len(wanted) > MOST:
        raise Invalid(f"At most {MOST:,} images can be changed at once.", "Select fewer.")
    mine: set[int] = set()
    for part in parts(wanted):
        members = projects.is_member(
            project.id, CollectionImage.image_id, projects.ANY_ROLE, removed_too=True
        )
        query = select(CollectionImage.image_id).where(
            col(CollectionImage.image_id).in_(part), members
        )
        mine.update(session.exec(query))
    if not mine:
        raise NotFound("This image is not in this project.", "Look for it in the library.")
    return [image_id for image_id in wanted if image_id in mine]


def require_images(session: Session, project: Project, image_id: int) -> None:
    """Raises `NotFound` for an image that is not the project's."""
    selected_images(session, project, [image_id])


def matching_images(
    session: Session, project: Project, wanted: LibraryFilter, most: int = MOST
) -> list[int]:
    """All images that agree with a filter. Raises `Invalid` where they are more than `most`."""
    ids = list(session.exec(scopes.filtered_ids(session, project, wanted).limit(most + 1)))
    if len(ids) > most:
        raise Invalid(
            f"More than {most:,} images match; at most so many can be changed at once.",
            "Narrow the filter, and do it in several steps.",
        )
    return ids


def parts(ids: Sequence[int], size: int = AT_ONCE) -> Iterator[list[int]]:
    for start in range(0, len(ids), size):
        yield list(ids[start : start + size])


# --- scores --------------------------------------------------------------------------------------


def score(
    session: Session,
    project: Project,
    person: Annotator,
    ids: Iterable[int],
    value: int,
    group: str,
) -> int:
    """Give images the same score. What is scored under one `group` is undone as one."""
    given = [scores.Given(image_id, person.id, value) for image_id in ids]
    written = scores.record_many(session, project, given, origin=scores.Origin.LIBRARY, group=group)
    return sum(written)


# --- collections ---------------------------------------------------------------------------------


def collection_for(session: Session, project: Project, name: str) -> Collection:
    """The collection of that name: one of the project's, or a new one that it uses from now on.
    Raises `Invalid` for one that only other projects use: it would bring all its images along."""
    known = session.exec(
        select(Collection).where(Collection.name == composed(" ".join(name.split())))
    ).first()
    if known is not None and session.get(ProjectCollection, (project.id, known.id)) is None:
        used = select(func.count()).where(CollectionImage.collection_id == known.id)
        if int(session.exec(used).one()):
            raise Invalid(
                f"“{known.name}” is a collection that this project does not use.",
                "Choose one of its own, or another name.",
            )
    found = images.collection_named(session, name)
    if session.get(ProjectCollection, (project.id, found.id)) is None:
        projects.add_collection(session, project, found)
    return found


def put_in(session: Session, collection_id: int, ids: Sequence[int]) -> int:
    """Add images to a collection; returns how many were not in it."""
    there = select(func.count()).where(
        CollectionImage.collection_id == collection_id, col(CollectionImage.image_id).in_(ids)
    )
    before = int(session.exec(there).one())
    rows = [{"collection_id": collection_id, "image_id": image_id} for image_id in ids]
    insert_missing(session, CollectionImage, rows)
    return int(session.exec(there).one()) - before


def move(session: Session, from_id: int, to_id: int, ids: Sequence[int]) -> int:
    """Take images from one collection into another; returns how many left the first."""
    if from_id == to_id:
        raise Invalid("They are in that collection already.", "Choose another one.")
    put_in(session, to_id, ids)
    gone = delete(CollectionImage).where(
        col(CollectionImage.collection_id) == from_id, col(CollectionImage.image_id).in_(ids)
    )
    return rows_changed(session, gone)


# --- in the project or not -----------------------------------------------------------------------


def remove(session: Session, project: Project, ids: Sequence[int]) -> int:
    """Take images out of the project. Files, scores and other projects stay as they are."""
    gone = projects.removed_ids(session, project.id, ids)
    new = [image_id for image_id in ids if image_id not in gone]
    session.add_all(RemovedImage(project_id=project.id, image_id=i) for i in new)
    session.flush()
    return len(new)


def restore(session: Session, project: Project, ids: Sequence[int]) -> int:
    """Bring images back that were taken out."""
    back = delete(RemovedImage).where(
        col(RemovedImage.project_id) == project.id, col(RemovedImage.image_id).in_(ids)
    )
    return rows_changed(session, back)
