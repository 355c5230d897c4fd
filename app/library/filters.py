"""The library: which images of a project a person means, as one value and as a query.

A `Filter` is what a person asked for, whether typed into a form, held in an address or saved as a
slice. `conditions` turns it into SQL about any column of image ids, so that the same words mean the
same images in the grid, in a bulk action and in an expectation.

Nothing here counts on a short list: at a million images each of these conditions is a look-up in
an index, made for the few rows that a walk through another index comes by (`browsing`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlencode

from sqlalchemy.orm import aliased
from sqlmodel import Session, col, func, select

from app.config import Settings
from app.errors import Conflict, Invalid, NotFound
from app.scoring import scores
from app.tables import (
    Collection,
    CollectionImage,
    Expectation,
    Image,
    Label,
    Prediction,
    Project,
    ProjectCollection,
    RemovedImage,
    ScoreEvent,
    Slice,
    Tag,
    Version,
)
from app.versioning import predictions, versions
from app.versioning.predictions import Live

ACTIVE, LIVE = "active", "live"
SAID = {"flagged": "flag", "skipped": "skip"}
LONGEST = 200  # characters of a name looked for, of a tag


# --- what a person asked for ---------------------------------------------------------------------


@dataclass(frozen=True)
class Filter:
    """Images of a project that agree with all of this; the empty filter means every one of them.

    Labels are in points of 0–10, predictions in [0, 1]; both ends of a range belong to it.
    `version` names whose predictions are meant: the active version, the live model (`live`) or a
    number. `relatives` is the id of an image whose near-duplicates are meant. `removed` asks for
    what was taken out of the project instead of what is in it.
    """

    collection: int | None = None
    tags: tuple[str, ...] = ()
    scored: bool | None = None
    label_min: float | None = None
    label_max: float | None = None
    predicted_min: float | None = None
    predicted_max: float | None = None
    version: str = ACTIVE
    said: str = ""
    name: str = ""
    relatives: int | None = None
    removed: bool = False

    @property
    def by_prediction(self) -> bool:
        return self.predicted_min is not None or self.predicted_max is not None

    @property
    def by_label(self) -> bool:
        return self.label_min is not None or self.label_max is not None

    def as_dict(self) -> dict[str, Any]:
        """Only what was asked for: the form in which a slice keeps it. `{}` is the empty filter."""
        said = {f.name: getattr(self, f.name) for f in fields(self)}
        blank = Filter()
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in said.items()
            if value != getattr(blank, name)
        }

    def as_pairs(self) -> list[tuple[str, str]]:
        """The same for an address or a form: predictions in per cent, a tag a pair."""
        pairs: list[tuple[str, str]] = []
        for name, value in self.as_dict().items():
            if name == "tags":
                pairs += [("tag", tag) for tag in value]
            elif isinstance(value, bool):
                pairs.append((name, "yes" if value else "no"))
            elif name.startswith("predicted_"):
                pairs.append((name, f"{round(100 * value, 6):g}"))
            else:
                pairs.append((name, f"{value:g}" if isinstance(value, float) else str(value)))
        return pairs

    def as_query(self) -> str:
        return urlencode(self.as_pairs())


def from_dict(data: Mapping[str, Any]) -> Filter:
    """A filter as `as_dict` gives it. Raises `Invalid` for a key or a value that means nothing."""
    known = {f.name for f in fields(Filter)}
    for name in data:
        if name not in known:
            raise Invalid(f"A filter has no “{str(name)[:40]}”.", f"It has: {', '.join(known)}.")
    said = dict(data)
    tags = said.get("tags", ())
    if isinstance(tags, str) or not all(isinstance(tag, str) for tag in tags):
        raise Invalid("“tags” is a list of words.")
    for name in ("scored", "removed"):
        if not isinstance(said.get(name, False), bool | None):
            raise Invalid(f"“{name}” is true or false.")
    return Filter(
        collection=_whole(said.get("collection"), "collection"),
        tags=tuple(dict.fromkeys(" ".join(tag.split())[:LONGEST] for tag in tags if tag.strip())),
        scored=said.get("scored"),
        label_min=_within(said.get("label_min"), 10, "label_min"),
        label_max=_within(said.get("label_max"), 10, "label_max"),
        predicted_min=_within(said.get("predicted_min"), 1, "predicted_min"),
        predicted_max=_within(said.get("predicted_max"), 1, "predicted_max"),
        version=str(said.get("version") or ACTIVE)[:40],
        said=_one_of(str(said.get("said") or ""), ("", *SAID), "said"),
        name=" ".join(str(said.get("name") or "").split())[:LONGEST],
        relatives=_whole(said.get("relatives"), "relatives"),
        removed=bool(said.get("removed")),
    )


def from_pairs(pairs: list[tuple[str, str]]) -> Filter:
    """A filter as a form or an address brings it; other names are left alone, as are fields that
    were left empty. Raises `Invalid`."""
    said: dict[str, Any] = {"tags": [value for name, value in pairs if name == "tag" and value]}
    given = {name: value.strip() for name, value in pairs if value.strip()}
    for name in ("collection", "version", "said", "name", "relatives", "label_min", "label_max"):
        said[name] = given.get(name)
    for name in ("predicted_min", "predicted_max"):
        share = _within(given.get(name), 100, name)
        said[name] = None if share is None else round(share / 100, 8)
    for name in ("scored", "removed"):
        answer = _one_of(given.get(name, ""), ("", "yes", "no"), name)
        said[name] = {"": None, "yes": True, "no": False}[answer]
    said["removed"] = bool(said["removed"])
    return from_dict(said)


NAMES = {
    "label_min": "The lowest label", "label_max": "The highest label",
    "predicted_min": "The lowest prediction", "predicted_max": "The highest prediction",
}  # fmt: skip


def _within(value: Any, most: float, name: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= most or isinstance(value, bool):
        unit = f"a percentage from 0 to {most:g}" if most == 100 else f"from 0 to {most:g}"
        raise Invalid(f"{NAMES[name]} is a number, {unit}, not “{str(value)[:20]}”.")
    return number


def _whole(value: Any, name: str) -> int | None:
    if value is None or value == "":
        return None
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise Invalid(f"“{name}” is the number of one, not “{text[:20]}”.")
    return int(text)


def _one_of(value: str, known: tuple[str, ...], name: str) -> str:
    if value not in known:
        raise Invalid(
            f"“{name}” cannot be “{value[:20]}”.", f"Use {' or '.join(k for k in known if k)}."
        )
    return value


# --- what that means in a project ----------------------------------------------------------------


@dataclass(frozen=True)
class Scope:
    """A filter with its names looked up: collections by id, the version, the live model's array.
    `source_group` is that of the image whose relatives are meant."""

    project_id: int
    filter: Filter
    collections: tuple[int, ...]
    version: Version | None = None
    live: Live | None = None
    source_group: str | None = None
    ignores_case: bool = field(default=True)  # whether LIKE does, of itself

    @property
    def by_live(self) -> bool:
        """Whether a range of the live model's predictions was asked for: those lie in an array
        and are looked at after the query."""
        return self.filter.by_prediction and self.filter.version == LIVE


def scope(
    session: Session, project: Project, asked: Filter, settings: Settings | None = None
) -> Scope:
    """Look the filter's names up. `settings` finds the live model; without them, a filter on it
    means nothing. Raises `NotFound` for a collection or a version that is not the project's."""
    mine = collections_of(session, project.id)
    if asked.collection is not None and asked.collection not in mine:
        raise NotFound(
            "This collection is not part of the project.", "Choose another one, or all of them."
        )
    version = live = None
    if asked.version == LIVE:
        live = predictions.read_live(settings, project.id) if settings else None
    elif asked.version == ACTIVE:
        version = versions.active(session, project)
    else:
        version = versions.named(session, project, asked.version)
    group = None
    if asked.relatives is not None:
        group = session.exec(
            select(Image.source_group).where(Image.id == asked.relatives)
        ).one_or_none()
        if group is None:
            raise NotFound("This image is not in the library.", "It may have been removed.")
    return Scope(
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


def filtered_ids(session: Session, project: Project, asked: Filter | Mapping[str, Any]) -> Any:
    """Select of the ids of the project's images that a filter means, each once: for a slice, a
    bulk action, a count. Raises `Invalid` for a range of the live model's predictions, which are
    no rows; `NotFound` for a collection or version that is gone."""
    asked = asked if isinstance(asked, Filter) else from_dict(asked)
    found = scope(session, project, asked)
    if found.by_live:
        raise Invalid(
            "The live model changes with every score, so a lasting selection cannot rest on it.",
            "Choose a version's predictions instead.",
        )
    source = sources(found)[0]
    ids = select(source.image_id).where(*source.where, *conditions(found, source.image_id))
    return ids if source.once else ids.distinct()


# --- as SQL --------------------------------------------------------------------------------------


def honest(prediction: Any = Prediction) -> Any:
    """What a version says of an image without having seen it: the expression of an index."""
    return func.coalesce(prediction.out_of_fold, prediction.score)


def conditions(found: Scope, image_id: Any) -> list[Any]:
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
            select(honest(said))
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


def in_project(found: Scope, image_id: Any) -> Any:
    """In one of the collections that are meant."""
    member = aliased(CollectionImage)
    return exists(
        member.image_id,
        col(member.collection_id).in_(found.collections),
        member.image_id == image_id,
    )


def standing(found: Scope, image_id: Any, kind: str) -> Any:
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


def label_range(asked: Filter, label: Any) -> list[Any]:
    return _range(label.value, asked.label_min, asked.label_max)


def predicted_range(asked: Filter, said: Any) -> list[Any]:
    return _range(honest(said), asked.predicted_min, asked.predicted_max)


def _range(column: Any, low: float | None, high: float | None) -> list[Any]:
    return [
        *([column >= low] if low is not None else []),
        *([column <= high] if high is not None else []),
    ]


def name_like(found: Scope, image: Any) -> Any:
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


def sources(found: Scope) -> list[Source]:
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


# --- saved filters -------------------------------------------------------------------------------


def save(session: Session, project: Project, name: str, asked: Filter) -> Slice:
    """Keep a filter under a name, as a slice; a saved filter of that name is replaced."""
    name = " ".join(name.split())
    if not 1 <= len(name) <= 120:
        raise Invalid("A saved filter needs a name of 1 to 120 characters.")
    if not asked.as_dict():
        raise Invalid("There is nothing to save: this shows every image.", "Filter first.")
    filtered_ids(session, project, asked)  # says so now if it cannot last
    found = session.exec(
        select(Slice).where(Slice.project_id == project.id, Slice.name == name)
    ).first()
    if found is not None and found.kind != "filter":
        raise Invalid(f"A slice of another kind is named “{name}”.", "Choose another name.")
    found = found or Slice(project_id=project.id, name=name, kind="filter")
    found.definition = {"filter": asked.as_dict()}
    session.add(found)
    session.flush()
    return found


def forget(session: Session, project: Project, slice_id: int) -> None:
    """Drop a saved filter. Raises `NotFound` for another project's, `Conflict` while an expectation
    rests on it."""
    row = session.get(Slice, slice_id)
    if row is None or row.project_id != project.id or row.kind != "filter":
        raise NotFound("There is no such saved filter.", "It may have been removed meanwhile.")
    rests = select(Expectation.id).where(Expectation.slice_id == slice_id).limit(1)
    if session.exec(rests).first() is not None:
        raise Conflict(
            f"An expectation rests on “{row.name}”, so it was kept.", "Remove that one first."
        )
    session.delete(row)
    session.flush()


def saved(session: Session, project: Project) -> list[tuple[Slice, Filter]]:
    """The project's saved filters by name; one that no longer means anything is left out."""
    rows = session.exec(
        select(Slice)
        .where(Slice.project_id == project.id, Slice.kind == "filter")
        .order_by(col(Slice.name))
    )
    listed = []
    for row in rows:
        try:
            listed.append((row, from_dict(row.definition.get("filter", {}))))
        except Invalid:
            continue
    return listed
