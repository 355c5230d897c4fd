"""What the classifiers of other projects say of images, as a filter: “photo, by Kinds”.

Nothing is written down: the filter looks at the predictions of the classifier's active version, so
a slice or an expectation that rests on it follows every new version.
"""

import re
from dataclasses import dataclass

from sqlmodel import Session, col, select

from tastemaker import versions
from tastemaker.database.tables import Project, Version
from tastemaker.errors import NotFound
from tastemaker.scores import classes
from tastemaker.scores.classes import ClassList

BY_NUMBER = re.compile(r"^(\d{1,18}):(\d{1,4})(?: .*)?$")
WAY_OUT = "Write it as PROJECT:CLASS, of a project with classes that has a version."


@dataclass(frozen=True)
class Classified:
    """The images that `version`, the active one of a project with these `kinds`, gives the class
    (or tag) `number`."""

    version: Version
    kinds: ClassList
    number: int


@dataclass(frozen=True)
class Choice:
    """A classifier that can be filtered by: its project's name, and (value of the filter, name) of
    each of its classes."""

    project: str
    classes: tuple[tuple[str, str], ...]


def find(session: Session, text: str) -> Classified:
    """What a filter names: `3:1` and whatever stands behind it, by the numbers of project and
    class, which outlive renaming; or both by their names, `Kinds:photo`. Raises `NotFound`."""
    match = BY_NUMBER.match(text)
    for project in _with_classes(session):
        if match is not None and project.id == int(match[1]):
            kinds = classes.of(session, project.id)
            number = kinds.current(1 << int(match[2]) if kinds.several else int(match[2]))
            known = bool(number) if kinds.several else number is not None
            number = int(match[2]) if known else None
        elif match is None and text.casefold().startswith(f"{project.name.casefold()}:"):
            kinds = classes.of(session, project.id)
            wanted = text[len(project.name) + 1 :].strip().casefold()
            number = next((k.number for k in kinds.alive if k.name.casefold() == wanted), None)
        else:
            continue
        version = versions.active(session, project)
        if number is not None and version is not None and version.classes.numbers:
            return Classified(version, kinds, number)
    raise NotFound(f"No classifier here says “{text[:60]}”.", WAY_OUT)


def choices(session: Session, project: Project) -> list[Choice]:
    """The classifiers of other projects, and their classes."""
    offered = []
    for other in _with_classes(session):
        version = versions.active(session, other)
        if other.id == project.id or version is None or not version.classes.numbers:
            continue
        told = tuple(
            (f"{other.id}:{row.number} {other.name}: {row.name}", row.name)
            for row in classes.of(session, other.id).alive
            if row.number in version.classes.numbers
        )
        offered.append(Choice(other.name, told))
    return offered


def in_words(session: Session, text: str) -> str:
    """“Kinds: photo”, of the value of a filter, by the names of now; of one that is gone, those of
    when it was chosen."""
    try:
        found = find(session, text)
    except NotFound:
        return text.partition(" ")[2] or text if BY_NUMBER.match(text) else text
    project = session.get_one(Project, found.version.project_id)
    return f"{project.name}: {found.kinds.by_number[found.number].name}"


def _with_classes(session: Session) -> list[Project]:
    query = select(Project).where(Project.labelling != "scores").order_by(col(Project.id))
    return list(session.exec(query))
