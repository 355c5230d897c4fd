"""What the library shows of an image: a tile of its grid, and everything on its own page."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlmodel import Session, col, func, select

from tastemaker import images, projects, scores
from tastemaker.config import Settings
from tastemaker.database.tables import (
    Annotator,
    Collection,
    CollectionImage,
    Image,
    ImagePath,
    Prediction,
    Project,
    ProjectCollection,
    ScoreEvent,
    SyntheticImage,
    Version,
)
from tastemaker.library import live_order, tags
from tastemaker.library.scopes import ResolvedFilter
from tastemaker.live import live_model
from tastemaker.pictures.damage import Damage
from tastemaker.scores import classes, neighbours
from tastemaker.versions import class_rows, predictions

MOST_KIN = 24  # near-duplicates shown on an image's page
STATES = {
    "present": "there",
    "missing": "missing: moved or deleted since",
    "changed": "changed since: other bytes lie there now",
}


@dataclass(frozen=True)
class Tile:
    """One image in the grid. The prediction is in [0, 1], the label in 0–10; `kin` counts the
    near-duplicates in the project, the image among them. Of a project with classes, `says` is what
    is predicted, as a label holds it, and the prediction how sure that is."""

    image_id: int
    name: str
    has_pixels: bool
    label: float | None
    prediction: float | None
    flagged: bool
    skipped: bool
    holdout: bool
    removed: bool
    kin: int
    says: int | None = None


def tiles(
    session: Session, project: Project, resolved: ResolvedFilter, ids: Sequence[int]
) -> list[Tile]:
    """The images in the order of `ids`, with predictions of the scope's version or live model."""
    rows = {i.id: i for i in session.exec(select(Image).where(col(Image.id).in_(ids)))}
    labels = scores.values_of(session, project.id, ids)
    predicted = _predicted(session, resolved, list(ids))
    says: dict[int, int | None] = {}
    if (known := classes.of_project(session, project)) is not None:
        told: dict[int, int] = {}
        if resolved.version is not None:
            told = class_rows.of_images(session, resolved.version, ids)
        elif resolved.live is not None:
            said = {image_id: resolved.live.says(image_id) for image_id in ids}
            told = {image_id: value for image_id, value in said.items() if value is not None}
        says = {image_id: known.current(value) for image_id, value in told.items()}
    events = session.execute(
        scores.standing_events()
        .with_only_columns(ScoreEvent.image_id, ScoreEvent.kind)
        .where(
            ScoreEvent.project_id == project.id,
            col(ScoreEvent.image_id).in_(ids),
            col(ScoreEvent.kind).in_(("flag", "skip")),
        )
    ).all()
    aside = {(image_id, kind) for image_id, kind in events}
    removed = projects.removed_ids(session, project.id, ids)
    groups = {row.source_group for row in rows.values()}
    kin = Counter(
        dict(
            session.execute(
                select(Image.source_group, func.count())
                .where(
                    col(Image.source_group).in_(groups), projects.is_member(project.id, Image.id)
                )
                .group_by(col(Image.source_group))
            )
            .tuples()
            .all()
        )
    )
    return [
        Tile(
            image_id=image_id,
            name=rows[image_id].name,
            has_pixels=rows[image_id].kind != "vector",
            label=labels.get(image_id),
            prediction=predicted.get(image_id),
            flagged=(image_id, "flag") in aside,
            skipped=(image_id, "skip") in aside and image_id not in labels,
            holdout=projects.on_holdout_side(project, rows[image_id].source_group),
            removed=image_id in removed,
            kin=kin[rows[image_id].source_group],
            says=says.get(image_id),
        )
        for image_id in ids
        if image_id in rows
    ]


def _predicted(session: Session, resolved: ResolvedFilter, ids: list[int]) -> dict[int, float]:
    """Image id -> what the filter's version, or the live model, predicts."""
    if resolved.version is not None:
        by_version = predictions.of_images(session, resolved.version.id, ids)
        return {image_id: predicted[0] for image_id, predicted in by_version.items()}
    if resolved.live is None:
        return {}
    live = live_order.live_scores(resolved.live, ids)
    return {
        i: float(predicted)
        for i, predicted in zip(ids, live, strict=True)
        if predicted == predicted
    }


# --- one image -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class HistoryEntry:
    """One event in an image's history; `stands` unless it was taken back or is an undo."""

    event: ScoreEvent
    who: str
    stands: bool
    undoes: ScoreEvent | None


def history(session: Session, project: Project, image_id: int) -> list[HistoryEntry]:
    """Every event on an image in a project, newest first."""
    rows = session.execute(
        select(ScoreEvent, Annotator.name)
        .join(Annotator, col(Annotator.id) == ScoreEvent.annotator_id)
        .where(ScoreEvent.project_id == project.id, ScoreEvent.image_id == image_id)
        .order_by(col(ScoreEvent.id).desc())
    ).all()
    by_id = {event.id: event for event, _ in rows}
    undone = {event.undoes for event, _ in rows}
    return [
        HistoryEntry(
            event=event,
            who=who,
            stands=event.kind != "undo" and event.id not in undone,
            undoes=by_id.get(event.undoes or 0),
        )
        for event, who in rows
    ]


@dataclass(frozen=True)
class Place:
    """Where an image's bytes lie, and in which state that file was found just now."""

    path: str
    state: str


def places(session: Session, settings: Settings, image: Image) -> list[Place]:
    """Every path of an image, looked at; the app's own copy of an upload has no path to show."""
    listed = []
    if image.kind == "upload":
        kept = images.stored_path(settings, image).is_file()
        listed.append(Place("kept by Tastemaker", STATES["present" if kept else "missing"]))
    rows = session.exec(
        select(ImagePath).where(ImagePath.image_id == image.id).order_by(col(ImagePath.id))
    )
    return listed + [Place(row.path, STATES[_state(row)]) for row in rows]


def _state(row: ImagePath) -> str:
    if row.state == "changed":
        return row.state
    try:
        status = Path(row.path).stat()
    except OSError:
        return "missing"
    same = (status.st_size, status.st_mtime_ns) == (row.size, row.mtime_ns)
    return "present" if same else "changed"


@dataclass(frozen=True)
class ImageFacts:
    """Everything a project knows of one image."""

    image: Image
    tile: Tile
    history: list[HistoryEntry]
    predicted: list[tuple[Version, Prediction]]
    live: tuple[float, float] | None
    live_says: int | None  # of a project with classes
    tags: list[str]
    collections: list[Collection]
    kin: list[Tile]
    neighbours: list[tuple[neighbours.Neighbour, Image]]
    places: list[Place]
    other_names: list[str]
    made_of: tuple[int, str, str] | None  # of a synthetic one: id and name of the clean, the damage


def image_facts(
    session: Session, settings: Settings, project: Project, resolved: ResolvedFilter, image_id: int
) -> ImageFacts:
    """Raises `NotFound` for an image that is not in the library."""
    image = images.get(session, image_id)
    predicted = session.execute(
        select(Version, Prediction)
        .join(Prediction, col(Prediction.version_id) == Version.id)
        .where(
            Version.project_id == project.id,
            Version.state == "ready",
            Prediction.image_id == image_id,
        )
        .order_by(col(Version.major).desc(), col(Version.minor).desc())
    ).all()
    live = live_model.read_live(settings, project.id)
    kin = session.exec(
        select(Image.id)
        .where(
            Image.source_group == image.source_group,
            Image.id != image_id,
            projects.is_member(project.id, Image.id),
        )
        .order_by(col(Image.id))
        .limit(MOST_KIN)
    ).all()
    near = neighbours.nearest(session, settings, project, [image_id]).get(image_id, [])
    pictures = {
        i.id: i
        for i in session.exec(select(Image).where(col(Image.id).in_([n.image_id for n in near])))
    }
    collections = session.exec(
        select(Collection)
        .join(CollectionImage, col(CollectionImage.collection_id) == Collection.id)
        .join(ProjectCollection, col(ProjectCollection.collection_id) == Collection.id)
        .where(CollectionImage.image_id == image_id, ProjectCollection.project_id == project.id)
        .order_by(col(Collection.name))
    )
    known, live_says = classes.of_project(session, project), live.says(image_id) if live else None
    return ImageFacts(
        image=image,
        tile=tiles(session, project, resolved, [image_id])[0],
        history=history(session, project, image_id),
        predicted=[(version, prediction) for version, prediction in predicted],
        live=live.of(image_id) if live else None,
        live_says=known.current(live_says) if known and live_says is not None else None,
        tags=tags.of_image(session, image_id),
        collections=list(collections),
        kin=tiles(session, project, resolved, list(kin)),
        neighbours=[(n, pictures[n.image_id]) for n in near if n.image_id in pictures],
        places=places(session, settings, image),
        other_names=images.other_names(session, image),
        made_of=_made_of(session, image_id),
    )


def _made_of(session: Session, image_id: int) -> tuple[int, str, str] | None:
    made = session.get(SyntheticImage, image_id)
    if made is None:
        return None
    clean = images.get(session, made.source_id)
    return clean.id, clean.name, Damage.from_json(made.damage).in_words
