"""What the active version of a project with classes takes for what: counts, and the labels behind
each of them, which Review shows.

Every label is held against what a head says that never saw it. Labels of the hold-out are left out:
they only measure, and whoever looks at their predictions would correct them by it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, and_, cast
from sqlalchemy import select as select_columns
from sqlmodel import Session, col, func

from tastemaker import projects, versions
from tastemaker.database.tables import ClassPrediction, Label, Project, Version
from tastemaker.errors import NotFound
from tastemaker.scores import classes
from tastemaker.scores.classes import ClassList

LISTED = 2000  # of the surest disagreements


@dataclass(frozen=True)
class Confusion:
    """`counts[i][j]`: how many of the `labelled` images of the i-th class the version takes for the
    j-th. Of tags: for each tag, how many images have it and are said to (`both`), have it alone
    (`missed`), or are said to have it alone (`extra`)."""

    version: Version
    classes: ClassList
    labelled: int
    right: int
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Cell:
    """Images labelled as one class and predicted to be of another; of tags, with
    one `tag` `missed` or `extra`."""

    labelled: int
    predicted: int


class Judged(NamedTuple):
    """A label, what the version says without having seen it, both as the classes are by now, and
    how sure that is (its lead, 0–1)."""

    image_id: int
    label: int
    said: int
    margin: float


def confusion(session: Session, project: Project) -> Confusion | None:
    """Of the active version; None before there is one that tells the classes apart."""
    version = active(session, project)
    if version is None:
        return None
    known = classes.of(session, project.id)
    pairs = session.execute(
        _held_against(project, version)
        .with_only_columns(col(Label.value), col(ClassPrediction.predicted), func.count())
        .group_by(col(Label.value), col(ClassPrediction.predicted))
    ).all()
    at = {row.number: place for place, row in enumerate(known.alive)}
    width = 3 if known.several else len(at)
    counts = [[0] * width for _ in at]
    total = right = 0
    for value, predicted, n in pairs:
        label, said = int(value), known.current(predicted)
        total += n
        right += n if said == label else 0
        if said is None:
            continue
        if not known.several:
            if label in at:
                counts[at[label]][at[said]] += n
            continue
        for number, place in at.items():
            has, told = label >> number & 1, said >> number & 1
            if has or told:
                counts[place][0 if has and told else 1 if has else 2] += n
    return Confusion(version, known, total, right, tuple(map(tuple, counts)))


def pairs(found: Confusion) -> list[tuple[Cell, int]]:
    """The cells in which label and prediction differ, with their counts, the fullest first."""
    numbers = [row.number for row in found.classes.alive]
    if found.classes.several:
        listed = [
            (Cell(number, side), row[1 + side])
            for number, row in zip(numbers, found.counts, strict=True)
            for side in (0, 1)
        ]
    else:
        listed = [
            (Cell(label, said), count)
            for label, row in zip(numbers, found.counts, strict=True)
            for said, count in zip(numbers, row, strict=True)
            if label != said
        ]
    return sorted((pair for pair in listed if pair[1]), key=lambda pair: -pair[1])


def known_cell(known: ClassList, labelled: int, predicted: int) -> Cell | None:
    """The cell of an address as the classes are by now; None where it names none (−1, −1). Of tags,
    `predicted` is 0 where the tag was missed, 1 where it is extra. Raises `NotFound`."""
    if max(labelled, predicted) < 0:
        return None
    now = known.current_number(labelled)
    said = min(predicted, 1) if known.several else known.current_number(predicted)
    if now is None or said is None or predicted < 0:
        what = "tag" if known.several else "class"
        raise NotFound(
            f"There is no such {what} in this project.", "It may have been deleted since."
        )
    return Cell(now, said)


def cell_in_words(known: ClassList, cell: Cell) -> str:
    label = known.by_number[cell.labelled].name
    if known.several:
        return f"{label}, {'too many' if cell.predicted else 'missed'}"
    return f"{label} → {known.by_number[cell.predicted].name}"


def disagreements(
    session: Session, project: Project, version: Version, cell: Cell | None = None
) -> list[Judged]:
    """Up to 2000 labels that a version disagrees with, the surest first; of classes and tags that
    it never learned it says nothing, so a label that it cannot give is none of them. With a `cell`,
    those in it, whether or not it agrees."""
    known = classes.of(session, project.id)
    rows = _in_order(session, project, version, known, alone=cell is None)
    if cell is None:
        learned = {known.current_number(number) for number in version.classes.numbers} - {None}
        return [row for row in rows if _is_wrong(row, known, learned)][:LISTED]
    return [row for row in rows if _is_in(cell, known, row.label, row.said)][:LISTED]


def active(session: Session, project: Project) -> Version | None:
    """The active version, if it tells classes apart."""
    version = versions.active(session, project)
    return version if version is not None and version.classes.numbers else None


def _is_wrong(row: Judged, known: ClassList, learned: Collection[int | None]) -> bool:
    if not known.several:
        return row.label != row.said and row.label in learned
    return any(number in learned for number in classes.members(row.label ^ row.said))


def _is_in(cell: Cell, known: ClassList, label: int, said: int) -> bool:
    if not known.several:
        return (label, said) == (cell.labelled, cell.predicted)
    has, told = label >> cell.labelled & 1, said >> cell.labelled & 1
    return (has, told) == ((0, 1) if cell.predicted else (1, 0))


def _held_against(project: Project, version: Version) -> Any:
    return (
        select_columns(col(Label.image_id))
        .join(
            ClassPrediction,
            and_(
                col(ClassPrediction.image_id) == Label.image_id,
                col(ClassPrediction.version_id) == version.id,
            ),
        )
        .where(
            col(Label.project_id) == project.id,
            ~col(Label.holdout),
            ~projects.is_removed(project.id, Label.image_id),
        )
    )


def _in_order(
    session: Session, project: Project, version: Version, known: ClassList, *, alone: bool = False
) -> list[Judged]:
    """All that are judged, the surest first; with `alone`, without what the version says as the
    label has it."""
    columns: Sequence[Any] = (
        col(Label.image_id), cast(col(Label.value), BigInteger), col(ClassPrediction.predicted),
        col(ClassPrediction.margin),
    )  # fmt: skip
    query = (
        _held_against(project, version)
        .with_only_columns(*columns)
        .order_by(col(ClassPrediction.margin).desc(), col(Label.image_id))
    )
    if alone:
        query = query.where(col(Label.value) != col(ClassPrediction.predicted))
    return [
        Judged(image_id, int(label), said, margin)
        for image_id, label, told, margin in session.execute(query).tuples()
        if (said := known.current(told)) is not None
    ]
