"""What a filter means in a project: its names looked up, and SQL about any column of image ids, so
that the same words mean the same images in the grid, in a bulk action and in an expectation.

Nothing here counts on a short list: at a million images each of these conditions is a look-up in
an index, made for the few rows that a walk through another index comes by (`browsing`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import BigInteger, cast
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from tastemaker import projects, scores, versions
from tastemaker.config import Settings
from tastemaker.database.tables import (
    ClassPrediction,
    Collection,
    CollectionImage,
    Image,
    ImageName,
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
from tastemaker.library import classifiers
from tastemaker.library.classifiers import Classified
from tastemaker.library.filters import ACTIVE, LIVE, PREDICTED, SAID, LibraryFilter, from_dict
from tastemaker.live import live_model
from tastemaker.live.live_model import LiveModel
from tastemaker.scores import classes
from tastemaker.scores.classes import MOST_TAG_NUMBERS, ClassList


@dataclass(frozen=True)
class ResolvedFilter:
    """A filter with its names looked up: collections by id, the version, the live model's array.
    `source_group` is that of the image whose relatives are meant; `kinds` the classes, if labels
    name such."""

    project_id: int
    filter: LibraryFilter
    collections: tuple[int, ...]
    version: Version | None = None
    live: LiveModel | None = None
    source_group: str | None = None
    kinds: ClassList | None = None
    classified: Classified | None = None
    ignores_case: bool = field(default=True)  # whether LIKE does, of itself
    other_names: bool = field(default=True)  # whether the second name of any image matches

    @property
    def by_live(self) -> bool:
        """Whether a range, or a class, of the live model's predictions was asked for: those lie
        in an array and are looked at after the query."""
        asked = self.filter.by_prediction or self.filter.predicted_as is not None
        return asked and self.filter.version == LIVE


def resolve(
    session: Session, project: Project, wanted: LibraryFilter, settings: Settings | None = None
) -> ResolvedFilter:
    """Look the filter's names up. `settings` finds the live model; without them, a filter on it
    means nothing. Raises `NotFound` for a collection or a version that is not the project's, and
    for a classifier that is gone."""
    mine = collections_of(session, project.id, projects.ANY_ROLE)
    if wanted.collection is not None and wanted.collection not in mine:
        raise NotFound(
            "This collection is not part of the project.", "Choose another one, or all of them."
        )
    version = live = None
    if wanted.version == LIVE:
        live = live_model.read_live(settings, project.id) if settings else None
    elif wanted.version == ACTIVE:
        version = versions.active(session, project)
    else:
        version = versions.by_number(session, project, wanted.version)
    group = None
    if wanted.relatives is not None:
        group = session.exec(
            select(Image.source_group).where(Image.id == wanted.relatives)
        ).one_or_none()
        if group is None:
            raise NotFound("This image is not in the library.", "It may have been removed.")
    # What was taken out is shown wherever it came from.
    if wanted.collection is None and not wanted.removed:
        mine = collections_of(session, project.id, wanted.role)
    ignores_case = session.get_bind().dialect.name == "sqlite"
    other = select(ImageName.image_id).where(_contains(ImageName.name, wanted.name, ignores_case))
    return ResolvedFilter(
        project_id=project.id,
        filter=wanted,
        collections=(wanted.collection,) if wanted.collection is not None else tuple(mine),
        version=version,
        live=live,
        source_group=group,
        kinds=classes.of_project(session, project),
        classified=classifiers.find(session, wanted.classified) if wanted.classified else None,
        ignores_case=ignores_case,
        other_names=bool(wanted.name) and session.exec(other.limit(1)).first() is not None,
    )


def collections_of(
    session: Session, project_id: int, role: str | None = projects.POOL
) -> dict[int, str]:
    """Id -> name of the collections that a project uses as that, or (`ANY_ROLE`) as anything."""
    query = (
        select(Collection.id, Collection.name)
        .join(ProjectCollection, col(ProjectCollection.collection_id) == Collection.id)
        .where(ProjectCollection.project_id == project_id)
        .order_by(col(Collection.id))
    )
    if role is not projects.ANY_ROLE:
        query = query.where(ProjectCollection.role == role)
    return dict(session.execute(query).tuples().all())


def filtered_ids(
    session: Session, project: Project, wanted: LibraryFilter | Mapping[str, Any]
) -> Any:
    """Select of the ids of the project's images that a filter means, each once: for a slice, a
    bulk action, a count. Raises `Invalid` for what the live model predicts, which is no row;
    `NotFound` for a collection or version that is gone."""
    wanted = wanted if isinstance(wanted, LibraryFilter) else from_dict(wanted)
    resolved = resolve(session, project, wanted)
    if resolved.by_live:
        raise Invalid(
            "The live model changes with every score, so a lasting selection cannot rest on it.",
            "Choose a version's predictions instead.",
        )
    source = sources(resolved)[0]
    ids = select(source.image_id).where(*source.where, *conditions(resolved, source.image_id))
    return ids if source.once else ids.distinct()


def in_words(session: Session, project_id: int, asked: Mapping[str, Any]) -> list[str]:
    """Each condition of a filter, in the form in which a slice keeps it, as a person reads it:
    classes and collections by the names they have by now, predictions in points of 0–10."""
    return [
        f"{name.replace('_', ' ')} {_named(session, project_id, name, value)}"
        for name, value in asked.items()
    ]


def _named(session: Session, project_id: int, name: str, value: Any) -> str:
    if name in ("labelled", "predicted_as"):
        known = classes.of(session, project_id)
        now = known.current_number(value)
        row = known.by_number.get(value if now is None else now)
        return row.name if row else str(value)
    if name == "collection":
        collection = session.get(Collection, value)
        return collection.name if collection else str(value)
    if name == "classified":
        return classifiers.in_words(session, value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{round(10 * value, 6) if name in PREDICTED else value:g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


# --- as SQL --------------------------------------------------------------------------------------


def conditions(resolved: ResolvedFilter, image_id: Any) -> list[Any]:
    """What must hold for the image whose id is in the column `image_id`."""
    wanted = resolved.filter
    holds = [in_project(resolved, image_id)]
    removed = projects.is_removed(resolved.project_id, image_id)
    holds.append(removed if wanted.removed else ~removed)
    for tag in wanted.tags:
        tagged = aliased(Tag)
        holds.append(exists(tagged.image_id, tagged.image_id == image_id, tagged.tag == tag))
    label = aliased(Label)
    mine = (label.project_id == resolved.project_id, label.image_id == image_id)
    if wanted.scored is not None:
        has_one = exists(label.image_id, *mine)
        holds.append(has_one if wanted.scored else ~has_one)
    if wanted.by_label:  # a value, not an EXISTS: that one may begin at the index of all values
        value = select(label.value).where(*mine).scalar_subquery()
        holds += _range(value, wanted.label_min, wanted.label_max)
    if wanted.labelled is not None:
        holds.append(
            exists(label.image_id, *mine, names_class(resolved.kinds, label.value, wanted.labelled))
        )
    if wanted.predicted_as is not None and wanted.version != LIVE:
        told = aliased(ClassPrediction)
        by = resolved.version.id if resolved.version else 0
        here = (told.version_id == by, told.image_id == image_id)
        said = names_class(resolved.kinds, told.predicted, wanted.predicted_as)
        holds.append(exists(told.image_id, *here, said))
    if (other := resolved.classified) is not None:
        told = aliased(ClassPrediction)
        here = (told.version_id == other.version.id, told.image_id == image_id)
        said = names_class(other.kinds, told.predicted, other.number)
        holds.append(exists(told.image_id, *here, said))
    if wanted.by_prediction and wanted.version != LIVE:
        prediction = aliased(Prediction)
        by = resolved.version.id if resolved.version else 0
        value = (
            select(prediction.honest)
            .where(prediction.version_id == by, prediction.image_id == image_id)
            .scalar_subquery()
        )
        holds += _range(value, wanted.predicted_min, wanted.predicted_max)
    if wanted.said:
        holds.append(standing(resolved, image_id, SAID[wanted.said]))
    if wanted.name:
        image = aliased(Image)
        holds.append(exists(image.id, image.id == image_id, name_like(resolved, image)))
    if resolved.source_group is not None:
        image = aliased(Image)
        holds.append(
            exists(image.id, image.id == image_id, image.source_group == resolved.source_group)
        )
    return holds


def names_class(kinds: ClassList | None, value: Any, number: int) -> Any:
    """A label, or what is predicted, names this class, or one that was merged with it; of tags, it
    is among them. Of scores, the label is that number."""
    if kinds is None:
        return value == number
    numbers = kinds.merged_with(number)
    if kinds.several:
        mask = sum(1 << one for one in numbers if one < MOST_TAG_NUMBERS)
        return cast(value, BigInteger).op("&")(mask) != 0
    return col(value).in_(numbers)


def in_project(resolved: ResolvedFilter, image_id: Any) -> Any:
    """In one of the collections that are meant."""
    member = aliased(CollectionImage)
    return exists(
        member.image_id,
        col(member.collection_id).in_(resolved.collections),
        member.image_id == image_id,
    )


def standing(resolved: ResolvedFilter, image_id: Any, kind: str) -> Any:
    """Somebody flagged (or skipped) the image and has not taken it back."""
    event = scores.standing_events().subquery()
    return (
        select(event.c.id)
        .where(
            event.c.project_id == resolved.project_id,
            event.c.kind == kind,
            event.c.image_id == image_id,
        )
        .exists()
    )


def exists(column: Any, *clauses: Any) -> Any:
    return select(column).where(*clauses).exists()


def label_range(wanted: LibraryFilter, label: Any) -> list[Any]:
    return _range(label.value, wanted.label_min, wanted.label_max)


def predicted_range(wanted: LibraryFilter, prediction: Any) -> list[Any]:
    return _range(prediction.honest, wanted.predicted_min, wanted.predicted_max)


def _range(column: Any, low: float | None, high: float | None) -> list[Any]:
    return [
        *([column >= low] if low is not None else []),
        *([column <= high] if high is not None else []),
    ]


def name_like(resolved: ResolvedFilter, image: Any) -> Any:
    """One of its names contains these letters. Its other names are looked up for every image, which
    takes as long as all the rest: not where no other name matches at all."""
    text, ignores_case = resolved.filter.name, resolved.ignores_case
    first = _contains(image.name, text, ignores_case)
    if not resolved.other_names:
        return first
    others = select(ImageName.image_id).where(_contains(ImageName.name, text, ignores_case))
    return first | col(image.id).in_(others)


def _contains(name: Any, text: str, ignores_case: bool) -> Any:
    """Large or small letters: SQLite's LIKE folds ASCII by itself, and without a call of `lower`
    per row."""
    for special in "\\%_":
        text = text.replace(special, "\\" + special)
    like = col(name).like if ignores_case else col(name).ilike
    return like(f"%{text}%", escape="\\")


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


def sources(resolved: ResolvedFilter) -> list[Source]:
    """Every index that holds all images the filter means, those that tend to be smallest first.
    The project's collections, which are always one, come last."""
    wanted = resolved.filter
    listed: list[Source] = []
    if resolved.source_group is not None:
        listed.append(
            Source("relatives", col(Image.id), (Image.source_group == resolved.source_group,))
        )
    if wanted.removed:
        listed.append(
            Source(
                "removed",
                col(RemovedImage.image_id),
                (RemovedImage.project_id == resolved.project_id,),
            )
        )
    if wanted.said:
        where = (
            ScoreEvent.project_id == resolved.project_id,
            ScoreEvent.kind == SAID[wanted.said],
            col(ScoreEvent.kind).in_(("skip", "flag")),  # the words of the partial index
        )
        listed.append(Source("said", col(ScoreEvent.image_id), where, once=False))
    for tag in wanted.tags:
        listed.append(Source("tag", col(Tag.image_id), (Tag.tag == tag,)))
    if wanted.by_label or wanted.scored or wanted.labelled is not None:
        where = (Label.project_id == resolved.project_id, *label_range(wanted, Label))
        listed.append(Source("label", col(Label.image_id), where))
    if wanted.by_prediction and resolved.version is not None:
        where = (Prediction.version_id == resolved.version.id, *predicted_range(wanted, Prediction))
        listed.append(Source("predicted", col(Prediction.image_id), where, by_id=False))
    listed.append(
        Source(
            "collection",
            col(CollectionImage.image_id),
            (col(CollectionImage.collection_id).in_(resolved.collections),),
            once=len(resolved.collections) < 2,
        )
    )
    return listed
