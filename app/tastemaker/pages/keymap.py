"""Which key does what while scoring, for each person.

A person's own choices are kept with them (`Annotator.keys`, action → key) and replace the keys
that the action has by itself. Keys are named as browsers name them: `7`, `f`, `Space`, `ArrowLeft`.
"""

from collections.abc import Mapping
from typing import Any

from sqlmodel import Session

from tastemaker.database.tables import Annotator
from tastemaker.errors import Conflict, Invalid
from tastemaker.scores.classes import ClassList

DEFAULTS: dict[str, tuple[str, ...]] = {
    **{f"score-{value}": (str(value),) for value in range(10)},
    "score-10": ("-", "Shift+0"),
    "skip": ("Space",),
    "undo": ("Backspace", "Ctrl+z"),
    "flag": ("f",),
    "pick": ("p",),
    "reject": ("x",),
    "zoom": ("z",),
    "back": ("ArrowLeft",),
    "forward": ("ArrowRight",),
    "help": ("?",),
}
NAMED = (
    "Space", "Enter", "Backspace", "Delete", "Insert", "Home", "End", "PageUp", "PageDown",
    "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown",
)  # fmt: skip
DOES = {
    **{f"score-{value}": f"Score {value}" for value in range(11)},
    "skip": "Skip",
    "undo": "Undo",
    "flag": "Flag with a note",
    "pick": "Many at once: at least the passing score",
    "reject": "Many at once: below it",
    "zoom": "Zoom",
    "back": "Back through what was scored",
    "forward": "Forward again",
    "help": "Show the keys",
}


def of(person: Annotator) -> dict[str, tuple[str, ...]]:
    """Action → the keys that do it for this person."""
    chosen = {action: (key,) for action, key in person.keys.items() if action in DEFAULTS}
    return by_default(person) | chosen


def for_classes(person: Annotator, kinds: ClassList) -> dict[str, tuple[str, ...]]:
    """The same for labelling with classes: each class's own key, unless this person has given that
    key to something else. (Actions are called `score-`, as the number is what an event holds.)"""
    kept = {
        action: keys
        for action, keys in of(person).items()
        if not action.startswith("score-") and action not in ("pick", "reject")
    }
    taken = {key for keys in kept.values() for key in keys}
    own = {
        f"score-{row.number}": (row.key,) for row in kinds.alive if row.key and row.key not in taken
    }
    return own | kept


def does_for_classes(kinds: ClassList) -> dict[str, str]:
    """Action → what it does, where labels are classes."""
    named = {f"score-{row.number}": row.name for row in kinds.alive}
    rest = {
        action: what
        for action, what in DOES.items()
        if not action.startswith("score-") and action not in ("pick", "reject")
    }
    return named | rest


def context(person: Annotator, kinds: ClassList | None) -> dict[str, Any]:
    """What a page to score on shows of its keys, and what they do: a key for each score, or for
    each class."""
    if kinds is None:
        return {"keys": of(person), "key_actions": DOES, "kinds": None, "by_key": {}}
    keys = for_classes(person, kinds)
    does = {action: what for action, what in does_for_classes(kinds).items() if action in keys}
    by_key = {row.number: keys.get(f"score-{row.number}", ("",))[0] for row in kinds.alive}
    return {"keys": keys, "key_actions": does, "kinds": kinds, "by_key": by_key}


def by_default(person: Annotator) -> dict[str, tuple[str, ...]]:
    """Action → the keys that do it unless this person gives it another: its defaults, but for those
    that were given to other actions, perhaps before this one was there."""
    return {action: _left(action, keys, person.keys) for action, keys in DEFAULTS.items()}


def _left(action: str, keys: tuple[str, ...], given: Mapping[str, str]) -> tuple[str, ...]:
    others = {key for other, key in given.items() if other != action and other in DEFAULTS}
    return tuple(key for key in keys if key not in others)


def change(session: Session, person: Annotator, typed_keys: Mapping[str, str]) -> None:
    """Give actions keys of their own; an empty one goes back to its defaults. Actions that are not
    named stay as they are. Raises `Invalid` for what is not a key or an action, `Conflict` where
    two actions would share one; nothing is changed then."""
    chosen = {action: str(key) for action, key in person.keys.items() if action in DEFAULTS}
    for action, typed in typed_keys.items():
        if action not in DEFAULTS:
            raise Invalid(f"There is no action “{action[:40]}”.", f"There are: {', '.join(DOES)}.")
        key = key_named(typed)
        if key and (key,) != DEFAULTS[action]:
            chosen[action] = key
        else:
            chosen.pop(action, None)
    # What gave way to a choice made before this one, a newer action's key perhaps, does so still.
    kept = {action: key for action, key in chosen.items() if person.keys.get(action) == key}
    does: dict[str, str] = {}
    for action, usual in DEFAULTS.items():
        if action in chosen:
            keys: tuple[str, ...] = (chosen[action],)
        else:
            keys = usual if action in person.keys else _left(action, usual, kept)
        for key in keys:
            if key in does:
                raise Conflict(
                    f"“{key}” cannot mean both “{DOES[does[key]]}” and “{DOES[action]}”.",
                    "Give one of them another key.",
                )
            does[key] = action
    person.keys = chosen
    session.add(person)


def key_named(typed: str) -> str:
    """A key as a person writes it: one character, or a name such as Space. Empty for none."""
    text = " ".join(typed.split())
    if len(text) == 1 and text.isprintable():
        return text.lower()
    for name in NAMED:
        if text.casefold() == name.casefold():
            return name
    if not text:
        return "Space" if typed else ""
    raise Invalid(
        f"“{text[:20]}” is not the name of a key.",
        f"Type one character, or one of {', '.join(NAMED)}.",
    )


SHOWN = {
    "Space": "Space", "Backspace": "⌫", "Delete": "Del", "ArrowLeft": "←", "ArrowRight": "→",
    "ArrowUp": "↑", "ArrowDown": "↓", "PageUp": "PgUp", "PageDown": "PgDn", "-": "−",
}  # fmt: skip


def drawn(key: str) -> str:
    """A key as it is drawn on a page."""
    *with_, plain = key.split("+") if len(key) > 1 else [key]
    name = SHOWN.get(plain, plain.upper() if len(plain) == 1 else plain)
    return "".join({"Shift": "⇧ ", "Ctrl": "Ctrl "}[held] for held in with_) + name
