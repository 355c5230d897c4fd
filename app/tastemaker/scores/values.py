"""What a person gave, as an event holds it, and an event's value in words: a score, a class, or a
set of tags."""

from typing import Any

from sqlmodel import Session

from tastemaker.database.tables import Project
from tastemaker.errors import Invalid
from tastemaker.projects import LabelRules
from tastemaker.scores import classes
from tastemaker.scores.answers import RATED, SWEEPS


def parse_score(value: Any) -> int:
    """A score as typed, posted or imported: a whole number from 0 to 10."""
    text = str(value).strip()
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if isinstance(value, bool) or "_" in text or not number.is_integer() or not 0 <= number <= 10:
        raise Invalid(f"“{text[:40]}” is not a score.", "A score is a whole number from 0 to 10.")
    return int(number)


def in_words(session: Session, terms: LabelRules, value: int | None) -> str:
    if value is None:
        return "nothing"
    return str(value) if terms.labelling == "scores" else classes.of(session, terms.id).words(value)


def parse_value(
    session: Session, terms: LabelRules | Project, value: int | str, kind: str = "set"
) -> int:
    """What a person gave, as an event holds it: a score, or a class or tags (`classes`)."""
    if terms.labelling == "scores":
        score = parse_score(value)
        if kind in SWEEPS and score == 0:
            raise Invalid("Every score is at least 0, so this says nothing.", "Choose 1 to 10.")
        return score
    if kind in (RATED, *SWEEPS):
        raise Invalid("A class is no more or less than another.", "Give each image its class.")
    return classes.of(session, terms.id).parse(value)
