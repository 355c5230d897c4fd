"""What the active version of a project with classes takes for what: counts, and the images behind
each of them.

Every label is held against what a head says that never saw it. Labels of the hold-out are left out:
they only measure, and whoever looks at their predictions would correct them by it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, and_, cast
from sqlalchemy import select as select_columns
from sqlmodel import Session, col, func

from tastemaker import projects, versions
from tastemaker.config import Settings
from tastemaker.database.tables import Annotator, ClassPrediction, Label, Project, Version
from tastemaker.queues import reasons
from tastemaker.queues.cards import Card, QueueItem, cards
from tastemaker.queues.rereview import resolved
from tastemaker.scores import Origin, classes
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


@dataclass(frozen=True)
class CellPage:
    """Cards of a cell, the surest predictions first; `left` counts all that were not looked at
    since the version was trained, `seen` the others."""

    cards: list[Card]
    left: int
    seen: int


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


def cell_page(
    session: Session, settings: Settings, project: Project, person: Annotator, cell: Cell, n: int
) -> CellPage:
    """The first `n` images of a cell that nobody looked at since the version was trained. Of tags,
    `labelled` is the number of the tag and `predicted` 0 where it was missed, 1 where it is
    extra."""
    version = active(session, project)
    if version is None:
        return CellPage([], 0, 0)
    known = classes.of(session, project.id)
    rows = [
        row for row in _in_order(session, project, version, known) if _is_in(cell, known, *row[1:])
    ]
    done = resolved(session, project, [row[0] for row in rows])
    open_rows = [row for row in rows if row[0] not in done]
    items = [
        QueueItem(
            image_id, Origin.REVIEW, reasons.told_apart(known.words(said), known.words(label))
        )
        for image_id, label, said in open_rows[:n]
    ]
    made = cards(
        session, settings, project, person, "confusion", items, version=version,
        with_neighbours=False,
    )  # fmt: skip
    return CellPage(made, len(open_rows), len(done))


def disagreements(
    session: Session, project: Project, version: Version
) -> list[tuple[int, int, int]]:
    """(image id, label, what the version says without having seen it) of up to 2000 labels that it
    disagrees with, as the classes are by now, the surest first."""
    known = classes.of(session, project.id)
    rows = _in_order(session, project, version, known, alone=True)
    return [row for row in rows if row[1] != row[2]][:LISTED]


def active(session: Session, project: Project) -> Version | None:
    """The active version, if it tells classes apart."""
    version = versions.active(session, project)
    return version if version is not None and version.classes.numbers else None


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
) -> list[tuple[int, int, int]]:
    """(image id, label, what the version says, as it is by now), the surest first; with `alone`,
    without what it says as the label has it."""
    columns: Sequence[Any] = (
        col(Label.image_id), cast(col(Label.value), BigInteger), col(ClassPrediction.predicted),
    )  # fmt: skip
    query = (
        _held_against(project, version)
        .with_only_columns(*columns)
        .order_by(col(ClassPrediction.margin).desc(), col(Label.image_id))
    )
    if alone:
        query = query.where(col(Label.value) != col(ClassPrediction.predicted))
    return [
        (image_id, int(label), said)
        for image_id, label, told in session.execute(query).tuples()
        if (said := known.current(told)) is not None
    ]
