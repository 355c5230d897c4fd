"""Files that another program wrote again with the same pixels: a title, a rating, a date was put
into them. Their bytes are new, so they are new images; what was said of the old ones holds for
these.
"""

from sqlalchemy import update
from sqlmodel import Session, col, select

from tastemaker import files, images, projects, scores
from tastemaker.config import Settings
from tastemaker.database.tables import (
    Audit,
    AuditImage,
    CollectionImage,
    Image,
    Project,
    ProjectCollection,
    RemovedImage,
    Tag,
)
from tastemaker.pictures.pictures import VIEW, thumb_path


def carry_over(session: Session, settings: Settings, image: Image, former: int | None) -> bool:
    """Let `image` take the place of the one it was before its file was written again: `former`,
    whose file lay in the same place, or one with the same pixels whose files are all gone. Returns
    whether there was one."""
    old = _same_pixels(session, settings, image, former)
    if old is not None:
        take_over(session, settings, image, old)
    return old is not None


def take_over(session: Session, settings: Settings, image: Image, old: Image) -> None:
    """Let `image` take the place of `old`. Scores, tags and collections are copied; an old image
    that no file is left of leaves its projects, with all that was said of it."""
    tags = session.exec(select(Tag.tag).where(Tag.image_id == old.id))
    images.add_tags(session, image.id, tags.all())
    inside = select(CollectionImage.collection_id).where(CollectionImage.image_id == old.id)
    collections = session.exec(inside).all()
    for collection_id in collections:
        images.put_in_collection(session, collection_id, image.id)
    gone = not _still_there(session, settings, old)
    using = select(Project).join(ProjectCollection, col(ProjectCollection.project_id) == Project.id)
    using = using.where(col(ProjectCollection.collection_id).in_(collections))
    for project in session.exec(using).unique().all():
        removed = projects.removed_ids(session, project.id, [old.id, image.id])
        if old.id in removed:
            _remove(session, project, image)  # somebody did not want it
        elif image.id not in removed:
            scores.carry_over(session, project, old.id, image.id)
            if gone:
                _stand_in(session, project, old, image)
                _remove(session, project, old)


def _stand_in(session: Session, project: Project, old: Image, image: Image) -> None:
    """In audits the new image is asked in the place of the old one."""
    theirs = select(Audit.id).where(Audit.project_id == project.id)
    drawn = select(AuditImage.audit_id).where(AuditImage.image_id == image.id)
    session.execute(
        update(AuditImage)
        .where(
            col(AuditImage.image_id) == old.id,
            col(AuditImage.audit_id).in_(theirs),
            col(AuditImage.audit_id).not_in(drawn),
        )
        .values(image_id=image.id)
    )


def _same_pixels(
    session: Session, settings: Settings, image: Image, former: int | None
) -> Image | None:
    """The image that lay in the same place, or one that nothing is left of, if it looks exactly
    like this one: thumbnails hold nothing but pixels, so theirs are equal to the byte."""
    view = _view(settings, image)
    old = session.get(Image, former) if former is not None else None
    if old is not None and _looks_like(settings, old, image, view):
        return old
    for old in images.of_hash(session, image):
        if _looks_like(settings, old, image, view) and not _still_there(session, settings, old):
            return old
    return None


def _looks_like(settings: Settings, old: Image, image: Image, view: bytes) -> bool:
    same_size = (old.width, old.height) == (image.width, image.height)
    return same_size and view != b"" and _view(settings, old) == view


def _still_there(session: Session, settings: Settings, image: Image) -> bool:
    return any(files.is_file(path) for path in images.source_paths(session, settings, image))


def _view(settings: Settings, image: Image) -> bytes:
    try:
        return thumb_path(settings.thumbs, image.sha256, VIEW).read_bytes()
    except OSError:
        return b""


def _remove(session: Session, project: Project, image: Image) -> None:
    if session.get(RemovedImage, (project.id, image.id)) is None:
        session.add(RemovedImage(project_id=project.id, image_id=image.id))
        session.flush()
