"""Slices: images that have something in common, and what a version makes of them.

A slice is a tag, a saved filter of the library, or what lies nearest to a text. Its universe is
what the version predicted in the pool: shares, means and pass rates are over all of that. Errors
are over the labels in it, each judged by a head that had not seen it. Images that only a test run
brought in belong to no slice, unless its filter asks for them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, String
from sqlalchemy import cast as sql_cast
from sqlmodel import Session, col, func, select
from sqlmodel.sql.expression import Select, SelectOfScalar

from tastemaker import embeddings, images, projects
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import (
    Image,
    Label,
    Prediction,
    Project,
    Slice,
    Tag,
    Version,
    VersionLabel,
)
from tastemaker.encoding.encoder_specs import reads_text
from tastemaker.errors import Conflict, Invalid, NotFound, TastemakerError
from tastemaker.files.texts import composed
from tastemaker.learning import metrics
from tastemaker.learning.version_metrics import Estimate, SliceMetrics, SliceSize
from tastemaker.library import scopes
from tastemaker.live import model_requests
from tastemaker.versions import training_set

MOST_SLICES = 100
TEXT_SECONDS = 30.0  # the first search by text loads the encoder
MOST_TAGS = 12  # the largest tags are looked at too, where nobody has made slices of them
RESAMPLES = 200  # an interval a slice; there may be many on a page

# A slice is named as under-represented when it is at least a hundredth of the library, has less
# than half of its share among the labels, and that is further off than chance would often bring.
NOTICED = 0.01
FEWEST_LABELS = 8
LACKING = 0.5
FAR = 2.0  # standard deviations of a draw at random

Ids = NDArray[np.int64]


# --- defining them -----------------------------------------------------------------------------


class TagDefinition(TypedDict):
    tag: str


class FilterDefinition(TypedDict):
    filter: dict[str, Any]


class TextDefinition(TypedDict):
    """The `share` of the project's images (0–0.5) that were nearest to the text."""

    prompt: str
    share: float
    image_ids: list[int]


Definition = TagDefinition | FilterDefinition | TextDefinition


def listing(session: Session, project: Project) -> list[Slice]:
    return list(
        session.exec(select(Slice).where(Slice.project_id == project.id).order_by(col(Slice.name)))
    )


def get(session: Session, project: Project, slice_id: int) -> Slice:
    row = session.get(Slice, slice_id)
    if row is None or row.project_id != project.id:
        raise NotFound("There is no such slice.", "It may have been removed meanwhile.")
    return row


def by_name(session: Session, project: Project, name: str) -> Slice:
    """The slice of that name, in large or small letters. Raises `NotFound` with those there are."""
    rows = listing(session, project)
    wanted = " ".join(name.split()).casefold()
    for row in rows:
        if row.name.casefold() == wanted:
            return row
    names = ", ".join(f"“{row.name}”" for row in rows)
    raise NotFound(
        f"“{project.name}” has no slice “{name}”.",
        f"There are: {names}." if names else "There is none yet.",
    )


def add(
    session: Session, project: Project, kind: str, definition: Mapping[str, Any], name: str = ""
) -> Slice:
    """A new slice. `definition` is a `Definition` that is not checked yet; without a name the slice
    is called after what defines it."""
    checked = _checked(session, project, kind, definition)
    name = " ".join(name.split()) or str(checked.get("tag") or checked.get("prompt") or "")
    if not 1 <= len(name) <= 120 or not name.isprintable():
        raise Invalid("A slice needs a name of 1 to 120 characters.", "Give it one.")
    others = listing(session, project)
    if any(other.name.casefold() == name.casefold() for other in others):
        raise Conflict(f"There is a slice “{name}” already.", "Choose another name.")
    if len(others) >= MOST_SLICES:
        raise Invalid(f"A project has at most {MOST_SLICES} slices.", "Remove one first.")
    row = Slice(project_id=project.id, name=name, kind=kind, definition=dict(checked))
    session.add(row)
    session.flush()
    return row


def _checked(
    session: Session, project: Project, kind: str, definition: Mapping[str, Any]
) -> Definition:
    if kind == "tag":
        tag = composed(str(definition.get("tag", "")).strip())
        if not tag:
            raise Invalid("No tag was given.", "Choose one of those that your images carry.")
        if session.exec(select(Tag.tag).where(Tag.tag == tag).limit(1)).first() is None:
            raise Invalid(
                f"No image carries the tag “{tag[:80]}”.",
                "Tags come from folders, from text files beside the images, or by hand.",
            )
        return {"tag": tag}
    if kind == "filter":
        wanted = definition.get("filter")
        if not isinstance(wanted, dict) or not wanted:
            raise Invalid("This filter is empty.", "Filter the library first, then keep that.")
        scopes.filtered_ids(session, project, wanted)  # raises what cannot be filtered by
        return {"filter": wanted}
    if kind == "prompt":
        prompt, ids = str(definition.get("prompt", "")).strip(), definition.get("image_ids")
        share = definition.get("share", 0.05)
        if not 1 <= len(prompt) <= 200:
            raise Invalid("A text of 1 to 200 characters is needed.", "Describe the images.")
        if not isinstance(share, int | float) or not 0 < share <= 0.5:
            raise Invalid("The share of nearest images is above 0 and at most 50 %.")
        if not isinstance(ids, list) or not all(type(i) is int and i > 0 for i in ids):
            raise Invalid("A slice by text needs the images that it found.")
        return {"prompt": prompt, "share": float(share), "image_ids": sorted(set(ids))}
    raise Invalid(f"There is no slice of kind “{kind[:20]}”.", "Use tag, filter or prompt.")


def remove(session: Session, row: Slice) -> None:
    """Remove a slice and what was expected of it. Its images are not touched."""
    session.delete(row)
    session.flush()


def members(session: Session, project: Project, row: Slice) -> Ids:
    """(N,) ids of the slice's images, ascending; of other projects too, where it is a tag. Empty
    where its filter names something that is gone; without images of test runs, unless the filter
    asks for them."""
    if row.kind == "prompt":
        ids = np.unique(np.asarray(row.definition["image_ids"], np.int64))
        return ids[~np.isin(ids, _outside(session, project))]
    wanted: Any = select(Tag.image_id).where(Tag.tag == composed(str(row.definition.get("tag"))))
    if row.kind == "filter":
        try:
            wanted = scopes.filtered_ids(session, project, row.definition.get("filter", {}))
        except TastemakerError:
            return np.empty(0, np.int64)
    inner = wanted.subquery()
    (column,) = read_columns(session, select(inner), next(iter(inner.c)))
    ids = np.unique(column.astype(np.int64))
    return ids if row.kind == "filter" else ids[~np.isin(ids, _outside(session, project))]


def _outside(session: Session, project: Project) -> Ids:
    return np.fromiter(session.exec(projects.outside_the_pool(project.id)), np.int64)


def by_text(engine: Engine, project_id: int, prompt: str, share: float) -> TextDefinition:
    """The definition of a slice by text: the model process finds which `share` (0–0.5) of the
    project's images are nearest to it."""
    if not 0 < share <= 0.5:
        raise Invalid("The share of nearest images is above 0 and at most 50 %.")
    if not prompt.strip():
        raise Invalid("A text is needed.", "Describe what the images have in common.")
    with reading(engine) as session:
        project = projects.get(session, project_id)
        if not reads_text(project.encoder):
            raise Conflict(
                f"The encoder {project.encoder} reads no text.",
                "Use a tag, or a saved filter of the library.",
            )
        count = embeddings.count(session, project.encoder_id, project_id)
        tried = set(session.exec(projects.outside_the_pool(project_id)))
    limit = max(1, round(share * count))
    answer = model_requests.call(
        engine, "text", {"text": prompt, "limit": limit + len(tried)}, project_id=project_id,
        timeout=TEXT_SECONDS,
    )  # fmt: skip
    ids = [image["image_id"] for image in answer["images"]]
    ids = [image_id for image_id in ids if image_id not in tried][:limit]
    return {"prompt": prompt, "share": share, "image_ids": ids}


def search_again(engine: Engine, project_id: int, slice_id: int) -> Slice:
    """Look for the images nearest to a slice's text anew: some may have come since."""
    with reading(engine) as session:
        row = get(session, projects.get(session, project_id), slice_id)
    if row.kind != "prompt":
        raise Invalid(f"“{row.name}” is not a slice by text; it is up to date.")
    definition = by_text(engine, project_id, row.definition["prompt"], row.definition["share"])
    with writing(engine) as session:
        row = get(session, projects.get(session, project_id), slice_id)
        row.definition = row.definition | dict(definition)
        session.add(row)
    return row


def read_columns(
    session: Session, query: Select[Any] | SelectOfScalar[Any], *columns: Any
) -> list[NDArray[np.float64]]:
    """The columns of a query as arrays, in one order. The database writes each into one string,
    which is many times faster than a hundred thousand rows as objects."""
    joined = (func.aggregate_strings(sql_cast(column, String), ",") for column in columns)
    row = session.execute(query.with_only_columns(*joined)).one()
    return [np.fromstring(text or "", np.float64, sep=",") for text in row]


def as_json(session: Session, row: Slice) -> dict[str, Any]:
    """A slice for programs."""
    definition = {k: v for k, v in row.definition.items() if k != "image_ids"}
    return {
        "id": row.id, "name": row.name, "kind": row.kind, "definition": definition,
        "what": in_words(session, row),
    }  # fmt: skip


def in_words(session: Session, row: Slice) -> str:
    """What makes an image part of the slice."""
    if row.kind == "tag":
        return f"tagged “{row.definition['tag']}”"
    if row.kind == "prompt":
        share = 100 * row.definition["share"]
        return f"the {share:g} % nearest to “{row.definition['prompt']}”"
    asked = scopes.in_words(session, row.project_id, row.definition.get("filter", {}))
    return f"library filter: {'; '.join(asked)}"


def tags(session: Session, project: Project, limit: int = 200) -> list[tuple[str, int]]:
    """The project's tags with their number of images, most frequent first."""
    number, mine = func.count(), projects.image_ids(project.id)
    query = select(Tag.tag, number).group_by(col(Tag.tag))
    distinct = select(func.count()).select_from(mine.distinct().subquery())
    if session.exec(distinct).one() < images.count(session):  # else every tag is the project's
        query = query.where(col(Tag.image_id).in_(mine))
    query = query.order_by(number.desc(), col(Tag.tag)).limit(limit)
    return [(tag, count) for tag, count in session.execute(query)]


# --- what a version makes of them ---------------------------------------------------------------


@dataclass(frozen=True)
class SlicePredictions:
    """What a version predicts, as arrays: `ids` (N,) ascending; `honest` (N,) in 0–1, out-of-fold
    where the image or a relative was trained on (of classes, how sure that is); `trained` (N,)
    bool; `label` (N,) in 0–1, or of classes as a label holds it, NaN without one; `group` (N,), the
    number of the image's source group; `pool` (N,) bool, False for what only a test run brought
    in."""

    ids: Ids
    honest: NDArray[np.float64]
    trained: NDArray[np.bool_]
    label: NDArray[np.float64]
    group: Ids
    pool: NDArray[np.bool_]

    def among(self, ids: Ids) -> NDArray[np.bool_]:
        """(N,) which of these images are in the ascending `ids`."""
        if not len(ids):
            return np.zeros(len(self.ids), bool)
        at = np.minimum(np.searchsorted(ids, self.ids), len(ids) - 1)
        inside: NDArray[np.bool_] = ids[at] == self.ids
        return inside


def slice_predictions(
    session: Session, project: Project, version: Version, frozen: bool = False
) -> SlicePredictions:
    """What a version gives every image it predicted, without those removed since, beside the
    labels as they are now, or (`frozen`) as the version saw them."""
    ids, honest = read_columns(
        session,
        select(Prediction).where(Prediction.version_id == version.id),
        Prediction.image_id,
        Prediction.honest,
    )
    order = np.argsort(ids, kind="stable")
    ids, honest = ids[order], honest[order]
    if removed := projects.removed_ids(session, project.id):
        keep = ~np.isin(ids, np.fromiter(removed, np.int64))
        ids, honest = ids[keep], honest[keep]

    source: Any = VersionLabel if frozen else Label
    owner = VersionLabel.version_id == version.id if frozen else Label.project_id == project.id
    label, group = np.full(len(ids), np.nan), np.arange(len(ids))
    unit = 10 if project.labelling == "scores" else 1
    numbers: dict[str, int] = {}
    for image_id, value, name in session.execute(
        select(source.image_id, source.value, Image.source_group)
        .join(Image, col(Image.id) == source.image_id)
        .where(owner)
    ):
        at = int(np.searchsorted(ids, image_id))
        if at < len(ids) and ids[at] == image_id:
            label[at] = value / unit
            group[at] = -1 - numbers.setdefault(name, len(numbers))
    taught = training_set.values(session, version, "train")
    trained = np.isin(ids, np.fromiter(taught, np.int64))
    pool = ~np.isin(ids, _outside(session, project))
    return SlicePredictions(ids.astype(np.int64), honest, trained, label, group, pool)


def measure(
    session: Session,
    row: Slice,
    inside: NDArray[np.bool_],
    seen: SlicePredictions,
    threshold: float,
) -> SliceMetrics:
    """What a version makes of one slice; `inside` (N,) says which images of `seen` belong to it."""
    n = int(inside.sum())
    known = inside & np.isfinite(seen.label)
    y, p = seen.label[known], seen.honest[known]
    passed, liked = p >= threshold, y >= threshold - 1e-9
    return SliceMetrics(
        **size(session, row, inside, seen),
        mean=float(seen.honest[inside].mean()) if n else None,
        pass_rate=float((seen.honest[inside] >= threshold).mean()) if n else None,
        labelled=len(y),
        mae=metrics.mean_error(y, p, seen.group[known], resamples=RESAMPLES),
        fp_rate=_rate(~liked, passed), fn_rate=_rate(~passed, liked),
    )  # fmt: skip


def size(
    session: Session, row: Slice, inside: NDArray[np.bool_], seen: SlicePredictions
) -> dict[str, Any]:
    """The fields of a `SliceSize`; `inside` as for `measure`."""
    training, all_training = int((inside & seen.trained).sum()), int(seen.trained.sum())
    share = library_share(inside, seen)
    return {
        "id": row.id, "name": row.name, "kind": row.kind, "what": in_words(session, row),
        "images": int(inside.sum()), "library_share": share, "training": training,
        "training_share": training / all_training if all_training else 0.0,
        "under_represented": is_under_represented(share, training, all_training),
    }  # fmt: skip


def library_share(inside: NDArray[np.bool_], seen: SlicePredictions) -> float:
    """Which share of the pool a slice is."""
    return float((inside & seen.pool).sum() / max(1, seen.pool.sum()))


def _rate(wrong: NDArray[np.bool_], among: NDArray[np.bool_]) -> Estimate:
    value = float(wrong[among].mean()) if among.any() else None
    return Estimate(value=value, low=None, high=None, n=int(among.sum()))


def is_under_represented(library_share: float, training: int, all_training: int) -> bool:
    """Whether so few of the labels lie in a slice of that share of the library that more of them
    are needed. With fewer than eight labels nothing is known to lack."""
    expected = library_share * all_training
    spread = np.sqrt(expected * (1 - library_share))
    return bool(
        library_share >= NOTICED
        and all_training >= FEWEST_LABELS
        and training < LACKING * expected
        and expected - training > FAR * spread
    )


def measured(
    session: Session, project: Project, version: Version, frozen: bool = False
) -> list[SliceMetrics]:
    """Every slice of the project, by name."""
    rows = listing(session, project)
    if not rows:
        return []
    seen = slice_predictions(session, project, version, frozen)
    return [
        measure(session, row, inside, seen, project.threshold)
        for row, inside in each(session, project, rows, seen)
    ]


def each(
    session: Session, project: Project, rows: Sequence[Slice], seen: SlicePredictions
) -> Iterator[tuple[Slice, NDArray[np.bool_]]]:
    """Every slice with which images (N,) of `seen` belong to it."""
    for row in rows:
        yield row, seen.among(members(session, project, row))


def large_tags(session: Session, project: Project) -> list[Slice]:
    """The project's largest tags that are not slices, as if they were; their ids are 0."""
    taken = {row.definition.get("tag") for row in listing(session, project)}
    return [
        Slice(id=0, project_id=project.id, name=tag, kind="tag", definition={"tag": tag})
        for tag, _ in tags(session, project, MOST_TAGS)
        if tag not in taken
    ]


def unmeasured(session: Session, project: Project, version: Version) -> list[SliceSize]:
    """The slices, and the largest tags besides, of which too few labels trained the version; the
    largest part of the library first. Of a version that scores, with what it makes of them."""
    rows = [*listing(session, project), *large_tags(session, project)]
    if not rows:
        return []
    seen = slice_predictions(session, project, version)
    lacking: list[SliceSize] = []
    for row, inside in each(session, project, rows, seen):
        found = SliceSize(**size(session, row, inside, seen))
        if found.under_represented and project.labelling == "scores":
            found = measure(session, row, inside, seen, project.threshold)
        if found.under_represented:
            lacking.append(found)
    return sorted(lacking, key=lambda row: -row.library_share)
