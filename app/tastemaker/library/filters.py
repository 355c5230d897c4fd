"""A filter of the library: which images of a project a person means, as one value.

It is what was asked for, whether typed into a form, held in an address or saved as a slice; what
it means in a project is looked up in `scopes`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import urlencode

from tastemaker.errors import Invalid
from tastemaker.files.texts import composed
from tastemaker.projects import POOL, TEST_RUN

ACTIVE, LIVE = "active", "live"
SAID = {"flagged": "flag", "skipped": "skip"}
MOST_CLASS = 100_000
LONGEST = 200  # characters of a name looked for, of a tag


# In an address predictions are in points, under names of their own: an address of before, and a
# program's, may still say them in per cent.
PREDICTED = {
    "predicted_min": ("predicted_from", "predicted_min"),
    "predicted_max": ("predicted_to", "predicted_max"),
}

# --- what a person asked for ---------------------------------------------------------------------


@dataclass(frozen=True)
class LibraryFilter:
    """Images of a project that agree with all of this; the empty filter means every one of them.

    Labels are in points of 0–10, predictions in [0, 1]; both ends of a range belong to it. Where
    labels are classes, `labelled` and `predicted_as` are the number of one (of tags: that it is
    among them). `classified` is what the classifier of another project says (`classifiers`).
    `version` names whose predictions are meant: the active version, the live model (`live`) or a
    number. `relatives` is the id of an image whose near-duplicates are meant. `removed` asks for
    what was taken out of the project instead of what is in it. `role` is which collections are
    meant where none is named: those of the pool, or those of test runs.
    """

    collection: int | None = None
    tags: tuple[str, ...] = ()
    scored: bool | None = None
    label_min: float | None = None
    label_max: float | None = None
    labelled: int | None = None
    predicted_as: int | None = None
    classified: str = ""
    predicted_min: float | None = None
    predicted_max: float | None = None
    version: str = ACTIVE
    said: str = ""
    name: str = ""
    relatives: int | None = None
    removed: bool = False
    role: str = POOL

    @property
    def by_prediction(self) -> bool:
        return self.predicted_min is not None or self.predicted_max is not None

    @property
    def by_label(self) -> bool:
        return self.label_min is not None or self.label_max is not None

    def as_dict(self) -> dict[str, Any]:
        """Only what was asked for: the form in which a slice keeps it. `{}` is the empty filter."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        blank = LibraryFilter()
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value != getattr(blank, name)
        }

    def as_pairs(self) -> list[tuple[str, str]]:
        """The same for an address or a form: predictions in points of 0–10, a tag a pair."""
        pairs: list[tuple[str, str]] = []
        for name, value in self.as_dict().items():
            if name == "tags":
                pairs += [("tag", tag) for tag in value]
            elif isinstance(value, bool):
                pairs.append((name, "yes" if value else "no"))
            elif name in PREDICTED:
                pairs.append((PREDICTED[name][0], f"{round(10 * value, 6):g}"))
            else:
                pairs.append((name, f"{value:g}" if isinstance(value, float) else str(value)))
        return pairs

    def as_query(self) -> str:
        return urlencode(self.as_pairs())


NAMES_OF_FIELDS = tuple(f.name for f in fields(LibraryFilter))


def from_dict(data: Mapping[str, Any]) -> LibraryFilter:
    """A filter as `as_dict` gives it. Raises `Invalid` for a key or a value that means nothing."""
    for name in data:
        if name not in NAMES_OF_FIELDS:
            has = ", ".join(NAMES_OF_FIELDS)
            raise Invalid(f"A filter has no “{str(name)[:40]}”.", f"It has: {has}.")
    values = dict(data)
    tags = values.get("tags", ())
    if isinstance(tags, str) or not all(isinstance(tag, str) for tag in tags):
        raise Invalid("“tags” is a list of words.")
    for name in ("scored", "removed"):
        if not isinstance(values.get(name, False), bool | None):
            raise Invalid(f"“{name}” is true or false.")
    return LibraryFilter(
        collection=_whole(values.get("collection"), "collection"),
        tags=tuple(dict.fromkeys(map(_as_kept, filter(str.strip, tags)))),
        scored=values.get("scored"),
        label_min=_within(values.get("label_min"), 10, "label_min"),
        label_max=_within(values.get("label_max"), 10, "label_max"),
        labelled=_class(values.get("labelled"), "labelled"),
        predicted_as=_class(values.get("predicted_as"), "predicted_as"),
        classified=composed(str(values.get("classified") or "").strip())[:LONGEST],
        predicted_min=_within(values.get("predicted_min"), 1, "predicted_min"),
        predicted_max=_within(values.get("predicted_max"), 1, "predicted_max"),
        version=str(values.get("version") or ACTIVE)[:40],
        said=_one_of(str(values.get("said") or ""), ("", *SAID), "said"),
        name=composed(str(values.get("name") or "").strip())[:LONGEST],  # spaces within count
        relatives=_whole(values.get("relatives"), "relatives"),
        removed=bool(values.get("removed")),
        role=_one_of(str(values.get("role") or POOL), (POOL, TEST_RUN), "role"),
    )


def _as_kept(tag: str) -> str:
    """A tag as the library keeps it."""
    return composed(" ".join(tag.split()))[:LONGEST]


def from_pairs(pairs: list[tuple[str, str]]) -> LibraryFilter:
    """A filter as a form or an address brings it; other names are left alone, as are fields that
    were left empty. Raises `Invalid`."""
    values: dict[str, Any] = {"tags": [value for name, value in pairs if name == "tag" and value]}
    typed = {name: value.strip() for name, value in pairs if value.strip()}
    for name in ("collection", "version", "said", "name", "relatives", "role", "classified"):
        values[name] = typed.get(name)
    for name in ("label_min", "label_max", "labelled", "predicted_as"):
        values[name] = typed.get(name)
    for name, (in_points, in_percent) in PREDICTED.items():
        points = _within(typed.get(in_points), 10, name)
        percent = _within(typed.get(in_percent), 100, name)
        share = points / 10 if points is not None else None if percent is None else percent / 100
        values[name] = None if share is None else round(share, 8)
    for name in ("scored", "removed"):
        answer = _one_of(typed.get(name, ""), ("", "yes", "no"), name)
        values[name] = {"": None, "yes": True, "no": False}[answer]
    values["removed"] = bool(values["removed"])
    return from_dict(values)


NAMES = {
    "label_min": "The lowest label", "label_max": "The highest label",
    "predicted_min": "The lowest prediction", "predicted_max": "The highest prediction",
}  # fmt: skip


def _within(value: Any, most: float, name: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= most or isinstance(value, bool):
        unit = f"a percentage from 0 to {most:g}" if most == 100 else f"from 0 to {most:g}"
        raise Invalid(f"{NAMES[name]} is a number, {unit}, not “{str(value)[:20]}”.")
    return number


def _whole(value: Any, name: str) -> int | None:
    if value is None or value == "":
        return None
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise Invalid(f"“{name}” is the number of one, not “{text[:20]}”.")
    return int(text)


def _class(value: Any, name: str) -> int | None:
    number = _whole(value, name)
    if number is not None and number > MOST_CLASS:
        raise Invalid(f"“{name}” is the number of a class, not “{str(value)[:20]}”.")
    return number


def _one_of(value: str, known: tuple[str, ...], name: str) -> str:
    if value not in known:
        raise Invalid(
            f"“{name}” cannot be “{value[:20]}”.", f"Use {' or '.join(k for k in known if k)}."
        )
    return value
