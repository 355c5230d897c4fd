"""Saved filters: what a person looks for often, kept by name as a slice."""

from sqlmodel import Session, col, select

from tastemaker.database.tables import Expectation, Project, Slice
from tastemaker.errors import Conflict, Invalid, NotFound
from tastemaker.library.filters import LibraryFilter, from_dict
from tastemaker.library.scopes import filtered_ids


def save(session: Session, project: Project, name: str, wanted: LibraryFilter) -> Slice:
    """Keep a filter under a name, as a slice; a saved filter of that name is replaced."""
    name = " ".join(name.split())
    if not 1 <= len(name) <= 120:
        raise Invalid("A saved filter needs a name of 1 to 120 characters.")
    if not wanted.as_dict():
        raise Invalid("There is nothing to save: this shows every image.", "Filter first.")
    filtered_ids(session, project, wanted)  # says so now if it cannot last
    found = session.exec(
        select(Slice).where(Slice.project_id == project.id, Slice.name == name)
    ).first()
    if found is not None and found.kind != "filter":
        raise Invalid(f"A slice of another kind is named “{name}”.", "Choose another name.")
    found = found or Slice(project_id=project.id, name=name, kind="filter")
    found.definition = {"filter": wanted.as_dict()}
    session.add(found)
    session.flush()
    return found


def delete(session: Session, project: Project, slice_id: int) -> None:
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


def list_saved(session: Session, project: Project) -> list[tuple[Slice, LibraryFilter]]:
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
