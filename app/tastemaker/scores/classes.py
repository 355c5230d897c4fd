"""Classes and tags: what a label of a project means that does not score.

An event of such a project holds a number, as one with scores does: of classes, which exclude each
other, the number of the class; of tags, a bit for each at the place of its number. Numbers are
never given again, so what was said stays true; a class that was merged or deleted is read through
here, and events are not touched (`docs/decisions/0042`).
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlmodel import Session, col, func, select

from tastemaker import projects
from tastemaker.database.tables import Label, Project, ProjectClass
from tastemaker.errors import Conflict, Invalid
from tastemaker.files.percentages import percent
from tastemaker.files.texts import composed
from tastemaker.projects import LabelRules

MOST_CLASSES = 200
MOST_TAGS = 32  # at a time: so many outputs a file of the city96 layout holds exactly
MOST_TAG_NUMBERS = 50  # a set of them stays a whole number that every program can hold exactly
COLOURS = 12  # in the palette of the pages
KEYS = "1234567890qwertyuioasdghjklcvbnm"  # without those that skip, flag, zoom, pick and reject
CLASSES, TAGS = "classes", "tags"

HELD = "classes"  # of a session's `info`: those that it has read, by project
LONGEST_NUMBER = 20  # digits
NO_TAG = "-"  # in a file of labels: an image that was looked at and has none of the tags
CLASS_FOLDER = re.compile(r"^(\d{1,3})(?:[_\-. ](.*))?$")

# How several people's classes make one label; `aggregate` holds the same words as of scores.
AGGREGATES = {
    "median": "Majority: what most people say; where they are even, the newest of it",
    "newest": "Newest: whoever labelled last has the final word",
}


@dataclass(frozen=True)
class ClassList:
    """The classes of a project. `alive` are those that images can have, in order; `all` has those
    that were merged or deleted as well."""

    labelling: str
    all: tuple[ProjectClass, ...]

    @cached_property
    def alive(self) -> tuple[ProjectClass, ...]:
        return tuple(row for row in self.all if row.became is None and not row.gone)

    @property
    def several(self) -> bool:
        """Whether an image can have several of them, or none."""
        return self.labelling == TAGS

    @cached_property
    def by_number(self) -> Mapping[int, ProjectClass]:
        return {row.number: row for row in self.all}

    def parse(self, value: Any) -> int:
        """A class as typed, posted or imported: its number or its name. Of tags, the set as a
        number, or their names with commas between them. Raises `Invalid`."""
        text = str(value).strip()
        if isinstance(value, bool) or (not self.several and not text):
            raise self._no_class(text)
        if text.isascii() and text.isdecimal() and len(text) <= LONGEST_NUMBER:
            return self._of_number(int(text))
        names = text.split(",") if self.several and text != NO_TAG else [text]
        if self.several and text == NO_TAG:
            return 0
        found = [self.find(name) for name in names if name.strip()]
        numbers = {row.number for row in found}
        return sum(1 << number for number in numbers) if self.several else found[0].number

    def _of_number(self, number: int) -> int:
        """A class, or set of tags, by number. A page that was open before may name one that was
        merged since, or in a set one that is gone: `current` reads it as what it became."""
        if self.several:
            known = all(one in self._current for one in members(number))
        else:
            known = self.current(number) is not None
        if not known:
            raise self._no_class(str(number))
        return number

    def current(self, value: int) -> int | None:
        """What an event's value means by now, after merging and deleting; None where the class is
        gone."""
        if not self.several:
            return self.current_number(value)
        now = 0
        for number in members(value):
            current = self.current_number(number)
            now |= 0 if current is None else 1 << current
        return now

    def current_number(self, number: int) -> int | None:
        """The class or tag of this number as it is by now; None where it is gone."""
        return self._current.get(number)

    def merged_with(self, number: int) -> list[int]:
        """Every number that means the same class by now, this one among them."""
        now = self._current.get(number)
        if now is None:
            return [number]
        return [one for one, current in self._current.items() if current == now]

    def combine(self, how: str, values: Sequence[int]) -> float | None:
        """One label from what several people said, oldest first; None where no class is left."""
        now = [current for value in values if (current := self.current(value)) is not None]
        if not now:
            return None
        if how == "newest":
            return float(now[-1])
        if not self.several:
            counts = Counter(now)
            most = max(counts.values())
            return float(next(value for value in reversed(now) if counts[value] == most))
        held = Counter(number for value in now for number in members(value))
        return float(
            sum(
                1 << number
                for number, count in held.items()
                if 2 * count > len(now) or (2 * count == len(now) and now[-1] >> number & 1)
            )
        )

    def in_file(self, value: int) -> str:
        """What an event says as a file of labels has it: names, and `-` for no tag. Empty where the
        class is gone."""
        now = self.current(value)
        if now is None:
            return ""
        return self.words(now) if now or not self.several else NO_TAG

    def of_folder(self, name: str) -> tuple[int, str] | None:
        """The label that the nearest folder above a file gives, and that folder: `NN_name` with a
        name or else a number of a class, or the name alone. None where no folder is called so."""
        named = {folder_name(row.name).casefold(): row.number for row in self.alive}
        for part in reversed(PurePath(name).parts[:-1]):
            match = CLASS_FOLDER.match(part)
            number = named.get(folder_name(part).casefold())
            if number is None and match:
                number = named.get(folder_name(match[2]).casefold())
                if number is None and int(match[1]) in self._numbers:
                    number = int(match[1])
            if number is not None:
                return (1 << number if self.several else number), part
        return None

    def truth(self, values: Sequence[float]) -> NDArray[np.bool_]:
        """(n, K) which of the classes that are alive, in their order, labels (n,) name."""
        now = [self.current(int(value)) for value in values]
        held = [
            set() if value is None else set(members(value)) if self.several else {value}
            for value in now
        ]
        rows = [[row.number in numbers for row in self.alive] for numbers in held]
        return np.array(rows, bool).reshape(len(now), len(self.alive))

    def words(self, value: float | None) -> str:
        """A label as a person reads it."""
        if value is None:
            return "no label"
        numbers = members(int(value)) if self.several else [int(value)]
        names = [self.by_number[n].name for n in numbers if n in self.by_number]
        return ", ".join(names) if names else "none of the tags" if self.several else "no class"

    def shown(self, value: float | None) -> list[ProjectClass]:
        """The classes of a label."""
        if value is None:
            return []
        numbers = members(int(value)) if self.several else [int(value)]
        return [self.by_number[n] for n in numbers if n in self.by_number]

    @cached_property
    def _numbers(self) -> frozenset[int]:
        return frozenset(row.number for row in self.alive)

    @cached_property
    def _current(self) -> dict[int, int | None]:
        """Number → the number it has by now; None for one that is gone."""
        found: dict[int, int | None] = {}
        for row in self.all:
            end = row
            while end.became is not None:
                end = self.by_number[end.became]
            found[row.number] = None if end.gone else end.number
        return found

    def find(self, name: str) -> ProjectClass:
        """The class of that name, or number. Raises `Invalid`."""
        wanted = tidied(name).casefold()
        for row in self.alive:
            if wanted in (row.name.casefold(), str(row.number)):
                return row
        raise self._no_class(name.strip())

    def _no_class(self, text: str) -> Invalid:
        names = [row.name for row in self.alive]
        listed = ", ".join(names[:12]) + (" …" if len(names) > 12 else "")
        what = "tag" if self.several else "class"
        return Invalid(f"“{text[:60]}” is no {what} of this project.", f"There are: {listed}.")


def of(session: Session, project_id: int) -> ClassList:
    """The classes of a project, in the order in which they were made: read once in a session, as
    every label of a batch asks for them twice."""
    held: dict[int, ClassList] = session.info.setdefault(HELD, {})
    if project_id not in held:
        held[project_id] = _read(session, project_id)
    return held[project_id]


def of_project(session: Session, project: Project) -> ClassList | None:
    """The classes that labels of a project name; None where they are scores."""
    return of(session, project.id) if project.labelling != "scores" else None


def forget(session: Session) -> None:
    """Read the classes anew: they were changed in this session, or its rows were let go."""
    session.info.pop(HELD, None)


def _read(session: Session, project_id: int) -> ClassList:
    labelling = session.exec(select(Project.labelling).where(Project.id == project_id)).one()
    rows = session.exec(
        select(ProjectClass)
        .where(ProjectClass.project_id == project_id)
        .order_by(col(ProjectClass.number))
    )
    return ClassList(labelling, tuple(rows))


def count_labels(session: Session, project: Project, known: ClassList) -> dict[int, int]:
    """Class number → how many images are labelled so."""
    rows = session.execute(
        select(Label.value, func.count())
        .where(Label.project_id == project.id, ~projects.is_removed(project.id, Label.image_id))
        .group_by(col(Label.value))
    )
    counts = dict.fromkeys((row.number for row in known.all), 0)
    for value, count in rows:
        numbers = members(int(value)) if known.several else [int(value)]
        for number in numbers:
            counts[number] = counts.get(number, 0) + count
    return counts


@dataclass(frozen=True)
class ClassRatios:
    """How many of the pool's `images` have which class (of tags, several), and how many no label
    yet (`raw`)."""

    images: int
    labelled: int
    raw: int
    counts: tuple[tuple[str, int], ...]

    def text(self) -> str:
        """The histogram as the original's author prints it of classes: one bar for every whole
        2.5 % of all images, and the share of the labelled ones beside it."""
        total = self.labelled + self.raw
        width = max((len(name) for name, _ in self.counts), default=3)
        lines = [f"{self.images} images in dataset."]
        for name, count in [*self.counts, ("raw", self.raw)]:
            bars = "|" * int(40 * count / total) if total else ""
            share = percent(count / self.labelled) if self.labelled else ""
            line = f"{name:<{width}} - {count:4d} {'' if name == 'raw' else share:>5} {bars}"
            lines.append(line.rstrip())
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        return {
            "images": self.images, "labels": self.labelled, "raw": self.raw,
            "classes": dict(self.counts),
        }  # fmt: skip


def ratios(session: Session, project: Project) -> ClassRatios:
    """How many images are labelled as what."""
    known = of(session, project.id)
    counts = count_labels(session, project, known)
    return ClassRatios(
        images=projects.pool_size(session, project),
        labelled=projects.count_labels(session, project.id),
        raw=projects.pool_size(session, project, unlabelled=True),
        counts=tuple((row.name, counts[row.number]) for row in known.alive),
    )


def in_words(session: Session, project: Project | LabelRules, value: float | None) -> str:
    """What an event or a label of a project holds, as a person reads it."""
    if project.labelling == "scores":
        return "nothing" if value is None else f"{value:g}"
    return of(session, project.id).words(value)


def as_json(row: ProjectClass, labels: int | None = None) -> dict[str, Any]:
    """A class for programs; with how many images are labelled so, where that is known."""
    told = row.model_dump(include={"number", "name", "colour", "key", "weight"})
    return told if labels is None else told | {"labels": labels}


def members(value: int) -> list[int]:
    """The numbers of the tags in a set, ascending."""
    return [number for number in range(value.bit_length()) if value >> number & 1]


def check_scores(project: Project) -> None:
    """Raises `Conflict` for a project with classes, where something rests on scores."""
    if project.labelling != "scores":
        raise Conflict(
            f"“{project.name}” labels images with {project.labelling}, and this is for projects "
            "that score. Nothing was changed.",
            "Its pages are Label, Library, Review and Versions.",
        )


def create_project(
    session: Session, name: str, classes: Iterable[str], *, several: bool = False, **options: Any
) -> Project:
    """A new project of kind `class`, with its classes; with `several`, they are tags. Raises
    `Invalid` for fewer than two classes (one tag) or too many, `Conflict` for two of one name."""
    names = [validated_name(one) for one in classes]
    if len(names) < (1 if several else 2):
        what = "one tag" if several else "two classes"
        raise Invalid(
            f"A project of kind “class” needs at least {what} to tell apart.",
            "Name them with commas between them: photo, drawing.",
        )
    check_count(len(names), several)
    check_distinct(names)
    labelling = TAGS if several else CLASSES
    project = projects.create(session, name, labelling=labelling, **options)
    for number, one in enumerate(names):
        key = KEYS[number] if number < len(KEYS) else ""
        session.add(
            ProjectClass(
                project_id=project.id, number=number, name=one, colour=number % COLOURS, key=key
            )
        )
    session.flush()
    return project


def split_names(text: str) -> list[str]:
    """Names of classes as one types them: with commas or on lines of their own."""
    return [name for name in text.replace("\n", ",").split(",") if name.strip()]


def folder_name(name: str) -> str:
    """A class's name as a folder has it: what no file system minds."""
    return re.sub(r"[^\w.-]+", "_", name or "").strip("_.")


def tidied(name: str) -> str:
    return composed(" ".join(name.split()))


def validated_name(name: str) -> str:
    """A class's name with its spaces tidied. Raises `Invalid` for one that cannot be used."""
    tidy = tidied(name)
    if not 1 <= len(tidy) <= 60 or not tidy.isprintable():
        raise Invalid("A class needs a name of 1 to 60 characters.", "Choose another name.")
    if "," in tidy or (tidy.isascii() and tidy.isdecimal()):
        raise Invalid(
            f"The name “{tidy}” cannot be used for a class.",
            "Leave out commas, and use more than digits: numbers stand for the classes themselves.",
        )
    return tidy


def check_distinct(names: Sequence[str]) -> None:
    counts = Counter(name.casefold() for name in names)
    twice = next((name for name in names if counts[name.casefold()] > 1), None)
    if twice is not None:
        raise Conflict(f"Two classes would be called “{twice}”.", "Give one of them another name.")


def check_count(count: int, several: bool) -> None:
    most, what = (MOST_TAGS, "tags") if several else (MOST_CLASSES, "classes")
    if count > most:
        raise Invalid(f"A project has at most {most} {what}, not {count}.", "Merge some of them.")
