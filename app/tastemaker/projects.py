"""Projects: create, find, and the rule that says which images only ever measure."""

import hashlib
import secrets
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, union
from sqlalchemy.orm import Mapped, aliased
from sqlmodel import Session, and_, col, func, select
from sqlmodel.sql.expression import SelectOfScalar

from tastemaker.config import DEFAULT_ENCODER
from tastemaker.database import counts
from tastemaker.database.tables import (
    Annotator,
    Collection,
    CollectionImage,
    EncoderRow,
    Image,
    Label,
    Project,
    ProjectCollection,
    ProjectPrior,
    RemovedImage,
    ScoreEvent,
    Version,
)
from tastemaker.encoding.encoder_specs import check_architecture, check_weights, parse
from tastemaker.errors import Conflict, Invalid, NotFound
from tastemaker.files.addresses import READERS, is_address, shown
from tastemaker.files.texts import composed
from tastemaker.learning.recipes import recipe_named

# How several people's scores make one label.
AGGREGATES = {
    "median": "Median: the middle score; one outlier changes little",
    "mean": "Mean: everybody counts alike",
    "lowest": "Lowest: an image passes only if everybody lets it pass",
    "highest": "Highest: one person in favour is enough",
    "newest": "Newest: whoever scored last has the final word",
}
MOST_BETWEEN_TRAININGS = 100_000
IdColumn = int | ColumnElement[int] | Mapped[int]  # of a table's row, in a condition
IMPORTED = "imported"  # the proxy annotator of scores that come with files
POOL, TEST_RUN = "pool", "test-run"  # what a project uses a collection as
ANY_ROLE = None


def create(
    session: Session,
    name: str,
    *,
    encoder: str = DEFAULT_ENCODER,
    threshold: float = 0.5,
    holdout_share: float = 0.1,
    recipe: str = "auto",
    labelling: str = "scores",
) -> Project:
    """A new project; one with classes comes from `scores.classes.create_project`. Never loads the
    encoder's weights: checked are the form of its name, and that a file it names is there."""
    name = validate_name(name)
    validate_threshold(threshold)
    if not 0 <= holdout_share <= 0.5:
        raise Invalid("The hold-out share is between 0 and 0.5.", "0.1 means a tenth.")
    if find(session, name) is not None:
        raise Conflict(f"A project named “{name}” exists already.", "Choose another name.")
    project = Project(
        name=name, kind="score" if labelling == "scores" else "class", labelling=labelling,
        encoder=validate_encoder(encoder), threshold=threshold, recipe=recipe,
        holdout_share=holdout_share, seed=secrets.randbelow(2**31),
    )  # fmt: skip
    session.add(project)
    session.flush()
    return project


def validate_encoder(name: str) -> str:
    """An encoder's name in full. Raises `Invalid` for one that there is not, `EncoderUnavailable`
    where it names a weights file that is not there."""
    spec = parse(name)
    check_architecture(spec)
    check_weights(spec)
    return spec.name


def validate_name(name: str) -> str:
    """A project's name with its spaces tidied. Raises `Invalid` for one that cannot be used."""
    name = composed(" ".join(name.split()))
    if not 1 <= len(name) <= 80:
        raise Invalid("A project needs a name of 1 to 80 characters.", "Choose another name.")
    if any(not c.isprintable() for c in name) or "/" in name or "\\" in name or "@" in name:
        raise Invalid(
            f"The name “{name}” cannot be used.", "Leave out slashes, @ and control characters."
        )
    return name


def find(session: Session, name: str) -> Project | None:
    """Names differ by more than case (SQLite's `lower` knows only ASCII)."""
    wanted = composed(" ".join(name.split())).casefold()
    return next((p for p in list_all(session) if composed(p.name).casefold() == wanted), None)


def by_name(session: Session, name: str) -> Project:
    """The project of that name (or `#id`). Raises `NotFound` with the names there are."""
    project = find(session, name)
    if project is None:
        project = next(
            (p for p in list_all(session) if name.strip().lstrip("#") == str(p.id)), None
        )
    if project is None and is_address(name):
        raise NotFound(
            f"{shown(name)} is the address of something on another machine, and no project.",
            f"Name a project here: {READERS}.",
        )
    if project is None:
        names = ", ".join(f"“{n}”" for n in session.exec(select(Project.name)).all())
        raise NotFound(
            f"There is no project “{name}”.",
            f"There are: {names}." if names else "Make one with: tastemaker project create NAME",
        )
    return project


def get(session: Session, project_id: int) -> Project:
    project = session.get(Project, project_id)
    if project is None:
        raise NotFound("This project does not exist.", "Choose one on the first page.")
    return project


def list_all(session: Session) -> list[Project]:
    return list(session.exec(select(Project).order_by(col(Project.id))))


def change(session: Session, project: Project, **fields: Any) -> Project:
    """Change settings: `name`, `threshold`, `show_prediction_first`, `recipe`, `brackets`,
    `aggregate`, `auto_train_every`, `auto_train_drift`. All or nothing."""
    if "threshold" in fields:
        validate_threshold(float(fields["threshold"]))
    recipe_named(fields.get("recipe", project.recipe))
    if fields.get("aggregate", project.aggregate) not in AGGREGATES:
        raise Invalid(
            f"“{fields['aggregate']}” is no way to make one label of several scores.",
            f"Use one of {', '.join(AGGREGATES)}.",
        )
    if "auto_train_every" in fields:
        fields["auto_train_every"] = validate_count(fields["auto_train_every"])
    if "auto_train_drift" in fields:
        fields["auto_train_drift"] = validate_drift(fields["auto_train_drift"])
    if "brackets" in fields:
        fields["brackets"] = validate_brackets(fields["brackets"])
    if "name" in fields:
        fields["name"] = validate_name(fields["name"])
        other = find(session, fields["name"])
        if other is not None and other.id != project.id:
            raise Conflict(f"A project named “{fields['name']}” exists already.")
    for field, value in fields.items():
        setattr(project, field, value)
    session.add(project)
    return project


def validate_threshold(threshold: float) -> None:
    """Raises `Invalid` for what is no share between 0 and 1; of a percentage it says which."""
    if not 0 < threshold < 1:
        percent = 1 < threshold < 100
        example = f"{threshold:g} % is {threshold / 100:g}." if percent else "0.5 means 50 %."
        raise Invalid("The threshold is a share between 0 and 1.", example)


def validate_count(value: Any) -> int:
    """After how many new scores a project trains by itself. Raises `Invalid`."""
    text = str(value).strip()
    if not text.isascii() or not text.isdecimal() or not int(text) <= MOST_BETWEEN_TRAININGS:
        raise Invalid(
            "Training by itself begins after a whole number of new scores, at most "
            f"{MOST_BETWEEN_TRAININGS:,}.",
            "50 is a good number; 0 turns it off.",
        )
    return int(text)


def validate_drift(value: Any) -> float:
    """By how many points the live error may differ before a project trains. Raises `Invalid`."""
    try:
        points = float(value)
    except (TypeError, ValueError):
        points = -1.0
    if not 0 <= points <= 10:
        raise Invalid(
            "The drift is a number of points between 0 and 10.",
            "0.5 is a good one; 0 turns it off.",
        )
    return points


def validate_brackets(value: Any) -> list[list[Any]]:
    """Brackets as [lower end in 0–1, name], rising from 0, names tidied. Raises `Invalid`."""
    try:
        brackets = [(float(low), " ".join(str(name).split())) for low, name in value]
    except (TypeError, ValueError):
        brackets = []
    lows = [low for low, _ in brackets]
    if not 1 <= len(brackets) <= 20:
        raise Invalid("A project has 1 to 20 brackets, each with a lower end and a name.")
    if lows[0] != 0 or not all(a < b < 1 for a, b in pairwise(lows)):
        raise Invalid(
            "The brackets must rise: the first begins at 0 %, each later one above the one before "
            "it and below 100 %.",
            "Put them in order and leave none out.",
        )
    if any(not 1 <= len(name) <= 80 or not name.isprintable() for _, name in brackets):
        raise Invalid("A bracket needs a name of 1 to 80 characters.", "Name every bracket.")
    return [list(bracket) for bracket in brackets]


# --- what a project is made of -----------------------------------------------------------------


def check_role(role: str) -> None:
    if role not in (POOL, TEST_RUN):
        raise Invalid(f"There is no role “{role}”.", "A collection is a pool or a test-run.")


def add_collection(
    session: Session, project: Project, collection: Collection, role: str = POOL
) -> None:
    """Use a collection in a project, as `pool` (feeds the queues) or as `test-run`."""
    check_role(role)
    link = session.get(ProjectCollection, (project.id, collection.id))
    if link is None:
        link = ProjectCollection(project_id=project.id, collection_id=collection.id)
    link.role = role
    session.add(link)
    session.flush()


# Under names of their own, since the queries around these conditions use the tables too; made once,
# since making them takes longer than the queries.
_Removed: Any = aliased(RemovedImage)
_Member: Any = aliased(CollectionImage)
_Link: Any = aliased(ProjectCollection)


def image_ids(
    project_id: int, role: str | None = POOL, *, removed_too: bool = False
) -> SelectOfScalar[int]:
    """Select of the ids of a project's images: those of its pool, or of the test runs it made, or
    (`ANY_ROLE`) both; without those that were taken out of it, unless asked for. An image in two
    collections appears twice."""
    query = (
        select(CollectionImage.image_id)
        .join(
            ProjectCollection,
            col(ProjectCollection.collection_id) == CollectionImage.collection_id,
        )
        .where(ProjectCollection.project_id == project_id)
    )
    if not removed_too:
        query = query.where(~is_removed(project_id, CollectionImage.image_id))
    return query if role is None else query.where(ProjectCollection.role == role)


def is_removed(project_id: int, image_id: IdColumn) -> ColumnElement[bool]:
    """Condition: a person took the image with that id (a column) out of the project."""
    return (
        select(_Removed.image_id)
        .where(_Removed.project_id == project_id, _Removed.image_id == image_id)
        .exists()
    )


def removed_ids(
    session: Session, project_id: int, image_ids: Sequence[int] | None = None
) -> set[int]:
    """The images (of `image_ids`, where given) that were taken out of a project. Their scores are
    kept, and do not count."""
    removed = select(RemovedImage.image_id).where(RemovedImage.project_id == project_id)
    if image_ids is not None:
        removed = removed.where(col(RemovedImage.image_id).in_(image_ids))
    return set(session.exec(removed))


def outside_the_pool(project_id: int) -> SelectOfScalar[int]:
    """Select of the ids of the images that only a test run brought in. Whatever is told of the
    project leaves them out: they are versions' to be tried on, not the project's."""
    tried = image_ids(project_id, TEST_RUN)
    return tried.where(~is_member(project_id, CollectionImage.image_id, removed_too=True))


def is_member(
    project_id: int, image_id: IdColumn, role: str | None = POOL, *, removed_too: bool = False
) -> ColumnElement[bool]:
    """Condition: the image with that id (a column) is in the project's pool, or has the `role`."""
    inside = (
        select(_Member.image_id)
        .join(_Link, col(_Link.collection_id) == _Member.collection_id)
        .where(_Link.project_id == project_id, _Member.image_id == image_id)
        .where(True if role is None else _Link.role == role)
        .exists()
    )
    return inside if removed_too else and_(inside, ~is_removed(project_id, image_id))


def size(session: Session, project: Project, role: str | None = POOL) -> int:
    """How many images a project's pool has, or its test runs. A large number may be some seconds
    old (`counts`)."""
    key = ("size", str(session.get_bind().engine.url), project.id, role)
    return counts.cached_count(key, lambda: _size(session, project.id, role), _is_large)


def pool_size(session: Session, project: Project, *, unlabelled: bool = False) -> int:
    """How many images feed the project's queues; or, of these, how many have no label yet. A large
    number may be some seconds old (`counts`)."""
    if not unlabelled:
        return size(session, project)
    key = ("unlabelled", str(session.get_bind().engine.url), project.id)
    return counts.cached_count(key, lambda: _unlabelled(session, project.id), _is_large)


def sample(session: Session, project: Project, count: int, role: str | None = POOL) -> list[int]:
    """So many of a project's images, drawn at random, and the same ones again: in the order of
    their hash, images come at random. Of a small project, all."""
    mine = is_member(project.id, Image.id, role)
    start = f"{project.seed * 2654435761 % 2**32:08x}"
    ids: list[int] = []
    for half in (col(Image.sha256) >= start, col(Image.sha256) < start):
        drawn = select(Image.id).where(half, mine).order_by(col(Image.sha256))
        ids += session.exec(drawn.limit(count - len(ids)))
    return ids


def _is_large(count: int) -> bool:
    return count > counts.LARGE


def _size(session: Session, project_id: int, role: str | None) -> int:
    used = select(ProjectCollection.collection_id).where(ProjectCollection.project_id == project_id)
    used = used if role is None else used.where(ProjectCollection.role == role)
    members = [
        select(CollectionImage.image_id).where(CollectionImage.collection_id == collection_id)
        for collection_id in session.exec(used.order_by(col(ProjectCollection.collection_id)))
    ]
    if not members:
        return 0
    # Each comes sorted from its index; `union` merges them, and an image in two counts once.
    everything = union(*members).subquery() if len(members) > 1 else members[0].subquery()
    inside = session.execute(select(func.count()).select_from(everything)).scalar_one()
    removed = select(func.count()).where(
        RemovedImage.project_id == project_id,
        is_member(project_id, RemovedImage.image_id, role, removed_too=True),
    )
    return int(inside) - int(session.exec(removed).one())


def count_labels(session: Session, project_id: int, role: str | None = ANY_ROLE) -> int:
    """How many labels a project has, or how many images of its pool have one; not those of images
    that were taken out of it."""
    if role is not ANY_ROLE:
        inside = is_member(project_id, Label.image_id, role)
        mine = select(func.count()).where(Label.project_id == project_id, inside)
        return int(session.exec(mine).one())
    query = select(func.count()).select_from(Label)
    every = session.exec(query.where(Label.project_id == project_id)).one()
    return int(every) - int(session.exec(of_removed_images(query, project_id)).one())


def of_removed_images(query: Any, project_id: int) -> Any:
    """A query of labels, about those of images that were taken out of the project: few."""
    same = and_(
        RemovedImage.project_id == Label.project_id, RemovedImage.image_id == Label.image_id
    )
    return query.join(RemovedImage, same).where(RemovedImage.project_id == project_id)


def _unlabelled(session: Session, project_id: int) -> int:
    return _size(session, project_id, POOL) - count_labels(session, project_id, POOL)


def annotator(session: Session, name: str, *, proxy: bool = False) -> Annotator:
    """The annotator of that name, a person or a proxy, added on first sight."""
    person = session.exec(select(Annotator).where(Annotator.name == name)).first()
    if person is None:
        person = Annotator(name=name, proxy=proxy)
        session.add(person)
        session.flush()
    return person


class LabelRules(NamedTuple):
    """What of a project decides the label that follows from people's scores."""

    id: int
    seed: int
    holdout_share: float
    aggregate: str
    labelling: str


def on_holdout_side(project: Project | LabelRules, source_group: str) -> bool:
    """Whether images of this source group only ever measure versions in this project.

    A pure function of the project's seed and the group, so the side never changes, relatives share
    it, and it is as good as drawn at random: about `holdout_share` of all groups.
    """
    digest = hashlib.blake2b(f"{project.seed}:{source_group}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < project.holdout_share * 2**64


def pin_encoder(session: Session, project: Project, encoder: EncoderRow) -> None:
    """Fix the project's encoder fingerprint. Raises `Conflict` when another one is pinned."""
    if project.encoder_id in (None, encoder.id):
        project.encoder_id = encoder.id
        session.add(project)
        return
    raise Conflict(
        f"Project “{project.name}” works with another fingerprint of its encoder; "
        "vectors of different fingerprints never mix.",
        "Restore the weights it began with, or make a new project.",
    )


def summary(session: Session, project: Project) -> dict[str, Any]:
    """What `project list --json` prints."""
    events = select(func.max(ScoreEvent.id)).where(ScoreEvent.project_id == project.id)
    active = session.exec(
        select(Version).where(Version.project_id == project.id, Version.active)
    ).first()
    started = select(ProjectPrior.name).where(ProjectPrior.project_id == project.id)
    return {
        "name": project.name,
        "kind": project.kind,
        "labelling": project.labelling,
        "encoder": project.encoder,
        "id": project.id,
        "threshold": project.threshold,
        "holdout_share": project.holdout_share,
        "recipe": project.recipe,
        "images": pool_size(session, project),
        "labels": count_labels(session, project.id),
        "unlabelled": pool_size(session, project, unlabelled=True),
        "last_event": session.exec(events).one(),
        "active_version": active.number if active else None,
        "starts_from": list(session.exec(started.order_by(col(ProjectPrior.id)))),
        "created_at": project.created_at.isoformat(),
    }
