"""What a filter means in a project: its names looked up, and SQL about any column of image ids, so
that the same words mean the same images in the grid, in a bulk action and in an expectation.

Nothing here counts on a short list: at a million images each of these conditions is a look-up in
an index, made for the few rows that a walk through another index comes by (`browsing`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from tastemaker import scores, versions
from tastemaker.config import Settings
from tastemaker.database.tables import (
    Collection,
    CollectionImage,
    Image,
    Label,
    Prediction,
    Project,
    ProjectCollection,
    RemovedImage,
    ScoreEvent,
    Tag,
    Version,
)
from tastemaker.errors import Invalid, NotFound
from tastemaker.library.filters import ACTIVE, LIVE, SAID, LibraryFilter, from_dict
from tastemaker.live import live_model
from tastemaker.live.live_model import LiveModel


@dataclass(frozen=True)
class ResolvedFilter:
    """A filter with its names looked up: collections by id, the version, the live model's array.
    `source_group` is that of the image whose relatives are meant."""

    project_id: int
    filter: LibraryFilter
    collections: tuple[int, ...]
    version: Version | None = None
    live: LiveModel | None = None
    source_group: str | None = None
    ignores_case: bool = field(default=True)  # whether LIKE does, of itself

    @property
    def by_live(self) -> bool:
        """Whether a range of the live model's predictions was asked for: those lie in an array
        and are looked at after the query."""
        return self.filter.by_prediction and self.filter.version == LIVE


def resolve(
    session: Session, project: Project, asked: LibraryFilter, settings: Settings | None = None
) -> ResolvedFilter:
    """Look the filter's names up. `settings` finds the live model; without them, a filter on it
    means nothing. Raises `NotFound` for a collection or a version that is not the project's."""
    mine = collections_of(session, project.id)
    if asked.collection is not None and asked.collection not in mine:
        raise NotFound(
            "This collection is not part of the project.", "Choose another one, or all of them."
        )
    version = live = None
    if asked.version == LIVE:
        live = live_model.read_live(settings, project.id) if settings else None
    elif asked.version == ACTIVE:
        version = versions.active(session, project)
    else:
        version = versions.by_number(session, project, asked.version)
    group = None
    if asked.relatives is not None:
        group = session.exec(
            select(Image.source_group).where(Image.id == asked.relatives)
        ).one_or_none()
        if group is None:
            raise NotFound("This image is not in the library.", "It may have been removed.")
    return ResolvedFilter(
        project_id=project.id,
        filter=asked,
        collections=(asked.collection,) if asked.collection is not None else tuple(mine),
        version=version,
        live=live,
        source_group=group,
        ignores_case=session.get_bind().dialect.name == "sqlite",
    )


def collections_of(session: Session, project_id: int) -> dict[int, str]:
    """Id -> name of the collections that a project uses."""
    rows = session.execute(
        select(Collection.id, Collection.name)
        .join(ProjectCollection, col(ProjectCollection.collection_id) == Collection.id)
        .where(ProjectCollection.project_id == project_id)
        .order_by(col(Collection.id))
    )
    return dict(rows.tuples().all())


def filtered_ids(
    session: Session, project: Project, asked: LibraryFilter | Mapping[str, Any]
) -> Any:
    """Select of the ids of the project's images that a filter means, each once: for a slice, a
    bulk action, a count. Raises `Invalid` for a range of the live model's predictions, which are
    no rows; `NotFound` for a collection or version that is gone."""
    asked = asked if isinstance(asked, LibraryFilter) else from_dict(asked)
    found = resolve(session, project, asked)
    if found.by_live:
        raise Invalid(
            "The live model changes with every score, so a lasting selection cannot rest on it.",
            "Choose a version's predictions instead.",
        )
    source = sources(found)[0]
    ids = select(source.image_id).where(*source.where, *conditions(found, source.image_id))
    return ids if source.once else ids.distinct()


# --- as SQL --------------------------------------------------------------------------------------


def conditions(found: ResolvedFilter, image_id: Any) -> list[Any]:
    """What must hold for the image whose id is in the column `image_id`."""
    asked = found.filter
    holds = [in_project(found, image_id)]
    gone = aliased(RemovedImage)
    removed = exists(gone.image_id, gone.project_id == found.project_id, gone.image_id == image_id)
    holds.append(removed if asked.removed else ~removed)
    for tag in asked.tags:
        tagged = aliased(Tag)
        holds.append(exists(tagged.image_id, tagged.image_id == image_id, tagged.tag == tag))
    label = aliased(Label)
    mine = (label.project_id == found.project_id, label.image_id == image_id)
    if asked.scored is not None:
        has_one = exists(label.image_id, *mine)
        holds.append(has_one if asked.scored else ~has_one)
    if asked.by_label:  # a value, not an EXISTS: that one may begin at the index of all values
        value = select(label.value).where(*mine).scalar_subquery()
        holds += _range(value, asked.label_min, asked.label_max)
    if asked.by_prediction and asked.version != LIVE:
        said = aliased(Prediction)
        by = found.version.id if found.version else 0
        value = (
            select(said.honest)
            .where(said.version_id == by, said.image_id == image_id)
            .scalar_subquery()
        )
        holds += _range(value, asked.predicted_min, asked.predicted_max)
    if asked.said:
        holds.append(standing(found, image_id, SAID[asked.said]))
    if asked.name:
        image = aliased(Image)
        holds.append(exists(image.id, image.id == image_id, name_like(found, image)))
    if found.source_group is not None:
        image = aliased(Image)
        holds.append(
            exists(image.id, image.id == image_id, image.source_group == found.source_group)
        )
    return holds


def in_project(found: ResolvedFilter, image_id: Any) -> Any:
    """In one of the collections that are meant."""
    member = aliased(CollectionImage)
    return exists(
        member.image_id,
        col(member.collection_id).in_(found.collections),
        member.image_id == image_id,
    )


def standing(found: ResolvedFilter, image_id: Any, kind: str) -> Any:
    """Somebody flagged (or skipped) the image and has not taken it back."""
    event = scores.standing_events().subquery()
    return (
        select(event.c.id)
        .where(
            event.c.project_id == found.project_id,
            event.c.kind == kind,
            event.c.image_id == image_id,
        )
        .exists()
    )


def exists(column: Any, *clauses: Any) -> Any:
    return select(column).where(*clauses).exists()


def label_range(asked: LibraryFilter, label: Any) -> list[Any]:
    return _range(label.value, asked.label_min, asked.label_max)


def predicted_range(asked: LibraryFilter, said: Any) -> list[Any]:
    return _range(said.honest, asked.predicted_min, asked.predicted_max)


def _range(column: Any, low: float | None, high: float | None) -> list[Any]:
    return [
        *([column >= low] if low is not None else []),
        *([column <= high] if high is not None else []),
    ]


def name_like(found: ResolvedFilter, image: Any) -> Any:
    """The name contains these letters, large or small (SQLite's LIKE folds ASCII by itself, and
    without a call of `lower` per row)."""
    text = found.filter.name
    for special in "\\%_":
        text = text.replace(special, "\\" + special)
    contains = col(image.name).like if found.ignores_case else col(image.name).ilike
    return contains(f"%{text}%", escape="\\")


# --- where to begin ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """A set of images that one index gives: `select(image_id).where(*where)`, in the order of
    their ids where `by_id`. `once`: no image comes twice."""

    kind: str
    image_id: Any
    where: tuple[Any, ...]
    once: bool = True
    by_id: bool = True


def sources(found: ResolvedFilter) -> list[Source]:
    """Every index that holds all images the filter means, those that tend to be smallest first.
    The project's collections, which are always one, come last."""
    asked = found.filter
    there: list[Source] = []
    if found.source_group is not None:
        there.append(
            Source("relatives", col(Image.id), (Image.source_group == found.source_group,))
        )
    if asked.removed:
        there.append(
            Source(
                "removed",
                col(RemovedImage.image_id),
                (RemovedImage.project_id == found.project_id,),
            )
        )
    if asked.said:
        where = (
            ScoreEvent.project_id == found.project_id,
            ScoreEvent.kind == SAID[asked.said],
            col(ScoreEvent.kind).in_(("skip", "flag")),  # the words of the partial index
        )
        there.append(Source("said", col(ScoreEvent.image_id), where, once=False))
    for tag in asked.tags:
        there.append(Source("tag", col(Tag.image_id), (Tag.tag == tag,)))
    if asked.by_label or asked.scored:
        where = (Label.project_id == found.project_id, *label_range(asked, Label))
        there.append(Source("label", col(Label.image_id), where))
    if asked.by_prediction and found.version is not None:
        where = (Prediction.version_id == found.version.id, *predicted_range(asked, Prediction))
        there.append(Source("predicted", col(Prediction.image_id), where, by_id=False))
    there.append(
        Source(
            "collection",
            col(CollectionImage.image_id),
            (col(CollectionImage.collection_id).in_(found.collections),),
            once=len(found.collections) < 2,
        )
    )
    return there
