"""Classes change while labels exist: the labels follow, and versions, which hold the numbers and
names of their time, stay true. Nothing that was said is rewritten."""

from typing import Any

from sqlmodel import Session, select

from tastemaker.database.tables import Project, ProjectClass
from tastemaker.errors import Conflict, Invalid, NotFound
from tastemaker.scores import classes
from tastemaker.scores.labels import rebuild_labels


def add(session: Session, project: Project, name: str, key: str = "") -> ProjectClass:
    """A further class. Without a `key`, the first that is free."""
    hold(session, project)
    known = classes.of(session, project.id)
    name = classes.validated_name(name)
    classes.check_count(len(known.alive) + 1, known.several)
    number = 1 + max((row.number for row in known.all), default=-1)
    if known.several and number >= classes.MOST_TAG_NUMBERS:
        raise Invalid(
            f"This project has had {number} tags, those merged and deleted among them; "
            "there is room for no more.",
            "Rename one that is not needed, or make another project.",
        )
    row = ProjectClass(
        project_id=project.id, number=number, name=name, colour=number % classes.COLOURS
    )
    _check(known, row, name=name, key=key)
    free = [one for one in classes.KEYS if one not in {other.key for other in known.alive}]
    row.key = key or (free[0] if free else "")
    session.add(row)
    session.flush()
    classes.forget(session)
    return row


def change(session: Session, project: Project, number: int, **changes: Any) -> ProjectClass:
    """Change a class's `name`, `key` (empty: none), `colour` or `weight`; all or nothing. Raises
    `Conflict` for a name or key that another one has."""
    hold(session, project)
    known = classes.of(session, project.id)
    row = _alive(known, number)
    if "name" in changes:
        changes["name"] = classes.validated_name(changes["name"])
    if "key" in changes:
        changes["key"] = validated_key(changes["key"])
    if "weight" in changes:
        changes["weight"] = validated_weight(changes["weight"])
    if "colour" in changes and not 0 <= int(changes["colour"]) < classes.COLOURS:
        raise Invalid(f"The palette has {classes.COLOURS} colours: 0 to {classes.COLOURS - 1}.")
    _check(known, row, name=changes.get("name", row.name), key=changes.get("key", row.key))
    for field, value in changes.items():
        setattr(row, field, value)
    session.add(row)
    session.flush()
    classes.forget(session)
    return row


def merge(session: Session, project: Project, number: int, into: int) -> int:
    """Make one class part of another: whatever was labelled so is labelled as that. Returns how
    many labels the project has then."""
    hold(session, project)
    known = classes.of(session, project.id)
    row, target = _alive(known, number), _alive(known, into)
    if row.number == target.number:
        raise Invalid("A class cannot be merged with itself.", "Choose another one.")
    _check_enough(known)
    row.became = target.number
    session.add(row)
    session.flush()
    classes.forget(session)
    return rebuild_labels(session, project)


def delete(session: Session, project: Project, number: int) -> int:
    """Delete a class: its images are without a label again, and come back in the queues; an image
    keeps its other tags. What was said stays stored. Returns how many labels are left."""
    hold(session, project)
    known = classes.of(session, project.id)
    row = _alive(known, number)
    _check_enough(known)
    row.gone = True
    session.add(row)
    session.flush()
    classes.forget(session)
    return rebuild_labels(session, project)


def hold(session: Session, project: Project) -> None:
    """Nobody labels meanwhile (`labels.hold`), and the project is one with classes."""
    check_classes(project)
    classes.forget(session)
    if session.get_bind().dialect.name != "sqlite":
        session.exec(select(Project.id).where(Project.id == project.id).with_for_update()).all()


def check_classes(project: Project) -> None:
    """Raises `Conflict` for a project that scores."""
    if project.labelling == "scores":
        raise Conflict(
            f"“{project.name}” scores images; it has no classes. Nothing was changed.",
            "Make a project with classes on the first page, or with project create --classes.",
        )


TAKEN = {"f": "flags", "z": "zooms", "?": "shows the keys"}


def validated_key(key: str) -> str:
    """The key of a class: one character, or none."""
    key = key.strip().lower()
    if key and (len(key) != 1 or not key.isprintable()):
        raise Invalid(f"“{key[:20]}” is not a key for a class.", "Type one character, or none.")
    if key in TAKEN:
        raise Invalid(
            f"The key {key} {TAKEN[key]} on the page where one labels.", "Choose another."
        )
    return key


def validated_weight(weight: Any) -> float:
    """How much the labels of a class count, 1 as usual."""
    try:
        value = float(weight)
    except (TypeError, ValueError):
        value = 0.0
    if not 0 < value <= 100:
        raise Invalid("The weight of a class is a number above 0, at most 100.", "1 is the usual.")
    return value


def _alive(known: classes.ClassList, number: int) -> ProjectClass:
    for row in known.alive:
        if row.number == number:
            return row
    raise NotFound("There is no such class in this project.", "It may have been merged or deleted.")


def _check(known: classes.ClassList, row: ProjectClass, *, name: str, key: str) -> None:
    others = [other for other in known.alive if other.number != row.number]
    classes.check_distinct([name, *(other.name for other in others)])
    for other in others:
        if key and other.key == key:
            raise Conflict(
                f"The key “{key}” already gives “{other.name}”.", "Choose another key, or none."
            )


def _check_enough(known: classes.ClassList) -> None:
    fewest = 1 if known.several else 2
    if len(known.alive) <= fewest:
        raise Conflict(
            f"With fewer than {'one tag' if known.several else 'two classes'} there is nothing to "
            "tell apart.",
            "Add another one first.",
        )
