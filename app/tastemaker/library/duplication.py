"""A project once more, to train it differently: on another encoder, say, from the same scores.

Images lie in collections, which projects share, so none is copied. What was said is: every event
with its person, its time and its origin, in the same order, so the same labels follow, and on the
same side of the hold-out. Versions and test runs stay with the project they belong to.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import insert
from sqlmodel import Session, col, func, select

from tastemaker import embeddings, jobs, projects, scores
from tastemaker.database.tables import (
    Comparison,
    Expectation,
    Image,
    Project,
    ProjectClass,
    ProjectCollection,
    RemovedImage,
    ScoreEvent,
    Slice,
)
from tastemaker.encoding.encoder_specs import parse
from tastemaker.errors import Conflict
from tastemaker.versions import priors, starting_heads

AT_ONCE = 1000  # rows of a statement
OWN = {"id", "name", "encoder", "encoder_id", "created_at"}  # what a copy does not take over


def duplicate_project(
    session: Session, project: Project, name: str, encoder: str | None = None
) -> Project:
    """The project under a new name: collections, what was taken out, scores and comparisons,
    settings, slices, saved filters, expectations, and the heads that it starts from. `encoder` is
    another one, whose vectors a job then makes; heads that read another are left behind (see
    `dropped_priors`). Raises `Conflict` for a name that is taken, and for another encoder where the
    project has no picture to embed."""
    other = encoder is not None and parse(encoder).name != parse(project.encoder).name
    if other and _vectors_only(session, project):
        raise Conflict(
            f"“{project.name}” is made of vectors from outside: there is no picture that another "
            "encoder could embed.",
            "Duplicate it with its own encoder.",
        )
    copy = projects.create(
        session, name, labelling=project.labelling, threshold=project.threshold,
        encoder=encoder if other and encoder else project.encoder,
    )  # fmt: skip
    for field, value in project.model_dump(exclude=OWN).items():
        setattr(copy, field, value)
    copy.encoder_id = None if other else project.encoder_id
    session.add(copy)
    session.flush()
    for table in (ProjectCollection, RemovedImage, ProjectClass):
        _copy_rows(session, table, project, copy)
    _copy_events(session, ScoreEvent, project, copy)
    _copy_events(session, Comparison, project, copy)
    scores.rebuild_labels(session, copy)
    _copy_slices(session, project, copy)
    starting_heads.copy_to(session, project, copy)
    if other or _lacks_vectors(session, copy):
        jobs.enqueue(session, "embed", f"Embed the images of “{copy.name}”", {}, copy.id, once=True)
    return copy


def dropped_priors(session: Session, project: Project, copy: Project) -> list[str]:
    """The names of the heads that a project starts from and its copy does not."""
    kept = {prior.sha256 for prior in priors.of_project(session, copy)}
    return [p.name for p in priors.of_project(session, project) if p.sha256 not in kept]


def _vectors_only(session: Session, project: Project) -> bool:
    mine = projects.image_ids(project.id, projects.ANY_ROLE)
    some = select(Image.id).where(col(Image.id).in_(mine))
    return (
        session.exec(some.limit(1)).first() is not None
        and session.exec(some.where(Image.kind != "vector").limit(1)).first() is None
    )


def without_picture(session: Session, project: Project) -> int:
    """How many of a project's images are vectors from outside, which no encoder can embed."""
    mine = projects.image_ids(project.id, projects.ANY_ROLE)
    query = select(func.count()).where(Image.kind == "vector", col(Image.id).in_(mine))
    return int(session.exec(query).one())


def _lacks_vectors(session: Session, project: Project) -> bool:
    """Whether pictures of the project are still to be embedded."""
    if embeddings.declared(session, project):
        return False
    missing = embeddings.missing(project.encoder_id or 0, project.id)
    return session.exec(missing.limit(1)).first() is not None


Events = type[ScoreEvent] | type[Comparison]


def _copy_rows(
    session: Session,
    table: type[ProjectCollection] | type[RemovedImage] | type[ProjectClass],
    project: Project,
    copy: Project,
) -> None:
    columns = [getattr(table, name) for name in table.model_fields if name != "id"]
    rows = session.execute(select(*columns).where(table.project_id == project.id)).mappings()
    for some in _batches(dict(row) | {"project_id": copy.id} for row in rows.all()):
        session.execute(insert(table), some)


def _copy_events(session: Session, table: Events, project: Project, copy: Project) -> None:
    """In their order, so that the newest stay the newest; an undo names the copy of what it takes
    back. Keys of requests are not copied: a repeat belongs to the project it was sent to."""
    columns = [getattr(table, name) for name in table.model_fields]
    said = select(*columns).where(table.project_id == project.id).order_by(col(table.id))
    rows = session.execute(said).mappings().all()
    new_of: dict[int, int] = {}
    for some in _batches(map(dict, rows), new_of):
        old = [row.pop("id") for row in some]
        for row in some:
            row |= {"project_id": copy.id, "key": None}
            row["undoes"] = None if row["undoes"] is None else new_of[row["undoes"]]
        made = insert(table).returning(col(table.id), sort_by_parameter_order=True)
        new_of.update(zip(old, session.execute(made, some).scalars(), strict=True))


def _batches(
    rows: Iterable[dict[str, Any]], known: dict[int, int] | None = None
) -> Iterator[list[dict[str, Any]]]:
    """Rows in statements; one that undoes what is in the same statement begins the next."""
    some: list[dict[str, Any]] = []
    for row in rows:
        undoes = row.get("undoes")
        waits = known is not None and undoes is not None and undoes not in known
        if some and (waits or len(some) == AT_ONCE):
            yield some
            some = []
        some.append(row)
    if some:
        yield some


def _copy_slices(session: Session, project: Project, copy: Project) -> None:
    """Slices, among them the saved filters, and what is expected of them."""
    new_of: dict[int, int] = {}
    for row in session.exec(select(Slice).where(Slice.project_id == project.id)).all():
        same = Slice(project_id=copy.id, **row.model_dump(include={"name", "kind", "definition"}))
        session.add(same)
        session.flush()
        new_of[row.id] = same.id
    for stated in session.exec(select(Expectation).where(Expectation.project_id == project.id)):
        fields = stated.model_dump(exclude={"id", "project_id", "slice_id"})
        session.add(Expectation(project_id=copy.id, slice_id=new_of[stated.slice_id], **fields))
    session.flush()
