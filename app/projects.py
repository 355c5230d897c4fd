"""Projects: create, find, and the rule that says which images only ever measure."""

import hashlib
import secrets
from typing import Any

from sqlmodel import Session, col, func, select

from app.encoders import check_architecture, parse
from app.errors import Conflict, Invalid, NotFound
from app.tables import (
    Annotator,
    Collection,
    CollectionImage,
    EncoderRow,
    Label,
    Project,
    ProjectCollection,
    ScoreEvent,
    Version,
)

DEFAULT_ENCODER = "efficientnet_lite0/bundled"
IMPORTED = "imported"  # the stand-in for whoever gave the scores that come with files


def create(
    session: Session,
    name: str,
    *,
    kind: str = "score",
    encoder: str = DEFAULT_ENCODER,
    threshold: float = 0.5,
    holdout_share: float = 0.1,
    recipe: str = "auto",
) -> Project:
    """A new project. Never loads the encoder's weights; its name is only checked for form."""
    name = usable_name(name)
    if kind != "score":
        raise Invalid(
            f"Projects of kind “{kind}” cannot be made yet; only “score” can.",
            "Use --kind score.",
        )
    if not 0 < threshold < 1:
        raise Invalid("The threshold is a share between 0 and 1.", "0.5 means 50 %.")
    if not 0 <= holdout_share <= 0.5:
        raise Invalid("The hold-out share is between 0 and 0.5.", "0.1 means a tenth.")
    if find(session, name) is not None:
        raise Conflict(f"A project named “{name}” exists already.", "Choose another name.")
    check_architecture(parse(encoder))
    project = Project(
        name=name, kind=kind, encoder=encoder, threshold=threshold, recipe=recipe,
        holdout_share=holdout_share, seed=secrets.randbelow(2**31),
    )  # fmt: skip
    session.add(project)
    session.flush()
    return project


def usable_name(name: str) -> str:
    """A project's name with its spaces tidied. Raises `Invalid` for one that cannot be used."""
    name = " ".join(name.split())
    if not 1 <= len(name) <= 80:
        raise Invalid("A project needs a name of 1 to 80 characters.", "Choose another name.")
    if any(not c.isprintable() for c in name) or "/" in name or "\\" in name or "@" in name:
        raise Invalid(
            f"The name “{name}” cannot be used.", "Leave out slashes, @ and control characters."
        )
    return name


def find(session: Session, name: str) -> Project | None:
    """Names are told apart without regard to case (SQLite's `lower` knows only ASCII)."""
    wanted = " ".join(name.split()).casefold()
    return next((p for p in every(session) if p.name.casefold() == wanted), None)


def named(session: Session, name: str) -> Project:
    """The project of that name (or `#id`). Raises `NotFound` with the names there are."""
    project = find(session, name)
    if project is None:
        project = next((p for p in every(session) if name.strip().lstrip("#") == str(p.id)), None)
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


def every(session: Session) -> list[Project]:
    return list(session.exec(select(Project).order_by(col(Project.id))))


def change(session: Session, project: Project, **fields: Any) -> Project:
    """Change settings: `name`, `threshold`, `show_prediction_first`, `recipe`."""
    if "threshold" in fields and not 0 < float(fields["threshold"]) < 1:
        raise Invalid("The threshold is a share between 0 and 1.", "0.5 means 50 %.")
    if fields.get("recipe", project.recipe) not in ("auto", "ridge", "city96"):
        raise Invalid(f"There is no recipe “{fields['recipe']}”.", "Use auto, ridge or city96.")
    if "name" in fields:
        fields["name"] = usable_name(fields["name"])
        other = find(session, fields["name"])
        if other is not None and other.id != project.id:
            raise Conflict(f"A project named “{fields['name']}” exists already.")
    for field, value in fields.items():
        setattr(project, field, value)
    session.add(project)
    return project


# --- what a project is made of -----------------------------------------------------------------


def check_role(role: str) -> None:
    if role not in ("pool", "test-run"):
        raise Invalid(f"There is no role “{role}”.", "A collection is a pool or a test-run.")


def add_collection(
    session: Session, project: Project, collection: Collection, role: str = "pool"
) -> None:
    """Use a collection in a project, as `pool` (feeds the queues) or as `test-run`."""
    check_role(role)
    link = session.get(ProjectCollection, (project.id, collection.id))
    if link is None:
        link = ProjectCollection(project_id=project.id, collection_id=collection.id)
    link.role = role
    session.add(link)
    session.flush()


def image_ids(project_id: int, role: str | None = None) -> Any:
    """Select of the ids of a project's images: all, or those used as `pool` or `test-run`. An
    image in two collections appears twice."""
    query = (
        select(CollectionImage.image_id)
        .join(
            ProjectCollection,
            col(ProjectCollection.collection_id) == CollectionImage.collection_id,
        )
        .where(ProjectCollection.project_id == project_id)
    )
    return query if role is None else query.where(ProjectCollection.role == role)


def pool_size(session: Session, project: Project, *, unlabelled: bool = False) -> int:
    """How many images feed the project's queues; or, of these, how many have no label yet."""
    ids = image_ids(project.id, "pool")
    if unlabelled:
        labelled = select(Label.image_id).where(Label.project_id == project.id)
        ids = ids.where(col(CollectionImage.image_id).not_in(labelled))
    return int(session.exec(select(func.count()).select_from(ids.distinct().subquery())).one())


def annotator(session: Session, name: str, *, stand_in: bool = False) -> Annotator:
    """The person of that name, or the stand-in for one, added on first sight."""
    person = session.exec(select(Annotator).where(Annotator.name == name)).first()
    if person is None:
        person = Annotator(name=name, stand_in=stand_in)
        session.add(person)
        session.flush()
    return person


def on_holdout_side(project: Project, source_group: str) -> bool:
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
    labels = select(func.count()).select_from(Label).where(Label.project_id == project.id)
    events = select(func.max(ScoreEvent.id)).where(ScoreEvent.project_id == project.id)
    active = session.exec(
        select(Version).where(Version.project_id == project.id, Version.active)
    ).first()
    return {
        "name": project.name,
        "kind": project.kind,
        "encoder": project.encoder,
        "id": project.id,
        "threshold": project.threshold,
        "holdout_share": project.holdout_share,
        "recipe": project.recipe,
        "images": pool_size(session, project),
        "labels": int(session.exec(labels).one()),
        "last_event": session.exec(events).one(),
        "active_version": active.number if active else None,
        "created_at": project.created_at.isoformat(),
    }
