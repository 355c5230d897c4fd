"""What a model card is made of: sections of a few kinds of blocks, and how they become Markdown.
The page makes HTML of the same blocks."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Words:
    """A paragraph; `quiet` for what stands in for something missing."""

    text: str
    quiet: bool = False
    kind: ClassVar = "words"


@dataclass(frozen=True)
class Own:
    """What the author wrote, in their own Markdown."""

    text: str
    kind: ClassVar = "own"


@dataclass(frozen=True)
class Bullets:
    items: tuple[str, ...]
    kind: ClassVar = "bullets"


@dataclass(frozen=True)
class Table:
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    kind: ClassVar = "table"


@dataclass(frozen=True)
class Verbatim:
    """Text whose columns line up."""

    text: str
    kind: ClassVar = "verbatim"


Block = Words | Own | Bullets | Table | Verbatim


@dataclass(frozen=True)
class Section:
    level: int
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Card:
    title: str
    sections: tuple[Section, ...]


def markdown(card: Card) -> str:
    """The card as a Markdown file."""
    parts = [f"# {_plain(card.title)}"]
    for section in card.sections:
        if section.title:
            parts.append(f"{'#' * section.level} {_plain(section.title)}")
        parts += [_block(block) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> str:
    match block:
        case Words(text, quiet):
            return f"*{_plain(text)}*" if quiet else _plain(text)
        case Own(text):
            return text.replace("<", "&lt;")
        case Bullets(items):
            return "\n".join(f"- {_plain(item)}" for item in items)
        case Table(head, rows):
            lines = [head, tuple("---" for _ in head), *rows]
            return "\n".join(f"| {' | '.join(map(_plain, line))} |" for line in lines)
        case Verbatim(text):
            return f"```\n{text}\n```"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is: one line, and nothing in it is markup. An underscore
    inside a word is none."""
    text = re.sub(r"([\\`*\[\]|]|\b_|_\b)", r"\\\1", " ".join(text.split()))
    return text.replace("<", "&lt;")


SPARKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float]) -> str:
    """Numbers as a line of blocks, the highest as the tallest."""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(SPARKS[round((len(SPARKS) - 1) * (value - low) / span)] for value in values)
